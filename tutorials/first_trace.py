# %% [markdown]
# # A first trace: how sparse is each ReLU of a ResNet?
#
# The question is small; the steps are those of most studies: run a model once, choose layers by
# their properties, compute one number per layer from its activations, look at it.

# %%
import torch
import torchvision
from matplotlib import colormaps
from matplotlib.colors import to_hex

import lensframe_pd as lf

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
images = torch.rand(4, 3, 64, 64)

with torch.no_grad():
    layers, activations = lf.trace(model, images, stimulus=["a", "b", "c", "d"])

# %% [markdown]
# `layers` has one row per operation, so choosing layers is a question put to pandas: the ReLUs, by
# function, and only those inside the residual blocks, by module.

# %%
relus = layers.query("func == 'relu' and module.str.startswith('layer')")
print(relus[["module", "shape_str", "parents"]].head())

# %% [markdown]
# The index of `layers` and the variables of `activations` are the same labels, so the frame selects
# values, and a number computed from the values goes back as a column.

# %%
chosen = activations[list(relus.index)]
sparsity = (chosen == 0).mean().to_pandas()
layers["sparsity"] = sparsity
print(layers.loc[relus.index, ["module", "sparsity"]].round(2))

# %% [markdown]
# Which ReLU follows an addition? Edges are the column `parents`; `explode` makes one row of each.

# %%
edges = relus["parents"].explode()
after_add = layers.loc[edges, "func"].to_numpy() == "add"
print(sparsity.groupby(after_add).mean().rename({True: "after add", False: "inside a block"}))

# %% [markdown]
# Each image on its own: `activations.lens` names the dimensions without their extents, so one line
# does for every layer.

# %%
per_image = {op: (activations.lens[op] == 0).mean(["channel", "y", "x"]) for op in relus.index}
print(per_image["relu_17"].to_pandas().round(2))

# %% [markdown]
# A picture of the last stage, coloured by the new column. Drawing takes the rows it is given, and a
# column `color` if there is one.

# %%
scale = colormaps["YlOrRd"]
shown = layers[layers["module"].str.startswith("layer4")]
colors = shown["sparsity"].dropna().map(lambda s: to_hex(scale(s)))
shown.assign(color=colors).lens.draw("sparsity.svg")

# %% [markdown]
# And everything is plain files: the frame, with its new column, for pandas anywhere.

# %%
layers.to_parquet("layers.parquet")
