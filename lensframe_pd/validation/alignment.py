"""Whether the ids stand at the right values: the model again, with other stimuli."""

from __future__ import annotations

from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.verdicts import Verdicts


def check_ids(evidence: Evidence, verdicts: Verdicts) -> None:
    pass


def check_alignment(
    evidence: Evidence, reference: Tape, grouped: Passes, how: str, verdicts: Verdicts
) -> None:
    pass
