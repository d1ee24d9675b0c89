"""A comparison of the tracer with something that knows nothing of it, model by model."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from zoo.made import Maker
from zoo.models import models
from zoo.sample import SAMPLE


def compare_each(compared: Callable[[str, Maker], dict[str, Any]]) -> None:
    """Print what is found of each model that the command line names, else of the sample; sums."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*")
    parts = parser.parse_args().parts
    makers = models()
    names = [n for n in makers if any(p in n for p in parts)] if parts else [*SAMPLE]
    torch.backends.mha.set_fastpath_enabled(False)
    results = []
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = compared(name, makers[name])
            except Exception as error:
                found = {"name": name, "error": f"{type(error).__name__}: {error}"[:200]}
        print({k: v for k, v in found.items() if v}, flush=True)
        results.append(found)
    table = pd.DataFrame(results).set_index("name")
    print(table.select_dtypes("number").sum().to_string())
