# %% [markdown]
# # Where in a network do digits become categories?
#
# A representational similarity analysis in five steps: train a small network on real images, trace
# it on images it has not seen, one dissimilarity matrix (RDM) per layer, compare each with the
# matrix of a hypothesis, and look at the result by depth.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import lensframe_pd as lf

# %% [markdown]
# Scikit-learn's digits are 8 x 8 pixels, handwritten. Training takes a few seconds.

# %%
SEED = 0
torch.manual_seed(SEED)
pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
train, test = train_test_split(
    range(len(digits)), test_size=200, stratify=digits, random_state=SEED
)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
targets = torch.tensor(digits)
for _ in range(15):
    for batch in torch.tensor(train)[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), targets[batch]).backward()
        optimizer.step()

# %% [markdown]
# The held-out digits, traced once. The table of stimuli gives each image its id and its category;
# both travel along as coordinates.

# %%
stimuli = pd.DataFrame({"category": digits[test]}, index=[f"image_{i}" for i in test])
model.eval()
with torch.no_grad():
    trace = lf.trace(model, images[test], stimulus=stimuli)
layers, activations = trace
accuracy = (trace.output.argmax(1) == targets[test]).float().mean().item()
print(f"{accuracy:.0%} of the held-out digits are classified correctly")

# %% [markdown]
# One RDM per layer: how differently does it respond to each pair of images? Sorted by category,
# blocks of similar responses appear where the network has come to group the images.

# %%
rdms = activations.lens.rdm().sortby("category")
order = rdms["stimulus"].values
shown = rdms.sel(layer=["input_1", "relu_1", "relu_2", "relu_3"], stimulus_=order)
shown.plot(col="layer", yincrease=False, xticks=[], yticks=[], cmap="viridis")
plt.savefig("rdms.png")

# %% [markdown]
# The hypothesis as an RDM of its own: two images differ if their categories do. Its rows have the
# ids of the images, so it is joined to the layers by id, whatever the order.

# %%
category = stimuli["category"]
hypothesis = pd.DataFrame(
    category.to_numpy()[:, None] != category.to_numpy(), index=stimuli.index, columns=stimuli.index
).astype(float)

# %% [markdown]
# One row per layer, with the facts of `layers` beside the score, and an interval from resampling
# the images. The hypothesis has two values only, so no layer can reach a rank correlation of 1: the
# ceiling is that of a layer in which every pair across categories is further apart than any within.

# %%
operations = layers[layers["kind"] != "output"]
scores = activations.lens.score({"category": hypothesis}, operations, bootstrap=100)
across = (category.to_numpy()[:, None] != category.to_numpy())[np.triu_indices(len(test), 1)].mean()
ceiling = np.sqrt(3 * across * (1 - across))
print(scores[["op", "depth", "func", "score", "low", "high"]].round(2).to_string(index=False))

# %% [markdown]
# Categories emerge with depth.

# %%
figure, axes = plt.subplots()
sns.lineplot(scores, x="depth", y="score", marker="o", ax=axes)
axes.axhline(ceiling, linestyle="--", color="grey")
axes.fill_between(scores["depth"], scores["low"], scores["high"], alpha=0.2)
axes.set_xticks(scores["depth"], scores["op"], rotation=45, ha="right")
axes.set(xlabel="", ylabel="Spearman correlation with the category RDM")
figure.savefig("categories_by_depth.png", bbox_inches="tight")
