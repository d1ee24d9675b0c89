"""`layers.lens` and `activations.lens`: where the verbs are found. The work is elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from lensframe_pd.collapse import collapse
from lensframe_pd.draw import draw
from lensframe_pd.graph import (
    Mask,
    ancestors,
    between,
    descendants,
    diff,
    find,
    keep,
    to_networkx,
)
from lensframe_pd.render import Drawing
from lensframe_pd.roll import edges, roll, unroll
from lensframe_pd.select import select
from lensframe_pd.validate import validate

if TYPE_CHECKING:
    import networkx


@pd.api.extensions.register_dataframe_accessor("lens")
class LayersAccessor:
    """Verbs on rows of `layers`; each takes the frame as it stands."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        color: str | None = None,
        **columns: str,
    ) -> Drawing:
        """Draw these rows as a graph; see `lensframe_pd.draw.draw`.

        Parameters
        ----------
        path
            Where to write it: .svg, .png, .pdf, .gv or .dot.
        color
            A column to fill the nodes by; numbers get a scale with a colour bar.
        **columns
            Further node attributes of Graphviz, each with the column that gives it.

        Returns
        -------
        Drawing
            With the DOT text as `.source`; a notebook shows it as SVG.

        Raises
        ------
        LensKeyError
            The frame lacks a column the picture is made from.
        LensValueError
            The frame has no rows, a label twice, or the suffix of `path` is unknown.
        LensRuntimeError
            No program is installed that can write this format.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> "linear_1" in layers.lens.draw().source
        True
        """
        return draw(self._frame, path, color=color, **columns)

    def edges(self) -> pd.DataFrame:
        """Every edge as a row: source, target, arg, passes; see `lensframe_pd.roll.edges`."""
        return edges(self._frame)

    def roll(self) -> pd.DataFrame:
        """One row per layer, its passes together; see `lensframe_pd.roll.roll`."""
        return roll(self._frame)

    def unroll(self) -> pd.DataFrame:
        """The passes of a rolled frame again; see `lensframe_pd.roll.unroll`."""
        return unroll(self._frame)

    def collapse(
        self, modules: str | Iterable[str] | None = None, *, depth: int | None = None
    ) -> pd.DataFrame:
        """One row per module call, by path or by depth; see `lensframe_pd.collapse.collapse`."""
        return collapse(self._frame, modules, depth=depth)

    def keep(self, mask: Mask) -> pd.DataFrame:
        """Some rows, connected through the others; see `lensframe_pd.graph.keep`."""
        return keep(self._frame, mask)

    def find(self, key: str) -> pd.DataFrame:
        """Rows by op label, layer or module path; see `lensframe_pd.graph.find`."""
        return find(self._frame, key)

    def ancestors(self, key: str) -> pd.DataFrame:
        """What something was computed from; see `lensframe_pd.graph.ancestors`."""
        return ancestors(self._frame, key)

    def descendants(self, key: str) -> pd.DataFrame:
        """What was computed from something; see `lensframe_pd.graph.descendants`."""
        return descendants(self._frame, key)

    def between(self, start: str, end: str) -> pd.DataFrame:
        """The rows on the paths from one to the other; see `lensframe_pd.graph.between`."""
        return between(self._frame, start, end)

    def diff(self, other: pd.DataFrame) -> pd.DataFrame:
        """The rows that two frames do not share; see `lensframe_pd.graph.diff`."""
        return diff(self._frame, other)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The graph for networkx; see `lensframe_pd.graph.to_networkx`."""
        return to_networkx(self._frame)

    def validate(
        self,
        model: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        activations: xr.Dataset | None = None,
        tolerance: float | None = None,
        downstream: str | None = "sample",
        raise_on_failure: bool = False,
    ) -> pd.DataFrame:
        """Prove that these rows are what the model does; see `lensframe_pd.validate.validate`.

        Parameters
        ----------
        model, args, kwargs
            As they were given to `lf.trace`. Nothing of them is changed.
        activations
            The Dataset of the trace, from memory or a file. Without it nothing is replayed.
        tolerance
            Largest absolute difference a replay may have; None for none: bit for bit.
        downstream
            `"sample"` resumes the forward from three rows, `"all"` from every one, None from none.
        raise_on_failure
            Raise one error that lists every failing row.

        Returns
        -------
        pandas.DataFrame
            One row per op: `check`, `max_abs_diff`, `passed`, `reason`, and a boolean column for
            each of the six checks; the totals are in `attrs`.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValidationError
            With `raise_on_failure`, if a row failed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> model, x = torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)
        >>> layers, activations = lf.trace(model, x)
        >>> report = layers.lens.validate(model, x, activations=activations)
        >>> report["passed"].tolist()
        [True, True, True]
        """
        return validate(
            self._frame,
            model,
            args,
            kwargs,
            activations=activations,
            tolerance=tolerance,
            downstream=downstream,
            raise_on_failure=raise_on_failure,
        )


@xr.register_dataset_accessor("lens")
class ActivationsAccessor:
    """Verbs on activations; each takes the Dataset as it stands."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: str) -> xr.DataArray:
        """One op, layer or module as one array; see `lensframe_pd.select.select`.

        Parameters
        ----------
        key
            An op label (`"relu_3"`, `"linear_1:2"`), a layer (`"linear_1"`), or the path of a
            module (`"layer1.0"`): what a forward hook on it receives.

        Returns
        -------
        xarray.DataArray
            Dimensions without their extents: `(stimulus, channel, y, x)`, with all passes of a
            layer, or calls of a module, along a first dimension `pass_num` if there are several.

        Raises
        ------
        LensKeyError
            Nothing in the dataset has this name.
        LensValueError
            A module that returns several tensors, or passes of unequal shapes.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> activations.lens["linear_1"].dims
        ('stimulus', 'feature')
        """
        return select(self._dataset, key)
