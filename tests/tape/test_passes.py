"""Layers and passes: every row of the contract's table, and the hard cases around it."""

import itertools
from collections import Counter

import pytest
import torch
from torch import nn

import lensframe_pd as lf

from .looped import SEQUENCE, Forward, X, linears, passes


def test_loop_of_a_linear_and_arithmetic():
    def forward(self, x):
        for _ in range(4):
            x = self.fc(x)
            x = x + 1
            x = x * 2
        return x

    assert passes(Forward(forward, fc=nn.Linear(8, 8)), X) == {
        "linear": [4],
        "add": [4],
        "mul": [4],
    }


def test_loop_over_distinct_layers():
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x

    found = passes(Forward(forward, layers=linears(5)), X)
    assert found == {"linear": [1] * 5, "relu": [1] * 5}


def test_one_relu_at_two_places_of_a_residual_block():
    def forward(self, x):
        y = self.relu(self.a(x))
        return self.relu(self.b(y) + x)

    found = passes(Forward(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8), relu=nn.ReLU()), X)
    assert found == {"linear": [1, 1], "relu": [1, 1], "add": [1]}


def test_parameter_free_loops():
    def forward(x):
        for _ in range(5):
            x = torch.sin(x)
        for _ in range(3):
            x = torch.sin(x)
            x = torch.cos(x) * 2
        return x

    assert passes(forward, X) == {"sin": [5, 3], "cos": [3], "mul": [3]}


def test_elman_network():
    def forward(self, x, h):
        for t in range(x.shape[1]):
            h = torch.tanh(self.i(x[:, t]) + self.h2h(h))
        return h

    model = Forward(forward, i=nn.Linear(8, 8), h2h=nn.Linear(8, 8))
    assert passes(model, (SEQUENCE, X)) == {
        "getitem": [5],
        "linear": [5, 5],
        "add": [5],
        "tanh": [5],
    }


@pytest.mark.parametrize("learned", [False, True])
def test_recurrence_over_unbound_steps(learned):
    def forward(self, x):
        h = self.h0 if learned else x.new_zeros(2, 8)
        for xt in x.unbind(1):
            h = torch.tanh(xt + h)
        return h

    found = passes(Forward(forward, h0=nn.Parameter(torch.zeros(8))), SEQUENCE)
    assert (found["add"], found["tanh"]) == ([5], [5])
    assert found["unbind"] == [1] * 5


def test_one_parameter_at_two_places():
    def forward(self, q, k):
        a, b = q + self.p, k + self.p
        a, b = a * self.p, b * self.p
        return (a + b) @ torch.cat([self.p[:3], self.p[3:]])

    assert passes(Forward(forward, p=nn.Parameter(torch.ones(8))), (X, X * 2)) == {
        "add": [1, 1, 1],
        "mul": [1, 1],
        "getitem": [1, 1],
        "cat": [1],
        "matmul": [1],
    }


def test_siamese_encoder():
    encoder = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4))
    found = passes(Forward(lambda self, a, b: self.e(a) - self.e(b), e=encoder), (X, X + 1))
    assert found == {"linear": [2, 2], "relu": [2], "layer_norm": [2], "sub": [1]}


def test_residual_stream_of_distinct_blocks():
    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x

    assert passes(Forward(forward, blocks=linears(6)), X) == {"linear": [1] * 6, "add": [1] * 6}


def test_two_residual_additions_in_a_row():
    def forward(self, x):
        x = x + self.f(x)
        x = x + self.g(x)
        return x

    found = passes(Forward(forward, f=nn.Linear(8, 8), g=nn.Linear(8, 8)), X)
    assert found == {"linear": [1, 1], "add": [1, 1]}


def test_nested_loops_around_one_layer():
    def forward(self, x):
        for _ in range(3):
            for _ in range(2):
                x = self.fc(x)
            x = torch.relu(x)
        return x

    assert passes(Forward(forward, fc=nn.Linear(8, 8)), X) == {"linear": [6], "relu": [3]}


def test_nested_parameter_free_loops_keep_the_outer_structure():
    def forward(x):
        for _ in range(3):
            for _ in range(2):
                x = torch.sin(x)
            x = torch.cos(x)
        return x

    # the inner loop starts from cos and goes on from sin: two places of the outer loop
    assert passes(forward, X) == {"sin": [3, 3], "cos": [3]}


def test_inner_loop_that_restarts_its_state():
    def forward(self, x):
        out = []
        for t in range(3):
            h = x[:, t]
            for _ in range(4):
                h = torch.tanh(self.fc(h))
            out.append(h)
        return torch.stack(out)

    found = passes(Forward(forward, fc=nn.Linear(8, 8)), SEQUENCE)
    assert found == {"getitem": [3], "linear": [12], "tanh": [12], "stack": [1]}


def test_operation_that_only_some_iterations_run():
    def forward(self, x):
        for i in range(5):
            if i == 2:
                x = torch.abs(x)
            x = self.fc(x)
            x = torch.relu(x)
        return x

    found = passes(Forward(forward, fc=nn.Linear(8, 8)), X)
    assert found == {"linear": [5], "relu": [5], "abs": [1]}


def test_parameter_free_consumer_of_a_conditional_operation_is_split():
    def forward(x):
        for i in range(6):
            if i % 2:
                x = x * 2
            x = torch.sin(x)
        return x

    found = passes(forward, X)
    assert found["mul"] == [3]
    assert sorted(found["sin"]) == [3, 3]


def test_growing_cache():
    def forward(self, x):
        cache = x[:, :1]
        for t in range(1, x.shape[1]):
            cache = torch.cat([cache, self.fc(x[:, t : t + 1])], dim=1)
        return cache

    found = passes(Forward(forward, fc=nn.Linear(8, 8)), SEQUENCE)
    assert found == {"getitem": [1, 4], "linear": [4], "cat": [4]}


def test_shared_module_called_from_two_places():
    def forward(self, x):
        y = self.shared(x)
        y = torch.relu(y)
        return self.shared(y) + 1

    found = passes(Forward(forward, shared=nn.Linear(8, 8)), X)
    assert found == {"linear": [2], "relu": [1], "add": [1]}


def test_tied_weights_of_different_modules_are_two_layers():
    tied, other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    other.weight = tied.weight
    found = passes(Forward(lambda self, x: self.b(self.a(x)), a=tied, b=other), X)
    assert found == {"linear": [1, 1]}


def test_a_mask_filled_in_a_loop_is_no_recurrence():
    def forward(x):
        mask = x.new_zeros(2, 8)
        for i in range(4):
            mask[:, 2 * i] = i
        return x + mask

    assert passes(forward, X) == {"new_zeros": [1], "setitem": [1] * 4, "add": [1]}


def test_first_pass_that_starts_from_a_constant():
    def forward(x):
        h = torch.zeros(2, 8)
        for t in range(5):
            r = h * 2
            h = torch.tanh(x[:, t] + r)
        return h

    found = passes(forward, SEQUENCE)
    assert (found["mul"], found["add"], found["tanh"]) == ([5], [5], [5])


def test_pass_numbers_follow_execution():
    def forward(self, x):
        for _ in range(3):
            x = self.fc(x)
        return x

    layers, _ = lf.trace(Forward(forward, fc=nn.Linear(8, 8)), X)
    rows = layers[layers["layer"] == "linear_1"]
    assert list(rows.index) == ["linear_1:1", "linear_1:2", "linear_1:3"]
    assert rows["step"].is_monotonic_increasing


def single_pass(model, *args, **kwargs):
    with torch.no_grad():
        layers = lf.trace(model.eval(), args, kwargs, save=None).layers
    return Counter(layers.loc[layers["n_passes"] > 1, "layer"])


def test_no_loops_in_resnet18_and_swin():
    from torchvision.models import resnet18, swin_t

    image = torch.zeros(1, 3, 64, 64)
    assert not single_pass(resnet18(), image)
    assert not single_pass(swin_t(), torch.zeros(1, 3, 224, 224))


def test_no_loops_in_a_vision_transformer():
    import timm

    assert not single_pass(timm.create_model("vit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224))


def test_no_loops_in_gpt2_and_every_operation_of_albert_loops():
    from transformers import AlbertConfig, AlbertModel, GPT2Config, GPT2Model

    tokens = torch.arange(10)[None]
    gpt2 = GPT2Config(n_layer=3, n_embd=32, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=1)
    assert not single_pass(GPT2Model(gpt2), input_ids=tokens)
    config = AlbertConfig(
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        embedding_size=16,
        vocab_size=50,
    )
    with torch.no_grad():
        layers = lf.trace(AlbertModel(config).eval(), {"input_ids": tokens}, save=None).layers
    shared = layers["module"].str.startswith("encoder.albert_layer_groups.0")
    assert set(layers.loc[shared, "n_passes"]) == {4}
    assert set(layers.loc[~shared, "n_passes"]) == {1}


def test_noise_inside_a_loop_leaves_it_a_loop():
    def forward(x):
        h = x.new_zeros(4, 8)
        t = torch.tensor(0.0)
        for _ in range(5):
            h = torch.tanh(x + h + 0.1 * torch.randn_like(h)) * t.sin()
            t = t + 0.1
        return h

    layers = lf.trace(forward, torch.ones(4, 8)).layers
    found = layers.groupby("func")["n_passes"].max()
    assert found["randn_like"] == found["tanh"] == 5
    assert list(layers.loc[layers["layer"] == "tanh_1", "pass_num"]) == [1, 2, 3, 4, 5]


def test_a_time_grid_is_read_by_a_loop_and_so_is_one():
    def forward(self, x):
        t = torch.linspace(0, 1, 6)
        for i in range(5):
            x = x + self.fc(x) * (t[i + 1] - t[i])
        return x

    assert passes(Forward(forward, fc=nn.Linear(8, 8)), X) == {
        "linspace": [1],
        "linear": [5],
        "getitem": [5, 5],
        "sub": [5],
        "mul": [5],
        "add": [5],
    }


def heun(self, x):
    t = torch.linspace(0, 1, 5)
    for t0, t1 in itertools.pairwise(t):
        dt = t1 - t0
        k1 = self.f(x * t0)
        k2 = self.f((x + dt * k1) * t1)
        x = x + dt / 2 * (k1 + k2)
    return x


def noise_schedule(self, x):
    for i in range(4):
        beta = torch.tensor(0.1) * i
        x = torch.sqrt(1 - beta) * self.f(x)
    return x


def causal_mask_inside(self, x):
    for _ in range(4):
        mask = torch.ones(8, 8).tril()
        x = self.f(x) @ mask
    return x


def position_inside(self, x):
    for i in range(4):
        x = self.f(x + torch.cos(torch.arange(8) * i))
    return x


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (
            heun,
            {"linspace": [1], "unbind": [1] * 5, "sub": [4], "mul": [4] * 4}
            | {"linear": [8], "tanh": [8], "add": [4, 4, 4], "div": [4]},
        ),
        (noise_schedule, {"tensor": [4], "mul": [4, 4], "sub": [4], "sqrt": [4]}),
        (causal_mask_inside, {"ones": [4], "tril": [4], "matmul": [4]}),
        (position_inside, {"arange": [4], "mul": [4], "cos": [4], "add": [4]}),
    ],
)
def test_constants_of_a_loop_of_the_input(forward, expected):
    block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    found = passes(Forward(forward, f=block), X)
    assert {func: found[func] for func in expected} == expected


def filled_by_rows(x):
    mask = torch.zeros(8, 8)
    for i in range(8):
        mask[i, : i + 1] = 1
    return x @ mask


def counted_regions(x):
    grid, n = torch.zeros(2, 8), 0
    for rows in (slice(0, 1), slice(1, 2)):
        for columns in (slice(0, 4), slice(4, 8)):
            grid[rows, columns] = n
            n += 1
    return x + grid


def read_once_though_long(x):
    t = torch.linspace(0, 1, 9)
    steps = [t[i + 1] - t[i] for i in range(8)]
    for dt in steps[:2]:  # of eight, two are read by the loop
        x = torch.sin(x) * dt
    return x


@pytest.mark.parametrize(
    ("model", "func"),
    [(filled_by_rows, "setitem"), (counted_regions, "setitem"), (read_once_though_long, "sub")],
)
def test_constants_that_no_loop_of_the_input_reads(model, func):
    assert set(passes(model, X)[func]) == {1}


def test_the_parents_of_a_rolled_solver_are_few():
    def forward(self, x):
        t = torch.linspace(0, 1, 101)
        for i in range(100):
            x = x + self.fc(x) * (t[i + 1] - t[i])
        return x

    layers = lf.trace(Forward(forward, fc=nn.Linear(8, 8)), X, save=None).layers
    assert len(layers) == 3 + 6 * 100
    # input, linspace, linear, getitem twice, sub, mul, add, output
    assert len(layers.lens.roll()) == 9
