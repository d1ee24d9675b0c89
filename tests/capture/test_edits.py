"""The model under other values: as with a forward hook, or as with the value written by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn
from torch.utils.checkpoint import checkpoint

import lensframe_pd as lf

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def net(**relu):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(**relu), nn.Linear(5, 2)).eval()


def hooked(model, path, give, x):
    """The output with a forward hook that returns `give(output)`."""
    handle = model.get_submodule(path).register_forward_hook(lambda m, args, out: give(out))
    try:
        return model(x)
    finally:
        handle.remove()


def graph(layers):
    return dict(zip(layers.index, layers["parents"], strict=True))


# ------------------------------------------------------------------ a module's value

VALUE = torch.randn(3, 5)
VALUES = {
    "a number": (0.5, lambda out: torch.full_like(out, 0.5)),
    "an integer": (2, lambda out: torch.full_like(out, 2)),
    "a NumPy number": (np.float32(0.1), lambda out: torch.full_like(out, np.float32(0.1).item())),
    "a tensor": (VALUE, lambda out: VALUE.clone()),
    "an array": (VALUE.numpy(), lambda out: VALUE.clone()),
    "doubles that are floats": (VALUE.double().numpy(), lambda out: VALUE.clone()),
    "a list": (VALUE.tolist(), lambda out: VALUE.clone()),
    "a function": (lambda t: t * 2 + 1, lambda out: out * 2 + 1),
    "a function that gives a number": (lambda t: 3, lambda out: torch.full_like(out, 3)),
    "a function that writes its argument": (lambda t: t.mul_(2), lambda out: out * 2),
    "infinity": (float("inf"), lambda out: torch.full_like(out, float("inf"))),
}


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("key", ["1", "1:1", "module=1", "relu_1"])
def test_the_output_is_that_with_a_forward_hook(what, key):
    value, give = VALUES[what]
    model = net()
    expected = hooked(model, "1", give, X)
    trace = lf.trace(model, X, values={key: value})
    assert torch.equal(trace.output.nan_to_num(7), expected.nan_to_num(7))
    assert graph(trace.layers) == {
        "input_1": (), "linear_1": ("input_1",), "relu_1": ("linear_1",), "edit_1": ("relu_1",),
        "linear_2": ("edit_1",), "output_1": ("linear_2",),
    }  # fmt: skip
    assert trace.layers.loc["edit_1", ["kind", "func"]].tolist() == ["edit", "edit"]
    assert trace.layers.loc["edit_1", "returned_by"] == ("1:1",)
    plain = model[:2](X).detach().numpy()
    assert np.array_equal(trace.activations["relu_1"].values, plain)
    assert np.array_equal(trace.activations["edit_1"].values, give(model[:2](X)).detach().numpy())
    assert trace.validate()["passed"].all()


def test_the_modules_own_hooks_come_after():
    model = net()
    model[1].register_forward_hook(lambda m, args, out: out + 100)
    trace = lf.trace(model, X, values={"1": 1})
    assert torch.equal(trace.output, model[2](torch.full((3, 5), 101.0)))
    assert trace.layers.loc["add_1", "parents"] == ("edit_1",)


def test_one_call_of_a_shared_module():
    shared = nn.Linear(4, 4)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = shared

        def forward(self, x):
            return self.a(self.a(x))

    trace = lf.trace(Twice(), X, values={"a:1": 0})
    assert torch.equal(trace.output, shared(torch.zeros(3, 4)))
    trace = lf.trace(Twice(), X, values={"a": lambda t: t + 1})
    assert torch.equal(trace.output, shared(shared(X) + 1) + 1)
    assert [*trace.layers.index] == [
        "input_1", "linear_1:1", "edit_1:1", "linear_1:2", "edit_1:2", "output_1"
    ]  # fmt: skip


class Wraps(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.linear(x))


CONTAINERS = {
    "a tuple": (lambda t: (t, None), lambda r: r[0]),
    "a list": (lambda t: [1, t], lambda r: r[1]),
    "a dict": (lambda t: {"h": t, "n": 3}, lambda r: r["h"]),
    "nested": (lambda t: {"h": (t, "text")}, lambda r: r["h"][0]),
}


@pytest.mark.parametrize("what", CONTAINERS)
def test_the_one_tensor_in_what_a_module_returns(what):
    wrap, unwrap = CONTAINERS[what]
    inner = Wraps(wrap)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return unwrap(self.inner(x)) * 2

    trace = lf.trace(Outer(), X, values={"inner": 4})
    assert torch.equal(trace.output, torch.full((3, 4), 8.0))


# ------------------------------------------------------------------ a row's value


def functional(x):
    y = x.exp()
    z = y.sin()
    return y + z


def by_hand(x):
    y = x.exp()
    z = torch.full_like(y, 3)
    return y + z


def test_a_row_is_replaced_for_all_who_read_it():
    assert torch.equal(lf.trace(functional, X, values={"sin_1": 3}).output, by_hand(X))
    trace = lf.trace(functional, X, values={"exp_1": 0})
    assert torch.equal(trace.output, torch.zeros(3, 4))
    assert graph(trace.layers)["add_1"] == ("edit_1", "sin_1")


def test_a_tensor_of_several_that_a_call_gives():
    def forward(x):
        a, b = x.chunk(2, 1)
        values, where = a.max(1)
        return values + b.sum(1) + where

    trace = lf.trace(forward, X, values={"chunk_2": 1, "max_2": 0})
    a, _ = X.chunk(2, 1)
    assert torch.equal(trace.output, a.max(1).values + 2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_value_of_a_write_is_seen_by_every_alias(mode):
    def forward(x):
        y = x * 1
        v = y[:, 0]
        v.mul_(3)
        return y * 2, v + 1

    with mode():
        trace = lf.trace(forward, X, values={"mul_2": 7})
        y, v = trace.output
        expected = X * 2
        expected[:, 0] = 14
        assert torch.equal(y, expected)
        assert torch.equal(v, torch.full((3,), 8.0))
        assert trace.validate()["passed"].all()
    plain = lf.trace(forward, X)
    assert [op for op in trace.layers.index if op != "edit_1"] == [*plain.layers.index]
    assert trace.layers.loc["alias_1", "parents"] == ("mul_1", "edit_1")
    # what was made before is kept as it was
    assert np.array_equal(trace.activations["mul_2"].values, (X[:, 0] * 3).numpy())


def test_a_write_with_a_function():
    def forward(x):
        y = x * 1
        y.relu_()
        return y * 2

    with torch.no_grad():
        trace = lf.trace(forward, X, values={"relu_1": lambda t: -t})
    assert torch.equal(trace.output, -2 * X.relu())


def test_control_flow_follows():
    def forward(x):
        if x.sum() > 0:
            return x.exp()
        return x.sin()

    x = torch.ones(3)
    assert torch.equal(lf.trace(forward, x, values={"sum_1": -1}).output, x.sin())
    trace = lf.trace(forward, x, values={"gt_1": False})
    assert torch.equal(trace.output, x.sin())


def test_an_input():
    trace = lf.trace(functional, X, values={"input_1": 0})
    assert torch.equal(trace.output, functional(torch.zeros(3, 4)))
    trace = lf.trace(lambda d: d["a"][0] * 2, ({"a": [X]},), values={"input_1": 1})
    assert torch.equal(trace.output, torch.full((3, 4), 2.0))


# ------------------------------------------------------------------ labels


def loop(x):
    for _ in range(5):
        x = torch.tanh(x * 2)
    return x


CELL = nn.Linear(4, 4)
ENCODER = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)).eval()


def cells(x):
    h = torch.zeros(3, 4)
    for _ in range(3):
        h = torch.tanh(CELL(x) + h)
    return h


def fibonacci(x):
    hs = [x, x + 1]
    for _ in range(4):
        hs.append(torch.tanh(hs[-1] + hs[-2]))
    return torch.stack(hs)


def siamese(x):
    return ENCODER(x) - ENCODER(x + 1)


def views(x):
    y = x * 1
    y[:, 0] = 5
    v = y[:, 1]
    v.add_(1)
    return y * 2 + v[:, None]


def attention(x):
    y = F.scaled_dot_product_attention(x[None], x[None], x[None])
    a, b = y.split(2, -1)
    return torch.cat([b, a], -1)


PROGRAMS = [loop, cells, fibonacci, siamese, views, attention, functional]


@pytest.mark.parametrize("program", PROGRAMS)
def test_labels_are_those_of_the_plain_trace_whatever_is_edited(program):
    """Every row that can be given a value is given its own, and so nothing changes."""
    with torch.no_grad():
        torch.manual_seed(0)
        plain = lf.trace(program, X)
        rows = plain.layers[plain.layers["kind"].isin(["op", "input"])]
        written = rows["parents"][rows["inplace"]].map(lambda parents: parents[0])
        shared = {op for op in written if rows.loc[op, "func"] == "getitem"}
        given = {op: lambda t: t for op in rows.index if op not in shared}
        torch.manual_seed(0)
        trace = lf.trace(program, X, values=given)
    assert torch.equal(trace.output, plain.output)
    rows = trace.layers[trace.layers["kind"] != "edit"]
    assert [*rows.index] == [*plain.layers.index]
    assert rows["layer"].tolist() == plain.layers["layer"].tolist()
    for op, value in plain.activations.items():
        assert np.array_equal(trace.activations[op].values, value.values), op
        assert trace.activations[op].dims == value.dims
    edits = trace.layers[trace.layers["kind"] == "edit"]
    assert len(edits) == len(given)
    layers = edits["parents"].map(lambda parents: trace.layers.loc[parents[0], "layer"])
    by_layer = pd.DataFrame({"edit": edits["layer"], "of": layers}).drop_duplicates()
    assert by_layer["edit"].is_unique
    assert by_layer["of"].is_unique


def test_five_passes_of_one_layer():
    plain = lf.trace(loop, X)
    trace = lf.trace(loop, X, values={"tanh_1": lambda t: t + 1})
    expected = X
    for _ in range(5):
        expected = torch.tanh(expected * 2) + 1
    assert torch.equal(trace.output, expected)
    edits = [f"edit_1:{k}" for k in range(1, 6)]
    assert [op for op in trace.layers.index if op not in edits] == [*plain.layers.index]
    rolled = trace.layers.lens.roll()
    assert [*rolled.index] == ["input_1", "mul_1", "tanh_1", "edit_1", "output_1"]
    assert rolled["n_passes"].tolist() == [1, 5, 5, 5, 1]
    assert rolled.loc["mul_1", "parents"] == ("input_1", "edit_1")
    assert trace.activations.lens["edit_1"].sizes["pass_num"] == 5
    assert trace.validate()["passed"].all()
    assert "edit_1" in trace.layers.lens.draw().source


def test_one_pass():
    trace = lf.trace(loop, X, values={"tanh_1:2": 1})
    expected = torch.ones(3, 4)
    for _ in range(3):
        expected = torch.tanh(expected * 2)
    assert torch.equal(trace.output, expected)
    assert "edit_1" in trace.layers.index


def test_verbs_on_a_frame_with_edits(tmp_path):
    trace = lf.trace(net(), X, values={"relu_1": 0, "2": 1})
    layers = trace.layers
    assert "edit_1" in layers.lens.draw().source
    assert layers.lens.collapse(depth=1).loc["1", "parents"] == ("0",)
    assert layers.lens.profile("module").loc["1", "ops"] == 1
    lf.write(trace, tmp_path / "t.zarr")
    back = lf.read(tmp_path / "t.zarr")
    assert back.layers["kind"].tolist() == layers["kind"].tolist()
    report = back.layers.lens.validate(net(), X, activations=back.activations)
    assert report["passed"].all()


# ------------------------------------------------------------------ what is given


def test_a_dataset_of_another_run():
    model, other = net(), torch.randn(3, 4)
    donor = lf.trace(model, other)
    trace = lf.trace(model, X, values=donor.activations[["relu_1"]])
    assert torch.equal(trace.output, model(other))
    trace = lf.trace(model, X, values=donor.activations)
    assert torch.equal(trace.output, model(other))
    assert json.loads(trace.layers.attrs["passed_over"]) == ["output_1"]


def test_values_are_joined_by_stimulus():
    model = net()
    donor = lf.trace(model, torch.randn(5, 4), stimulus=list("abcde"))
    trace = lf.trace(model, X, stimulus=list("dab"), values=donor.activations[["relu_1"]])
    expected = model[2](model[:2](torch.zeros(3, 4)) * 0 + torch.from_numpy(
        donor.activations["relu_1"].sel(stimulus=list("dab")).values.copy()
    ))  # fmt: skip
    assert torch.equal(trace.output, expected)
    with pytest.raises(lf.LensValueError, match=r"'x'"):
        lf.trace(model, X, stimulus=list("dax"), values=donor.activations[["relu_1"]])


def test_bfloat16_comes_back_exactly():
    model = net().bfloat16()
    donor = lf.trace(model, X.bfloat16())
    assert donor.activations["relu_1"].dtype == np.float32
    trace = lf.trace(model, torch.zeros(3, 4).bfloat16(), values=donor.activations[["relu_1"]])
    assert torch.equal(trace.output, donor.output)


@pytest.mark.parametrize("column", ["value", "values"])
def test_rows_with_a_column_need_no_other_run(column):
    runs = []

    class Counts(nn.Module):
        def forward(self, x):
            runs.append(1)
            return x.exp().sin().exp()

    rows = lf.trace(Counts(), X).layers
    picked = rows[rows["func"] == "exp"].assign(**{column: [0.0, 2.0]})
    runs.clear()
    trace = lf.trace(Counts(), X, values=picked.iloc[[0]])
    assert len(runs) == 1
    assert torch.equal(trace.output, torch.ones(3, 4))
    trace = lf.trace(Counts(), X, values=picked)
    assert torch.equal(trace.output, torch.full((3, 4), 2.0))


def _listed(rows):
    """As from a file: sequences are arrays, and text is what the reader makes of it."""
    return rows.assign(
        module_stack=[np.array(stack, object) for stack in rows["module_stack"]],
        returned_by=[np.array(calls, object) for calls in rows["returned_by"]],
        func=pd.Categorical(rows["func"]),
        ordinal=rows["ordinal"].astype("int32"),
    )


ROWS = {
    "as traced": lambda rows: rows,
    "as from a file": _listed,
    "in another order": lambda rows: rows.iloc[::-1],
    "with attrs": lambda rows: rows.assign().pipe(lambda r: r.attrs.update(notes=["a"] * 9) or r),
    "with columns of one's own": lambda rows: rows.assign(mine=1.5),
    "with the labels in a column": lambda rows: rows.reset_index(),
    "as one row": lambda rows: rows.iloc[0] if len(rows) == 1 else rows,
}


@pytest.mark.parametrize("n", [1, 4, 5, 9])  # few rows are read cell by cell, more by column
@pytest.mark.parametrize("what", ROWS)
def test_rows_are_read_alike_whether_few_or_many(n, what):
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(9)]).eval()
    layers = lf.trace(model, X, save=None).layers
    picked = layers[layers["func"] == "tanh"].iloc[:n]
    given = [torch.full((3, 4), k / 10) for k in range(n)]
    hooks = [
        model[k][1].register_forward_hook(lambda m, args, out, v=value: v.clone())
        for k, value in enumerate(given)
    ]
    expected = model(X)
    for hook in hooks:
        hook.remove()
    trace = lf.trace(model, X, values=ROWS[what](picked.assign(value=given)))
    assert torch.equal(trace.output, expected)
    assert (trace.layers["kind"] == "edit").sum() == n


class Stepped(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.step, self.end = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.enc(x)
        for _ in range(3):
            x = self.step(x).tanh()
        return self.end(x)


SEVERAL = {
    "a rolled layer": (lambda rows: rows.lens.roll().loc[["tanh_1"]], "tanh_1"),
    "a rolled layer of one pass": (lambda rows: rows.lens.roll().loc[["linear_1"]], "linear_1"),
    "a call of a module": (lambda rows: rows.lens.collapse(depth=1).loc[["step:2"]], "step:2"),
    "a rolled module": (
        lambda rows: rows.lens.collapse(depth=1).lens.roll().loc[["step"]],
        "step",
    ),
    "a module and an operation": (
        lambda rows: rows.lens.collapse(depth=1).loc[["enc", "tanh_1:2"]],
        ("enc", "tanh_1:2"),
    ),
}


@pytest.mark.parametrize("what", SEVERAL)
def test_rows_that_stand_for_several(what):
    pick, keys = SEVERAL[what]
    model = Stepped().eval()
    rows = pick(lf.trace(model, X, save=None).layers)
    by_name = dict.fromkeys([keys] if isinstance(keys, str) else keys, 0.25)
    expected = lf.trace(model, X, values=by_name)
    found = lf.trace(model, X, values=rows.assign(value=0.25))
    assert torch.equal(found.output, expected.output)
    assert [*found.layers.index] == [*expected.layers.index]


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("dtype", ["float64", object])
def test_rows_that_were_given_no_value_are_told(n, narrow, dtype):
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]).eval()
    rows = lf.trace(model, X, save=None).layers.iloc[1 : n + 1]
    if n > 1:
        rows.loc["tanh_1", "value"] = 0.5
    rows = rows.assign(value=rows.get("value", np.nan)).astype({"value": dtype})
    with pytest.raises(lf.LensValueError, match=r"'linear_1'.* have none.*dropna"):
        lf.trace(model, X, values=rows[["value"]] if narrow else rows)
    nothing = lf.trace(model, X, values=dict.fromkeys(["tanh_1"], float("nan"))).output
    assert torch.isnan(nothing).all()


PLACED_BY = ["module_stack", "func", "ordinal", "kind"]


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("lacks", ["source", "layer", "returned_by", *PLACED_BY, "all but these"])
def test_rows_that_lack_columns(n, lacks):
    """They are found by their labels, in a run of their own, where that is all there is."""
    runs = []

    class Counts(nn.Sequential):
        def forward(self, x):
            runs.append(1)
            return super().forward(x)

    model = Counts(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]).eval()
    layers = lf.trace(model, X, save=None).layers
    picked = layers[layers["func"] == "tanh"].iloc[:n].assign(value=0.25)
    narrow = (
        picked[[*PLACED_BY, "value"]] if lacks == "all but these" else picked.drop(columns=lacks)
    )
    runs.clear()
    trace = lf.trace(model, X, values=narrow)
    assert len(runs) == (2 if lacks in PLACED_BY else 1)
    assert torch.equal(trace.output, model[n:](torch.full((3, 4), 0.25)))
    assert (trace.layers["kind"] == "edit").sum() == n


WRONG_ROWS = {
    "no column of values": (lambda rows: rows, "value"),
    "a label in two rows": (
        lambda rows: pd.concat([rows.assign(value=0.0), rows.assign(value=1.0)]),
        "'tanh_1'.*several rows",
    ),
    "two columns of values": (
        lambda rows: pd.concat([rows, rows.assign(value=0.0)[["value"]]] * 2, axis=1),
        "columns twice",
    ),
    "a stack that is text": (
        lambda rows: rows.assign(value=0.0, module_stack="('0:1',)"),
        "sequence of names",
    ),
    "another module's": (
        lambda rows: rows.assign(
            value=0.0, module_stack=[(f"other.{k}:1",) for k in range(len(rows))]
        ),
        "never reached",
    ),
    "a later one of its function": (
        lambda rows: rows.assign(value=0.0, ordinal=7),
        "never reached",
    ),
    "a row that no value can take the place of": (
        lambda rows: rows.assign(value=0.0, kind="output"),
        "cannot be given a value",
    ),
}


@pytest.mark.parametrize("what", WRONG_ROWS)
@pytest.mark.parametrize("n", [1, 6])
def test_wrong_rows_are_refused(what, n):
    spoilt, message = WRONG_ROWS[what]
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]).eval()
    layers = lf.trace(model, X, save=None).layers
    picked = layers[layers["func"] == "tanh"].iloc[:n]
    with pytest.raises(lf.LensError, match=message):
        lf.trace(model, X, values=spoilt(picked))


def test_paths_need_no_other_run_and_labels_one_that_leaves_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.norm = nn.BatchNorm1d(4)
            self.runs = 0

        def forward(self, x):
            self.runs += 1
            return self.drop(self.norm(x)).exp()

    model = Counts()
    with pytest.warns(lf.LensWarning, match="train mode"):
        lf.trace(model, X, values={"norm": 0})
    assert model.runs == 1
    torch.manual_seed(3)
    reference = Counts()
    out = hooked(reference, "norm", lambda t: t * 2, X)
    model = Counts()
    torch.manual_seed(3)
    with pytest.warns(lf.LensWarning, match="train mode"):
        trace = lf.trace(model, X, values={"batch_norm_1": lambda t: t * 2})
    assert model.runs == 1
    assert torch.equal(trace.output, out)
    assert torch.equal(model.norm.running_mean, reference.norm.running_mean)


def test_values_are_copied_before_use():
    given = torch.ones(3, 5)
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.ReLU(inplace=True))
    with torch.no_grad():
        trace = lf.trace(model, X, values={"1": given - 2})
        given_by_function = torch.full((3, 5), -1.0)
        lf.trace(model, X, values={"1": lambda t: given_by_function})
    given.zero_()
    assert (given_by_function == -1).all()
    assert (trace.activations["edit_1"] == -1).all()
    assert (trace.output == 0).all()


# ------------------------------------------------------------------ autograd


KEPT = {}


def _keep(tensor):
    KEPT["it"] = tensor
    return tensor


def _keep_a_view(tensor):
    KEPT["it"] = tensor[0]
    return tensor


def _keep_what_it_is_a_view_of(tensor):
    KEPT["it"] = torch.cat([tensor, tensor])
    return KEPT["it"][: len(tensor)]


def _keep_as_an_array(tensor):
    KEPT["it"] = tensor.numpy()
    return tensor


KEEPING = {
    "what it gives": lambda t: _keep(t * 2),
    "what it was given": _keep,
    "a view": lambda t: _keep_a_view(t * 2),
    "what it gives a view of": _keep_what_it_is_a_view_of,
    "an array": lambda t: _keep_as_an_array(t * 2),
    "a storage": lambda t: KEPT.update(it=torch.empty(0).set_(t.untyped_storage())) or t,
}


@pytest.mark.parametrize("what", KEEPING)
def test_what_a_function_keeps_is_not_written(what):
    """The model goes on with memory of its own, and may write it."""
    with torch.no_grad():
        trace = lf.trace(lambda x: (x * 1).relu_().fill_(7), X, values={"mul_1": KEEPING[what]})
    kept = KEPT.pop("it")
    assert not (torch.as_tensor(kept) == 7).any()
    assert (trace.output == 7).all()


def test_an_array_is_not_written():
    given = np.full(X.shape, 2, dtype=np.float32)
    with torch.no_grad():
        lf.trace(lambda x: (x * 1).fill_(7), X, values={"mul_1": given})
    assert (given == 2).all()


@pytest.mark.parametrize(
    "given",
    [
        np.full((4, 4), 2, dtype=np.float32)[::-1],
        np.broadcast_to(np.float32(2), (4, 4)),
        np.full((4, 4, 2), 2, dtype=np.float32)[..., 0],
        np.full((4, 4), 2, dtype=[("a", "i1"), ("b", "f4")])["b"],
    ],
    ids=["backwards", "broadcast", "strided", "a field"],
)
def test_arrays_that_torch_does_not_take_as_they_are(given):
    trace = lf.trace(lambda x: x * 1, torch.zeros(4, 4), values={"mul_1": given})
    assert (trace.output == 2).all()


def test_a_constant_ends_the_gradient_a_tensor_receives_it_a_function_passes_it_on():
    model = net()
    trace = lf.trace(model, X, values={"relu_1": 1}, gradients=True)
    gradients = trace.gradients(lambda o: o.sum())
    assert "linear_1" not in gradients
    assert gradients.attrs["without"]["edit_1"] == "detached"
    leaf = torch.ones(3, 5, requires_grad=True)
    trace = lf.trace(model, X, values={"relu_1": leaf})
    (received,) = torch.autograd.grad(trace.output.sum(), leaf)
    assert torch.equal(received, model[2].weight.sum(0).expand(3, 5))
    trace = lf.trace(model, X, values={"relu_1": lambda t: t * 3}, gradients=True)
    gradients = trace.gradients(lambda o: o.sum())
    assert np.allclose(gradients["relu_1"].values, 3 * gradients["edit_1"].values)
    hidden = model[0](X)
    expected = torch.autograd.grad(model[2](hidden.relu() * 3).sum(), hidden)[0]
    assert np.array_equal(gradients["linear_1"].values, expected.numpy())


def test_a_constant_for_a_write_ends_the_gradient():
    model = net(inplace=True)
    trace = lf.trace(model, X, values={"relu_1": 1}, gradients=True)
    gradients = trace.gradients(lambda o: o.sum())
    assert "linear_1" not in gradients
    assert "linear_2" in gradients
    again = lf.trace(model, X, values={"relu_1": 1})
    again.output.sum().backward()
    assert model[0].weight.grad is None
    leaf = torch.ones(3, 5, requires_grad=True)
    out = lf.trace(model, X, values={"relu_1": leaf}).output
    assert torch.equal(torch.autograd.grad(out.sum(), leaf)[0], model[2].weight.sum(0).expand(3, 5))


# ------------------------------------------------------------------ what is refused


def two_tensors(x):
    class Two(nn.Module):
        def forward(self, x):
            return x.exp(), x.sin()

    two = Two()
    a, b = two(x)
    return a + b


def in_vmap(x):
    return torch.vmap(torch.sin)(x) * 2


def in_checkpoint(x):
    y = (x * 1).requires_grad_()
    return checkpoint(torch.exp, y, use_reentrant=False)


def in_reentrant_checkpoint(x):
    y = (x * 1).requires_grad_()
    return checkpoint(torch.exp, y, use_reentrant=True)


def view_written(x):
    y = x * 1
    v = y[:, 0]
    v.mul_(3)
    return y


def base_written(x):
    y = x * 1
    v = y[:, 0]
    y.mul_(3)
    return v + 1


def handed_back_written(x):
    y = x * 1
    z = y.contiguous()
    z.relu_()
    return y + z


def writes(x):
    y = (x * 1).requires_grad_() * 1
    y.relu_()
    return y * 2


def writes_view(x):
    y = (x * 1).requires_grad_() * 1
    v = y[0]
    v.mul_(3)
    return y * 2


def plain_output(x):
    return x.exp() * 2


REFUSED = {
    "an unknown key": (functional, {"sim_1": 0}, lf.LensKeyError, "did you mean 'sin_1'"),
    "an unknown pass": (loop, {"tanh_1:9": 0}, lf.LensKeyError, "tanh_1:9"),
    "an output": (plain_output, {"output_1": 0}, lf.LensValueError, "its parent"),
    "an alias": (views, {"alias_1": 0}, lf.LensValueError, "the row that was written"),
    "a shape": (functional, {"sin_1": torch.ones(3)}, lf.LensValueError, r"\(3,\).*\(3, 4\)"),
    "a shape by a function": (functional, {"sin_1": lambda t: t[0]}, lf.LensValueError, "shape"),
    "inexact numbers": (
        functional, {"sin_1": np.full((3, 4), 0.1)}, lf.LensTypeError, "float32",
    ),
    "complex numbers": (functional, {"sin_1": 1j}, lf.LensTypeError, "float32"),
    "too large a number": (functional, {"sin_1": 1e300}, lf.LensTypeError, "float32"),
    "half an integer": (lambda x: x.argmax(1) * 2, {"argmax_1": 0.5}, lf.LensTypeError, "int64"),
    "no numbers": (functional, {"sin_1": "text"}, lf.LensTypeError, "no numbers"),
    "no key": (functional, {3: 0}, lf.LensTypeError, "labels or module paths"),
    "no mapping": (functional, 3, lf.LensTypeError, "Dataset"),
    "one row twice": (loop, {"tanh_1": 0, "tanh_1:2": 1}, lf.LensValueError, "both give"),
    "several tensors": (two_tensors, {"Two": 0}, lf.LensValueError, "'exp_1', 'sin_1'"),
    "inside vmap": (in_vmap, {"sin_1": 0}, lf.LensValueError, "torch.func"),
    "a checkpoint": (in_checkpoint, {"exp_1": 0}, lf.LensValueError, "checkpoint"),
    "a reentrant one": (in_reentrant_checkpoint, {"exp_1": 0}, lf.LensValueError, "checkpoint"),
    "a view that is written": (view_written, {"getitem_1": 0}, lf.LensValueError, "shares memory"),
    "a view of what is written": (base_written, {"getitem_1": 0}, lf.LensValueError, "shares"),
    "what was handed back": (
        handed_back_written, {"contiguous_1": 0}, lf.LensValueError, "shares memory",
    ),
    "a function for a write": (writes, {"relu_1": lambda t: t}, lf.LensValueError, "no_grad"),
    "a write through a view": (writes_view, {"mul_3": 0}, lf.LensValueError, "no_grad"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused(what):
    program, values, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        lf.trace(program, X, values=values)
    lf.trace(program, X)  # nothing is left


def test_no_model_can_catch_it():
    def forward(x):
        try:
            return x.exp() + 1
        except Exception:
            return x

    with pytest.raises(lf.LensValueError, match="shape"):
        lf.trace(forward, X, values={"exp_1": torch.ones(2)})


class _Spoils:
    """A context manager that fails, whatever it is left by."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        raise RuntimeError("of its own")


def _raises_on_the_way_out(x):
    with _Spoils():
        return x.exp() + 1


def _raises_another_in_a_handler(x):
    try:
        return x.exp() + 1
    except BaseException as error:
        raise ValueError("of the model") from error


def _goes_on(x):
    try:
        return x.exp() + 1
    except:  # noqa: E722 - what a model may do
        return x.exp()


WAYS_OUT = [_raises_on_the_way_out, _raises_another_in_a_handler, _goes_on]


@pytest.mark.parametrize("model", WAYS_OUT)
@pytest.mark.parametrize("key", ["label", "rows"])
def test_the_refusal_is_told_whatever_a_model_does_on_its_way_out(model, key):
    values = {"exp_1": torch.ones(2)}
    if key == "rows":
        plain = lf.trace(lambda x: x.exp(), X, save=None).layers
        values = plain.loc[["exp_1"]].assign(value=[torch.ones(2)])
    else:
        model = _plain_first(model)
    with pytest.raises(lf.LensValueError, match=r"'exp_1' was given shape \(2,\)"):
        lf.trace(model, X, values=values)


def _plain_first(model):
    """Goes through where nothing is given: labels are looked up in such a run."""
    runs = []

    def forward(x):
        runs.append(1)
        return x.exp() + 1 if len(runs) == 1 else model(x)

    return forward


@pytest.mark.parametrize("model", WAYS_OUT[:2])
def test_a_run_that_was_stopped_is_so_whatever_a_model_raises_on_its_way_out(model):
    trace = lf.trace(model, X, save=["exp_1"], stop=True)
    assert np.array_equal(trace.activations["exp_1"].values, X.exp())
    assert trace.output is None


def test_a_failure_after_a_refusal_is_its_own():
    def fails(x):
        raise ZeroDivisionError("of the model")

    try:
        lf.trace(lambda x: x.exp(), X, values={"exp_1": torch.ones(2)})
    except lf.LensValueError:
        with pytest.raises(ZeroDivisionError, match="of the model"):
            lf.trace(fails, X)


def test_a_checkpoint_without_a_gradient_may_be_edited():
    with torch.no_grad():
        trace = lf.trace(
            lambda x: checkpoint(torch.exp, x, use_reentrant=False) * 2, X, values={"exp_1": 1}
        )
    assert (trace.output == 2).all()


def test_a_script_module_has_a_value_as_a_whole():
    class Inner(nn.Module):
        def forward(self, x):
            return x.exp() + 1

    model = nn.Sequential(torch.jit.script(Inner()), nn.ReLU())
    trace = lf.trace(model, X, values={"0": 2})
    assert (trace.output == 2).all()
    with pytest.raises(lf.LensValueError, match="ScriptModule"):
        lf.trace(model, X, values={"exp_1": 2})


def test_a_key_that_is_never_reached():
    def forward(x):
        if x.sum() > 0:
            return x.exp()
        return x.sin().cos()

    x = torch.ones(3)
    with pytest.raises(lf.LensKeyError, match="exp_1") as caught:
        lf.trace(forward, x, values={"sum_1": -1, "exp_1": 0})
    assert torch.equal(caught.value.trace.output, x.sin().cos())
    assert "edit_1" in caught.value.trace.layers.index


def test_passes_that_the_plain_run_does_not_have():
    def forward(x):
        while x.norm() > 0.5:
            x = x * 0.5
        return x

    x = torch.full((4,), 1.0)
    plain = lf.trace(forward, x)
    assert plain.layers.loc["mul_1:2", "n_passes"] == 2
    with pytest.raises(lf.LensValueError, match="pass 3 of 'mul_1'") as caught:
        lf.trace(forward, x, values={"mul_1": lambda t: t * 1.5})
    assert caught.value.trace.output is not None


class Branches(nn.Module):
    """Runs one more block where the sum is negative."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.more, self.last = nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU())

    def forward(self, x):
        if x.sum() < 0:
            x = self.more(x)
        return self.last(x) + 1


NUMBERS = [
    (torch.float32, 3e38, True), (torch.float32, 3.5e38, False), (torch.float32, -1e39, False),
    (torch.float16, 6e4, True), (torch.float16, 1e5, False), (torch.bfloat16, 201.3, True),
    (torch.float16, float("nan"), True), (torch.float64, float("-inf"), True),
    (torch.int64, 2**62, True), (torch.int64, 2**64, False), (torch.int64, 1.5, False),
    (torch.uint8, 255, True), (torch.uint8, 256, False), (torch.int8, -129, False),
    (torch.bool, True, True), (torch.bool, 2, False), (torch.float32, 1 + 2j, False),
    (torch.complex64, 1 - 2j, True), (torch.complex64, 2.5, True),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "number", "fits"), NUMBERS)
def test_a_number_fills_where_the_type_holds_it(dtype, number, fits):
    x = torch.zeros(2, 3, dtype=dtype)

    def forward(x):
        return x.clone().flip(0)

    if not fits:
        with pytest.raises(lf.LensError, match="does not hold exactly"):
            lf.trace(forward, x, values={"clone_1": number})
        return
    found = lf.trace(forward, x, values={"clone_1": number}).output
    assert found.dtype is dtype
    expected = torch.tensor(number, dtype=dtype).expand(2, 3)
    assert torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_layer_of_another_number_in_this_run_is_the_one_of_the_plain_run():
    x = torch.ones(3)
    trace = lf.trace(Branches(), x, values={"sum_1": -1, "relu_1": 5})
    assert torch.equal(trace.output, torch.full((3,), 6.0))
    assert trace.layers.loc["edit_2", "parents"] == ("relu_2",)
    assert trace.layers.loc["relu_2", "module"] == "last.0"


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.encode, self.decode = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.decode(self.encode(x).relu())


USES = {
    "a module": lambda model: nn.GELU(),
    "one with modules inside": lambda model: Autoencoder(),
    "a function that calls one": lambda model: lambda t: Autoencoder()(t) + t,
    "one of the model's own": lambda model: model[2],
    "all of the model before": lambda model: lambda t: model[:2](X),
}


@pytest.mark.parametrize("what", USES)
@pytest.mark.parametrize("key", ["1", "relu_1"])
@pytest.mark.parametrize("grad", [True, False])
def test_the_modules_that_a_function_calls_are_none_of_the_models_calls(what, key, grad):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    function = USES[what](model.eval())
    with torch.set_grad_enabled(grad):
        plain = lf.trace(model, X, save=None).layers
        expected = model[2:](function(model[:2](X)))
        trace = lf.trace(model, X, values={key: function})
        assert torch.equal(trace.output, expected)
        rest = trace.layers[trace.layers["kind"] != "edit"]
        for column in ("module_stack", "func", "kind"):
            assert rest[column].to_dict() == plain[column].to_dict(), column
        assert [called.key for called in trace.tape.modules[1:]] == [f"{k}:1" for k in range(5)]
        assert trace.validate()["passed"].all()
        # The number of a call counts the model's alone.
        later = lf.trace(model, X, values={key: function, "2:1": 0.5})
        assert torch.equal(later.output, model[3:](torch.full((3, 5), 0.5)))


SQUARE = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))


def test_axes_in_another_order_are_refused_where_they_would_fit():
    def forward(x):
        return x.softmax(-1) @ x

    plain = lf.trace(forward, SQUARE).activations["softmax_1"]
    assert torch.equal(
        lf.trace(forward, SQUARE, values={"softmax_1": plain}).output, forward(SQUARE)
    )
    first, a, b = plain.dims
    swapped = plain.transpose(first, b, a)
    layers = lf.trace(forward, SQUARE, save=None).layers
    for values in (
        {"softmax_1": swapped},
        swapped.to_dataset(name="softmax_1"),
        layers.loc[["softmax_1"]].assign(value=[swapped]),
    ):
        with pytest.raises(lf.LensValueError, match=r"axes.*transpose") as caught:
            lf.trace(forward, SQUARE, values=values)
        assert caught.value.trace.layers["kind"].tolist()[2] == "edit"
    with pytest.raises(lf.LensValueError, match="shape"):
        lf.trace(forward, SQUARE, values={"softmax_1": plain.transpose(b, a, first)})
    with pytest.raises(lf.LensValueError, match=r"axes.*transpose"):
        lf.trace(forward, SQUARE).patch({"softmax_1": swapped}, lambda output: output.sum())
    named = swapped.rename({first: "image", a: "row", b: "column"})  # nobody can tell
    given = torch.from_numpy(named.values.copy())
    assert torch.equal(
        lf.trace(forward, SQUARE, values={"softmax_1": named}).output, given @ SQUARE
    )


def test_stimuli_along_another_axis_are_refused():
    x = SQUARE[0]
    ids = list("abcd")
    plain = lf.trace(torch.sin, x, stimulus=ids).activations
    with pytest.raises(lf.LensValueError, match=r"axes.*transpose"):
        lf.trace(lambda x: x.sin(), x, stimulus=ids, values={"sin_1": plain["sin_1"].T})
    shuffled = plain["sin_1"].isel(stimulus=[2, 0, 3, 1])
    trace = lf.trace(lambda x: x.sin(), x, stimulus=ids, values={"sin_1": shuffled})
    assert torch.equal(trace.output, x.sin())


NO_NUMBERS = {
    "a tensor without data": torch.ones(3, 5, device="meta"),
    "masked entries": np.ma.masked_greater(np.arange(15.0).reshape(3, 5), 3),
    "a sparse tensor": torch.eye(5)[:3].to_sparse(),
    "nothing": None,
    "a text": "zero",
    "a function that gives nothing": lambda t: None,
}


@pytest.mark.parametrize("what", NO_NUMBERS)
@pytest.mark.parametrize("key", ["1", "relu_1"])
def test_what_is_no_dense_numbers_is_refused(what, key):
    with pytest.raises(lf.LensTypeError, match=key):
        lf.trace(net(), X, values={key: NO_NUMBERS[what]})


# Each goes another way under the values, so that the row of that function and number is another.


def skips_a_line(x):
    if x.sum() < 0:
        x = x.relu() - 1
    return x.relu() + 1


def other_branch(x):
    if x.sum() < 0:
        y = x.relu()
    else:
        y = x.relu()
    return y + 1


def longer_loop(x):
    h = x.sum()
    while h < 3:
        h, x = h + 1, x.relu()
    return x.relu()


def _block(x):
    return x.relu() * 2


def one_function_from_two_lines(x):
    if x.sum() < 0:
        x = _block(x)
    return _block(x)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        if x.sum() < 0:
            x = self.act(x) - 1
        return self.act(x) + 1


ANOTHER_WAY = {
    "a line more": (skips_a_line, {"sum_1": -1, "relu_1": 5}),
    "the other branch": (other_branch, {"sum_1": -1, "relu_1": 5}),
    "more steps of a loop": (longer_loop, {"sum_1": 0, "relu_1": 5}),
    "a function called before": (one_function_from_two_lines, {"sum_1": -1, "relu_1": 5}),
    "a module called before": (Shared(), {"sum_1": -1, "relu_1": 5}),
}


INNERMOST = {*ANOTHER_WAY} - {"a function called before"}  # a frame tells that line alone


@pytest.mark.parametrize(
    ("what", "given"),
    [*((what, "labels") for what in ANOTHER_WAY), *((what, "rows") for what in sorted(INNERMOST))],
)
def test_a_row_of_another_line_does_not_stand_in_for_the_one_asked_for(what, given):
    model, values = ANOTHER_WAY[what]
    if given == "rows":
        layers = lf.trace(model, torch.ones(3), save=None).layers
        values = layers.loc[[*values]].assign(value=[*values.values()])
    with pytest.raises(lf.LensValueError, match="another way") as caught:
        lf.trace(model, torch.ones(3), values=values)
    assert "relu_1" in str(caught.value)
    assert "test_edits.py:" in str(caught.value)


def test_a_run_that_goes_another_way_elsewhere_has_its_values():
    def forward(x):
        if x.sum() < 0:
            x = x.sin()
        y = x.relu()
        while y.mean() < 3:
            y = y + 1
        return y

    trace = lf.trace(forward, torch.ones(3), values={"sum_1": -1, "relu_1": lambda t: t * 0})
    assert torch.equal(trace.output, torch.full((3,), 3.0))


def test_rows_of_the_same_program_elsewhere():
    """Such as a lambda written once more: other lines, which do not run here."""
    rows = lf.trace(lambda x: x.exp().sin(), X, save=None).layers
    picked = rows.loc[["exp_1"]].assign(value=0.5)
    trace = lf.trace(lambda x: x.exp().sin(), X, values=picked)
    assert torch.equal(trace.output, torch.full((3, 4), 0.5).sin())


def test_a_call_and_every_call_of_one_module():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), shared)
    trace = lf.trace(model, X, values={"0": 3, "0:2": lambda t: t * 0})
    found = trace.activations
    assert [float(found[f"edit_1:{k}"].max()) for k in (1, 2, 3)] == [3.0, 0.0, 3.0]
    assert torch.equal(trace.output, torch.full((3, 4), 3.0))


def test_nothing_is_left_on_the_model():
    model = net()
    before = {k: len(v) for k, v in vars(model[1]).items() if k.endswith("hooks")}
    lf.trace(model, X, values={"1": 0})
    assert {k: len(v) for k, v in vars(model[1]).items() if k.endswith("hooks")} == before
    assert not torch.equal(model(X), lf.trace(model, X, values={"1": 0}).output)


class Named(nn.Module):
    """Its module `relu_1` returns another row than that of this name, or this very one."""

    def __init__(self, last):
        super().__init__()
        self.relu_1, self.last = nn.Sequential(nn.ReLU(), nn.Flatten()), last

    def forward(self, x):
        return self.last(self.relu_1(x))


def test_a_label_that_is_a_module_path_too():
    model = Named(nn.Identity())
    with pytest.warns(lf.LensWarning, match="module=relu_1"):
        trace = lf.trace(model, X, values={"relu_1": 1})
    assert trace.layers.loc["edit_1", "parents"] == ("relu_1",)
    trace = lf.trace(model, X, values={"module=relu_1": 1})
    assert trace.layers.loc["edit_1", "parents"] == ("flatten_1",)
    model.relu_1 = nn.ReLU()
    trace = lf.trace(model, X, values={"relu_1": 1})
    assert trace.layers.loc["edit_1", "parents"] == ("relu_1",)


def test_no_values_are_none():
    for values in (None, {}, xr.Dataset()):
        trace = lf.trace(net(), X, values=values)
        assert "edit_1" not in trace.layers.index


# --------------------------------------------------- under an in-place ReLU, where others go wrong


def in_place():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).eval()


def test_the_value_before_an_in_place_relu_is_that_before_it():
    """An interpreter of torch.fx keeps the tensor, which the ReLU then writes."""

    class Keeps(torch.fx.Interpreter):
        def run_node(self, node):
            self.env_kept = {**getattr(self, "env_kept", {}), node.name: super().run_node(node)}
            return self.env_kept[node.name]

    model = in_place()
    before = model[0](X)
    with torch.no_grad():
        keeps = Keeps(torch.fx.symbolic_trace(model))
        keeps.run(X)
        trace = lf.trace(model, X)
    assert not torch.equal(keeps.env_kept["_0"], before)
    assert np.array_equal(trace.activations["linear_1"].values, before.detach().numpy())
    assert np.array_equal(trace.activations["relu_1"].values, before.relu().detach().numpy())
    assert np.array_equal(trace.activations.lens["0"].values, before.detach().numpy())


def test_the_gradient_before_an_in_place_relu_is_that_before_it():
    """A hook on the tensor, or its own `grad_fn` once it was written, gives that after the ReLU."""
    model, kept = in_place(), {}
    handle = model[0].register_forward_hook(lambda m, args, out: kept.setdefault("out", out))
    out = model(X)
    handle.remove()
    (after,) = torch.autograd.grad(out.sum(), kept["out"])
    trace = lf.trace(model, X, gradients=True)
    gradients = trace.gradients(lambda o: o.sum())
    hidden = model[0](X).detach().requires_grad_()
    (before,) = torch.autograd.grad(model[2](hidden.relu()).sum(), hidden)
    assert torch.equal(after, model[2].weight.sum(0).expand(3, 5))
    assert not torch.equal(after, before)
    assert np.array_equal(gradients["linear_1"].values, before.numpy())
    assert np.array_equal(gradients["relu_1"].values, after.numpy())


@pytest.mark.parametrize("key", ["0", "linear_1"])
def test_a_value_before_an_in_place_relu_is_rectified_and_one_after_it_is_not(key):
    model = in_place()
    with torch.no_grad():
        trace = lf.trace(model, X, values={key: -1})
        assert torch.equal(trace.output, model[2](torch.zeros(3, 5)))
        assert (trace.activations["edit_1"] == -1).all()
        trace = lf.trace(model, X, values={"relu_1": -1})
        assert torch.equal(trace.output, model[2](torch.full((3, 5), -1.0)))
        trace = lf.trace(model, X, values={"1": -1})
        assert torch.equal(trace.output, model[2](torch.full((3, 5), -1.0)))


def test_a_value_under_an_in_place_relu_with_gradients():
    model = in_place()
    trace = lf.trace(model, X, values={"0": lambda t: t * 2}, gradients=True)
    gradients = trace.gradients(lambda o: o.sum())
    hidden = model[0](X).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[2]((hidden * 2).relu()).sum(), hidden)
    assert np.array_equal(gradients["linear_1"].values, expected.numpy())


def test_values_with_other_options():
    model = net()
    expected = hooked(model, "1", lambda t: t * 0 + 2, X)
    trace = lf.trace(model, X, values={"1": 2}, save="linear_2", repeats=2)
    assert torch.equal(trace.output, expected)
    assert [*trace.activations] == ["linear_2"]
    trace = lf.trace(model, X, values={"relu_1": 2}, save="2", stop=True)
    assert np.array_equal(trace.activations["linear_2"].values, expected.detach().numpy())
    trace = lf.trace(model, X, values={"relu_1": 2}, save=lambda row: row["kind"] == "edit")
    assert [*trace.activations] == ["edit_1"]
    rows = lf.trace(model, X).layers.query("func == 'linear'")
    trace = lf.trace(model, X, values={"relu_1": 2}, save=rows)
    assert [*trace.activations] == ["linear_1", "linear_2"]


class RectifiedInPlace(nn.Module):
    """Writes what a function gave as a view of memory that nobody else sees."""

    def __init__(self, name):
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.name = name

    def forward(self, x):
        made = {
            "lstm": lambda: self.rnn(x)[0],
            "einsum": lambda: torch.einsum("bti,oi->bto", x, self.rnn.weight_hh_l0[:4]),
            "tensordot": lambda: torch.tensordot(x, self.rnn.weight_hh_l0[:4], 1),
        }
        return made[self.name]().sub_(1).relu_() * 2


@pytest.mark.parametrize("op", ["lstm_1", "einsum_1", "tensordot_1"])
def test_a_view_of_what_nobody_else_sees_may_be_written(op):
    model, x = RectifiedInPlace(op.partition("_")[0]).eval(), torch.randn(2, 3, 4)
    with torch.no_grad():
        layers = lf.trace(model, x, save=None).layers
        by_label = lf.trace(model, x, values={op: 1.5}).output
        by_rows = lf.trace(model, x, values=layers.loc[[op]].assign(value=1.5)).output
    assert torch.equal(by_label, torch.full((2, 3, 4), 1.0))
    assert torch.equal(by_rows, by_label)
