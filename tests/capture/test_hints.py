"""A failing call's own error, with a note on what the arguments are and what to give instead."""

import pathlib

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lensframe_pd as lf

IMAGES = torch.rand(2, 3, 8, 8)
NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


class Pair(nn.Module):
    def forward(self, image, *, mask=None):
        return torch.conv2d(image, torch.ones(1, 3, 2, 2)) + (
            0 if mask is None else torch.sin(mask)
        )


CASES = {
    "array": (IMAGES.numpy(), "args is a NumPy array; give torch.as_tensor(args)"),
    "float64 array": (np.ones((2, 3, 8, 8)), "torch.as_tensor(args).float()"),
    "objects": (np.array([None, 1]), "a NumPy array of object, which is no number"),
    "array in a tuple": ((IMAGES.numpy(),), "args[0] is a NumPy array; give"),
    "array by name": ({"input": IMAGES.numpy()}, "args['input'] is a NumPy array"),
    "frame": (pd.DataFrame(np.ones((8, 8))), "torch.as_tensor(args.to_numpy(), dtype="),
    "series": (pd.Series([1.0, 2.0]), "args is a Series; give"),
    "xarray": (xr.DataArray(IMAGES.numpy()), "args is a DataArray; give"),
    "list of a batch": ([IMAGES], "args is a list of tensors, one argument"),
    "list of images": ([*IMAGES], "torch.stack(args)"),
    "list of arrays": ([*IMAGES.numpy()], "args is a list of numbers"),
    "numbers": ([[1.0, 2.0]], "args is a list of numbers; give torch.tensor(args)"),
    "tuple in a tuple": (((IMAGES, IMAGES),), "args[0] is a tuple of tensors"),
    "shape": ((1, 3, 8, 8), "give a tensor: torch.rand(1, 3, 8, 8)"),
    "shape as a list": ([1, 3, 8, 8], "give a tensor: torch.rand(1, 3, 8, 8)"),
    "torch.Size": (torch.Size([1, 3, 8, 8]), "give a tensor: torch.rand(1, 3, 8, 8)"),
    "loader": (DataLoader(TensorDataset(IMAGES)), "args is a DataLoader; give one batch of it"),
    "loader in a tuple": ((DataLoader(IMAGES),), "next(iter(args[0]))"),
    "data set": (TensorDataset(IMAGES), "args is a data set; give a batch"),
    "text": ("a cat", "args is text; a model takes what its tokenizer makes"),
    "texts": (["a cat", "a dog"], "tokenizer(args, return_tensors"),
    "path": (pathlib.Path("cat.png"), "args is a path, and no file is read"),
    "image": (Image.new("RGB", (8, 8)), "args is an image; give torchvision"),
    "images": ([Image.new("RGB", (8, 8))], "a list in which each is an image"),
    "nothing": ((), "the model was called without arguments"),
    "another name": ({"pixels": IMAGES}, "where it is itself the argument of the model"),
    "float64": (IMAGES.double(), "args is float64 and the parameters are float32: give args.to("),
    "half": ((IMAGES.half(),), "args[0] is float16 and the parameters are float32"),
    "bytes": (IMAGES.to(torch.uint8), "args is uint8 and the parameters are float32"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "words"), CASES.values(), ids=CASES)
def test_what_was_given(args, words):
    with pytest.raises(Exception) as own:  # noqa: PT011 (whatever torch raises)
        NET(*args) if type(args) is tuple else NET(**args) if isinstance(args, dict) else NET(args)
    with pytest.raises(type(own.value)) as traced:
        lf.trace(NET, args)
    assert str(traced.value) == str(own.value)  # torch's own, unchanged
    notes = "\n".join(traced.value.__notes__)
    assert words in notes
    assert notes.count("lf.trace: args") <= 1


@pytest.mark.parametrize(
    ("layer", "shape", "told"),
    [
        (nn.BatchNorm2d(3), (3, 8, 8), True),
        (nn.BatchNorm3d(3), (3, 4, 8, 8), True),
        (nn.BatchNorm2d(5), (2, 3, 8, 8), False),  # the axes are not the matter
        (nn.BatchNorm2d(3), (8, 8), False),
    ],
)
def test_an_image_without_a_batch(layer, shape, told):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        lf.trace(layer.eval(), torch.rand(shape))
    assert ("a batch of one is args[None]" in "\n".join(caught.value.__notes__)) == told


def test_a_keyword_argument():
    with pytest.raises(TypeError) as caught:
        lf.trace(Pair(), IMAGES, {"mask": np.ones(3)})
    assert "kwargs['mask'] is a NumPy array" in "\n".join(caught.value.__notes__)


def test_keyword_arguments_in_the_tuple():
    with pytest.raises(TypeError) as caught:
        lf.trace(NET, (IMAGES, {"steps": 2}))
    notes = "\n".join(caught.value.__notes__)
    assert "keyword arguments are the third: (model, args[:-1], args[-1])" in notes


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (NET, torch.rand(2, 5, 8, 8)),  # another number of channels
        (NET, torch.rand(8)),
        (nn.Embedding(3, 2), torch.tensor([7])),
        (lambda x: x / "a", torch.ones(2)),
        (lambda a, b: a + b + None, (torch.ones(2), torch.ones(2))),
    ],
)
def test_tensors_have_no_note(model, args):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        lf.trace(model, args)
    notes = [note for note in caught.value.__notes__ if "the last operation" not in note]
    assert [note for note in notes if note.startswith("lf.trace: args")] == []


def test_ids_of_what_is_no_tensor():
    with pytest.raises(lf.LensValueError) as caught:
        lf.trace(NET, IMAGES.numpy(), stimulus=["a", "b"])
    assert "args is a NumPy array" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lf.trace(NET, IMAGES, IMAGES), r"as a tuple: lf\.trace\(model, \(x, y\)\)"),
        (lambda: lf.trace(IMAGES, NET), "the model comes first, then args"),
        (lambda: lf.trace("resnet18", IMAGES), "cannot trace a str"),
    ],
)
def test_arguments_astray(call, words):
    with pytest.raises(lf.LensTypeError, match=words):
        call()


def test_what_works_with_other_inputs_is_left_alone():
    layers, _ = lf.trace(lambda x: torch.as_tensor(x) + 1, np.ones(3))
    assert "add" in set(layers["func"])
