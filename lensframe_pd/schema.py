"""What both tables are written in: columns, kinds, cells and their types."""

from __future__ import annotations

import re
from itertools import chain

import pandas as pd
import pyarrow as pa

from lensframe_pd.cells import names, places_of, raw_cells
from lensframe_pd.errors import LensKeyError, LensValueError, shown, unknown_names

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

#: The columns that state a fact of the graph: times and places in files differ from run to run.
FACTS = tuple(c for c in COLUMNS if c not in ("seconds", "source", "saved", "unsaved_reason"))


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
    in_memory = {*map(type, chain(*columns))} <= {tuple}
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


def model_class(frame: pd.DataFrame) -> str:
    """Class of the model, as the rows say that none of its modules made; '' if there is none."""
    if not {"module", "module_type"} <= {*frame.columns}:
        return ""
    found = frame.loc[frame["module"] == "", "module_type"].dropna()
    return str(found.iloc[0]) if len(found) else ""
