"""The values that a traced run was given, read from its tables: a second run is given them too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.capture.plan import Address
from lensframe_pd.capture.sites import Site, Sites
from lensframe_pd.cells import Rows
from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.labels import split_call
from lensframe_pd.replay.call import laid_out
from lensframe_pd.tables.activations import to_tensor
from lensframe_pd.tape.storage import PLAIN


def sites_of(
    edits: Iterable[str], rows: Rows, activations: xr.Dataset | None, given: Sites | None
) -> Sites:
    """Where the values of these rows of kind `edit` go.

    Parameters
    ----------
    given
        What is known of the run besides: for values that were not saved.

    Raises
    ------
    LensValueError
        Values that are not known.
    """
    sites = Sites()
    unknown = []
    for op in edits:
        row = rows[op]
        called = json.loads(row["config"]).get("module")
        place = split_call(called) if called else _address(rows.get(row["parents"][0], {}))
        site = _site(op, row, activations) or _known(place, given)
        if site is None or place is None:
            unknown.append(op)
        elif isinstance(place, Address):
            sites.rows[place] = site
        else:
            sites.modules[place] = site
    if unknown:
        raise LensValueError(
            f"validate: the values that the run was given for {shown(unknown)} are not in the "
            "tables, and no second run can have them: give all rows, and activations with these"
        )
    return sites


def _address(row: Mapping[str, Any]) -> Address | None:
    if not row:
        return None
    stack = row["module_stack"]
    return Address(stack[-1] if stack else "", row["func"], row["ordinal"])


def _site(op: str, row: Mapping[str, Any], activations: xr.Dataset | None) -> Site | None:
    """The saved value, which autograd follows as it followed that of the run."""
    if activations is None or op not in activations.variables:
        return None
    value = to_tensor(np.asarray(activations.variables[op].values))
    dtype = getattr(torch, row["dtype"], None)
    if isinstance(dtype, torch.dtype):
        value = value.to(dtype)
    value = laid_out(value, row["stride"], PLAIN)
    return Site(op, _followed(value) if row["requires_grad"] else value)


def _followed(value: Tensor) -> Tensor:
    follows = value.is_floating_point() or value.is_complex()
    return value.detach().requires_grad_() if follows else value


def _known(place: Address | tuple[str, int] | None, given: Sites | None) -> Site | None:
    if given is None or place is None:
        return None
    if isinstance(place, Address):
        return given.rows.get(place)
    return given.modules.get(place) or given.modules.get((place[0], 0))
