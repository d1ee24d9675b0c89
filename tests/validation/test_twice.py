"""A run beside the traced one shows whether tracing changed the model."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf

from .reports import failed


class Nosy(nn.Module):
    """Its output tells whether a function mode is active."""

    def forward(self, x):
        seen = torch._C._len_torch_function_stack()
        self.seen = seen
        return x + seen


def test_a_model_that_tracing_changes():
    report = lf.trace(Nosy().eval(), torch.ones(3)).validate()
    assert failed(report, "interference") == {"output_1"}
    assert "seen" in report.loc["output_1", "reason"]


class Kept(nn.Module):
    """State of many kinds, none of which its forward reads."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.count, self.flag, self.text, self.held = 1000, False, "a", []
        self.register_buffer("numbers", torch.zeros(3))
        self.register_buffer("counted", torch.tensor(0))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("turning", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("halved", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("nan", torch.tensor([float("nan"), 1.0]))
        self.register_buffer("sparse", torch.eye(2).to_sparse())
        self.listed = [torch.zeros(2)]

    def forward(self, x):
        return x + 1


def _refreeze(model):
    model.fc.weight.requires_grad_(False)


LEFT = {
    "a number": (lambda m: setattr(m, "count", 1001), "count"),
    "a flag": (lambda m: setattr(m, "flag", True), "flag"),
    "a text": (lambda m: setattr(m, "text", "b"), "text"),
    "a number of a part": (lambda m: setattr(m.fc, "in_features", 4), "fc.in_features"),
    "a new number": (lambda m: setattr(m, "more", 1), "more"),
    "a mode": (lambda m: m.fc.train(), "fc.training"),
    "a hook": (lambda m: m.fc.register_forward_hook(lambda *_: None), "fc._forward_hooks"),
    "an element": (lambda m: m.fc.weight.data[2, 2:].add_(1), "fc.weight"),
    "other data": (lambda m: setattr(m.fc.bias, "data", torch.ones(3)), "fc.bias"),
    "another shape": (lambda m: setattr(m.numbers, "data", torch.zeros(2)), "numbers"),
    "no gradients": (_refreeze, "fc.weight.requires_grad"),
    "another parameter": (lambda m: setattr(m.fc, "bias", nn.Parameter(torch.ones(3))), "fc.bias"),
    "no parameter": (lambda m: setattr(m.fc, "bias", None), "fc.bias"),
    "a negative zero": (lambda m: m.numbers.neg_(), "numbers"),
    "a count": (lambda m: m.counted.add_(1), "counted"),
    "one of the flags": (lambda m: m.flags[1:].logical_not_(), "flags"),
    "a complex number": (lambda m: m.turning[1:].mul_(1j), "turning"),
    "a short number": (lambda m: m.halved[2:].mul_(2), "halved"),
    "a number beside NaN": (lambda m: m.nan[1:].mul_(2), "nan"),
    "a sparse value": (lambda m: m.sparse._values().mul_(2), "sparse"),
    "a buffer": (lambda m: m.register_buffer("cache", torch.ones(1)), "cache"),
    "a tensor in a list": (lambda m: m.listed.append(torch.ones(1)), "listed"),
    "an element in a list": (lambda m: m.listed[0][1:].add_(1), "listed"),
}


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("runs", ["traced", "plain"])
def test_what_only_one_of_the_runs_leaves_is_told(kind, runs):
    change, name = LEFT[kind]

    class Nosy(Kept):
        def forward(self, x):
            if (torch._C._len_torch_function_stack() > 0) is (runs == "traced"):
                with torch._C.DisableTorchFunction():
                    change(self)
            return x + 1

    model = Nosy().eval()
    with torch.no_grad():
        trace = lf.trace(Kept().eval(), torch.ones(2, 3))
        model.load_state_dict(trace._origin.model.state_dict())
        report = trace.layers.lens.validate(
            model, torch.ones(2, 3), activations=trace.activations, alignment=None
        )
    assert "interference" in {*report.loc[~report["passed"], "check"]}, report["reason"].tolist()
    reason = report.loc["output_1", "reason"]
    assert f" {name}" in reason.replace("interference: traced,", "")
    assert "fc.out_features" not in reason  # what is as it was is no news


@pytest.mark.parametrize("kind", [k for k in LEFT if k != "a hook"])
def test_what_both_runs_leave_alike_is_no_interference(kind):
    change, _ = LEFT[kind]

    class Changing(Kept):
        def forward(self, x):
            with torch._C.DisableTorchFunction():
                change(self)
            return x + 1

    with torch.no_grad():
        report = lf.trace(Changing().eval(), torch.ones(2, 3)).validate(alignment=None)
    assert not report["interference"].eq(False).any(), report["reason"].tolist()


def _repointed(weight):
    weight.data = weight.detach().clone()


def _turned(weight):
    weight.data.t_()


def _other_nan(weight):
    weight.detach().view(torch.int32)[0, 0] += 1  # still NaN, with another payload


def _written(weight):
    weight.data[1, 1] += 1


def _written_then_repointed(weight):
    old = weight.detach()
    weight.data = old.clone()
    old[1, 1] += 1


@pytest.mark.parametrize(
    "change",
    [_repointed, _turned, _other_nan, _written, _written_then_repointed],
    ids=lambda change: change.__name__.strip("_"),
)
@pytest.mark.parametrize("n", [1, 3])
def test_what_a_forward_does_to_its_parameters_is_undone_to_the_bit(change, n):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(9.0).reshape(3, 3), requires_grad=False)
            self.weight.data[0, 0] = torch.nan

        def forward(self, x):
            BEGUN.append((self.weight.data_ptr(), _bits(self.weight)))
            y = x @ self.weight
            change(self.weight)
            return y

    model = Changing().eval()
    trace = lf.trace(model, torch.ones(n, 3), stimulus=[*"abc"][:n])
    before = model.weight
    address, bits = before.data_ptr(), _bits(before)
    BEGUN.clear()
    trace.validate()
    assert model.weight is before
    assert (before.data_ptr(), _bits(before)) == (address, bits)
    assert len(BEGUN) >= 2
    assert {*BEGUN} == {(address, bits)}


BEGUN = []  # how each run found the weight; what a model holds itself would be put back


def _bits(tensor):
    data = tensor.detach()
    return (*data.shape, *data.stride(), data.contiguous().numpy().tobytes())


class Spectral(nn.Module):
    """Keeps the singular values that were met last."""

    def __init__(self):
        super().__init__()
        self.register_buffer("met", torch.zeros(4, 3))

    def forward(self, x):
        self.met.copy_(torch.linalg.svdvals(x))
        return x * 2


BY_ANOTHER_WAY = {
    "svdvals": torch.linalg.svdvals,
    "eigvalsh": lambda x: torch.linalg.eigvalsh(x @ x.mT),
    "norm": lambda x: torch.linalg.matrix_norm(x, 2),
    "cond": torch.linalg.cond,
    "kept": Spectral(),
}


@pytest.mark.parametrize("name", BY_ANOTHER_WAY)
def test_what_torch_does_otherwise_while_operators_are_witnessed_is_no_interference(name):
    """Where a dispatch mode is active these take the vectors, too, and round otherwise."""
    torch.manual_seed(0)
    with torch.no_grad():
        report = lf.trace(BY_ANOTHER_WAY[name], torch.randn(4, 3, 8)).validate()
    assert report["passed"].all(), report["reason"].tolist()
    assert not report["reason"].any()
