"""Which values `save=` asks for, decided while the model runs."""

from __future__ import annotations
from typing import Any

class Stop(BaseException):
    """Ends the run after the last selected operation."""

class Selection:
    def __init__(self, save, stop, tape, roots):
        self.wanted = save == "all"
        self.module_wanted=None
        self.on_row=None
    def finish(self, trace): pass
