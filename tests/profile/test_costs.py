"""FLOPs, parameters and bytes against torch's own counters, hooks and formulas by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from zoo.models import models

import lensframe_pd as lf
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.profile import profile

from .layer_files import from_disk, traced_layers

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


@pytest.mark.parametrize("name", SAVED)
def test_backward_bytes_are_what_autograd_keeps(name):
    made = models()[name]()
    model, args, kwargs = made.model, made.args, made.kwargs or {}
    kept = kept_bytes(model, args, kwargs)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            layers = lf.trace(model, args, kwargs, save=None).layers
        assert profile(layers, "module").loc["", "backward_bytes"] == kept


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


def test_devices_and_types_by_name(tmp_path):
    """Nothing is copied where both are the tensor's already, and what is copied is counted."""

    def run(x):
        same = x.to(device="cpu", dtype=torch.float32)
        return same.to(device=torch.device("cpu"), dtype=torch.float64)

    table = costs(from_disk(lf.trace(run, torch.rand(5)).layers, tmp_path))
    assert table["uncounted"].tolist() == [""] * 4
    assert table["act_bytes"].tolist() == [0, 0, 40, 0]
    assert table["moved_bytes"].tolist() == [0, 0, 60, 0]
    assert table["storage"].tolist() == ["input_1", "input_1", "to_2", "to_2"]


def test_a_result_that_was_filtered_away(tmp_path):
    """What is left of a call is still that: the state of an LSTM, not its output."""
    layers = traced_layers(nn.LSTM(3, 4).eval(), torch.rand(5, 2, 3))
    state = layers.drop("lstm_1").query("func != 'output'")
    table = costs(from_disk(state, tmp_path))
    assert table.loc[["lstm_2", "lstm_3"], "act_bytes"].tolist() == [2 * 4 * 4] * 2
    assert table["uncounted"].tolist() == [""] * len(table)


def test_rows_without_their_parents(blocks):
    picked = blocks[blocks["func"] == "linear"]
    with pytest.warns(lf.LensWarning, match=r"input_1 is not in the frame: call costs\(\)"):
        table = profile(picked, "op")
    assert table["flops"].isna().all()
    assert table["params"].tolist() == [20, 20, 20, 15]

    table = profile(costs(blocks).query("func == 'linear'"), "func")  # no warning
    assert table.loc["linear", "flops"] == 2 * 5 * (3 * 16 + 12)
