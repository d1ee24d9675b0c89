"""`values=` of a run with its places found: a run without them tells where labels are."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from lensframe_pd.capture.run import Run
from lensframe_pd.capture.sites import Sites, asked, needs_rows, plain_rows, resolved
from lensframe_pd.capture.state import Origin, repeatable
from lensframe_pd.tape.silence import silenced
from lensframe_pd.tape.tape import Tape


def placed(values: Any, run: Run, origin: Origin, ids: pd.Index | None) -> Sites:
    """Where the values of `values=` go in a run.

    Parameters
    ----------
    run
        It, before it begins.
    ids
        Of its stimuli.

    Raises
    ------
    LensError
        What `sites.asked`, `sites.resolved` and `Sites.joined` raise; and of labels without rows,
        if the model cannot be run once more.
    """
    wanted = asked(values)
    paths, aliases = {path for path, _ in run.named}, run.tape.aliases
    rows, n_rows = wanted.rows or [], None
    if needs_rows(wanted, paths, aliases):
        tape = _rehearsed(origin)
        rows, n_rows = plain_rows(tape), len(tape.rows)
        paths |= {called.path for called in tape.modules}  # those that the run makes as well
    sites = resolved(wanted, rows, paths, aliases)
    sites.n_rows = n_rows
    if sites.passed_over:
        run.tape.facts["passed_over"] = json.dumps(sites.passed_over)
    return sites.joined(ids)


def _rehearsed(origin: Origin) -> Tape:
    """The tape of a run that leaves nothing."""
    start = repeatable(origin, "values", "rows of an earlier trace with a column 'value'")
    with start, silenced():
        run = Run(origin.model)
        run.execute(origin.args, origin.kwargs)
    return run.tape
