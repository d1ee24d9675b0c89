"""`data=` in every form it may have, the ids of its stimuli, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

import lensframe_pd as lf

N = 10
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(5))
IDS = [f"s{k}" for k in range(N)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()


def expected(model, batch=4, x=X):
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(batch)]).numpy()


class Plain(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, k):
        return X[k]


class Pairs(Plain):
    def __getitem__(self, k):
        return X[k], k % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Again:
    """Batches that can be gone through again, without a length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def first(batch):
    return batch[0]


FORMS = {
    "Dataset": (Plain(), {"batch_size": 4}),
    "Dataset with workers": (Plain(), {"batch_size": 4, "num_workers": 2}),
    "Dataset of pairs": (Pairs(), {"batch_size": 4, "args": first}),
    "TensorDataset": (TensorDataset(X), {"batch_size": 4, "args": first}),
    "tensor": (X, {"batch_size": 4}),
    "array": (X.numpy(), {"batch_size": 4}),
    "list": ([*X], {"batch_size": 4}),
    "list of arrays": ([x.numpy() for x in X], {"batch_size": 4}),
    "generator": (lambda: (x for x in X), {"batch_size": 4, "n": N}),
    "IterableDataset": (Stream(), {"batch_size": 4, "n": N}),
    "frame": (
        pd.DataFrame(X.numpy()),
        {"batch_size": 4, "args": lambda part: torch.tensor(part.to_numpy())},
    ),
    "mapping": ({"input": X}, {"batch_size": 4}),
    "DataLoader": (DataLoader(Plain(), 4), {}),
    "DataLoader with workers": (DataLoader(Plain(), 4, num_workers=2), {}),
    "DataLoader of pairs": (DataLoader(Pairs(), 4), {"args": first}),
    "DataLoader of an iterable": (DataLoader(Stream(), 4), {"n": N}),
    "list of batches": ([*X.split(4)], {}),
    "tuple of batches": (X.split(4), {"n": N}),
    "iterable of batches": (Again(X.split(4)), {"n": N}),
    "generator of batches": (lambda: (x for x in X.split(4)), {"n": N}),
    "batches of pairs": ([(x, "label") for x in X.split(4)], {"args": first}),
    "empty batches": ([X[:0], X[:4], X[:0], X[4:8], X[8:], X[:0]], {}),
    "a first batch of one": ([X[:1], X[1:4], X[4:8], X[8:]], {"sizes": [1, 3, 4, 2]}),
    "batches of one": ([*X.split(1)], {"sizes": [1] * N}),
    "uneven batches": ([X[:3], X[3:4], X[4:9], X[9:]], {"sizes": [3, 1, 5, 1]}),
    "large batches": ([X[:2], X[2:9], X[9:]], {"sizes": [2, 7, 1]}),
}


@pytest.mark.parametrize("ids", ["all", "none", "batch"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data(tmp_path, model, form, ids):
    data, given = FORMS[form]
    given = dict(given)
    sizes = given.pop("sizes", 4)
    data = data() if callable(data) and not isinstance(data, Dataset) else data
    if ids == "all":
        given["stimulus"] = IDS
        given.pop("n", None)
    if ids == "batch":

        def ask(batch):
            parts = batch["input"] if isinstance(batch, dict) else batch
            parts = parts[0] if isinstance(parts, (list, tuple)) else parts
            rows = np.asarray(parts, np.float32)
            return [IDS[int(np.flatnonzero((X.numpy() == row).all(1))[0])] for row in rows]

        given["stimulus"] = ask
    whole = model if form != "mapping" else (lambda input: model(input))
    found = lf.extract(whole, data, to=tmp_path / "a", save=["relu_1"], **given)
    with torch.no_grad():
        values = torch.cat([model(part) for part in X.split(sizes)]).numpy()
    np.testing.assert_array_equal(found["relu_1"].values, values)
    numbered = [*range(N)] if ids == "none" else IDS
    assert found["stimulus"].values.tolist() == numbered


def test_later_calls_load_only_what_is_missing(tmp_path, model):
    loaded = []

    class Watched(Plain):
        def __getitem__(self, k):
            loaded.append(k)
            return X[k]

    settings = {"to": tmp_path / "a", "save": "relu_1"}
    lf.extract(model, Watched(), batch_size=2, **settings)
    (tmp_path / "a/lensframe/ledger/c/3").unlink()
    loaded.clear()
    lf.extract(model, Watched(), batch_size=2, **settings)
    assert loaded == [0, 1, 6, 7]
    (tmp_path / "a/lensframe/ledger/c/4").unlink()
    loaded.clear()
    lf.extract(model, DataLoader(Watched(), 2), **settings)
    assert loaded == [0, 1, 8, 9]


def test_what_a_model_does_to_its_input_is_not_done_to_the_data(tmp_path):
    x = X.clone()

    def model(x):
        return x.mul_(2) + 1

    found = lf.extract(model, x, to=tmp_path / "a", save=["add_1"], batch_size=4)
    assert torch.equal(x, X)
    np.testing.assert_array_equal(found["add_1"].values, (X * 2 + 1).numpy())


REFUSED = {
    "tensor": (X, {}, "batch_size="),
    "array": (X.numpy(), {}, "batch_size="),
    "frame": (pd.DataFrame(X.numpy()), {}, "batch_size="),
    "mapping": ({"input": X}, {}, "batch_size="),
    "text": ("abc", {}, "batch_size="),
    "number": (3, {"batch_size": 2}, "got a int"),
    "nothing": (None, {}, "got a NoneType"),
    "no length": (Again(X.split(4)), {}, "give n="),
    "pairs": (Pairs(), {"batch_size": 4}, r"args=lambda batch: batch\[0\]"),
    "loader of pairs": (DataLoader(Pairs(), 4), {}, r"args=lambda batch: batch\[0\]"),
    "shuffled": (DataLoader(Plain(), 4, shuffle=True), {}, "shuffle=False"),
    "shuffled, ids of all": (DataLoader(Plain(), 4, shuffle=True), {"stimulus": IDS}, "shuffle"),
    "drop_last": (DataLoader(Plain(), 4, drop_last=True), {}, "drop_last"),
    "sampler": (DataLoader(Plain(), 4, sampler=[3, 1, 2]), {}, "order"),
    "batch sampler": (
        DataLoader(Plain(), batch_sampler=BatchSampler(RandomSampler(Plain()), 4, False)),
        {},
        "RandomSampler",
    ),
    "any order": (DataLoader(Plain(), 4, num_workers=1, in_order=False), {}, "in_order"),
    "iterable with workers": (DataLoader(Stream(), 4, num_workers=1), {"n": N}, "say its ids"),
    "loader and batch_size": (DataLoader(Plain(), 4), {"batch_size": 2}, "its own batch size"),
    "loader and workers": (DataLoader(Plain(), 4), {"num_workers": 2}, "its own batch size"),
    "batch_size 0": (X, {"batch_size": 0}, "batch_size=0"),
    "batch_size half": (X, {"batch_size": 2.5}, "batch_size=2.5"),
    "no stimuli": (X[:0], {"batch_size": 2}, "no stimuli"),
    "no batches": ([], {}, "no stimuli"),
    "ids too few": (X, {"batch_size": 4, "stimulus": IDS[:9]}, "the data says 10.*says 9"),
    "ids too many": (X, {"batch_size": 4, "stimulus": [*IDS, "x"]}, "says 10.*says 11"),
    "ids twice": (X, {"batch_size": 4, "stimulus": [*IDS[:9], "s0"]}, "more than once: 's0'"),
    "ids missing": (X, {"batch_size": 4, "stimulus": [*IDS[:9], None]}, r"missing at positions 9"),
    "ids of two kinds": (X, {"batch_size": 4, "stimulus": [*IDS[:9], 3]}, "one kind"),
    "n and length": (X, {"batch_size": 4, "n": 9}, "n= says 9, the data says 10"),
    "n 0": (Again(X.split(4)), {"n": 0}, "n=0"),
    "args a text": (X, {"batch_size": 4, "args": "image"}, "args= got a str"),
    "save nothing": (X, {"batch_size": 4, "save": None}, "stores nothing"),
    "save no layer": (X, {"batch_size": 4, "save": "relu_9"}, "relu_9"),
    "save an empty frame": (X, {"batch_size": 4, "save": []}, "selects no values"),
    "seed a text": (X, {"batch_size": 4, "seed": "a"}, "seed='a'"),
    "passes 0": (X, {"batch_size": 4, "passes": 0}, "passes=0"),
    "ragged a list": (X, {"batch_size": 4, "ragged": ["token"]}, "ragged= got a list"),
    "ragged no axis": (X, {"batch_size": 4, "ragged": {"token": 4}}, "'token', which is no axis"),
    "compress": (X, {"batch_size": 4, "compress": "best"}, "compress='best'"),
    "part": (X, {"batch_size": 4, "part": (2, 2)}, r"part=\(2, 2\)"),
    "part of one": (X, {"batch_size": 4, "part": 1}, "part=1"),
    "client": (X, {"batch_size": 4, "client": 3}, "client= got a int"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_before_anything_is_written(tmp_path, model, what):
    data, given, message = REFUSED[what]
    with pytest.raises(lf.LensError, match=message):
        lf.extract(model, data, to=tmp_path / "a", **{"save": ["relu_1"], **given})
    assert not (tmp_path / "a").exists()


def test_a_class_is_no_model(tmp_path):
    with pytest.raises(lf.LensTypeError, match="is a class"):
        lf.extract(nn.ReLU, X, to=tmp_path / "a", save="relu_1", batch_size=2)


def test_a_one_shot_iterator_is_not_planned(tmp_path, model):
    taken = []

    def batches():
        for batch in X.split(4):
            taken.append(batch)
            yield batch

    data = batches()
    with pytest.raises(lf.LensValueError, match="one-shot"):
        lf.extract(model, data, to=tmp_path / "a", save="relu_1", n=N, plan=True)
    assert not taken


def values_then(last):
    """Ids of a batch: its first column, and of the last batch, of two, others."""
    return lambda batch: [*map(float, batch[:, 0])] if len(batch) == 4 else last


MET = {
    "too few": (X.split(4)[:2], {"n": N}, "ended before stimulus 9", 8),
    "too few, ids of all": (X.split(4)[:2], {"stimulus": IDS}, "ended before stimulus 9", 8),
    "too many": ([*X.split(4), X[:2]], {"n": N}, "goes beyond the 10 stimuli", 10),
    "too many in a batch": ([X[:4], X[4:8], X[5:10]], {"n": N}, "goes beyond the 10", 8),
    "twice": (X.split(4), {"n": N, "stimulus": lambda b: [*"abcd"][: len(b)]}, "more than once", 4),
    "twice in a batch": (
        X.split(4), {"n": N, "stimulus": lambda b: ["a"] * len(b)},
        "more than once", None,
    ),
    "too few ids": (
        DataLoader(Plain(), 4), {"stimulus": lambda b: [*map(float, b[:3, 0])]},
        "has 4 stimuli, and stimulus= gave 3", None,
    ),
    "missing": (
        X.split(4), {"n": N, "stimulus": values_then([1, None])},
        "missing", 8,
    ),
    "another kind": (
        X.split(4), {"n": N, "stimulus": values_then(["a", "b"])},
        "one kind", 8,
    ),
    "none": (X.split(4), {"n": N, "stimulus": lambda b: None}, "gave no ids", None),
}  # fmt: skip


@pytest.mark.parametrize("what", MET)
def test_what_is_known_when_it_is_met(tmp_path, model, what):
    data, given, message, written = MET[what]
    data = data if isinstance(data, DataLoader) else Again([*data])
    with pytest.raises(lf.LensError, match=message):
        lf.extract(model, data, to=tmp_path / "a", save="relu_1", **given)
    if written is None:
        assert not (tmp_path / "a").exists()
    else:
        found = lf.read(tmp_path / "a")
        assert found.attrs["missing_stimuli"] == N - written
        there = found["relu_1"].values[:written]
        np.testing.assert_array_equal(there, expected(model)[:written])


def test_a_loader_in_another_order_says_its_ids(tmp_path, model):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]

    class Named(Plain):
        def __getitem__(self, k):
            return X[k], IDS[k]

    loader = DataLoader(Named(), 4, sampler=order)
    found = lf.extract(
        model, loader, to=tmp_path / "a", save="relu_1", args=first, stimulus=lambda batch: batch[1]
    )
    assert found["stimulus"].values.tolist() == [IDS[k] for k in order]
    np.testing.assert_array_equal(found["relu_1"].values, expected(model, 4, X[order]))


def test_a_sequential_batch_sampler_is_in_order(tmp_path, model):
    loader = DataLoader(Plain(), batch_sampler=BatchSampler(SequentialSampler(Plain()), 3, False))
    found = lf.extract(model, loader, to=tmp_path / "a", save="relu_1")
    np.testing.assert_array_equal(found["relu_1"].values, expected(model, 3))
