"""A changed parent changes its child, or it is said why it cannot."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import ops

import lensframe_pd as lf
from lensframe_pd.replay.recording import Recording, Saved, recorded_calls
from lensframe_pd.tape.passes import passes
from lensframe_pd.validation import dependence, validate
from lensframe_pd.validation.dependence import Probed
from lensframe_pd.validation.entries import by_entry, first_rows

from .reports import X


class Masked(nn.Module):
    def forward(self, x):
        kept = torch.where(x > -100, x, x * 3)
        base = torch.zeros_like(x)
        base[:] = kept
        return base + x.new_ones(()).expand_as(x)


def test_exemptions_are_shown_and_counted():
    report = lf.trace(Masked().eval(), X).validate()
    assert report["passed"].all()
    reasons = report["reason"]
    assert "'condition' leaves no room" in reasons["where_1"]
    assert "only its shape is read" in reasons["zeros_like_1"]
    assert "overwrites all of it" in reasons["setitem_1"]
    assert "only its dtype is read" in reasons["new_ones_1"]
    exempt = sum(text.count("does not depend on") for text in reasons)
    assert report.attrs["dependence_exempt"] == exempt == 5  # expand_as reads the shape of x


def _nowhere(x):
    return torch.zeros(x.shape[:1], dtype=torch.bool)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.masked_scatter(_nowhere(x)[:, None], x[:1] * 2),
        lambda x: x.masked_scatter(_nowhere(x)[:, None].expand(x.shape), x[0] * 2),
        lambda x: x.clone().masked_scatter_(_nowhere(x)[:, None], x[:1] * 2),
        lambda x: x.clone().index_put((_nowhere(x),), x[:0] * 2 + x[1:2]),
    ],
)
def test_a_mask_that_takes_nothing_leaves_no_room_for_what_it_would_put_there(model):
    """Of which there is too little to be put everywhere."""
    report = lf.trace(model, torch.rand(4, 3)).validate()
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()


class Given(TorchDispatchMode):
    """Notes all numbers that each tensor argument of an operator was ever given.

    By the operator, the dtypes of its tensors (the library may use it, too) and the place.
    """

    def __init__(self, namespace):
        super().__init__()
        self.namespace = namespace
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == self.namespace:
            dtypes = tuple(value.dtype for value in args if isinstance(value, torch.Tensor))
            for place, value in enumerate(args):
                if isinstance(value, torch.Tensor):
                    kept = self.found.setdefault((str(func), dtypes, place), [])
                    kept.append(value.flatten().tolist())
        return func(*args, **(kwargs or {}))


@torch.library.custom_op("robust::look_up", mutates_args=())
def look_up(table: torch.Tensor, offsets: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return table.flatten()[offsets.long().flatten() % table.numel()] * where.sum()


@torch.library.custom_op("robust::count_of", mutates_args=())
def count_of(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(2) * x.numel()


TABLE = torch.tensor([[0.5, -2.0, 7.0], [1.0, 1.5, 9.0]])
BOXES = torch.tensor([[0.0, 0, 0, 4, 4], [0, 1, 1, 5, 6]])
OUTSIDE = {
    "integers": (look_up, TABLE, torch.tensor([4, 0, 2]), torch.tensor([True, False])),
    "floats": (look_up, TABLE, torch.tensor([4.0, 0, 2]), torch.tensor([1.0, 3])),
    "all alike": (look_up, TABLE, torch.tensor([4, 4]), torch.tensor([True])),
    "one": (look_up, TABLE, torch.tensor(4), torch.tensor([2.0])),
    "not finite": (look_up, TABLE, torch.tensor([1, 5]), torch.tensor([torch.inf, 1.0, 0])),
    "nothing is read": (count_of, TABLE),
    "deform_conv2d": (ops.deform_conv2d, torch.ones(1, 3, 8, 8), X[:1].repeat(1, 6, 1, 1),
                      torch.ones(4, 3, 3, 3)),
    "roi_align": (lambda x, b: ops.roi_align(x, b, 2), X, BOXES),
    "roi_pool": (lambda x, b: ops.roi_pool(x, b, 2), X, BOXES),
    "ps_roi_align": (lambda x, b: ops.ps_roi_align(x, b, 1), X, BOXES),
    "nms": (lambda b, s: ops.nms(b, s, 0.5), BOXES[:, 1:], torch.tensor([0.3, 0.7])),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTSIDE)
def test_kernels_that_are_not_torchs_own_are_given_what_they_had_in_another_order(kind):
    func, *args = OUTSIDE[kind]
    namespace = "robust" if func in (look_up, count_of) else "torchvision"
    with Given(namespace) as plain:
        func(*args)
    with torch.no_grad(), Given(namespace) as given:
        report = lf.trace(func, tuple(args)).validate(downstream="all")
    assert report["passed"].all(), report["reason"]
    assert plain.found.keys() == given.found.keys() != set()
    for place, (first, *_) in plain.found.items():
        assert {tuple(sorted(values)) for values in given.found[place]} == {tuple(sorted(first))}


def test_what_could_not_be_tried_is_said_and_decides_nothing():
    func, *args = OUTSIDE["all alike"]
    report = lf.trace(func, tuple(args)).validate()
    text = report.loc["look_up_1", "dependence"]
    assert text.startswith("not run: on 'input_2' (offsets): no other order of the values it had")
    assert report.attrs["dependence_not_run"] == 1
    assert report["passed"].all()


I = torch.tensor([[0, 2], [3, 2]])
INDICES = {
    "embedding": lambda w, i: nn.functional.embedding(i, w),
    "index": lambda w, i: w[i],
    "index of the second axis": lambda w, i: w[:, i % 3],
    "gather": lambda w, i: w.gather(0, i),
    "take": lambda w, i: w.take(i),
    "index_select": lambda w, i: w.index_select(0, i[1]),
    "scatter": lambda w, i: w.scatter(0, i, 7.0),
    "index_add": lambda w, i: w.index_add(0, i[0], w[:2]),
    "index_put": lambda w, i: w.index_put((i[0],), w[1]),
    "index_put of setitem": lambda w, i: w.clone().__setitem__(i[0], 1.0),
    "scatter of one_hot": lambda w, i: nn.functional.one_hot(i, 9),
    "bincount": lambda w, i: torch.bincount(i.flatten()),
    "embedding_bag": lambda w, i: nn.functional.embedding_bag(i, w),
    "repeat_interleave": lambda w, i: w.repeat_interleave(i.flatten(), 0),
    "ctc_loss": lambda w, i: nn.functional.ctc_loss(
        w.log_softmax(-1)[:, None].repeat(1, 2, 1), i[:, 1:] - 1, (4, 4), (1, 1)
    ),
    "nll_loss": lambda w, i: nn.functional.nll_loss(w, i.flatten() % 3),
    "nll_loss of cross_entropy": lambda w, i: nn.functional.cross_entropy(w, i.flatten() % 3),
    "max_unpool": lambda w, i: nn.functional.max_unpool1d(w[:2, :2], i, 2),
}


@pytest.mark.parametrize("kind", INDICES)
def test_integers_that_may_be_addresses_stay_in_the_range_they_had(kind):
    args = torch.arange(12.0).reshape(4, 3).sin(), I
    with Given("aten") as plain:
        INDICES[kind](*args)
    with Given("aten") as given:
        report = lf.trace(INDICES[kind], args).validate(downstream="all", alignment=None)
    assert report["passed"].all(), report["reason"]
    name, dtypes, _ = max(plain.found, key=lambda place: kind.split()[0] in place[0])
    assert kind.split()[0] in name
    for place, (first, *_) in plain.found.items():
        if place[:2] == (name, dtypes) and type(first[0]) is int:
            others = [number for values in given.found[place] for number in values]
            assert min(first) <= min(others)
            assert max(others) <= max(first)


A, B = torch.tensor([[17, 1000, 3]]), torch.tensor([50256])
FAR = {
    "isin": lambda a, b: torch.isin(a, b),
    "isin, scalar": lambda a, b: torch.isin(a, 50256) | (b == 1),
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "eq, two-sided": lambda a, b: a == b[:, None] - 60000,
    "lt": lambda a, b: a < b,
    "and": lambda a, b: (a == b) & (a > 5),
    "any": lambda a, b: (a == b).any(),
    "searchsorted": lambda a, b: torch.searchsorted(a[0].sort().values, b),
    "bucketize": lambda a, b: torch.bucketize(b, torch.tensor([3, 10**12])) + a,
    "where": lambda a, b: torch.where(a == b, a, 0),
    "maximum": lambda a, b: torch.maximum(a, b),
    "clamp": lambda a, b: a.clamp(0, 10) + b,
    "limits": lambda a, b: (a == torch.iinfo(a.dtype).min) | (b == torch.iinfo(b.dtype).max),
    "divided": lambda a, b: a // 10**6 + b % 7,
    "shifted": lambda a, b: (a >> 20) + b,
    "int8": lambda a, b: a.to(torch.int8) == b.to(torch.int8),
    "floats": lambda a, b: a.float() == b.double() * 1e9,
    "isfinite": lambda a, b: a.float().isfinite() | b.isnan(),
    "sign": lambda a, b: a.float().sign() + b.sign(),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAR)
def test_numbers_far_apart_are_compared(kind):
    report = lf.trace(FAR[kind], (A, B)).validate()
    assert report["passed"].all(), report["reason"]


FACTS = {
    "zeros_like": (lambda x: torch.zeros_like(x), "only its shape is read"),
    "rand_like": (lambda x: torch.rand_like(x), "only its shape is read"),
    "expand_as": (lambda x: torch.ones(3).expand_as(x), "only its shape is read"),
    "view_as": (lambda x: torch.ones(6).view_as(x), "only its shape is read"),
    "new_zeros": (lambda x: x.new_zeros(3), "only its dtype is read"),
    "type_as": (lambda x: torch.ones(3, dtype=torch.int8).type_as(x), "only its dtype is read"),
    "times zero": (lambda x: x.long() * 0, "the value of 'other', 0, leaves no room for it"),
    "and zero": (lambda x: x.long() & 0, "the value of 'other', 0, leaves no room for it"),
    "power zero": (lambda x: x.long() ** 0, "the value of 'exponent', 0, leaves no room for it"),
    "times NaN": (lambda x: x * float("nan"), "the value of 'other', nan, leaves no room for it"),
    "less NaN": (lambda x: x - float("nan"), "the value of 'other', nan, leaves no room for it"),
    "power NaN": (lambda x: x.long() ** float("nan"), ""),
    "between by NaN": (
        lambda x: torch.lerp(x, x[:1], float("nan")),
        "'weight', nan, leaves no room",
    ),
    "beyond all": (lambda x: x > float("inf"), "the value of 'other', inf, leaves no room for it"),
    "equal to NaN": (lambda x: x == float("nan"), "the value of 'other', nan, leaves no room"),
    "unequal to NaN": (lambda x: x.half() != float("nan"), "'other', nan, leaves no room for it"),
    "a number equal to NaN": (lambda x: x.long() == float("nan"), "'other', nan, leaves no room"),
    "equal to a NaN": (lambda x: x == torch.tensor(float("nan")), "'other' leaves no room for it"),
    "a truth below NaN": (lambda x: (x > 0) < torch.tensor(float("nan")), "'other' leaves no room"),
    "beyond its type": (lambda x: x == 1e300, ""),
    "a truth clamped by NaN": (lambda x: (x > 0).clamp(min=float("nan")), "'min', nan, leaves no"),
    "no divisor but one": (lambda x: torch.gcd(x.long(), torch.tensor(-1)), "'other' leaves no"),
    "beyond half": (lambda x: x.half() > 2**40, ""),
    "drowned": (lambda x: x.sigmoid() + 1e30, ""),
    "clamped": (lambda x: x.clamp(1.0, 1.0), ""),
    "a mask": (lambda x: torch.where(torch.ones_like(x) > 0, 1.0, x), "'condition' leaves no room"),
    "softmax of one": (lambda x: x[:, :1].softmax(1), ""),
    "layer_norm of one": (lambda x: nn.functional.layer_norm(x[:, :1], (1,)), ""),
}


@pytest.mark.parametrize("kind", FACTS)
def test_the_reason_given_is_true(kind):
    forward, reason = FACTS[kind]
    report = lf.trace(forward, torch.tensor([[0.5, -2.0, 7.0], [1.0, 1.5, 9.0]])).validate()
    assert report["passed"].all(), report["reason"]
    assert reason in "; ".join(report["reason"])
    if not reason.startswith("only"):
        assert "is read" not in "; ".join(report["reason"].drop("ones_like_1", errors="ignore"))


def test_a_kernel_that_would_kill_survives(tmp_path):
    """In a process of its own: an operator that aborts at any number it did not have."""
    (tmp_path / "kills.py").write_text(KILLS)
    done = subprocess.run(
        [sys.executable, "kills.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "wrong", "wrong", "True"]


def test_the_smallest_integer_is_not_divided_by_others(tmp_path):
    """In a process of its own: by -1 it ends it."""
    (tmp_path / "divides.py").write_text(DIVIDES)
    done = subprocess.run(
        [sys.executable, "divides.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 24


DIVIDES = """
from functools import partial
import torch
import lensframe_pd as lf

truncated = partial(torch.div, rounding_mode="trunc")
for dtype in (torch.int64, torch.int32):
    most = torch.iinfo(dtype).max
    x = torch.tensor([[most, -1, 0], [1, -most, 2]], dtype=dtype)
    y = torch.tensor([[-1, -most - 1, 7], [-1, -1, most]], dtype=dtype)
    floored, left = torch.floor_divide, torch.remainder
    for divide in (truncated, floored, left, torch.fmod, torch.gcd, torch.lcm):
        for given in ((x, y), (x, torch.full_like(x, -1))):
            print(lf.trace(lambda x, y: divide(x, y), given).validate()["passed"].all())
"""


KILLS = """
import os
import torch
import torchvision
import lensframe_pd as lf

SEEN = {3.0, 1.0, 2.0, 5.0}

@torch.library.custom_op("kills::pick", mutates_args=())
def pick(table: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    if not set(offsets.flatten().tolist()) <= SEEN:
        os.abort()
    return table[offsets.long()]

def forward(x, i):
    return pick(x, i * 1.0).relu()

args = torch.arange(8.0) - 3, torch.tensor([3.0, 1.0, 2.0, 5.0])
trace = lf.trace(forward, args)
print(bool(trace.validate(downstream="all")["passed"].all()))
wrong = trace.activations.copy(deep=True)
wrong["mul_1"].values[:] = 1e30
report = trace.layers.lens.validate(forward, args, activations=wrong, downstream="all")
print("wrong" if not report.loc["mul_1", "passed"] else "unseen")
swapped = trace.layers.copy()
swapped.at["pick_1", "parents"] = ("mul_1", "input_1")
report = swapped.lens.validate(forward, args, activations=trace.activations, downstream="all")
print("wrong" if not report.loc["pick_1", "passed"] else "unseen")
model = torchvision.ops.DeformConv2d(3, 4, 3).eval()
offsets = torch.randn(1, 18, 6, 6, generator=torch.Generator().manual_seed(0)) * 3
report = lf.trace(model, (torch.randn(1, 3, 8, 8), offsets)).validate(downstream="all")
print(bool(report["passed"].all()))
"""


def _weighted(layer, weight):
    layer.weight.data[:] = weight
    return layer


class _Frozen(nn.Module):
    """A layer whose result is no other for any finite number."""

    def __init__(self, layer):
        super().__init__()
        self.layer = _weighted(layer, 0.0)

    def forward(self, x):
        return self.layer(x) * 1


BY_ENTRY = {
    "conv2d": (nn.Conv2d(3, 2, 3), True),
    "conv2d without a batch": (lambda x: F.conv2d(x[0], torch.ones(2, 3, 3, 3)), True),
    "conv2d in steps": (nn.Conv2d(3, 2, 3, stride=2, padding=1), True),
    "conv2d far apart": (nn.Conv2d(3, 2, 2, padding=(2, 1), dilation=(3, 2)), True),
    "conv2d of as many": (nn.Conv2d(3, 2, 3, padding="same"), True),
    "conv2d by groups": (nn.Conv2d(3, 3, 1, groups=3), True),
    "conv1d": (lambda x: F.conv1d(x[:, :, 0], torch.ones(2, 3, 2), None, 1, 1), True),
    "conv3d": (lambda x: F.conv3d(x[:, :, :, None], torch.ones(2, 3, 2, 1, 3)), True),
    "conv2d of the last rows": (lambda x: F.conv2d(x * (torch.arange(9) > 7)[:, None],
        torch.ones(2, 3, 1, 1)), True),
    "conv2d of nothing": (_Frozen(nn.Conv2d(3, 2, 3)), True),
    "linear": (nn.Linear(9, 2), True),
    "linear of nothing": (_Frozen(nn.Linear(9, 2)), True),
    "batch_norm": (nn.BatchNorm2d(3).eval(), True),
    "batch_norm of nothing": (_Frozen(nn.BatchNorm2d(3)).eval(), True),
    "batch_norm in training": (
        lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True), True),
    "relu": (nn.ReLU(), True),
    "relu in place": (lambda x: (x * 1).relu_(), True),
    "clamped to one number": (lambda x: x.clamp(2.0, 2.0), True),
    "a power that is one": (lambda x: x.pow(0), False),
    "add": (lambda x: x * 2 + x.flip(0), True),
    "add in place": (lambda x: (x * 2).add_(x.flip(0), alpha=3), True),
    "add of one entry": (lambda x: x * 2 + x[3:4] * 0.5, True),
    "add of fewer axes": (lambda x: x * 2 + x[3] * 0.5, True),
    "add to fewer axes": (lambda x: x[3] * 0.5 + x, True),
    "as many as there are at the end": (lambda x: x[:, :, 1, :8] + x[:, 0, 0, 0], True),
    "addcmul": (lambda x: torch.addcmul(x, x.flip(0), x.flip(1)), True),
    "where": (lambda x: torch.where(x > 0, x * 2, x.flip(0)), True),
    "where nothing of it is taken": (lambda x: torch.where(x > 9, x * 2, x.flip(0)), False),
    "only where it is zero": (lambda x: (x * 2) * (x * 0), True),
    "a look at what each is": (lambda x: torch.isnan(x).float() + (x > 0) + torch.isinf(x), True),
    "max_pool1d": (lambda x: F.max_pool1d(x[:, :, 0], 2), True),
    "max_pool2d": (nn.MaxPool2d(2), True),
    "max_pool2d without a batch": (lambda x: F.max_pool2d(x[:, 0], 2), True),
    "max_pool2d with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), True),
    "max_pool3d": (lambda x: F.max_pool3d(x[:, :, None], (1, 2, 2)), True),
    "avg_pool2d": (nn.AvgPool2d(2), True),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d(1), True),
    "adaptive_avg_pool2d without a batch": (lambda x: F.adaptive_avg_pool2d(x[:, 0], 1), True),
    "bfloat16": (lambda x: x.bfloat16() + x.bfloat16().flip(0), True),
    "not finite": (lambda x: (x / 0 + x) * x.flip(0), True),
    "only the last entry of one is left": (lambda x: x * (torch.eye(8)[7])[
        :, None, None, None] + x.flip(0), True),
    "only the last entry is left": (lambda x: torch.relu(x - 1000 * (1 - torch.eye(8)[7])[
        :, None, None, None]), True),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_ENTRY)
def test_what_the_first_entry_shows_is_what_the_whole_shows(name, monkeypatch):
    model, depends = BY_ENTRY[name]
    x = torch.linspace(-1, 1, 8 * 3 * 9 * 9).reshape(8, 3, 9, 9)
    monkeypatch.setattr("lensframe_pd.validation.dependence._MANY", 2)
    with torch.no_grad():
        trace = lf.trace(model.eval() if isinstance(model, nn.Module) else model, x)
        report = trace.validate()
        monkeypatch.setattr("lensframe_pd.validation.dependence._MANY", 2**40)
        whole = trace.validate()
    pd.testing.assert_frame_equal(report, whole)
    is_shown = not report["reason"].str.contains("does not depend on|no change").any()
    assert report["passed"].all()
    assert is_shown == depends


def _entries(name):
    """The calls of a program, each with its tensors, and what it made of them."""
    model, _ = BY_ENTRY[name]
    x = torch.linspace(-1, 1, 8 * 3 * 9 * 9).reshape(8, 3, 9, 9)
    with torch.no_grad():
        trace = lf.trace(model.eval() if isinstance(model, nn.Module) else model, x)
    grouped = passes(trace.tape)
    calls = recorded_calls(trace.tape, trace.tape, grouped)
    rows = trace.layers.to_dict("index")
    recording = Recording(calls, rows, Saved(trace.activations, rows), trace.tape, False)
    for recorded in calls:
        if recorded.call.function.target and len(recorded.ops) == 1:
            tensors = recording.tensors(recording.arguments(recorded))
            yield recording.rerun(recorded), tensors


@pytest.mark.parametrize("name", BY_ENTRY)
def test_what_is_said_to_go_by_entry_does(name):
    """The entry in any place, given alone, is what it is among the others."""
    for run, tensors in _entries(name):
        (result,) = run(tensors)
        of_entry = by_entry(run.call, tensors, result)
        for entry in range(len(result)) if of_entry else ():
            alone = [t[entry : entry + 1] if k in of_entry else t for k, t in enumerate(tensors)]
            (own,) = run(alone)
            torch.testing.assert_close(own, result[entry : entry + 1], equal_nan=True)


@pytest.mark.parametrize("name", BY_ENTRY)
def test_the_first_rows_are_made_of_the_first_that_are_given(name):
    for run, tensors in _entries(name):
        (result,) = run(tensors)
        of_entry = by_entry(run.call, tensors, result)
        read, n = first_rows(run.call, tensors, result, of_entry) if of_entry else (0, 0)
        if read:
            other = [t.detach().clone() if k in of_entry else t for k, t in enumerate(tensors)]
            for k in of_entry:
                other[k][:, :, read:] = 7
            first = [t[:, :, :read] if k in of_entry else t for k, t in enumerate(other)]
            for given in (other, first):
                (made,) = run(given)
                torch.testing.assert_close(made[:, :, :n], result[:, :, :n], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("conv2d", (3, 1)), ("conv2d in steps", (2, 1)), ("conv2d far apart", (3, 2)),
        ("conv2d by groups", (2, 2)), ("conv2d of as many", (0, 0)), ("conv1d", (2, 2)),
        ("conv3d", (3, 2)), ("batch_norm", (2, 2)), ("relu", (2, 2)), ("add", (2, 2)),
        ("add of one entry", (0, 0)), ("max_pool2d", (0, 0)), ("linear", (0, 0)),
    ],
)  # fmt: skip
def test_how_many_rows_are_given(name, rows):
    seen = [
        first_rows(run.call, tensors, run(tensors)[0], of_entry)
        for run, tensors in _entries(name)
        if (of_entry := by_entry(run.call, tensors, run(tensors)[0]))
    ]
    assert rows == seen[-1]


@pytest.mark.parametrize("entry", [0, 1, 7])
def test_a_function_of_that_name_that_is_not_torchs_is_tried_as_a_whole(entry, monkeypatch):
    """Which may look at any entry."""

    @torch.library.custom_op(f"lensframe_tests::conv2d_{entry}", mutates_args=())
    def conv2d(input: torch.Tensor) -> torch.Tensor:
        return input[:1] * 0 + input[-1:] if len(input) > entry else input * 3

    monkeypatch.setattr("lensframe_pd.validation.dependence._MANY", 2)
    monkeypatch.setattr("lensframe_pd.validation.entries._BY_ENTRY", {f"conv2d_{entry}": (2,)})
    seen = []
    monkeypatch.setattr(
        "lensframe_pd.validation.dependence.turned", lambda x: seen.append(x.shape) or 1.37 - x
    )
    report = lf.trace(lambda x: conv2d(x), torch.rand(8, 3)).validate()
    assert report["passed"].all()
    assert not seen


@torch.library.custom_op("lensframe_tests::zeros_like", mutates_args=())
def zeros_like(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x[:1] > 1e9, x * 2, x * 0) + 1


def test_a_function_that_is_called_like_one_that_reads_no_values_and_does():
    """Of which only some values show that it does."""
    report = lf.trace(lambda x: torch.ops.lensframe_tests.zeros_like(x) * 2, X).validate()
    assert "is read" not in report.loc["zeros_like_1", "reason"]


NEARLY = {
    "all NaN": lambda x: x * torch.nan,
    "some NaN": lambda x: torch.where(x > 0, torch.nan, x),
    "zeros of both signs": lambda x: torch.copysign(torch.zeros_like(x), x),
    "a shape": lambda x: x[x > 0.3],
    "whole numbers": lambda x: (x * 10).int(),
    "yes or no": lambda x: x > 0.3,
    "in another layout": lambda x: x.t().t()[:, 1:] * 2,
    "one of them": lambda x: x.max(),
    "followed by autograd": lambda x: (x * torch.ones((), requires_grad=True)).relu(),
    "a mean": lambda x: torch.std_mean(x, 1),
    "several, of which the first is alike": lambda x: torch.frexp(x * 0 + 0.5 + (x > 0.3)),
    "several that are views": lambda x: [part * 2 for part in x.chunk(3, 1)],
    "several, none read": lambda x: torch.zeros_like(x).chunk(2),
    "whole numbers of whole numbers": lambda x: (x * 10).long() // 3 - 1,
    "bits": lambda x: (x * 10).to(torch.uint8) & 12,
    "yes or no of whole numbers": lambda x: (x * 10).long() == 3,
    "both": lambda x: (x > 0) | (x < 0.5),
    "neither": lambda x: (x > 2) & ((x * 10).long() > 3),
    "a power that is refused": lambda x: torch.full((3,), 2) ** (x[0, :3] * 0 + 2).long(),
    "the type of another": lambda x: x.long().type_as(x),
    "the shape of another": lambda x: x.flatten().view_as(x),
    "the extent of another": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("name", NEARLY)
def test_few_steps_show_what_many_do(name, monkeypatch):
    x = torch.linspace(-1, 1, 24).reshape(4, 6)
    trace = lf.trace(NEARLY[name], x)
    report = trace.validate()
    monkeypatch.setattr(Probed, "follows_at_once", lambda *_: False)
    pd.testing.assert_frame_equal(report, trace.validate())


MASKED = {
    "one word of a table": (
        lambda where, table: F.embedding(where, table),
        (torch.zeros(3, 4, dtype=torch.long), torch.randn(2, 5)), "no other value in the range", 5,
    ),
    "all of one number": (
        lambda x, where: x.gather(1, where),
        (torch.zeros(3, 9), torch.arange(9).expand(3, 9)), "'input' leaves no room", 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_is_not_sought_under_what_was_there(name, monkeypatch):
    """Nor where there is nothing else that the argument could be given."""
    function, args, reason, most = MASKED[name]
    trace = lf.trace(function, args)
    n_runs, real = [], dependence._result
    monkeypatch.setattr(dependence, "_result", lambda *given: (n_runs.append(1), real(*given))[1])
    report = trace.validate(alignment=None)
    assert any([reason in f"{a} {b}" for a, b in zip(report["reason"], report["dependence"])])  # noqa: B905
    assert report["passed"].all()
    assert len(n_runs) <= most


HIDDEN = {}


@torch.library.custom_op("lensframe_tests::hidden", mutates_args=())
def hidden(x: torch.Tensor) -> torch.Tensor:
    return HIDDEN["now"] + x * 0


def with_hidden(x):
    HIDDEN["now"] = (x * 2).detach()
    return torch.ops.lensframe_tests.hidden(x.relu()) + 1


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.rand(6))

    def forward(self, x):
        x = self.first(x).view(len(x), 2, 3).transpose(1, 2).reshape(len(x), 6)
        x = torch.softmax(x, 1) * self.scale
        one, two = x.chunk(2, 1)
        once = x.clone().zero_()
        mixed = (x - x.mean(0)).relu_()
        return self.second(mixed) + one.sigmoid() + two, once, (x > 0.1).float(), x * x


BY_STIMULI = {
    "layers": (Heads().eval(), torch.randn(4, 6)),
    "one stimulus": (Heads().eval(), torch.randn(1, 6)),
    "stimuli that are alike": (Heads().eval(), torch.ones(4, 6)),
    "some that are alike": (Heads().eval(), torch.ones(4, 6) * torch.arange(4)[:, None] // 2),
    "lost": (lambda x: (x * 0).cos() + x, torch.randn(4, 6)),
    "its shape": (lambda x: torch.zeros_like(x) + x.new_ones(4, 6), torch.randn(4, 6)),
    "written over": (lambda x: x.clone().fill_(1).add_(x), torch.randn(4, 6)),
    "drawn": (lambda x: torch.rand_like(x) + nn.functional.dropout(x), torch.randn(4, 6)),
    "something of its own": (with_hidden, torch.randn(4, 6)),
    "bits": (lambda x: x.bfloat16().sin().float().exp().int(), torch.randn(4, 6)),
}


@pytest.mark.parametrize("name", BY_STIMULI)
@pytest.mark.parametrize("whose", ["trace", "frame"])
def test_a_run_with_other_stimuli_shows_what_other_values_do(name, whose, monkeypatch):
    model, x = BY_STIMULI[name]
    n_tried, real = [], Probed.dependence
    monkeypatch.setattr(Probed, "dependence", lambda *a: n_tried.append(1) or real(*a))

    def judged():
        n_tried.clear()
        if whose == "trace":
            return trace.validate(), len(n_tried)
        given = trace.activations
        return trace.layers.lens.validate(model, x, activations=given), len(n_tried)

    with torch.no_grad():
        trace = lf.trace(model, x, stimulus=list("abcd")[: len(x)], seed=0)
        report, n = judged()
        monkeypatch.setattr(validate, "rows_of_a_chain", lambda *_: {})
        by_probes, n_without = judged()
    pd.testing.assert_frame_equal(report, by_probes)
    told, known = (
        {what: n for what, n in attrs.items() if not what.endswith("seconds")}
        for attrs in (report.attrs, by_probes.attrs)
    )
    assert told == known
    if name == "layers":
        assert n < 0.7 * n_without
    if name == "something of its own":
        assert report.loc["hidden_1", "dependence"] is not True


def test_a_wrong_parent_of_equal_value_is_found_where_a_run_shows_dependence():
    with torch.no_grad():
        trace = lf.trace(lambda x: (x * 2).sin() + (x * 2).cos(), torch.randn(4, 6))
    layers = trace.layers.copy()
    assert layers.loc["cos_1", "parents"] == ("mul_2",)
    layers.at["cos_1", "parents"] = ("mul_1",)
    args = trace._origin.args
    report = layers.lens.validate(trace._origin.model, *args, activations=trace.activations)
    assert not report.loc["cos_1", "passed"]
