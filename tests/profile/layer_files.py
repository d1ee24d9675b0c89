"""Frames to profile: traced without values, and as they come back from a file."""

import pandas as pd
import torch

import lensframe_pd as lf


def from_disk(layers, folder):
    layers.to_parquet(folder / "layers.parquet")
    return pd.read_parquet(folder / "layers.parquet")


def traced_layers(model, *args, **kwargs):
    with torch.no_grad():
        return lf.trace(model, args, kwargs, save=None).layers
