"""Every operation of a PyTorch model as a DataFrame, every activation in xarray.

Run a model once; any model, unmodified:

>>> import torch, lensframe_pd as lf
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
>>> trace = lf.trace(model, torch.rand(2, 3), stimulus=["cat", "dog"])
>>> layers, activations = trace  # a pandas.DataFrame and an xarray.Dataset
>>> layers["func"].tolist()
['input', 'linear', 'relu', 'output']
>>> activations.lens["1"].dims  # by label, layer or path of a module
('stimulus', 'feature')

What can be done with the two is shown, by purpose, by `layers.lens` and `activations.lens`, and
each verb explains itself: `help(layers.lens.draw)`, `help(activations.lens.rdm)`. A run is proven
by `trace.validate()`, changed by `lf.trace(..., values=)` and kept by `lf.write`; a data set goes
into a store by `lf.extract`. `lf.schema.COLUMNS` says what the columns of `layers` are.
"""

import sys as _sys
from importlib.metadata import version as _version
from typing import Any as _Any

from lensframe_pd.collector import collector_paused as _collector_paused

with _collector_paused():  # nothing that is imported is garbage, and there is much to look through
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
