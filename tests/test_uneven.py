"""Rows of a frame, lists and single names, wherever a verb takes layers; numbers as depths."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(), Block())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), blocks, nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.rand(6, 3, 8, 8)
    return lf.trace(model, images, stimulus=list("abcdef"), gradients=True)


def forms(layers, labels):
    """The same rows in every form that they may be asked for in."""
    rows = layers.loc[labels]
    mask = layers.index.isin(labels)
    return {
        "list": labels, "tuple": tuple(labels), "index": rows.index, "array": np.array(labels),
        "frame": rows, "reset": rows.reset_index(), "mask": pd.Series(mask, layers.index),
        "merged": rows.reset_index().merge(pd.DataFrame({"op": labels, "mine": 1}), on="op"),
    }  # fmt: skip


FORMS = "list tuple index array frame reset mask merged".split()
PICKED = ["relu_1", "relu_2"]
VERBS = {
    "rdm": lambda layers, ds, keys: ds.lens.rdm(keys),
    "cka": lambda layers, ds, keys: ds.lens.cka(layers=keys),
    "to_stacked": lambda layers, ds, keys: ds.lens.to_stacked(keys),
    "to_assembly": lambda layers, ds, keys: ds.lens.to_assembly(keys),
    "lens[]": lambda layers, ds, keys: ds.lens[keys],
    "find": lambda layers, ds, keys: layers.lens.find(keys),
    "ancestors": lambda layers, ds, keys: layers.lens.ancestors(keys),
    "descendants": lambda layers, ds, keys: layers.lens.descendants(keys),
    "between": lambda layers, ds, keys: layers.lens.between("input_1", keys),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_form_means_the_same(trace, verb, form):
    layers, activations = trace
    keys = forms(layers, PICKED)[form]
    found, expected = (VERBS[verb](layers, activations, k) for k in (keys, PICKED))
    assert len(expected)
    assert found.equals(expected)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_gradients_and_patches(trace, form):
    keys = forms(trace.layers, PICKED)[form]
    assert list(trace.gradients(lambda y: y.sum(), keys, retain_graph=True)) == PICKED
    with torch.no_grad():
        assert list(trace.patch(0, lambda y: y.sum(), rows=keys).index) == PICKED


def test_tokens_of_a_row():
    layers, activations = lf.trace(nn.Embedding(9, 4).eval(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    expected = activations.lens.tokens("embedding_1")
    assert activations.lens.tokens(layers.loc[["embedding_1"]]).equals(expected)
    with pytest.raises(lf.LensTypeError, match=r"^tokens takes one layer and got 3"):
        activations.lens.tokens(layers)


@pytest.mark.parametrize("verb", ["features", "to_rsatoolbox", "to_sklearn"])
def test_verbs_of_one_layer(trace, verb):
    layers, activations = trace
    more = (pd.DataFrame({"unit": range(6)}, index=list("abcdef")),) if verb == "to_sklearn" else ()
    call = getattr(activations.lens, verb)
    for one in (layers.loc[["relu_1"]], layers.loc["relu_1"], ["relu_1"], activations["relu_1"]):
        found, expected = call(one, *more), call("relu_1", *more)
        assert str(found) == str(expected)
    with pytest.raises(lf.LensTypeError, match=rf"^{verb} takes one layer and got 2"):
        call(layers.loc[PICKED], *more)


def test_a_frame_with_rows_that_were_not_saved():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    layers, activations = lf.trace(model, torch.rand(5, 3), save=["relu_1", "linear_2"])
    rdms = activations.lens.rdm(layers)
    assert rdms["layer"].values.tolist() == ["relu_1", "linear_2"]
    with pytest.raises(lf.LensKeyError, match="no row of this frame has a value"):
        activations.lens.rdm(layers.loc[["linear_1"]])
    with pytest.raises(lf.LensValueError, match="layers= is empty"):
        activations.lens.rdm([])


def test_several_layers_are_a_dataset(trace):
    _, activations = trace
    found = activations.lens[["relu_1", "1.1", "3"]]
    assert isinstance(found, xr.Dataset)
    assert list(found.data_vars) == ["relu_1", "1.1", "3"]
    assert found["relu_1"].dims == ("stimulus", "channel_4", "y_6", "x_6")
    assert found["relu_1"].equals(activations["relu_1"])
    np.testing.assert_array_equal(found["1.1"], activations["relu_2"])
    assert found["stimulus"].values.tolist() == list("abcdef")
    assert found.lens.rdm("1.1").sizes["stimulus"] == 6
    with pytest.raises(lf.LensKeyError) as caught:
        activations.lens[["relu_9", "zzz"]]
    assert "'relu_9'" in str(caught.value)
    assert "'zzz'" in str(caught.value)
    for wrong in (3, None, nn.ReLU(), ["relu_1", 2]):
        with pytest.raises(lf.LensTypeError, match=r"lens\[\.\.\.\] got .* it takes names"):
            activations.lens[wrong]


def test_passes_beside_each_other():
    def unrolled(x):
        for _ in range(3):
            x = (x @ torch.eye(2)).tanh()
        return x + x

    _, activations = lf.trace(unrolled, torch.rand(4, 2))
    found = activations.lens[["tanh_1", "matmul_1"]]
    assert found["tanh_1"].dims[0] == "pass_num"
    np.testing.assert_array_equal(found["tanh_1"].sel(pass_num=2), activations["tanh_1:2"])
    assert {*activations.lens[["tanh_1", "add_1"]]} == {"tanh_1", "add_1"}
    other = activations.drop_vars("tanh_1:3")  # else xarray would fill the third with NaN
    with pytest.raises(lf.LensValueError, match=r"unequally many passes.*'tanh_1' 2, 'matmul_1' 3"):
        other.lens[["tanh_1", "matmul_1"]]


@pytest.mark.parametrize("depth", [1, 2, np.int64(1)])
def test_a_number_is_a_depth(trace, depth):
    assert trace.layers.lens.collapse(depth).equals(trace.layers.lens.collapse(depth=int(depth)))


def test_rows_are_their_modules(trace):
    layers = trace.layers
    adds = layers.query("func == 'add'")
    assert layers.lens.collapse(adds).equals(layers.lens.collapse(["1.0", "1.1"]))
    blocks = layers.lens.collapse(depth=2).query("func == 'Block'")
    assert layers.lens.collapse(blocks).equals(layers.lens.collapse(["1.0", "1.1"]))
    assert layers.lens.collapse(pd.Index(["1.0"])).equals(layers.lens.collapse("1.0"))


@pytest.mark.parametrize(
    ("modules", "options", "words"),
    [
        (0, {}, "depth=0; 1 is the children"), (1, {"depth": 2}, "depth= gives another"),
        (True, {}, "collapse got True"), (1.5, {}, "collapse got 1.5"), (None, {}, "give either"),
        ([1, 2], {}, "collapse got"),
    ],
)  # fmt: skip
def test_what_is_no_module(trace, modules, options, words):
    with pytest.raises(lf.LensError, match=words):
        trace.layers.lens.collapse(modules, **options)


def test_find_names_all_that_are_not_there(trace):
    with pytest.raises(lf.LensKeyError) as caught:
        trace.layers.lens.find(["relu_9", "relu_1", "1.7"])
    assert "'relu_9'" in str(caught.value)
    assert "'1.7'" in str(caught.value)
    assert trace.layers.lens.find(["1.0", "relu_2"]).index.tolist() == [
        "conv2d_2", "add_1", "relu_1", "relu_2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["relu", "conv2d", "add", "input"])
def test_a_function_is_told_to_be_one(trace, name):
    with pytest.raises(lf.LensKeyError) as caught:
        trace.layers.lens.find(name)
    query = re.search(r"layers\.query\(.*\)", str(caught.value))[0]
    assert len(eval(query, {"layers": trace.layers})) == (trace.layers["func"] == name).sum()


def test_cka_of_rows_says_where_they_go(trace):
    with pytest.raises(lf.LensTypeError, match=r"not a DataFrame; give names or rows as layers="):
        trace.activations.lens.cka(trace.layers)


READ = "csv tsv json xlsx pkl pt pth npy npz h5 mat".split()


@pytest.mark.parametrize("suffix", READ)
@pytest.mark.parametrize("there", [True, False])
def test_files_of_others_say_what_is_read(suffix, there, tmp_path):
    path = tmp_path / f"x.{suffix}"
    if there:
        path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(lf.LensValueError) as caught:
        lf.read(path)
    for word in (str(path), ".parquet", ".zarr", ".nc", f"reads .{suffix}"):
        assert word in str(caught.value)


def test_writing_the_wrong_way_round(trace, tmp_path):
    with pytest.raises(lf.LensTypeError, match=r"first, then the path: lf\.write\(trace, path\)"):
        lf.write(str(tmp_path / "x"), trace)


@pytest.mark.parametrize("of", ["trace", "Saved", "Dataset"])
def test_a_trace_stands_for_its_activations(trace, of, tmp_path):
    """Where the values of another run are asked for."""
    other = {
        "trace": lambda: trace,
        "Saved": lambda: lf.read(lf.write(trace, tmp_path / "t")),
        "Dataset": lambda: trace.activations,
    }[of]()
    model, args = trace._origin.model, trace._origin.args
    again = lf.trace(model, args, stimulus=list("abcdef"), values=other)
    np.testing.assert_array_equal(again.output.detach(), trace.output.detach())
    assert again.layers["kind"].eq("edit").sum() > 5
    mean = trace.output.mean().item()
    patched = trace.patch(other, lambda y: y.mean().item(), rows="relu_1")
    assert patched["metric"].tolist() == pytest.approx([mean])
    n = len(trace.activations.data_vars)
    assert trace.activations.lens.cka(other, layers="relu_1").shape == (1, n)


def test_a_whole_trace_is_no_reference(trace):
    for other in (trace, trace.activations):
        with pytest.raises(lf.LensTypeError, match=r"give one layer of another model, as other\."):
            trace.activations.lens.score({"other": other}, trace.layers)


@pytest.mark.parametrize("name", ["t.csv", "t.pt", "t.NC", "a.b.parquet", "t.arrows"])
def test_a_trace_is_no_file_of_another_kind(trace, name, tmp_path):
    with pytest.raises(lf.LensValueError, match=r"a trace is written to a folder, or a \.zarr"):
        lf.write(trace, tmp_path / name)
    assert not (tmp_path / name).exists()
