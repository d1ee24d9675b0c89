"""`layers.lens` and `activations.lens`: where the verbs are found. The work is elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from lensframe_pd.draw.dot import draw
from lensframe_pd.draw.render import Drawing
from lensframe_pd.graph.collapse import collapse
from lensframe_pd.graph.roll import edges, roll, unroll
from lensframe_pd.graph.select import (
    Mask,
    ancestors,
    between,
    descendants,
    diff,
    find,
    keep,
    to_networkx,
)
from lensframe_pd.profile.chrome import chrome_trace
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.memory import alive, memory
from lensframe_pd.profile.plots import plot_memory, plot_params, plot_time
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.roofline import plot_flops, plot_roofline
from lensframe_pd.profile.summary import summary
from lensframe_pd.rsa.cka import cka
from lensframe_pd.rsa.features import Pool, features
from lensframe_pd.rsa.handoff import (
    to_assembly,
    to_datatree,
    to_rsatoolbox,
    to_rsatoolbox_rdms,
    to_sklearn,
    to_stacked,
)
from lensframe_pd.rsa.rdm import rdm
from lensframe_pd.rsa.score import score
from lensframe_pd.rsa.view import select
from lensframe_pd.validation.validate import validate

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
        """Draw these rows as a graph; see `lensframe_pd.draw.dot.draw`.

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
        """Every edge as a row: source, target, arg, passes; see `lensframe_pd.graph.roll.edges`."""
        return edges(self._frame)

    def roll(self) -> pd.DataFrame:
        """One row per layer, its passes together; see `lensframe_pd.graph.roll.roll`."""
        return roll(self._frame)

    def unroll(self) -> pd.DataFrame:
        """The passes of a rolled frame again; see `lensframe_pd.graph.roll.unroll`."""
        return unroll(self._frame)

    def collapse(
        self, modules: str | Iterable[str] | None = None, *, depth: int | None = None
    ) -> pd.DataFrame:
        """One row per module call, by path or by depth."""
        return collapse(self._frame, modules, depth=depth)

    def keep(self, mask: Mask) -> pd.DataFrame:
        """Some rows, connected through the others; see `lensframe_pd.graph.select.keep`."""
        return keep(self._frame, mask)

    def find(self, key: str) -> pd.DataFrame:
        """Rows by op label, layer or module path; see `lensframe_pd.graph.select.find`."""
        return find(self._frame, key)

    def ancestors(self, key: str) -> pd.DataFrame:
        """What something was computed from; see `lensframe_pd.graph.select.ancestors`."""
        return ancestors(self._frame, key)

    def descendants(self, key: str) -> pd.DataFrame:
        """What was computed from something; see `lensframe_pd.graph.select.descendants`."""
        return descendants(self._frame, key)

    def between(self, start: str, end: str) -> pd.DataFrame:
        """The rows on the paths from one to the other; see `lensframe_pd.graph.select.between`."""
        return between(self._frame, start, end)

    def diff(self, other: pd.DataFrame) -> pd.DataFrame:
        """The rows that two frames do not share; see `lensframe_pd.graph.select.diff`."""
        return diff(self._frame, other)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The graph for networkx; see `lensframe_pd.graph.select.to_networkx`."""
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
        """Prove that these rows are what the model does.

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
        """Assign what each row costs; see `lensframe_pd.profile.costs.costs`.

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
        """The table of modules to be read; see `lensframe_pd.profile.summary.summary`.

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
        """Assign what is alive in memory as each operation ends.

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
        """What holds memory at the peak, or as `op` ends; see `lensframe_pd.profile.memory.alive`.

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
        """Time by module as bars; see `lensframe_pd.profile.plots.plot_time`.

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
        """Parameters by module as bars; see `lensframe_pd.profile.plots.plot_params`.

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
        """FLOPs of each operation against its time; see `lensframe_pd.profile.roofline.plot_flops`.

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
        """FLOP/s against FLOPs per byte; see `lensframe_pd.profile.roofline.plot_roofline`.

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
        """Memory over the steps of the forward; see `lensframe_pd.profile.plots.plot_memory`.

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
        """Write step times for Perfetto; see `lensframe_pd.profile.chrome.chrome_trace`.

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
        return chrome_trace(self._frame, path)


@xr.register_dataset_accessor("lens")
class ActivationsAccessor:
    """Verbs on activations; each takes the Dataset as it stands."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: str) -> xr.DataArray:
        """One op, layer or module as one array; see `lensframe_pd.rsa.view.select`.

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

    def features(self, key: str, pool: Pool = None) -> xr.DataArray:
        """One layer as a matrix, stimulus x feature; see `lensframe_pd.rsa.features.features`.

        Parameters
        ----------
        key
            An op label, a layer or the path of a module, as for `activations.lens[key]`.
        pool
            None; `"mean"` or `"max"` over all positions; the name of a token; or a mapping of axes
            to what to do, as in `{"space": "mean"}`, `{"token": 0}`, `{"token": mask}`.

        Returns
        -------
        xarray.DataArray
            `(stimulus, feature)`, float32 or float64.

        Raises
        ------
        LensKeyError
            Nothing in the dataset has this name.
        LensValueError
            The layer has no stimulus axis, no such axis to pool, or no such token.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Conv2d(3, 8, 3).eval(), torch.ones(2, 3, 6, 6))
        >>> activations.lens.features("conv2d_1", pool={"space": "mean"}).shape
        (2, 8)
        """
        return features(self._dataset, key, pool)

    def rdm(
        self,
        layers: str | Iterable[str] | None = None,
        metric: str = "correlation",
        *,
        pool: Pool = None,
    ) -> xr.DataArray:
        """Dissimilarity matrices of layers; see `lensframe_pd.rsa.rdm.rdm`.

        Parameters
        ----------
        layers
            Labels, layers, module paths; None for every variable with a stimulus axis and another.
        metric
            `correlation`, `spearman`, `cosine`, `euclidean`, `sqeuclidean`, or any of scipy's.
        pool
            As for `features`; layers that lack an axis are taken as they are.

        Returns
        -------
        xarray.DataArray
            `(layer, stimulus, stimulus_)`, float64, with ids; one per pass.

        Raises
        ------
        LensKeyError
            Nothing in the dataset has a name.
        LensValueError
            An unknown metric, or an axis to pool that no layer has.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
        >>> activations.lens.rdm(["input_1", "linear_1"]).shape
        (2, 3, 3)
        """
        return rdm(self._dataset, layers, metric, pool=pool)

    def cka(
        self,
        other: xr.Dataset | None = None,
        layers: str | Iterable[str] | None = None,
        other_layers: str | Iterable[str] | None = None,
        *,
        kernel: str = "linear",
        bandwidth: float = 1.0,
        debiased: bool = False,
        pool: Pool = None,
    ) -> xr.DataArray:
        """Centred kernel alignment of layers with layers; see `lensframe_pd.rsa.cka.cka`.

        Parameters
        ----------
        other
            Activations of another model for the same stimuli, joined by id; None for these.
        layers, other_layers
            Labels, layers, module paths; None for every variable with a stimulus axis and another.
        kernel, bandwidth
            `"linear"`, or `"rbf"` with sigma as a fraction of the median distance.
        debiased
            Use the unbiased estimator of HSIC.
        pool
            As for `rdm`.

        Returns
        -------
        xarray.DataArray
            `(layer, layer_)`, float64.

        Raises
        ------
        LensValueError
            An unknown kernel, too few stimuli, or datasets that are not about the same ids.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:5])
        >>> activations.lens.cka(layers=["input_1", "linear_1"]).values.diagonal().round(12)
        array([1., 1.])
        """
        return cka(
            self._dataset,
            other,
            layers,
            other_layers,
            kernel=kernel,
            bandwidth=bandwidth,
            debiased=debiased,
            pool=pool,
        )

    def score(
        self,
        references: Mapping[str, Any],
        layers: pd.DataFrame | str | Iterable[str] | None = None,
        *,
        comparison: str = "spearman",
        metric: str = "correlation",
        pool: Pool = None,
        bootstrap: int = 0,
        confidence: float = 0.95,
        seed: int | None = 0,
    ) -> pd.DataFrame:
        """Compare every layer and pass with every reference; see `lensframe_pd.rsa.score.score`.

        Parameters
        ----------
        references
            Name to an RDM or a feature matrix, with ids.
        layers
            Rows of `layers`, or names; None for every variable with a stimulus axis and another.
        comparison
            `spearman`, `pearson`, `kendall`, `cosine`, `rho-a`; `cka`, `cka-debiased`.
        metric, pool
            Of the RDMs, as for `rdm`.
        bootstrap, confidence, seed
            Number of bootstrap samples of stimuli for the interval (0: none), its size, its seed.

        Returns
        -------
        pandas.DataFrame
            One row per op and reference: `op`, `depth`, the facts of the op, `reference`,
            `comparison`, `score`, `low`, `high`.

        Raises
        ------
        LensValueError
            An unknown comparison, a reference that is about other stimuli, or CKA with an RDM.

        Examples
        --------
        >>> import pandas as pd, torch, lensframe_pd as lf
        >>> model, ids = torch.nn.Linear(9, 4).eval(), list("abcdef")
        >>> layers, activations = lf.trace(model, torch.rand(6, 9), stimulus=ids)
        >>> brain = pd.DataFrame(torch.rand(6, 20).numpy(), index=ids[::-1])
        >>> activations.lens.score({"brain": brain}, layers)["op"].tolist()
        ['input_1', 'linear_1', 'output_1']
        """
        return score(
            self._dataset,
            references,
            layers,
            comparison=comparison,
            metric=metric,
            pool=pool,
            bootstrap=bootstrap,
            confidence=confidence,
            seed=seed,
        )

    def to_rsatoolbox(self, key: str, pool: Pool = None) -> Any:
        """One layer as an `rsatoolbox.data.Dataset`; see `lensframe_pd.rsa.handoff.to_rsatoolbox`.

        Parameters
        ----------
        key, pool
            As for `features`.

        Returns
        -------
        rsatoolbox.data.Dataset
            Ids and stimulus columns are observation descriptors.

        Raises
        ------
        LensRuntimeError
            rsatoolbox is not installed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
        >>> activations.lens.to_rsatoolbox("linear_1").measurements.shape
        (3, 4)
        """
        return to_rsatoolbox(self._dataset, key, pool)

    def to_rsatoolbox_rdms(
        self,
        layers: str | Iterable[str] | None = None,
        metric: str = "correlation",
        *,
        pool: Pool = None,
    ) -> Any:
        """RDMs as one `rsatoolbox.rdm.RDMs`; see `lensframe_pd.rsa.handoff.to_rsatoolbox_rdms`.

        Parameters
        ----------
        layers, metric, pool
            As for `rdm`. rsatoolbox's `euclidean` (squared, over the number of features) is
            `metric="sqeuclidean"`, handed over as `squared euclidean`.

        Returns
        -------
        rsatoolbox.rdm.RDMs
            With RDM descriptors `layer` and `n_features`.

        Raises
        ------
        LensRuntimeError
            rsatoolbox is not installed.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
        >>> activations.lens.to_rsatoolbox_rdms().n_rdm
        3
        """
        return to_rsatoolbox_rdms(self._dataset, layers, metric, pool=pool)

    def to_assembly(
        self,
        layers: str | Iterable[str] | None = None,
        *,
        pool: Pool = None,
        path: str | os.PathLike[str] | None = None,
    ) -> xr.DataArray:
        """Layers as Brain-Score has them, presentation x neuroid; see `lensframe_pd.handoff`.

        Parameters
        ----------
        layers, pool
            As for `rdm`.
        path
            Also write it there as netCDF, as brainio does.

        Returns
        -------
        xarray.DataArray
            With `stimulus_id`, `neuroid_id`, `layer`, `channel`, `channel_x`, `channel_y`.

        Raises
        ------
        LensValueError
            The stimuli have no ids.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> model, x = torch.nn.Linear(9, 4).eval(), torch.eye(9)[:2]
        >>> _, activations = lf.trace(model, x, stimulus=["a", "b"])
        >>> activations.lens.to_assembly("linear_1").dims
        ('presentation', 'neuroid')
        """
        return to_assembly(self._dataset, layers, pool=pool, path=path)

    def to_stacked(
        self, layers: str | Iterable[str] | None = None, *, pool: Pool = None
    ) -> xr.DataArray:
        """All features of several layers side by side; see `lensframe_pd.rsa.handoff.to_stacked`.

        Parameters
        ----------
        layers, pool
            As for `rdm`.

        Returns
        -------
        xarray.DataArray
            `(stimulus, feature)`, `feature` a MultiIndex of `layer` and `unit`.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
        >>> activations.lens.to_stacked().sel(layer="linear_1").shape
        (3, 4)
        """
        return to_stacked(self._dataset, layers, pool=pool)

    def to_datatree(self) -> xr.DataTree:
        """The variables in a tree of modules; see `lensframe_pd.rsa.handoff.to_datatree`.

        Returns
        -------
        xarray.DataTree
            Those of module `layer1.0` are at `/layer1/0`.

        Examples
        --------
        >>> import torch, lensframe_pd as lf
        >>> model = torch.nn.Sequential(torch.nn.Linear(9, 4)).eval()
        >>> _, activations = lf.trace(model, torch.eye(9)[:3])
        >>> list(activations.lens.to_datatree()["0"].data_vars)
        ['linear_1']
        """
        return to_datatree(self._dataset)

    def to_sklearn(
        self, key: str, responses: pd.DataFrame | xr.DataArray, pool: Pool = None
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and neural responses, aligned by id; see `lensframe_pd.rsa.handoff.to_sklearn`.

        Parameters
        ----------
        key, pool
            As for `features`.
        responses
            One row per presentation, indexed by stimulus id; an id may come several times.

        Returns
        -------
        X, y : pandas.DataFrame
            In the order of `responses`, for any scikit-learn estimator.

        Raises
        ------
        LensValueError
            An id is in one of them only.

        Examples
        --------
        >>> import pandas as pd, torch, lensframe_pd as lf
        >>> model, ids = torch.nn.Linear(9, 4).eval(), list("abc")
        >>> _, activations = lf.trace(model, torch.eye(9)[:3], stimulus=ids)
        >>> responses = pd.DataFrame({"neuron": [1, 2, 3]}, index=ids[::-1])
        >>> X, y = activations.lens.to_sklearn("linear_1", responses)
        >>> list(X.index)
        ['c', 'b', 'a']
        """
        return to_sklearn(self._dataset, key, responses, pool)
