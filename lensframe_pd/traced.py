"""`lf.Trace`: what a run left behind, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NoReturn

import pandas as pd
import xarray as xr
from torch import Tensor

from lensframe_pd.capture.gradients import Births
from lensframe_pd.capture.sites import Sites
from lensframe_pd.capture.state import Origin
from lensframe_pd.capture.values import Values
from lensframe_pd.collector import collector_paused
from lensframe_pd.errors import LensRuntimeError, LensTypeError
from lensframe_pd.glance import trace_html
from lensframe_pd.graph.select import asked
from lensframe_pd.labels import activations_of
from lensframe_pd.patching.patch import Metric
from lensframe_pd.patching.patch import Run as Finished
from lensframe_pd.patching.patch import patch as patched
from lensframe_pd.signposts import not_in_trace, not_subscriptable
from lensframe_pd.tables import activations
from lensframe_pd.tables import gradients as differentiated
from lensframe_pd.tables import layers as frame
from lensframe_pd.tables.dims import dimensions
from lensframe_pd.tables.stimuli import (
    coordinates,
)
from lensframe_pd.tape.alike import Findings, findings
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.passes import Passes, passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.evidence import evidence
from lensframe_pd.validation.validate import judged


class Trace:
    """What one run of a model did. Unpacks into `layers, activations`.

    Attributes
    ----------
    output
        What the model returned; None if the run was stopped early.
    tape
        The record both tables are made from.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Trace:
        made_of = args[0] if args else kwargs.get("tape")
        if (args or kwargs) and not isinstance(made_of, Tape):
            raise LensTypeError("lf.Trace is what a trace is; lf.trace(model, args) makes one")
        return super().__new__(cls)

    def __init__(
        self,
        tape: Tape,
        output: Any,
        stimulus: pd.DataFrame | None,
        origin: Origin,
        births: Births | None = None,
        sites: Sites | None = None,
        kept: Values | None = None,
    ) -> None:
        self.tape = tape
        self.output = output
        self._stimulus = stimulus
        self._origin = origin
        self._births = births
        self._sites = sites
        self._kept = kept
        self._is_used_up = False

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per tensor, indexed by label; columns as in `lensframe_pd.schema.COLUMNS`."""
        with collector_paused():
            return frame.layers(self.tape, self._passes, self._unsaved, self._known)

    @cached_property
    def activations(self) -> xr.Dataset:
        """One read-only variable per saved row, named by its label."""
        with collector_paused():
            return self._described(self._values)

    def validate(
        self,
        *,
        tolerance: float | None = None,
        downstream: str | None = "sample",
        alignment: str | None = "sample",
        raise_on_failure: bool = False,
    ) -> pd.DataFrame:
        """Prove that this trace is what the model does.

        As `layers.lens.validate(model, args, activations=activations)`, but it uses what the
        trace still holds: its own record of the calls, so a model that keeps state between calls
        is judged by the traced one, and every random state, so random operations are replayed.

        Parameters
        ----------
        tolerance, downstream, alignment, raise_on_failure
            As for `layers.lens.validate`.

        Returns
        -------
        pandas.DataFrame
            One row per op, as of `layers.lens.validate`.

        Raises
        ------
        LensValidationError
            With `raise_on_failure`, if a row failed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> report = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)).validate()
        >>> bool(report["passed"].all())
        True
        """
        layers, activations = self.layers, self.activations
        tables = evidence(
            layers,
            activations,
            self._origin,
            self.tape,
            self._stimulus,
            self._sites,
            self._passes,
            self._dims,
        )
        return judged(tables, tolerance, downstream, alignment, raise_on_failure)

    def gradients(self, loss: Any, rows: Any = None, retain_graph: bool = False) -> xr.Dataset:
        """The gradient of a loss for every row, of a trace made with `gradients=True`.

        It is what `torch.autograd.grad` gives for the tensor as the row was made, whatever was
        written into it later; a row that is a write through a view has the gradient of what all
        aliases show there. No `.grad` of a parameter or input changes.

        Parameters
        ----------
        loss
            One number computed from `output`, or a function that is given `output`. 0-d, or with
            one element.
        rows
            Which rows: a selection of `layers`, a label, layer or module path (what the module
            returned), or a list of these. All by default, whatever was saved.
        retain_graph
            Keep autograd's graph for another call. Else it is used up, as by torch.

        Returns
        -------
        xarray.Dataset
            Named, with the dimensions and coordinates of `activations`; dtypes are the rows',
            bfloat16 as float32; complex ones by torch's convention. Rows without a gradient are
            absent: the attribute `without` says why, by label (as JSON text once in a file).

        Raises
        ------
        LensKeyError
            Nothing in the trace has a name in `rows`.
        LensRuntimeError
            The trace was made without `gradients=True`, or was stopped; its graph was used up; a
            parameter was written since; or a reentrant checkpoint is on the way.
        LensTypeError
            The loss is no tensor, and no function that gives one.
        LensValueError
            The loss is no one real number, nothing it was made of requires grad, or it is of
            another run.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), gradients=True)
        >>> gradients = trace.gradients(lambda output: output.square().sum())
        >>> bool((gradients["linear_1"] == 2 * trace.activations["linear_1"]).all())
        True
        >>> gradients.attrs["without"]
        '{"input_1": "nothing upstream requires grad"}'
        """
        births = self._births
        if births is None:
            raise LensRuntimeError(
                "this trace kept no graph to take gradients from: give lf.trace gradients=True"
            )
        if self._is_used_up:
            raise LensRuntimeError(
                "the graph of this trace was used up by an earlier call of gradients: trace again, "
                "or give retain_graph=True to every call but the last"
            )
        if self.tape.stopped and not isinstance(loss, Tensor):
            raise LensRuntimeError(
                "the run was stopped, so there is no output to compute a loss from: trace without "
                "stop=True"
            )
        asked_for = range(len(self.tape.rows)) if rows is None else self._rows(rows, "gradients")
        number = differentiated.loss_of(loss, self.output)
        inputs = tensors_of((self._origin.args, self._origin.kwargs))
        with collector_paused(), differentiated.unchanged(inputs):
            found = differentiated.gradients(
                self.tape, self._passes, births, number, asked_for, retain_graph
            )
            if found.data_vars and not retain_graph:
                self._is_used_up = True
                births.edges.clear()  # what else they keep alive is of no use any more
            return self._described(found)

    def patch(self, values: Any, metric: Metric, rows: Any = None) -> pd.DataFrame:
        """The output if one row after the other had another value: activation patching, ablation.

        What depends on a row is computed anew from the saved values, about half a forward. The
        model itself runs with the value where that is not certain to be the same: where a shape
        depends on it, or how many random numbers are drawn, a value that Python read, printed or
        has the memory of, a call that fails or cannot be run by itself, memory that is then
        written, or a tensor that the model has by another name too.

        Parameters
        ----------
        values
            For each row a number (filled), a function of its tensor, or by label: another trace's
            activations, a dict, rows with a column `value`. As for `lf.trace`.
        metric
            A function of the model's output that gives one number; or a dict of some, or a function
            that gives a dict.
        rows
            Which rows: a selection of `layers`, a label, layer or module path (what the module
            returned), or a list of these. All that there are values for by default; those that
            cannot have theirs are passed over.

        Returns
        -------
        pandas.DataFrame
            One row for each, index `op`: `pass_num`; `metric`, or a column for each of several;
            `forward`, whether the model ran. Of its attrs (JSON), `unpatched` is the metric of the
            output itself, and `passed_over` says why rows are not there.

        Raises
        ------
        LensKeyError
            Nothing in the trace has a name in `values` or `rows`.
        LensRuntimeError
            A parameter changed since the trace, the run was stopped, or had other values already.
        LensTypeError
            A metric gives no number; or `values` are none.
        LensValueError
            Not all values were saved; a row that was asked for cannot have its value, or none can;
            or a metric gives other columns for some rows.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> trace = lf.trace(lambda x: x.exp().sin() * 2, torch.zeros(3))
        >>> trace.patch(0, lambda output: output.sum(), rows=["exp_1", "sin_1"])["metric"].tolist()
        [0.0, 0.0]
        """
        self._finish()
        labels = None if rows is None else asked(self.layers, rows, "patch")
        tables = evidence(self.layers, None, self._origin, self.tape)
        ids = None if self._stimulus is None else self._stimulus.index
        return patched(
            Finished(self.tape, self.output, tables, ids), activations_of(values), metric, labels
        )

    def _finish(self) -> None:
        """Nobody but the trace may reach a value from here on."""
        if self._kept is not None:
            self._kept.finish()
            self._kept = None

    def _rows(self, rows: Any, verb: str) -> list[int]:
        """The numbers of the rows that were asked for."""
        wanted = {*asked(self.layers, rows, verb)}
        return [row for row, label in enumerate(self._passes.labels()) if label in wanted]

    def _described(self, dataset: xr.Dataset) -> xr.Dataset:
        """A Dataset with what is known of the stimuli."""
        if self._stimulus is None:
            return dataset
        return dataset.assign_coords(coordinates(self._stimulus))

    @cached_property
    def _known(self) -> Findings:
        return findings(self.tape)

    @cached_property
    def _passes(self) -> Passes:
        return self._known.once(passes, self.tape)

    @cached_property
    def _values(self) -> xr.Dataset:
        return activations.dataset(self.tape, self._passes, self._unsaved, self._dims, self._known)

    @cached_property
    def _dims(self) -> list[tuple[str, ...]]:
        return self._known.once(dimensions, self.tape)

    @cached_property
    def _unsaved(self) -> dict[int, str]:
        self._finish()
        return activations.unsaved_reasons(self.tape)

    def __iter__(self) -> Iterator[Any]:
        yield self.layers
        yield self.activations

    def __getitem__(self, key: Any) -> Any:
        raise not_subscriptable(key, self.layers, self.activations)

    def __getattr__(self, name: str) -> Any:
        raise not_in_trace(name, vars(Trace))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise LensTypeError(
            "a trace holds the run itself, which is neither pickled nor copied in depth: "
            "lf.write(trace, path) keeps its tables, and these can be pickled: trace.layers, "
            "trace.activations"
        )

    def __copy__(self) -> Trace:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def _repr_html_(self) -> str:
        name = str(self.tape.facts.get("model", ""))
        return trace_html(name, self.layers, self.activations, _shown(self.output))

    def __repr__(self) -> str:
        saved = sum(v is not None for v in self.tape.values)
        name = self.tape.facts.get("model", "")
        return f"<Trace of {name}: {len(self.tape.rows)} rows, {saved} values saved>"


def _shown(output: Any) -> str:
    """What the model returned, in a few words."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return f"trace.output: {kind} {'x'.join(map(str, output.shape))}"
    n = len(tensors_of(output))
    return f"trace.output: {kind}" + (f" of {n} tensors" if n else "")
