# %% [markdown]
# # When does a language model know how a text goes on?
#
# A small Llama learns to count through the alphabet in steps: `aceg...` goes on with `i`, `adgj...`
# with `m`. Then it writes texts of its own, and we watch every letter of them, in every layer: the
# letters that it was given and those that it wrote.

# %%
from string import ascii_lowercase

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import xarray as xr
from transformers import LlamaConfig, LlamaForCausalLM

import lensframe_pd as lf

PAD, END = 26, 27
letters = [*ascii_lowercase, "_", "."]


def numbers(texts):
    """Texts as token numbers, filled up at the front, and the mask that says so."""
    length = max(map(len, texts))
    ids = torch.tensor([[letters.index(c) for c in text.rjust(length, "_")] for text in texts])
    return ids, (ids != PAD).long()


def spelt(ids):
    return ["".join(letters[i] for i in row) for row in ids.tolist()]


# %% [markdown]
# All 104 texts there are: from each letter on, in steps of one to four, and a full stop at the end.
# Learning them takes some seconds.

# %%
torch.manual_seed(0)
texts = [ascii_lowercase[a::step] + "." for step in (1, 2, 3, 4) for a in range(26)]
sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3}
config = LlamaConfig(
    vocab_size=28, num_attention_heads=4, max_position_embeddings=64,
    bos_token_id=None, eos_token_id=END, pad_token_id=PAD, **sizes,
)  # fmt: skip
model = LlamaForCausalLM(config)
ids, mask = numbers(texts)
targets = ids.masked_fill(mask == 0, -100)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=80)
for _ in range(80):
    loss = model(ids, attention_mask=mask, labels=targets).loss
    loss.backward()
    optimizer.step()
    slower.step()
    optimizer.zero_grad()
model.eval()
print(f"loss {loss.item():.2f}")

# %% [markdown]
# Now it writes. The prompts are of unlike lengths, so the short ones are filled up at the front;
# and some texts come to their full stop before others, and are filled up at the end.
#
# Under the hood that is one forward pass for the prompts and then one for each letter, which reads
# that letter alone: the keys and values of those before are in the cache.

# %%
prompts = pd.DataFrame(
    {"step": [1, 2, 3, 4, 2, 3]}, index=["abc", "ace", "ad", "bf", "gikm", "mps"]
)
ids, mask = numbers(prompts.index)
blocks = ["model.embed_tokens", *[f"model.layers.{k}" for k in range(3)]]
trace = lf.trace(
    model.generate,
    {"input_ids": ids, "attention_mask": mask},
    {"max_new_tokens": 24, "do_sample": False},
    save=blocks,
    stimulus=prompts,
)
print("\n".join(spelt(trace.output)))
layers = trace.layers
print(layers.loc[layers["module"] == "model.embed_tokens", ["pass_num", "shape_str"]].head(3))

# %% [markdown]
# `tokens` puts the passes one behind the other, as the trace saw them continue each other. It adds
# which letter each token is, and which of them count: not what was filled up at the front, and
# nothing after the full stop.

# %%
lens = trace.activations.lens
block = lens.tokens("model.layers.2", ids=trace.output, mask=mask, end=END)
print(dict(block.sizes))
print(pd.DataFrame({"valid letters": block["valid"].sum("token").to_series()}).T)

# %% [markdown]
# Is that what the model would have thought, had it read the whole text at once? Let it.

# %%
whole = torch.cat([mask, torch.ones_like(trace.output[:, mask.shape[1] :])], dim=1)
with torch.no_grad():
    at_once = lf.trace(
        model,
        {
            "input_ids": trace.output[:, :-1],
            "attention_mask": whole[:, :-1],
            "position_ids": (whole.cumsum(1) - 1).clamp(min=0)[:, :-1],
            "use_cache": False,
        },
        save=blocks,
        stimulus=prompts,
    ).activations.lens["model.layers.2"]
difference = abs(block - at_once).where(block["valid"]).max().item()
print(f"largest difference at letters that count: {difference:.0e}")

# %% [markdown]
# ## What each layer would say
#
# The model's last step turns a state into the next letter. It can be taken after any block ("logit
# lens"): how probable is the letter that did come, to the state after this block?


# %%
def sure(path):
    states = lens.tokens(path, ids=trace.output, mask=mask, end=END)
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(torch.tensor(states.values)))
    of_next = logits.softmax(-1).gather(-1, trace.output[:, 1:, None])[..., 0]
    counts = states["valid"] & (states["token_id"] != END)  # nothing comes after a full stop
    return states["valid"].copy(data=of_next).where(counts)


known = xr.concat(map(sure, blocks), pd.Index(blocks, name="layer"))

# %% [markdown]
# One row per text: what the last block says, letter by letter. The first letter cannot tell in
# which steps the text will go; the second does.

# %%
figure, axes = plt.subplots(figsize=(9, 3))
last = known.sel(layer="model.layers.2")
sns.heatmap(
    last, mask=np.isnan(last), annot=np.array(letters)[block["token_id"]], fmt="", cmap="viridis",
    yticklabels=list(prompts.index), cbar_kws={"label": "probability of the next"}, ax=axes,
)  # fmt: skip
axes.set(xlabel="token", title="How sure the model is of what comes next")
axes.tick_params(axis="y", rotation=0)
figure.tight_layout()
figure.savefig("next_letter.png")

# %% [markdown]
# And by depth, at the first, second and all further letters of each text. At the first letter no
# block can know the step; from the second on it takes attention to the letter before, so the
# embedding (which sees one letter) does not know either, and the blocks do.

# %%
letter = block["valid"].cumsum("token").clip(max=3)
table = xr.Dataset({"probability": known, "letter": letter}).to_dataframe().dropna()
by_depth = table.pivot_table("probability", "layer", "letter", sort=False)
by_depth.columns = ["first letter", "second", "later"]
print(by_depth.round(2))
