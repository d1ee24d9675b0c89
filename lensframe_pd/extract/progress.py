"""How far an extraction is: stimuli a second, time left, bytes written."""

from __future__ import annotations

from lensframe_pd.bars import bar
from lensframe_pd.quantities import quantity


class Progress:
    """A bar on a terminal; nothing where there is none."""

    def __init__(self, n: int, there: int, of: str) -> None:
        self._bar = bar(of, n, "stimuli", initial=there, unit_scale=True, leave=True)

    def add(self, stimuli: int, written_bytes: int) -> None:
        self._bar.set_postfix_str(f"{quantity(written_bytes, 'B')} written", refresh=False)
        self._bar.update(stimuli)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
