"""`layers.lens` and `activations.lens`: where the verbs are found. The work is elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from lensframe_pd.chrome import write_chrome_trace
from lensframe_pd.collapse import collapse
from lensframe_pd.costs import costs
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
from lensframe_pd.memory import alive, memory
from lensframe_pd.plots import plot_memory, plot_params, plot_time
from lensframe_pd.profile import profile
from lensframe_pd.render import Drawing
from lensframe_pd.roll import edges, roll, unroll
from lensframe_pd.roofline import plot_flops, plot_roofline
from lensframe_pd.select import select
from lensframe_pd.summary import summary
from lensframe_pd.validate import validate

if TYPE_CHECKING:
    import networkx


if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

    def costs(self) -> pd.DataFrame:
        """Assign what each row costs; see `lensframe_pd.costs.costs`.

        Returns
        -------
        pandas.DataFrame
            The rows with `flops`, `moved_bytes`, `backward_bytes`, `act_bytes`, `storage`,
            `uncounted`. Assign them before you filter: a call is rebuilt from its parents' rows.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            The frame has no rows, a label twice, or is rolled or collapsed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> int(layers.lens.costs().loc["linear_1", "flops"])
        48
        """
        return costs(self._frame)

    def profile(self, by: str = "op", depth: int | None = None) -> pd.DataFrame:
        """Where time, FLOPs and bytes go; see `lensframe_pd.profile.profile`.

        Parameters
        ----------
        by
            `"op"`, `"layer"`, `"module"`, `"func"` or `"source"`.
        depth
            With `by="module"`: leave out modules of more than so many names.

        Returns
        -------
        pandas.DataFrame
            One row per group; by module the first, `""`, is the whole model.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            `by` or `depth` is impossible, or there are no operations.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> int(layers.lens.profile("module").loc["", "params"])
        8
        """
        return profile(self._frame, by, depth)

    def summary(self, depth: int | None = 2) -> pd.DataFrame:
        """The table of modules to be read; see `lensframe_pd.summary.summary`.

        Parameters
        ----------
        depth
            Leave out modules of more than so many names; None for all.

        Returns
        -------
        pandas.DataFrame
            Text, one row per module; the first is the whole model.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            There are no operations, or `depth` is negative.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.summary().loc["(model)", ["type", "output", "params"]].tolist()
        ['Linear', '4x2', '8']
        """
        return summary(self._frame, depth)

    def memory(self) -> pd.DataFrame:
        """Assign what is alive in memory as each operation ends; see `lensframe_pd.memory.memory`.

        Returns
        -------
        pandas.DataFrame
            The rows with `live_bytes` and `held_bytes`.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            The frame has no rows, a label twice, or is rolled or collapsed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> int(layers.lens.memory()["live_bytes"].max())
        32
        """
        return memory(self._frame)

    def alive(self, op: str | None = None) -> pd.DataFrame:
        """What holds memory at the peak, or as `op` ends; see `lensframe_pd.memory.alive`.

        Parameters
        ----------
        op
            Label of a row; without it the one at which most is alive.

        Returns
        -------
        pandas.DataFrame
            One row per storage, largest first.

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            The frame has no rows, a label twice, or is rolled or collapsed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.alive().index.tolist()
        ['linear_1']
        """
        return alive(self._frame, op)

    def plot_time(self, depth: int | None = 2, ax: Axes | None = None) -> Axes:
        """Time by module as bars; see `lensframe_pd.plots.plot_time`.

        Parameters
        ----------
        depth
            How many names of modules deep.
        ax
            Axes to draw into; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            There are no operations.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.plot_time().get_xlabel()
        'time (ms)'
        """
        return plot_time(self._frame, depth, ax)

    def plot_params(self, depth: int | None = 2, ax: Axes | None = None) -> Axes:
        """Parameters by module as bars; see `lensframe_pd.plots.plot_params`.

        Parameters
        ----------
        depth
            How many names of modules deep.
        ax
            Axes to draw into; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            No row reads a parameter.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.plot_params().get_xlabel()
        'parameters'
        """
        return plot_params(self._frame, depth, ax)

    def plot_flops(self, ax: Axes | None = None) -> Axes:
        """FLOPs of each operation against its time; see `lensframe_pd.roofline.plot_flops`.

        Parameters
        ----------
        ax
            Axes to draw into; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            No operation has FLOPs and a time.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.plot_flops().get_xlabel()
        'time (ms)'
        """
        return plot_flops(self._frame, ax)

    def plot_roofline(self, ax: Axes | None = None) -> Axes:
        """FLOP/s against FLOPs per byte; see `lensframe_pd.roofline.plot_roofline`.

        Parameters
        ----------
        ax
            Axes to draw into; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            No operation has FLOPs and a time.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.plot_roofline().get_xlabel()
        'FLOPs per byte'
        """
        return plot_roofline(self._frame, ax)

    def plot_memory(self, ax: Axes | None = None) -> Axes:
        """Memory over the steps of the forward; see `lensframe_pd.plots.plot_memory`.

        Parameters
        ----------
        ax
            Axes to draw into; by default new ones.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            The frame has no rows.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.plot_memory().get_xlabel()
        'step'
        """
        return plot_memory(self._frame, ax)

    def chrome_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write step times for Perfetto; see `lensframe_pd.chrome.chrome_trace`.

        Parameters
        ----------
        path
            Where to write the JSON; open it at https://ui.perfetto.dev.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        LensKeyError
            The frame lacks a column.
        LensValueError
            There are no operations.

        Examples
        --------
        >>> import tempfile, torch, lensframe_pd as lf
        >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
        >>> layers.lens.chrome_trace(f"{tempfile.mkdtemp()}/trace.json").name
        'trace.json'
        """
        return write_chrome_trace(self._frame, path)


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
