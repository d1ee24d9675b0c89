"""What both tables are written in: columns, kinds, cells and their types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any
from weakref import ref

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionArray

from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError, shown, unknown_names

#: The dimension, and the coordinate, of the stimuli.
STIMULUS = "stimulus"

#: In the attrs of activations: `labels.main_path`'s aliases, as JSON.
MODULE_ALIASES = "module_aliases"

#: In the attrs of a variable whose pass continues another: which sequence it is of, which of the
#: passes over it, the dimension of the tokens, and the number of the first; and that sequences
#: (beams) changed places between passes.
SEQUENCE, STEP, TOKEN_DIM, TOKEN_START, REORDERED = (
    "sequence",
    "sequence_step",
    "token_dim",
    "token_start",
    "sequence_reordered",
)

#: In the attrs of a variable with axes over space or time: their dimensions, and of each where in
#: the input the centre of what its first entry sees is, and how far from one to the next.
AXIS, START, SPACING = "axis", "start", "step"

#: In the attrs of activations: names of axes that were given others, as JSON.
RENAMED_DIMS = "renamed_dims"

#: What a traced row can be; the verbs add "module".
KINDS = frozenset("input op output constant alias edit".split())

#: Functions whose result holds whatever was in that memory before: its values say nothing.
UNWRITTEN = frozenset(
    "empty empty_like empty_strided empty_permuted new_empty new_empty_strided new".split()
)

#: In the order of the frame. What a person looks for first is first; the two last, which a narrow
#: terminal shows beside the first, take little of its width.
COLUMNS: dict[str, str] = {
    "func": "normalised name of the function: relu for relu_, add for __iadd__",
    "module": "path of the innermost module; empty for the model itself",
    "shape_str": "sizes of its axes as text: '1x64x56x56'",
    "parents": "labels of the tensors consumed",
    "n_params": "number of elements of the parameters it read, together",
    "seconds": "time of the call",
    "layer": "the layer, `{func}_{n}`: the n-th of that function by first execution",
    "pass_num": "which execution of the layer, from 1",
    "n_passes": "how many executions the layer had",
    "step": "execution order, from 0",
    "target": "the exact importable function; empty for rows no function made",
    "call": "number of the call; rows of one multi-output call share it",
    "ordinal": "which row of its function it is within its module call, from 1",
    "parent_args": "the argument each parent was: 'input', '0', 'tensors.1'",
    "n_parents": "how many tensors it consumed",
    "module_type": "class of that module",
    "module_stack": "enclosing module calls, outermost first: ('enc:2', 'enc.0:3')",
    "module_types": "classes of the modules in module_stack",
    "returned_by": "the module calls that returned this tensor",
    "returned_first": "those of them of whose tensors it was the first",
    "path": "inputs, outputs, constants: where in the arguments, the result or the model",
    "shape": "sizes of the axes",
    "stride": "strides of the axes, in elements",
    "dtype": "torch's name of the element type, without 'torch.'",
    "device": "where the tensor is",
    "numel": "number of elements",
    "nbytes": "bytes of the elements",
    "requires_grad": "whether autograd follows it",
    "params": "names of the parameters it read",
    "param_args": "the argument each parameter was",
    "param_shapes": "their shapes",
    "param_dtypes": "their element types",
    "params_nbytes": "their bytes, together",
    "n_trainable": "number of elements of those that require a gradient",
    "buffers": "names of the buffers it read",
    "buffer_args": "the argument each buffer was",
    "buffer_shapes": "their shapes",
    "buffer_dtypes": "their element types",
    "config": "the other arguments by name, as JSON",
    "n_positional": "how many arguments, tensors or not, were given by position",
    "tuple_args": "names of the arguments that were tuples where config has a list",
    "context": "grad, autocast, inference mode, seed, stopped: what is not the default, as JSON",
    "inplace": "whether it wrote its argument",
    "random": "whether it drew random numbers",
    "source": "file.py:line of the user's code that called it",
    "read_by": "where Python read its value: 'bool: file.py:line'",
    "unsaved_reason": "why a wanted value could not be kept as an array",
    "kind": "input, op, output, constant, alias or edit",
    "saved": "whether its value is in the Dataset",
}

#: What a cell holds, by column: `op`, the columns above, and those that `roll` adds.
CELLS: dict[str, str] = {
    name: kind
    for kind, columns in {
        "text": """op layer kind func target module module_type source path shape_str dtype device
            config context unsaved_reason unrolled""",
        "count": """pass_num n_passes step call ordinal n_parents n_positional numel nbytes n_params
            params_nbytes n_trainable""",
        "seconds": "seconds",
        "flag": "requires_grad inplace random saved",
        "texts": """parents parent_args parent_passes module_stack module_types returned_by
            returned_first params param_args param_dtypes buffers buffer_args buffer_dtypes
            tuple_args read_by""",
        "counts": "shape stride",
        "shapes": "param_shapes buffer_shapes",
    }.items()
    for name in columns.split()
}

#: The Arrow type of each kind of cell, in files of every model: also where no cell shows it.
ARROW = {
    "text": pa.large_string(),  # as pandas writes its own text
    "count": pa.int64(),
    "seconds": pa.float64(),
    "flag": pa.bool_(),
    "texts": pa.list_(pa.string()),
    "counts": pa.list_(pa.int64()),
    "shapes": pa.list_(pa.list_(pa.int64())),
}

#: The type of text in pandas, whatever the version makes of text by itself.
TEXT = pd.StringDtype(na_value=np.nan)

#: The columns that state a fact of the graph: times and places in files differ from run to run.
FACTS = tuple(c for c in COLUMNS if c not in ("seconds", "source", "saved", "unsaved_reason"))

Rows = dict[str, dict[str, Any]]
"""Op label to its cells; sequence cells are tuples."""


def require(frame: pd.DataFrame, verb: str, *columns: str) -> None:
    """Raise if `frame` lacks a column that `verb` needs.

    Raises
    ------
    LensKeyError
        Naming the verb, every missing column, and where the column comes from.
    LensTypeError
        `parents` or `parent_args` are no sequences.
    LensValueError
        A column is there twice; or rows have not as many `parent_args` as `parents`.
    """
    known = places_of(frame.columns)
    if len(known) < len(frame.columns):
        twice = [*map(str, frame.columns[frame.columns.duplicated()])]
        raise LensValueError(
            f"{verb}: the frame has columns twice, {shown(twice)}: keep one of each, as by "
            "frame.loc[:, ~frame.columns.duplicated()]"
        )
    missing = [c for c in columns if c not in known]
    if missing:
        lines = [
            f"{verb} needs column {c!r} ({COLUMNS.get(c, 'yours to assign')})" for c in missing
        ]
        lines.append("lf.trace(...) makes these columns; keep them when you select or merge")
        raise LensKeyError("\n".join(lines))
    if "parents" in columns and "parent_args" in columns:
        _check_roles(frame, verb)


#: What other tools and people call a column, to what to write.
_CALLED = {
    **dict.fromkeys(("time", "duration", "latency", "runtime", "elapsed"), "seconds"),
    **dict.fromkeys(("params_count", "parameters", "num_params", "param_count"), "n_params"),
    **dict.fromkeys(("memory", "bytes", "size", "activation_size", "mem"), "nbytes"),
    **dict.fromkeys(("op_type", "operation", "function", "op_name"), "func"),
    **dict.fromkeys(("layer_type", "type", "class", "module_class"), "module_type"),
    **dict.fromkeys(("module_path", "module_name", "name"), "module"),
    **dict.fromkeys(("inputs", "sources", "predecessors"), "parents"),
}
_COSTS = frozenset("flops macs moved_bytes backward_bytes act_bytes intensity".split())


def unknown_column(column: str, frame: pd.DataFrame, what: str) -> LensKeyError:
    """The error for a column that a frame has not, with the one that was meant."""
    error = unknown_names([column], map(str, frame.columns), what)
    asked = column.casefold()
    if asked in _COSTS:
        return LensKeyError(f"{error}\ncosts have their own verb: layers.lens.costs() adds them")
    if _CALLED.get(asked) in frame.columns:
        return LensKeyError(f"no {what} {column!r}; it is {_CALLED[asked]!r} here")
    return error


def _check_roles(frame: pd.DataFrame, verb: str) -> None:
    """Each parent was some argument."""
    columns = raw_cells(frame, ("parents", "parent_args"))
    in_memory = _TUPLES.issuperset(map(type, chain(*columns)))
    if in_memory and [*map(len, columns[0])] == [*map(len, columns[1])]:  # as of most frames
        return
    for k, (parents, roles) in enumerate(zip(*columns, strict=True)):
        if type(parents) is not tuple or type(roles) is not tuple:
            parents, roles = names("parents", parents), names("parent_args", roles)
        if len(parents) != len(roles):
            raise LensValueError(
                f"{verb}: row {k} ({frame.index[k]!r}) has {len(parents)} parents and "
                f"{len(roles)} parent_args, the argument that each was: change both together"
            )


def names(column: str, cell: Any) -> tuple[str, ...]:
    """A sequence cell as a tuple; a tuple in memory is a list or an array once read from a file.

    Raises
    ------
    LensTypeError
        The cell is no sequence.
    """
    if isinstance(cell, str) or not isinstance(cell, Iterable):
        raise LensTypeError(
            f"{column} holds {cell!r} where a sequence of names belongs; formats that turn "
            "sequences into text (CSV) lose the graph: use to_parquet or to_feather"
        )
    return tuple(str(name) for name in cell)


_OF_PYTHON = frozenset((str, int, float, bool, type(None)))
_TUPLES = frozenset((tuple,))


def plain(cell: Any) -> Any:
    """A cell as traced: sequences as tuples, NumPy's scalars as Python's."""
    if type(cell) is tuple and _OF_PYTHON.issuperset(map(type, cell)):
        return cell
    if isinstance(cell, (list, tuple, np.ndarray)):
        return tuple(plain(c) for c in cell)
    return cell.item() if isinstance(cell, np.generic) else cell


def plain_cells(column: pd.Series[Any] | ExtensionArray | np.ndarray[Any, Any]) -> list[Any]:
    """The cells of a column, each as `plain` gives it."""
    is_text = isinstance(column.dtype, pd.StringDtype)
    cells = listed(getattr(column, "array", column) if is_text else column)
    if is_text or (isinstance(column.dtype, np.dtype) and column.dtype != object):
        return cells
    return each_plain(cells)


def each_plain(cells: Sequence[Any]) -> list[Any]:
    """As `plain` gives each cell."""
    if {*map(type, cells)} == _TUPLES and _OF_PYTHON.issuperset(
        map(type, chain.from_iterable(cells))
    ):
        return [*cells]  # as of most columns
    once = {id(cell): cell for cell in cells}  # rows share cells: `()`, the stack of one module
    made = {key: plain(cell) for key, cell in once.items()}
    return [made[id(cell)] for cell in cells]


def arrow_schema(frame: pd.DataFrame) -> pa.Schema:
    """The Arrow schema of a frame: one type per column, whatever the model.

    Left to itself pyarrow guesses from the cells, and finds no type for tuples that are all empty;
    readers then refuse the files of two models together. `lf.write` uses these types; give them to
    pandas' own writer as `layers.to_parquet(path, schema=lf.schema.arrow_schema(layers))`.

    Parameters
    ----------
    frame
        Rows of `layers`. Columns that the library does not know have the type of their cells.

    Returns
    -------
    pyarrow.Schema
        In the order of the columns, the index last.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.ReLU().eval(), torch.ones(2))
    >>> lf.schema.arrow_schema(layers[["params", "buffer_shapes"]]).types
    [ListType(list<item: string>), ListType(list<item: list<item: int64>>), DataType(large_string)]
    """
    found = pa.Schema.from_pandas(frame)
    for i, name in enumerate(found.names):
        if name in CELLS:
            found = found.set(i, pa.field(name, ARROW[CELLS[name]]))
    return found


def itemsize(dtype: str) -> int:
    """Bytes of one element of a type by torch's name; types of less than a byte fill one.

    Examples
    --------
    >>> itemsize("bfloat16"), itemsize("float8_e4m3fn"), itemsize("quint4x2"), itemsize("bool")
    (2, 1, 1, 1)
    """
    bits = _BITS.search(dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


_BITS = re.compile(r"\d+")


def cells_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[Any]]:
    """The cells of these columns as traced, column by column."""
    if len(frame) <= _FEW:
        return [[*map(plain, cells)] for cells in raw_cells(frame, columns)]
    # as arrays: pandas would make a Series of each column, and copy the attrs with it
    arrays = dict(zip(frame.columns, frame._iter_column_arrays(), strict=True))  # type: ignore[operator]
    return [plain_cells(arrays[name]) for name in columns]


def raw_cells(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[Any]]:
    """The cells of these columns as they are, column by column."""
    # Of arrays: a Series would be made with its name, its attrs and its iterator.
    anything: Any = frame
    places, of = places_of(frame.columns), anything._get_column_array
    return [listed(of(places[name])) for name in columns]


def places_of(columns: pd.Index) -> dict[Any, int]:
    """Where the columns of these names are.

    The last that were asked are kept: an Index never changes, and rows are taken again and again.
    pandas' own table is dearer to make.
    """
    known = _known.get(id(columns))
    if known is None or known[0]() is not columns:
        is_flat = not isinstance(columns, pd.MultiIndex)
        names = listed(columns.array) if is_flat else [*columns]
        known = ref(columns), dict(zip(names, range(len(names)), strict=True))
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[id(columns)] = known
    return known[1]


_known: dict[int, tuple[Callable[[], pd.Index | None], dict[Any, int]]] = {}
_MOST_KNOWN = 64


def listed(array: Any) -> list[Any]:
    """The cells of an array as they are; of text as Arrow lists them, in a third of the time."""
    found: list[Any]
    cells = array.__arrow_array__() if type(array) is _TEXTS else None
    if cells is not None and not cells.null_count:
        found = texts(cells)
    else:
        found = array.tolist()
    return found


def texts(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Arrow's texts as Python's; of a long array that repeats itself, those that are alike as one.

    Most of a large frame's texts are a few names: each cell's own would take a hundred bytes.

    Examples
    --------
    >>> texts(pa.array(["relu", None]))
    ['relu', None]
    """
    if len(array) <= _MANY or len(array[:_MANY].unique()) > _MANY // 2:
        return list(array.to_pylist())
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    encoded = whole.dictionary_encode()
    distinct = [*encoded.dictionary.to_pylist(), None]  # the last is that of what is missing
    return [*map(distinct.__getitem__, encoded.indices.fill_null(-1).to_numpy().tolist())]


_MANY = 1000
"""Texts, from which on it is looked whether they repeat; the first so many tell."""


def text_array(cells: Any) -> Any:
    """Texts as the array that a column, or an index, of a frame holds."""
    if not isinstance(cells, (pa.Array, pa.ChunkedArray)):
        cells = pa.array(cells, ARROW["text"])
    return TEXT.__from_arrow__(cells)  # type: ignore[attr-defined]


def frame_of(columns: pd.Index, arrays: Sequence[Any], ops: Any) -> pd.DataFrame:
    """A frame of arrays that are of one length, and of the types that it is to have.

    The public constructors look at each array again, at a tenth of a small trace's whole cost.
    """
    index = pd.Index._simple_new(ops, name="op")  # type: ignore[attr-defined]
    return pd.DataFrame._from_arrays(  # type: ignore[attr-defined, no-any-return]
        [*arrays], columns=columns, index=index, verify_integrity=False
    )


_TEXTS: Any = type(pd.array(["a"], dtype=TEXT))
_FEW = 4
"""Rows whose columns are sooner looked up by name than all taken."""


def rows_of(frame: pd.DataFrame, ops: Sequence[str], columns: Iterable[str] = COLUMNS) -> Rows:
    """These cells of the frame, as traced, by label; the last row where a label comes twice."""
    columns = tuple(columns)
    return rows_by_label(ops, columns, cells_of(frame, columns))


def rows_by_label(
    ops: Sequence[str], columns: Sequence[str], cells: Iterable[Sequence[Any]]
) -> Rows:
    """The cells, which stand column by column, as rows."""
    rows = zip(*cells, strict=True)
    return {op: dict(zip(columns, row, strict=True)) for op, row in zip(ops, rows, strict=True)}


@dataclass(frozen=True)
class Cells:
    """The cells of a frame as traced, column by column."""

    ops: list[str]
    columns: dict[str, list[Any]]

    @cached_property
    def rows(self) -> Rows:
        """The same row by row, by label; the last row where a label comes twice."""
        return rows_by_label(self.ops, [*self.columns], self.columns.values())


def model_class(frame: pd.DataFrame) -> str:
    """Class of the model, as the rows say that none of its modules made; '' if there is none."""
    if not {"module", "module_type"} <= {*frame.columns}:
        return ""
    found = frame.loc[frame["module"] == "", "module_type"].dropna()
    return str(found.iloc[0]) if len(found) else ""
