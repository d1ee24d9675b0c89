"""The axes of an input, by the operation that reads it."""

from __future__ import annotations

from lensframe_pd.tables.order import Name, Names
from lensframe_pd.tables.pointwise import is_pointwise
from lensframe_pd.tables.space import SPATIAL
from lensframe_pd.tape.tape import Call, Tape


def input_names(tape: Tape) -> dict[int, Names]:
    """What the axes of each input are, where its first reader that knows says so."""
    #: Rows that are an input still, element by element, and that input.
    same = {row: row for row, kind in tape.kinds.items() if kind == "input"}
    found: dict[int, Names] = {}
    wanted = len(same)
    calls, rows = tape.call_log.entries, tape.row_log.entries
    for i, row in enumerate(rows):
        if len(found) == wanted:
            break
        call = calls[row[0]]  # by number, for speed: row.call, call.sources, function.name
        for position, source in enumerate(call[3]):
            origin = same.get(source)
            if origin is None or origin in found:
                continue
            name, shape = call[0].name, rows[source][2]
            names = _read(tape.call(row[0]), position, tuple(shape)) if name in _READERS else None
            if names is not None:
                found[origin] = names
            elif shape == row[2] and is_pointwise(name):
                same[i] = origin
    return found


def _read(call: Call, position: int, shape: tuple[int, ...]) -> Names | None:
    """What an operation takes the axes of one of its tensors to be; None where it is open."""
    name, rank = call.function.name, len(shape)
    n = _SPATIAL_RANK.get(name)
    if n is not None and position == 0 and rank in (n + 1, n + 2):
        lead: tuple[Name, ...] = (None,) if rank == n + 2 else ()
        return (*lead, "channel", *SPATIAL[n])
    if name in ("embedding", "embedding_bag") and position == 1 and rank == 2:
        return (None, "token")
    if name in _RECURRENT and position == 0 and rank == 3:
        batch_first = [*call.args, *call.kwargs.values()][-1] is True
        return (None, "time", "feature") if batch_first else ("time", None, "feature")
    if name == "linear" and position == 0 and rank == 2:
        return (None, "feature")
    return None


def _spatial_ranks() -> dict[str, int]:
    ranks = {}
    for n in (1, 2, 3):
        for name in (
            "conv{n}d conv_transpose{n}d max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d "
            "adaptive_max_pool{n}d max_pool{n}d_with_indices lp_pool{n}d "
            "upsample_nearest{n}d reflection_pad{n}d replication_pad{n}d"
        ).split():
            ranks[name.format(n=n)] = n
    two = "upsample_bilinear2d upsample_bicubic2d pixel_shuffle pixel_unshuffle deform_conv2d"
    ranks.update(dict.fromkeys(two.split(), 2))
    ranks["upsample_linear1d"] = 1
    ranks["upsample_trilinear3d"] = 3
    return ranks


_SPATIAL_RANK = _spatial_ranks()
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_READERS = frozenset((*_SPATIAL_RANK, *_RECURRENT, "embedding", "embedding_bag", "linear"))
"""The operations that know what an axis of theirs is."""
