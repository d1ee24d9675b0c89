"""FLOPs, parameters, bytes and times against torch's own counters, hooks and plain sums."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from zoo.models import models

import lensframe_pd as lf
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.profile import BY, profile
from lensframe_pd.profile.rebuild import decode, resolve
from lensframe_pd.profile.summary import large, seconds, summary
from lensframe_pd.tape.config import encode

# Of the zoo's sample, those that torch can run whole on meta tensors.
ON_META = """
torchvision/alexnet torchvision/googlenet torchvision/lraspp_mobilenet_v3_large
torchvision/mobilenet_v3_small torchvision/quantized_shufflenet_v2_x0_5 torchvision/raft_small
torchvision/resnet18 torchvision/squeezenet1_1 torchvision/swin_t timm/convnext_atto
timm/crossvit_tiny_240 timm/edgenext_xx_small timm/efficientvit_b0 timm/hrnet_w18_small
timm/levit_128s timm/mixer_s32_224 timm/mobilevit_xxs timm/poolformer_s12
timm/vit_tiny_patch16_224 transformers/AlbertModel transformers/BertModel transformers/CLIPModel
transformers/GPT2Model transformers/LlamaForCausalLM transformers/MambaModel
transformers/SegformerModel transformers/T5Model transformers/ViTModel
transformers/WhisperModel recurrent/lstm_bidirectional recurrent/lstm_cell recurrent/conv_lstm
recurrent/seq2seq_attention recurrent/predictive_coding
""".split()
# On a CPU these keep what torch keeps anywhere; a recurrent kernel would keep a workspace.
SAVED = """
torchvision/resnet18 torchvision/swin_t timm/crossvit_tiny_240 timm/levit_128s
transformers/GPT2Model transformers/BertModel recurrent/lstm_cell recurrent/conv_lstm
""".split()


class Blocks(nn.Module):
    """A list of blocks, one of them run twice, and an operation of the model's own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.blocks[0](x)
        x = self.blocks[1](self.blocks[1](x))
        return self.head(x) * 2


@pytest.fixture
def blocks():
    return lf.trace(Blocks().eval(), torch.rand(5, 4)).layers


def from_disk(layers, folder):
    layers.to_parquet(folder / "layers.parquet")
    return pd.read_parquet(folder / "layers.parquet")


def traced_layers(model, *args, **kwargs):
    with torch.no_grad():
        return lf.trace(model, args, kwargs, save=None).layers


@pytest.mark.parametrize("name", ON_META)
def test_flops_and_parameters_of_a_frame_from_disk(name, tmp_path):
    made = models()[name]()
    model, args, kwargs = made.model, made.args, made.kwargs or {}
    layers = from_disk(traced_layers(model, *args, **kwargs), tmp_path)
    used = {p for cell in layers["params"] for p in cell}
    expected = [p for n, p in model.named_parameters() if n in used]
    if name not in ("transformers/CLIPModel", "torchvision/googlenet"):
        unread = sum(p.numel() for n, p in model.named_parameters() if n not in used)
        assert sum(p.numel() for p in model.parameters()) == unread + sum(
            p.numel() for p in expected
        )
    twin = copy.deepcopy(model).to("meta")
    args, kwargs = tree_map(
        lambda t: t.to("meta") if isinstance(t, torch.Tensor) else t, (args, kwargs)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*args, **kwargs)
    del model, twin

    whole = profile(layers, "module").loc[""]
    assert whole["flops"] == counter.get_total_flops()
    assert whole["macs"] * 2 == counter.get_total_flops()
    assert whole["uncounted"] == ""
    assert whole["params"] == sum(p.numel() for p in expected)
    assert whole["params_bytes"] == sum(p.nbytes for p in expected)
    assert whole["n_trainable"] == sum(p.numel() for p in expected if p.requires_grad)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/vit_tiny_patch16_224"])
def test_every_parameter_is_in_the_frame(name):
    made = models()[name]()
    table = profile(traced_layers(made.model, *made.args), "func")
    assert table["params"].sum() == sum(p.numel() for p in made.model.parameters())


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", SAVED)
def test_backward_bytes_are_what_autograd_keeps(name, grad):
    made = models()[name]()
    model, args, kwargs = made.model, made.args, made.kwargs or {}
    with torch.set_grad_enabled(grad):
        layers = lf.trace(model, args, kwargs, save=None).layers
    assert profile(layers, "module").loc["", "backward_bytes"] == kept_bytes(model, args, kwargs)


def kept_bytes(model, args=(), kwargs=None):
    """Bytes of the storages that a forward's graph keeps, parameters and buffers apart."""
    held = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(*args, **(kwargs or {}))
    return sum(storage.nbytes() for storage in kept.values())


def test_backward_bytes_under_autocast():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.GELU()).eval()
    model.requires_grad_(False)[0].weight.requires_grad_()
    x = torch.rand(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layers = lf.trace(model, x, save=None).layers
    own = profile(layers, "func")["backward_bytes"]
    assert own["gelu"] == 4 * 16 * 2  # its bfloat16 argument
    assert own["linear"] == 4 * 8 * 2  # the bfloat16 copy of its float32 argument


def test_nothing_is_kept_without_a_parameter_to_train():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).requires_grad_(False).eval()
    table = profile(traced_layers(model, torch.rand(2, 3)), "module")
    assert table.loc["", ["backward_bytes", "n_trainable"]].tolist() == [0, 0]


def test_no_grad_inside_the_model_counts():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.trained = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = torch.tanh(self.frozen(x))
            return self.trained(x)

    table = profile(lf.trace(Half().eval(), torch.rand(2, 3)).layers, "op")
    assert table["backward_bytes"].to_dict() == {"linear_1": 0, "tanh_1": 0, "linear_2": 2 * 4 * 4}


@pytest.mark.parametrize(
    ("call", "shapes", "flops"),
    [
        (lambda x, y: x @ y, [(3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)],
         2 * 2 * 3 * 4 * 5),
        (lambda x, w: F.conv2d(x, w, padding=1, groups=2), [(1, 4, 6, 6), (8, 2, 3, 3)],
         2 * 36 * 8 * 2 * 9),
        (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(1, 4, 5, 5), (4, 3, 2, 2)],
         2 * 25 * 4 * 3 * 4),
        (F.scaled_dot_product_attention, [(2, 3, 7, 16)] * 3, 2 * 2 * 2 * 3 * 7 * 7 * 16),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
         [(2, 3, 7, 16)] * 3, 2 * 2 * 2 * 3 * 7 * 7 * 16),
        (lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5), [(2, 3, 4), (2, 4, 5), (2, 3, 5)],
         2 * 2 * 3 * 4 * 5),
        (lambda x, y: torch.tensordot(x, y, dims=([1, 2], [0, 1])), [(2, 3, 4), (3, 4, 5)],
         2 * 2 * 12 * 5),
        (lambda x: (5 - x) ** 2 + x.T.T, [(3, 3)], 0),
        (lambda x: x[:, 1, None, ..., :2].sum() + x[[0, 1]].mean() + x[0, 1].std(), [(3, 4, 5)], 0),
        (lambda x: x[x > 0.5].sum(), [(3, 4)], 0),  # a shape that meta tensors cannot know
        (lambda x: x.nonzero(), [(3, 4)], 0),
        (lambda x: torch.cat([x, x.flip(0)], dim=1).split(3, dim=1)[0], [(3, 4)], 0),
    ],
)  # fmt: skip
def test_flops_by_hand(call, shapes, flops, tmp_path):
    layers = lf.trace(call, tuple(torch.rand(s) for s in shapes)).layers
    table = profile(from_disk(layers, tmp_path), "op")
    assert table["uncounted"].tolist() == [""] * len(table)
    assert table["flops"].sum() == flops


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_flops_of_recurrent_layers_by_hand(kind):
    steps, batch, wide, hidden = 6, 3, 5, 8
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    layers = traced_layers(kind(wide, hidden, 2).eval(), torch.rand(steps, batch, wide))
    weights = gates * hidden * (wide + hidden) + gates * hidden * 2 * hidden
    assert profile(layers, "func")["flops"].sum() == 2 * steps * batch * weights


def test_script_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return torch.relu(self.fc(x))

    layers = traced_layers(torch.jit.script(Net().eval()), torch.rand(2, 4))
    assert layers["target"].str.startswith("torch.ops.aten").any()
    assert profile(layers, "module").loc["", "flops"] == 2 * 2 * 4 * 3


def test_in_place_and_views_allocate_nothing():
    def run(x):
        y = x * 2
        y.add_(1)
        y[:, 0] = 5
        a, b = y.chunk(2, dim=1)
        z = torch.empty(4, 3)
        torch.mul(a, b, out=z)
        return z.t().expand(2, 3, 4).contiguous()

    layers = lf.trace(run, torch.rand(4, 6)).layers
    table = costs(layers)
    made = table.loc[table["act_bytes"] > 0, "act_bytes"].to_dict()
    assert made == {"mul_1": 4 * 6 * 4, "empty_1": 4 * 3 * 4, "contiguous_1": 2 * 3 * 4 * 4}
    assert set(table.loc[table["func"].isin(["add", "setitem", "chunk"]), "storage"]) == {"mul_1"}
    assert table.loc["output_1", "storage"] == "contiguous_1"
    assert table["uncounted"].tolist() == [""] * len(table)
    # a slice is read, not what it is cut from; what is written in place is read and written
    assert table.loc["add_1", "moved_bytes"] == 2 * 4 * 6 * 4
    assert table.loc["chunk_1", "moved_bytes"] == 0


def test_a_view_of_a_parameter_lies_in_no_row():
    layers = lf.trace(nn.Bilinear(2, 3, 4).eval(), (torch.rand(5, 2), torch.rand(5, 3))).layers
    assert costs(layers)["storage"].notna().all()

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(3, 4))

        def forward(self, x):
            return x @ self.w.t()

    table = costs(lf.trace(Tied().eval(), torch.rand(2, 4)).layers)
    assert table.loc["t_1", ["storage", "act_bytes"]].tolist() == ["", 0]


def test_a_table_counts_as_far_as_it_is_read():
    layers = traced_layers(nn.Embedding(1000, 8).eval(), torch.tensor([1, 2, 3]))
    moved = costs(layers).loc["embedding_1", "moved_bytes"]
    assert moved == 3 * 8 + 2 * 3 * 8 * 4  # the ids, what is read, what is written


def test_intensity_and_speed():
    layers = traced_layers(nn.Linear(64, 32, bias=False).eval(), torch.rand(16, 64))
    row = profile(layers).loc["linear_1"]
    flops = 2 * 16 * 64 * 32
    assert row["intensity"] == flops / (4 * (16 * 64 + 64 * 32 + 16 * 32))
    assert row["flops_per_s"] == flops / layers.loc["linear_1", "seconds"]


def test_several_results_of_one_call_count_once():
    layers = traced_layers(nn.LSTM(3, 4).eval(), torch.rand(5, 2, 3))
    once = layers.drop_duplicates("call")
    assert (layers["func"] == "lstm").sum() == 3
    for by in BY:
        table = profile(layers, by)
        total = table.loc[""] if by == "module" else table.sum(numeric_only=True)
        assert total["seconds"] == pytest.approx(once["seconds"].sum())
        assert total["flops"] == 2 * 5 * 2 * 4 * 4 * (3 + 4)
    assert profile(layers, "func").loc["lstm", "calls"] == 1


def test_module_totals_hold_what_is_inside(blocks):
    table = profile(blocks, "module")
    assert table.index.tolist() == [
        "", "blocks", "blocks.0", "blocks.0.0", "blocks.0.1",
        "blocks.1", "blocks.1.0", "blocks.1.1", "head",
    ]  # fmt: skip
    ops = blocks[blocks["kind"] == "op"]
    for path in table.index[1:]:
        inside = ops[[any(f"{e.rsplit(':')[0]}.".startswith(f"{path}.") for e in cell)
                      for cell in ops["module_stack"]]]  # fmt: skip
        assert table.loc[path, "seconds"] == pytest.approx(inside["seconds"].sum())
        assert table.loc[path, "act_bytes"] == inside["nbytes"].sum()
        assert table.loc[path, "ops"] == len(inside)
        own = ops.loc[ops["module"] == path, "seconds"].sum()
        assert table.loc[path, "self_seconds"] == pytest.approx(own)
    assert table.loc["", "seconds"] == pytest.approx(ops["seconds"].sum())
    assert table.loc["", "share"] == 1
    assert table["self_seconds"].sum() == pytest.approx(ops["seconds"].sum())
    assert table["calls"].tolist() == [1, 0, 1, 1, 1, 2, 2, 2, 1]
    assert table.loc[["", "blocks.1", "blocks.1.0"], "module_type"].tolist() == [
        "Blocks", "Sequential", "Linear",
    ]  # fmt: skip
    # the block that runs twice has its parameters once and its FLOPs twice
    assert table.loc["blocks.1", ["params", "flops"]].tolist() == [20, 2 * (2 * 5 * 4 * 4)]
    assert table.loc["", "params"] == 2 * 20 + 15


def test_depth_cuts_the_tree(blocks):
    whole = profile(blocks, "module")
    for depth, paths in [(0, [""]), (1, ["", "blocks", "head"])]:
        cut = profile(blocks, "module", depth)
        assert cut.index.tolist() == paths
        pd.testing.assert_frame_equal(cut, whole.loc[paths])


def test_groups_are_pandas_sums(blocks):
    ops = blocks[blocks["kind"] == "op"]
    for by in ("layer", "func", "source"):
        table = profile(blocks, by)
        expected = ops.groupby(by, sort=False)["seconds"].agg(["sum", "size"])
        np.testing.assert_allclose(table["seconds"], expected["sum"])
        assert table["calls"].tolist() == expected["size"].tolist()
        assert table.index.tolist() == expected.index.tolist()
        assert table["share"].sum() == pytest.approx(1)
    assert profile(blocks, "func").loc["linear", "params"] == 55
    assert profile(blocks, "layer").loc["linear_2", ["calls", "params"]].tolist() == [2, 20]


def test_tied_parameters_count_once_in_what_holds_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    table = profile(traced_layers(Tied().eval(), torch.tensor([[1, 2]])), "module")
    assert table["params"].to_dict() == {"": 40, "embed": 40, "head": 40}
    assert table["params_bytes"].to_dict() == {"": 160, "embed": 160, "head": 160}


def test_frozen_and_trainable_parameters():
    model = nn.Linear(3, 4).eval()
    model.bias.requires_grad_(False)
    row = profile(traced_layers(model, torch.rand(2, 3)), "module").loc[""]
    assert row[["params", "n_trainable"]].tolist() == [16, 12]


def test_operations_without_a_formula_are_listed_and_never_zero():
    def run(x):
        return torch.linalg.inv(x) @ x

    layers = lf.trace(run, torch.eye(3)).layers
    with pytest.warns(lf.LensWarning, match="linalg_inv_1.*no formula for linalg_inv_ex"):
        table = profile(layers, "op")
    assert table.loc["linalg_inv_1", "flops"] is pd.NA
    assert "linalg_inv_ex" in table.loc["linalg_inv_1", "uncounted"]
    assert table.loc["matmul_1", "flops"] == 2 * 27
    with pytest.warns(lf.LensWarning):
        whole = profile(layers, "module").loc[""]
    assert whole["flops"] == 2 * 27
    assert whole["uncounted"].startswith("linalg_inv_1: ")
    with pytest.warns(lf.LensWarning):
        assert summary(layers).loc["(model)", "FLOPs"] == "54+"


def test_a_gradient_inside_the_model_is_uncounted():
    model = nn.Linear(3, 1)

    def run(x):
        return torch.autograd.grad(model(x).sum(), x)[0]

    layers = lf.trace(run, torch.rand(2, 3).requires_grad_()).layers
    with pytest.warns(lf.LensWarning, match="grad_1.*differentiates"):
        assert profile(layers, "func").loc["grad", "flops"] is pd.NA


def test_rows_without_their_parents(blocks):
    picked = blocks[blocks["func"] == "linear"]
    with pytest.warns(lf.LensWarning, match=r"input_1 is not in the frame: call costs\(\)"):
        table = profile(picked, "op")
    assert table["flops"].isna().all()
    assert table["params"].tolist() == [20, 20, 20, 15]

    table = profile(costs(blocks).query("func == 'linear'"), "func")  # no warning
    assert table.loc["linear", "flops"] == 2 * 5 * (3 * 16 + 12)


def test_any_order_and_a_lost_index(blocks):
    shuffled = blocks.sample(frac=1, random_state=0).reset_index(drop=True)
    table = profile(shuffled, "op")
    assert table.index.tolist() == blocks.index[blocks["kind"] == "op"].tolist()
    assert table["flops"].sum() == 2 * 5 * (3 * 16 + 12)
    assert costs(shuffled).index.equals(shuffled.index)


def test_a_frame_is_not_changed_nor_is_torch(blocks):
    layers = traced_layers(nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).eval(), torch.rand(2, 4))
    before, hooks = blocks.copy(), dict(torch.nn.modules.module._global_forward_hooks)
    state = torch.get_rng_state()
    for frame in (blocks, layers):
        for by in BY:
            profile(frame, by)
    pd.testing.assert_frame_equal(blocks, before)
    assert hooks == torch.nn.modules.module._global_forward_hooks
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("by", BY)
def test_profiles_go_to_parquet(blocks, by, tmp_path):
    table = profile(blocks, by)
    table.to_parquet(tmp_path / "profile.parquet")
    read = pd.read_parquet(tmp_path / "profile.parquet")
    pd.testing.assert_frame_equal(read, table)


def test_errors(blocks):
    with pytest.raises(lf.LensValueError, match="'modul'; did you mean 'module'"):
        profile(blocks, "modul")
    with pytest.raises(lf.LensValueError, match="means nothing by='func'"):
        profile(blocks, "func", depth=1)
    with pytest.raises(lf.LensValueError, match="not -1"):
        profile(blocks, "module", depth=-1)
    with pytest.raises(lf.LensKeyError, match=r"profile needs column 'seconds' \(time of the call"):
        profile(blocks.drop(columns="seconds"))
    with pytest.raises(lf.LensKeyError, match="needs column 'param_shapes'"):
        costs(blocks.drop(columns="param_shapes"))
    with pytest.raises(lf.LensValueError, match="no rows"):
        profile(blocks[:0])
    with pytest.raises(lf.LensValueError, match="no rows of kind 'op'"):
        profile(blocks[blocks["kind"] == "input"])
    with pytest.raises(lf.LensValueError, match=r"linear_1.* stand for several rows"):
        profile(pd.concat([blocks, blocks]))
    with pytest.raises(lf.LensValueError, match=r"kind module; .*before you roll or collapse"):
        costs(blocks.assign(kind="module"))
    with pytest.raises(lf.LensValueError, match="rolled rows"):
        profile(costs(blocks).assign(unrolled=""))


def test_summary():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 10))
    table = summary(traced_layers(model.eval(), torch.rand(2, 3, 8, 8)))
    assert table["output"].to_dict() == {
        "(model)": "2x10", "0": "2x64x6x6", "1": "2x64x6x6", "2": "2x2304", "3": "2x10",
    }  # fmt: skip
    assert table["params"].to_dict() == {"(model)": "24,842", "0": "1,792", "1": "", "2": "",
                                         "3": "23,050"}  # fmt: skip
    assert table.loc["0", ["type", "FLOPs", "activations"]].tolist() == [
        "Conv2d",
        "249 k",
        "18.4 kB",
    ]
    assert table.loc["(model)", "share"] == "100.0%"


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 "), (999, "999 "), (999.6, "1 k"), (1000, "1 k"), (1.5e12, "1.5 T")]
)
def test_large_numbers(n, text):
    assert large(n) == text


@pytest.mark.parametrize(
    ("s", "text"), [(2, "2 s"), (0.9999, "1 s"), (1e-3, "1 ms"), (3e-9, "3 ns")]
)
def test_times(s, text):
    assert seconds(s) == text


@pytest.mark.parametrize(
    "target",
    ["torch.Tensor.__rsub__", "torch.Tensor.T.__get__", "torch.functional.einsum", "torch.conv2d",
     "torch._C._nn.linear", "torch.ops.aten.mm.default", "torch.Tensor.add_"],
)  # fmt: skip
def test_targets_resolve(target):
    assert callable(resolve(target))


atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text("abc :0"),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float32, torch.bfloat16, torch.strided, torch.channels_last, ...]),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none()),
)  # fmt: skip


@given(st.recursive(atoms, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_arguments_come_back_from_json(value):
    assert decode(json.loads(json.dumps(encode(value))), {}, sequence=list) == value


def test_devices_become_meta():
    assert decode(encode(torch.device("cpu")), {}) == torch.device("meta")
    assert math.isinf(decode(encode(-math.inf), {}))


def test_copies_never_multiply():
    layers = lf.trace(lambda x: x.to("cpu", torch.float64, False, True), torch.rand(3)).layers
    assert costs(layers)["uncounted"].tolist() == [""] * 3


def test_running_extremes_are_no_matrix_products():
    layers = lf.trace(lambda x: x.cummax(0)[0] + x.cummin(0)[0], torch.rand(3)).layers
    assert profile(layers, "op")["flops"].sum() == 0


def test_arguments_that_a_frame_only_describes(blocks):
    described = blocks.assign(config=blocks["config"].where(blocks["func"] != "tanh", CONFIG))
    with pytest.warns(lf.LensWarning, match=r"tanh_1 \(an argument is a user.Thing"):
        table = profile(described, "func")
    assert table.loc["tanh", "flops"] is pd.NA
    assert table.loc["linear", "flops"] == 2 * 5 * (3 * 16 + 12)


CONFIG = json.dumps({"out": {"$object": "user.Thing"}})


def test_a_function_that_is_not_here(blocks):
    elsewhere = blocks.assign(target=blocks["target"].replace("torch.tanh", "somewhere.tanh"))
    assert (elsewhere["target"] != blocks["target"]).any()
    with pytest.warns(lf.LensWarning, match=r"somewhere.tanh cannot be imported here"):
        assert profile(elsewhere, "func").loc["tanh", "flops"] is pd.NA


def test_products_before_a_stop_are_not_lost():
    """A replay that multiplied and then failed is uncounted, not zero."""

    def run(x):
        return torch.matmul(x, x)

    layers = lf.trace(run, torch.rand(3, 3)).layers
    wrong = layers.assign(dtype="int32")  # the replay then gives something else
    with pytest.warns(lf.LensWarning, match="matmul_1"):
        assert (
            profile(wrong.assign(shape=[(3, 3), (3, 4), (3, 3)])).loc["matmul_1", "flops"] is pd.NA
        )
