"""The gradients of a loss for the rows of a run, as a Dataset like that of their values."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lensframe_pd.capture.gradients import Births, Edge, Place
from lensframe_pd.errors import LensRuntimeError, LensTypeError, LensValueError
from lensframe_pd.tables.activations import described, to_numpy
from lensframe_pd.tables.without import Reasons, reasons
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.storage import holders, through
from lensframe_pd.tape.tape import Tape

_REENTRANT = "CheckpointFunctionBackward"
_NOT_REENTRANT = (
    "a reentrant checkpoint is on the way from the loss to these rows, and torch can go through it "
    "with backward() only: give use_reentrant=False to torch.utils.checkpoint.checkpoint, or rows "
    "that come after it"
)


def loss_of(loss: Any, output: Any) -> Tensor:
    """The loss to differentiate: one real number with a history.

    Parameters
    ----------
    loss
        A tensor, or a function of `output`.

    Raises
    ------
    LensTypeError
        It is, or gives, no tensor.
    LensValueError
        It is no one real number, or nothing that it was made of requires grad.
    """
    called = not isinstance(loss, Tensor) and callable(loss)
    if called:
        # The graph was kept for this, whatever the caller's own mode is by now.
        with torch.inference_mode(False), torch.enable_grad():
            found = loss(output)
    else:
        found = loss
    if not isinstance(found, Tensor):
        what = "the loss function gave" if called else "the loss is"
        raise LensTypeError(
            f"{what} a {type(found).__name__}; give a tensor of one number that was computed from "
            "the trace's output, or a function of that output which gives one"
        )
    if found.numel() != 1:
        raise LensValueError(
            f"the loss has shape {tuple(found.shape)} and must be one number: give loss.sum() or "
            "loss.mean(), or one of its elements"
        )
    if found.is_complex():
        raise LensValueError(
            "the loss is complex and must be a real number: give loss.abs() or loss.real"
        )
    if not found.requires_grad:
        if any(tensor.requires_grad for _, tensor in tensors_in(output)):
            raise LensValueError(
                "nothing that the loss was computed from requires grad, though the trace's output "
                "does: it was computed under torch.no_grad(), of a detached copy, or of integers "
                "(as argmax gives); give a function of the output that goes on with its numbers"
            )
        raise LensValueError(
            "nothing that the loss was computed from requires grad: the model is frozen, or its "
            "output was detached; let a parameter, or the input, require grad "
            "(x.requires_grad_()), and trace again"
        )
    return found


def gradients(
    tape: Tape,
    grouped: Passes,
    births: Births,
    loss: Tensor,
    rows: Sequence[int],
    retain_graph: bool,
) -> xr.Dataset:
    """The gradient of `loss` for each of these rows, as the row was made; no coordinates.

    Raises
    ------
    LensRuntimeError
        The graph was used up, or leads through a reentrant checkpoint.
    LensValueError
        The loss is not of this run.
    """
    wanted = {row: births.edges[row] for row in rows if _has_gradient(tape, births, row)}
    _check_reach(tape, births, loss)
    found = _differentiated(loss, wanted, retain_graph)
    labels = grouped.labels()
    variables: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for row, dims, attrs in described(tape, grouped, [*found]):
        gradient = found[row]
        variables[labels[row]] = xr.Variable(dims, to_numpy(gradient), attrs, fastpath=True)
        sizes.update(zip(dims, gradient.shape, strict=True))
    missing = [row for row in rows if row not in found]
    without = {labels[row]: reason for row, reason in reasons(tape, births, missing)}
    attrs = {**tape.attrs(), "without": Reasons(without)}
    return xr.Dataset._construct_direct(variables, set(), sizes, attrs, {})


def _has_gradient(tape: Tape, births: Births, row: int) -> bool:
    if row not in births.edges or row in births.overwritten:
        return False
    return tape.rows[row].call not in tape.wrapped


def _differentiated(loss: Tensor, wanted: dict[int, Edge], retain_graph: bool) -> dict[int, Tensor]:
    """Gradients by row, of those that are on the way to the loss."""
    edges = {_key(edge.at): edge.at for edge in wanted.values()}
    if not edges:
        return {}
    _check_checkpoints(loss, edges)
    try:
        # Held by this list alone: how many refer to a gradient tells whether others do.
        given = [
            *torch.autograd.grad(loss, [*edges.values()], None, retain_graph, allow_unused=True)
        ]
    except RuntimeError as error:
        if "use_reentrant=True" in str(error):
            raise LensRuntimeError(_NOT_REENTRANT) from error
        if "second time" in str(error):
            raise LensRuntimeError(_USED_UP) from error
        if "modified by an inplace operation" in str(error):
            raise LensRuntimeError(_WRITTEN) from error
        raise
    by_edge = dict(zip(edges, _own(given), strict=True))
    return {
        row: _at(gradient, edge.place)
        for row, edge in wanted.items()
        if (gradient := by_edge[_key(edge.at)]) is not None
    }


_WRITTEN = (
    "a tensor that a gradient is computed with was written since it was used: by the model itself, "
    "or since the trace, as parameters by the step of an optimizer; ask for gradients before that"
)
_USED_UP = (
    "the graph of this trace was used up by an earlier gradient; trace again, or give "
    "retain_graph=True to every call but the last"
)


@contextmanager
def unchanged(inputs: Iterable[Tensor]) -> Iterator[None]:
    """Keep the `.grad` of tensors: autograd fills it where they are to retain it."""
    before = [(tensor, tensor.grad) for tensor in inputs if tensor.retains_grad]
    try:
        yield
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient


def _key(edge: GradientEdge) -> tuple[Any, int]:
    return edge.node, edge.output_nr


def _own(given: list[Any]) -> list[Tensor | None]:
    """Gradients as dense tensors in memory that nobody else can write."""
    lent = _lent(given)
    found: list[Tensor | None] = []
    for gradient in given:
        if gradient is None or gradient.layout is not torch.strided:
            found.append(None if gradient is None else gradient.to_dense())
        else:
            is_lent = gradient.untyped_storage()._cdata in lent
            found.append(gradient.clone() if is_lent else gradient)
    return found


def _lent(given: list[Any]) -> set[int]:
    """The storages of gradients that others hold besides this list.

    The backward of an `autograd.Function` can give a tensor that the model keeps, or a view of it.
    """
    times = Counter(map(id, given))
    given.append(torch.empty(0))  # shows how many references asking for their number makes
    asking = sys.getrefcount(given[-1]) - 1
    view = given[-1][:]  # and how many views make, which hold what they are views of
    by_views = sys.getrefcount(given[-1]) - 1 - asking
    referred = [sys.getrefcount(given[k]) - asking for k in range(len(given) - 1)]
    del given[-1], view
    dense = {
        id(gradient): (gradient, references)
        for gradient, references in zip(given, referred, strict=True)
        if gradient is not None and gradient.layout is torch.strided
    }
    bases = [gradient._base for gradient, _ in dense.values()]
    n_views = Counter(id(base) for base in bases if base is not None)
    n_ours = Counter(gradient.untyped_storage()._cdata for gradient, _ in dense.values())
    lent = set()
    for key, (gradient, references) in dense.items():
        storage, n = gradient.untyped_storage()._cdata, n_views[key]
        if (
            references > times[key] + (by_views if n else 0)
            or (n and gradient._use_count() > 1 + n)
            or holders(gradient) > n_ours[storage]
        ):
            lent.add(storage)  # whoever holds one can write the others
    return lent


def _at(gradient: Tensor, place: Place | None) -> Tensor:
    """What of a base's gradient is that of a view of it."""
    if place is None:
        return gradient
    base = torch.empty_strided(
        place.base_shape, place.base_stride, dtype=gradient.dtype, device=gradient.device
    ).copy_(gradient)
    view = torch.empty(0, dtype=place.dtype, device=gradient.device)
    offset = place.offset // view.element_size()
    view.set_(base.untyped_storage(), offset, place.shape, place.stride)
    return through(view, place.bits).clone()


def _check_reach(tape: Tape, births: Births, loss: Tensor) -> None:
    """Refuse the loss of another run, which may share inputs and parameters with this one."""
    nodes = {row: edge.at.node for row, edge in births.edges.items()}
    outside = {node for row, node in nodes.items() if tape.kinds.get(row) in ("input", "constant")}
    outside |= {node for node in nodes.values() if _is_held(node, tape)}
    own = {*nodes.values()} - outside or {*nodes.values()}
    if not any(node in own for node in _upstream([get_gradient_edge(loss).node])):
        raise LensValueError(
            "no row of this trace can be reached from the loss, so it is of another run: compute "
            "it from this trace's .output, or give a function of the output"
        )


def _is_held(node: Any, tape: Tape) -> bool:
    """Whether a node is where the gradient of a parameter or buffer of the model arrives."""
    tensor = getattr(node, "variable", None)
    return tensor is not None and any(held.tensor is tensor for held in tape.held)


def _check_checkpoints(loss: Tensor, edges: Iterable[tuple[Any, int]]) -> None:
    nodes = {node for node, _ in edges}
    if not any(node.name() == _REENTRANT for node in nodes):
        return
    for node in _upstream([get_gradient_edge(loss).node]):
        if node.name() == _REENTRANT and any(
            above in nodes for above in _upstream([n for n, _ in node.next_functions])
        ):
            raise LensRuntimeError(_NOT_REENTRANT)


def _upstream(start: Iterable[Any]) -> Iterator[Any]:
    """Nodes of autograd's graph, from these on towards what the gradient arrives at."""
    waiting = [node for node in start if node is not None]
    seen = {*waiting}
    while waiting:
        node = waiting.pop()
        yield node
        for above, _ in node.next_functions:
            if above is not None and above not in seen:
                seen.add(above)
                waiting.append(above)
