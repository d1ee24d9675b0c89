"""`returned_by` is what a forward hook receives: compared with real hooks on every submodule."""

from collections import Counter

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils._pytree import tree_leaves

import lensframe_pd as lf

pytestmark = pytest.mark.usefixtures("several_threads")


def received(model, run):
    """What hooks on all submodules got: ("path:call", tensors as they were then), in order."""
    calls, counts, handles = [], Counter(), []

    def entered(path):  # calls are numbered as they begin, and a module may call itself
        def pre(module, args):
            counts[path] += 1
            started.setdefault(path, []).append(counts[path])

        return pre

    def left(path):
        def hook(module, args, output):
            tensors = [t.detach().clone() for t in tensors_of(output)]
            calls.append((f"{path}:{started[path].pop()}", tensors))

        return hook

    started = {}
    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(entered(path)))
            handles.append(module.register_forward_hook(left(path)))
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return calls


def tensors_of(output):
    """Its tensors, also those an object such as torchvision's ImageList holds."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from tensors_of(vars(leaf))


def assert_agrees(model, args):
    calls = received(model, lambda: model(args))
    with torch.no_grad():
        layers, activations = lf.trace(model, args)
    rows = {}
    for label, keys in layers["returned_by"].items():
        for key in keys:
            rows.setdefault(key, []).append(label)
    with_tensors = {key for key, tensors in calls if tensors}
    assert set(rows) == with_tensors
    for key, tensors in calls:
        unmatched = [activations[label].values for label in rows.get(key, ())]
        for tensor in tensors:
            found = [i for i, v in enumerate(unmatched) if np.array_equal(v, tensor.numpy())]
            assert found, f"{key} returned a {tuple(tensor.shape)} that none of {rows[key]} holds"
        listed = [any(np.array_equal(v, t.numpy()) for t in tensors) for v in unmatched]
        assert all(listed), f"{key} did not return all of {rows[key]}"
    return layers


@pytest.mark.filterwarnings("error::lensframe_pd.errors.LensWarning")
def test_faster_rcnn():
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0
    ).eval()
    layers = assert_agrees(model, [torch.rand(3, 64, 96), torch.rand(3, 80, 64)])
    assert "constant" not in set(layers.loc[layers["path"] == "", "kind"])


def test_swin():
    assert_agrees(torchvision.models.swin_t(weights=None).eval(), torch.randn(1, 3, 64, 64))


def test_vit_of_timm():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    assert_agrees(model, torch.randn(2, 3, 32, 32))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.same = nn.Identity()
        self.head = nn.Linear(10, 2)

    def forward(self, ids):
        steps, (h, c) = self.rnn(self.same(self.embedding(ids)))
        return self.head(self.same(steps).mean(1)), h, c


def test_lstm_in_a_module():
    layers = assert_agrees(Words().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    lstm = layers.query("func == 'lstm'")
    assert list(lstm["returned_by"]) == [("rnn:1", "same:2"), ("rnn:1",), ("rnn:1",)]
    assert layers.loc["embedding_1", "returned_by"] == ("embedding:1", "same:1")


class Changing(nn.Module):
    """Returns what is then written in place, returns its input, one tensor twice, and nothing."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.same = nn.Identity()
        self.parts = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Sequential(nn.Linear(3, 3))})

    def forward(self, x):
        a = self.parts["a"](x)
        y = self.relu(a)
        self.same((y, [y, {"k": x}]))
        self.same(None)
        return self.parts["b"](y + 1).add_(1)


def test_in_place_identity_and_structures():
    layers = assert_agrees(Changing().eval(), torch.randn(2, 3))
    assert layers.loc["linear_1", "returned_by"] == ("parts.a:1",)
    assert layers.loc["relu_1", "returned_by"] == ("relu:1", "same:1")
    assert layers.loc["input_1", "returned_by"] == ("same:1",)
    assert layers.loc["linear_2", "returned_by"] == ("parts.b.0:1", "parts.b:1")
    assert layers.loc["add_2", "returned_by"] == ()


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.tree = Node()

    def forward(self, x):
        return self.tree(x, 2)


class Node(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x, depth):
        return self.fc(x) if not depth else self(x, depth - 1) + self(x * 2, depth - 1)


def test_a_module_that_calls_itself():
    layers = assert_agrees(Recursive().eval(), torch.randn(2, 3))
    assert set(layers["module_stack"].map(len)) == {0, 1, 2, 4}


def test_a_returned_parameter_or_buffer_needs_no_row():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.ones(3))

        def forward(self):
            return self.table

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = Positions()

        def forward(self, x):
            return x + self.positions()

    layers, _ = lf.trace(Model().eval(), torch.ones(2, 3))
    assert layers.loc["add_1", "params"] == ("positions.table",)
    assert list(layers["kind"]) == ["input", "op", "output"]


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.own = inner, nn.Linear(4, 4)

    def forward(self, x):
        return self.own(self.inner(x))


class Rewraps(nn.Module):
    """Makes modules while it runs, and hands them modules that it has: as BigBird does."""

    def __init__(self, replaces):
        super().__init__()
        self.fc, self.body, self.replaces = (
            nn.Linear(4, 4),
            nn.Sequential(nn.Linear(4, 4)),
            replaces,
        )

    def forward(self, x):
        wrappers = [Wrapper(self.fc), Wrapper(self.body)]
        if self.replaces:
            self.body = wrappers[1]
        return wrappers[1](wrappers[0](x)) + self.fc(x)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_module_of_the_models_keeps_its_path_in_one_that_is_made(replaces):
    layers, _ = lf.trace(Rewraps(replaces).eval(), torch.ones(2, 4), seed=0)
    linears = layers.query("func == 'linear'")
    paths = ["fc", "Wrapper.own", "body.0", "Wrapper_2.own", "fc"]
    assert linears["module"].tolist() == paths
    stacks = [stack[-2:] for stack in linears["module_stack"]]
    assert stacks[0] == ("Wrapper:1", "fc:1")
    assert stacks[-1] == ("fc:2",)
    assert set(linears["params"].iloc[[0, 2]].str[0]) == {"fc.weight", "body.0.weight"}


@pytest.mark.parametrize("path", ["fc", "body", "body.0"])
def test_that_path_means_what_a_hook_there_sees(path):
    x = torch.ones(2, 4)
    torch.manual_seed(0)
    model = Rewraps(False).eval()
    handle = model.get_submodule(path).register_forward_hook(lambda m, args, out: out * 0 + 2)
    torch.manual_seed(1)
    expected = model(x)
    handle.remove()
    assert torch.equal(lf.trace(model, x, values={path: 2}, seed=1).output, expected)
    assert len(lf.trace(model, x, save=f"module={path}").activations) > 0
