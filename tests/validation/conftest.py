"""The model that is validated, and its trace."""

import pytest
import torch

import lensframe_pd as lf

from .reports import Net, X


@pytest.fixture
def model():
    return Net().eval()


@pytest.fixture
def traced(model):
    with torch.no_grad():
        layers, activations = lf.trace(model, X)
    return layers, activations
