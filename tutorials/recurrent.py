# %% [markdown]
# # Recurrent networks: a loop is one layer with passes
#
# A network that runs in a loop is a long list of operations to a computer, and one circuit to you.
# `lensframe_pd` finds the circuit: operations at the same place of the program, in the same
# repeated structure, are one layer, and its executions are its passes.
#
# Here: a network that sees digits row by row, and another that looks at the same image several
# times.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch import nn

import lensframe_pd as lf

pd.set_option("display.width", 110, "display.max_columns", 12, "display.max_colwidth", 44)
torch.manual_seed(0)
pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 8, 8)
labels = torch.tensor(digits)


class RowByRow(nn.Module):
    """Reads an image as eight rows of eight pixels."""

    def __init__(self, width=48):
        super().__init__()
        self.read = nn.Linear(8, width)
        self.keep = nn.Linear(width, width)
        self.say = nn.Linear(width, 10)

    def forward(self, image):
        h = image.new_zeros(len(image), self.keep.in_features)
        for t in range(image.shape[1]):
            h = torch.tanh(self.read(image[:, t]) + self.keep(h))
        return self.say(h)


model = RowByRow()
optimizer = torch.optim.Adam(model.parameters(), 0.005)
for _ in range(150):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:1000]), labels[:1000]).backward()
    optimizer.step()
model.eval()
with torch.no_grad():
    accuracy = float((model(images[1000:]).argmax(1) == labels[1000:]).float().mean())
print(f"right for {accuracy:.0%} of images it has not seen")

# %% [markdown]
# ## The passes
#
# `tanh_1` ran eight times. `parents` shows the loop: `linear_2`, which keeps the state, reads what
# `tanh_1` made one pass before.

# %%
seen = slice(1000, 1200)
ids = pd.DataFrame({"digit": digits[seen]}, index=[f"image_{i}" for i in range(1000, 1200)])
with torch.no_grad():
    trace = lf.trace(model, images[seen], stimulus=ids)
layers, activations = trace
print(layers.query("func == 'tanh'")[["layer", "pass_num", "n_passes", "parents"]].head(3))
print(len(layers), "rows,", layers["layer"].nunique(), "layers")

# %% [markdown]
# Rolled, a layer is one row, and the loop is an edge with the passes that it joins: `1-7>2-8` says
# that passes 1 to 7 of `tanh_1` go to passes 2 to 8 of `linear_2`. Drawn, it is the diagram you
# would put on a slide. `unroll` gives all rows back.

# %%
rolled = layers.lens.roll()
print(rolled[["n_passes", "parents", "parent_passes"]])
rolled.lens.draw("circuit.svg", direction="right")
print(rolled.lens.unroll().equals(layers))

# %% [markdown]
# ## When does the network know?
#
# All passes of a layer are one array, `(pass_num, stimulus, feature)`. A decoder of the digit,
# trained on half of the images at each pass, says how much is known after each row of pixels.

# %%
states = activations.lens["tanh_1"]
print(dict(states.sizes))
known = []
for number in states["pass_num"].values:
    state = states.sel(pass_num=number).to_numpy()
    decoder = RidgeClassifier(alpha=1.0).fit(state[:100], ids["digit"][:100])
    known.append(decoder.score(state[100:], ids["digit"][100:]))
known = pd.Series(known, index=pd.Index(states["pass_num"].values, name="rows seen"))
print(known.round(2))
known.plot(marker="o", ylabel="digits decoded", ylim=(0, 1))
plt.savefig("known.png")
plt.close()

# %% [markdown]
# How alike are the states of two moments? CKA of the passes is a picture of time: the further
# apart two moments, the less alike what the network makes of the same images.

# %%
passes = list(layers.query("layer == 'tanh_1'").index)
similarity = activations.lens.cka(layers=passes)
print(similarity.to_pandas().round(2).iloc[[0, 3, 7], [0, 3, 7]])

# %% [markdown]
# ## Stop the memory
#
# A label with a pass is one execution. Without the state after the fourth row, what is left is
# what the last four rows say.

# %%
with torch.no_grad():
    forgetful = lf.trace(model, images[seen], stimulus=ids, values={"tanh_1:4": 0})
right = {
    name: float((output.argmax(1) == labels[seen]).float().mean())
    for name, output in {"as it is": trace.output, "forgets": forgetful.output}.items()
}
print(right)

# %% [markdown]
# ## Loops of other kinds
#
# The number of passes may depend on the data; nothing is declared, and nothing unrolled by hand.


# %%
def settle(x, weight):
    """Iterate until it moves no more: an attractor network."""
    while True:
        new = torch.tanh(x @ weight)
        if (new - x).abs().max() < 1e-3:
            return new
        x = new


weight = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (12, 12))).float()
settled, _ = lf.trace(settle, (torch.rand(3, 12), weight))
print(settled.lens.roll()[["func", "n_passes", "read_by"]])

# %% [markdown]
# `read_by` is where Python looked at a value to decide whether to go on. `nn.LSTM` and `nn.GRU`
# are one call of C++, so one row with all steps as an axis; a loop over `nn.LSTMCell` has passes.

# %%
fused, values = lf.trace(nn.GRU(8, 16, batch_first=True).eval(), images[:5])
print(fused.loc["gru_1", "shape_str"], values["gru_1"].dims)
