"""lensframe_pd: every operation of a PyTorch model as a DataFrame, every activation in xarray."""

import sys as _sys
from importlib.metadata import version as _version
from typing import Any as _Any

from lensframe_pd import accessor as _accessor  # noqa: F401  (registers df.lens and ds.lens)
from lensframe_pd import schema
from lensframe_pd import signposts as _signposts
from lensframe_pd.errors import (
    LensError,
    LensKeyError,
    LensRuntimeError,
    LensTypeError,
    LensValidationError,
    LensValueError,
    LensWarning,
)
from lensframe_pd.extract.concat import concat
from lensframe_pd.extract.extract import extract
from lensframe_pd.files.files import read, write
from lensframe_pd.rsa.rdm_picture import plot_rdm
from lensframe_pd.rsa.score_picture import plot_scores
from lensframe_pd.traced import Trace
from lensframe_pd.tracing import trace

__all__ = [
    "LensError",
    "LensKeyError",
    "LensRuntimeError",
    "LensTypeError",
    "LensValidationError",
    "LensValueError",
    "LensWarning",
    "Trace",
    "concat",
    "extract",
    "plot_rdm",
    "plot_scores",
    "read",
    "schema",
    "trace",
    "write",
]
#: As installed.
__version__ = _version("lensframe-pd")

for _name in ("draw", "profile"):  # rooms that are called as if they were their verbs
    _sys.modules[f"{__name__}.{_name}"].__class__ = _signposts.Room


def __getattr__(name: str) -> _Any:
    raise _signposts.not_here(name, __name__)


def __dir__() -> list[str]:
    return __all__
