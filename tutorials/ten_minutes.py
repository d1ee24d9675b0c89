# %% [markdown]
# # Ten minutes to lensframe_pd
#
# Run a model once; get a table of every operation, and an array of every activation. This is all
# there is to know to begin. Each cell can be run by itself, and the whole in some seconds.

# %%
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

import lensframe_pd as lf

pd.set_option("display.width", 120, "display.max_columns", 12, "display.max_colwidth", 32)
torch.manual_seed(0)

# %% [markdown]
# ## 1. Trace
#
# Any `nn.Module`, or any function, as it is. Here: a small network with a skip connection, written
# the way people write them, with an addition that no module makes and no hook would see.


# %%
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    Block(8),
    Block(8),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 10),
).eval()

pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels[:60] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
names = pd.DataFrame({"digit": digits[:60]}, index=[f"image_{i}" for i in range(60)])

with torch.no_grad():
    trace = lf.trace(model, images, stimulus=names)
layers, activations = trace
print(layers[["func", "module", "shape_str", "parents", "n_params"]])

# %% [markdown]
# One row is one tensor that one call made. `add_1` is there, with both its parents. The label on
# the left is the name of the row wherever you meet it again.
#
# Lost? `layers.lens` shows what can be done with the table, by purpose; so does
# `activations.lens`.

# %%
print(layers.lens)

# %% [markdown]
# ## 2. Ask with pandas
#
# The graph is a DataFrame, so a question about the model is a question to pandas. Which operations
# have parameters? What is biggest? What does the second block read?

# %%
print(layers.query("n_params > 0").groupby("func")["n_params"].sum())
biggest = layers["nbytes"].idxmax()
print(biggest, layers.loc[biggest, "shape"])
block = layers[layers["module"].str.startswith("2")]
outside = set(block["parents"].explode()) - set(block.index)
print(outside)

# %% [markdown]
# ## 3. Draw what you chose
#
# A picture shows exactly the rows it is given. Collapse modules to have fewer, colour by any
# column; `.html` is a page whose modules open and shut.

# %%
layers.lens.draw("net.svg")
layers.lens.collapse(1).lens.draw("modules.svg", color="seconds")
block.lens.draw("block.svg")

# %% [markdown]
# ## 4. Activations, with names on their axes
#
# The Dataset has a variable for each row, under the same label. `lens[...]` takes a label, a layer
# or the path of a module, and gives one array with plain axis names. The images keep their names.

# %%
relu = activations.lens["relu_2"]
print(relu.dims, relu.shape)
print(relu.sel(stimulus="image_3").mean(["y", "x"]).values.round(2))
print(activations.lens["2"].equals(relu))  # what block "2" returned is that very value
by_digit = relu.mean(["y", "x"]).groupby("digit").mean()
print(by_digit.dims, by_digit.shape)

# %% [markdown]
# ## 5. Join the two
#
# One key joins everything: pick rows with pandas, and take their values. How many units never
# fire?

# %%
relus = layers.query("func == 'relu'")
silent = {op: float((activations[op] == 0).all("stimulus").mean()) for op in relus.index}
table = relus.assign(silent=pd.Series(silent))[["module", "shape_str", "silent"]]
print(table)

# %% [markdown]
# ## 6. Compare layers
#
# Do two images look alike to a layer? A matrix for each layer, images by images, with names. And
# how much of the digit is in it? Rows of the table are taken wherever names of layers are.

# %%
rdms = activations.lens.rdm(relus)
print(dict(rdms.sizes))
digit = pd.get_dummies(names["digit"])
scores = activations.lens.score({"digit": digit}, layers, comparison="cka")
print(scores[["op", "depth", "func", "score"]].round(3).tail(4))

# %% [markdown]
# ## 7. Do not trust it: prove it
#
# Every row is run again on its saved parents and must give its saved value, bit for bit; ids are
# moved to see that values follow; the output must equal a plain run's.

# %%
report = trace.validate()
print(report["passed"].all(), f"{len(report)} rows")

# %% [markdown]
# ## 8. Change it
#
# What if block "1" returned nothing but zeros? The model goes on with other values; and `patch`
# asks that of each row in turn.

# %%
with torch.no_grad():
    without = lf.trace(model, images, values={"1": 0})
print(float((without.output - trace.output).abs().max()))
effects = trace.patch(0, lambda y: (y - trace.output).abs().mean(), rows=relus)
print(effects["metric"].round(3))

# %% [markdown]
# ## 9. Keep it
#
# A folder that opens without being read; or plain pandas and xarray files, for everybody.

# %%
lf.write(trace, "kept")
again, values = lf.read("kept")
print(again.equals(layers), values["relu_2"].equals(activations["relu_2"]))

# %% [markdown]
# A batch is not a data set: `lf.extract` runs a model over any number of images into a store on
# disk, and goes on where it was stopped (`dataset.py`). Loops become layers with passes
# (`recurrent.py`); what is slow is found in `slow_model.py`; language models are in `patching.py`
# and `tokens.py`; brains and categories in `digits_rsa.py` and `rsa.py`.
