"""Where a call came from: the frames inside the innermost module call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType, FrameType

from torch import nn

from lensframe_pd.errors import OURS
from lensframe_pd.tape.tape import Site

CALL_IMPL = nn.Module._call_impl.__code__
_INNER = [code for code in CALL_IMPL.co_consts if isinstance(code, CodeType)]

#: What `module(...)` runs.
CALL = nn.Module._wrapped_call_impl.__code__
#: What calls `forward` where there are hooks, as there are while a run is followed.
CALLS_FORWARD = _INNER[0] if _INNER else CALL_IMPL
#: All frames that there may be between a module's caller and its `forward`, by id.
CALL_CODES = frozenset(map(id, (CALL, CALL_IMPL, *_INNER)))

# What a frame is for a site: one of it, its end, the tracer's own, or where a composite was opened,
# whose own site goes on from there.
_GOES_ON, _ENDS, _PASSED, _OPENED = "goes on", "ends", "passed", "opened"


class CallSites:
    """The call sites of one run.

    Parameters
    ----------
    codes
        `Tape.codes`, which gets the code of each frame.
    ends
        Code at which a site ends, besides that of module calls: what is further out is not the
        model's.
    opens
        What opens composites.
    """

    def __init__(
        self, codes: dict[int, CodeType], ends: Iterable[CodeType], opens: CodeType
    ) -> None:
        self._codes = codes
        self._kinds = {**dict.fromkeys((*CALL_CODES, *map(id, ends)), _ENDS), id(opens): _OPENED}
        #: The site of the composite that was opened last.
        self.outer: Site = ()
        #: Told of code that did not run before.
        self.told: Callable[[CodeType], None] | None = None

    def of(self, frame: FrameType | None) -> Site:
        """The frames from here outward, to the next module call around it."""
        # Once per operation and module call. By the ids of codes: their hash is that of all in it.
        kinds = self._kinds
        around = None if frame is None else frame.f_back
        if around is not None and around.f_code is CALLS_FORWARD:  # as most are: one frame
            assert frame is not None
            key = id(frame.f_code)
            if kinds.get(key) is _GOES_ON:
                return key, frame.f_lasti
        site: Site = ()
        while frame is not None:
            code = frame.f_code
            key = id(code)
            kind = kinds.get(key) or self._meet(code)
            if kind is _GOES_ON:
                site += (key, frame.f_lasti)
            elif kind is _ENDS:
                break
            elif kind is _OPENED:  # inside an opened composite: its caller's site is known
                return site + self.outer
            frame = frame.f_back
        return site

    def _meet(self, code: CodeType) -> str:
        """What kind of frame this code has, which did not run before."""
        ours = code.co_filename.startswith(OURS)
        kind = self._kinds[id(code)] = _PASSED if ours else _GOES_ON
        self._codes[id(code)] = code  # alive, so that no other code has its id
        if self.told is not None and not ours:
            self.told(code)
        return kind


def caller_of_module(frame: FrameType | None) -> FrameType | None:
    """The frame that called the module whose hook runs in `frame`."""
    while frame is not None and id(frame.f_code) in CALL_CODES:
        frame = frame.f_back
    return frame
