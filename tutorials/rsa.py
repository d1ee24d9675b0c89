# %% [markdown]
# # From photographs to a figure with a noise ceiling
#
# Which layer of a network represents photographs as a brain area does? The whole analysis: stimuli,
# a network, RDMs of its layers, measurements of several subjects in several runs, cross-validated
# RDMs of those, scores with intervals and a noise ceiling, and which layers differ.
#
# **The subjects are simulated.** There is no brain in this file: their responses are one layer of
# the network, seen through random voxels, under noise. So it is known which layer should win, and
# whether the analysis finds it can be checked. With measured responses the cells below the
# simulation stay as they are.

# %%
import numpy as np
import pandas as pd
import torch
import xarray as xr
from rsatoolbox.data.noise import prec_from_residuals
from skimage import color, data
from sklearn.datasets import load_sample_images
from torch import nn

import lensframe_pd as lf

# %% [markdown]
# ## Stimuli
#
# Patches of photographs that come with scikit-learn and scikit-image: grey, with equal mean and
# contrast, so that neither tells where one is from. One row per patch, indexed by its id.

# %%
china, flower = load_sample_images().images
photographs = {
    "china": china, "flower": flower, "cat": data.chelsea(), "coffee": data.coffee(),
    "astronaut": data.astronaut(), "rocket": data.rocket(),
}  # fmt: skip
SIZE = 32
draw = np.random.default_rng(0)


def patches(each):
    """So many patches of each photograph, as a tensor, and which photograph each is of."""
    pieces, names = [], []
    for name, photograph in photographs.items():
        grey = color.rgb2gray(photograph)
        for _ in range(each):
            y, x = (int(draw.integers(n - SIZE)) for n in grey.shape)
            piece = grey[y : y + SIZE, x : x + SIZE]
            pieces.append((piece - piece.mean()) / (piece.std() + 0.02))
            names.append(name)
    return torch.tensor(np.stack(pieces)[:, None], dtype=torch.float32), names


# %% [markdown]
# ## A network
#
# A small one, trained for some seconds to tell the photographs apart, on other patches than those
# it is studied with.

# %%
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
    nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, len(photographs)),
)  # fmt: skip
seen, names = patches(200)
targets = torch.tensor([list(photographs).index(name) for name in names])
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(12):
    for batch in torch.randperm(len(seen)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(seen[batch]), targets[batch]).backward()
        optimizer.step()

images, names = patches(10)
stimuli = pd.DataFrame({"photograph": names}, [f"patch_{k}" for k in range(len(images))])
with torch.no_grad():
    layers, activations = lf.trace(model.eval(), images, stimulus=stimuli)

# %% [markdown]
# ## RDMs of layers
#
# How differently does each layer respond to each pair of patches? On one colour scale, sorted by
# the column of the table; the ids go along.

# %%
shown = ["input_1", "relu_1", "relu_2", "relu_3", "relu_4"]
figure = lf.plot_rdm(activations.lens.rdm(shown), sort="photograph")
figure.savefig("rdms.png")

# %% [markdown]
# ## Subjects, simulated
#
# Eight subjects, four runs each: `relu_2` through 60 random voxels of each subject, what is the
# subject's own, and noise of each run, which neighbouring voxels share. Real responses come in
# this form too: a DataArray with ids along `stimulus`, in any order.

# %%
TRUE, SUBJECTS, RUNS, VOXELS = "relu_2", 8, 4, 60
source = activations.lens.features(TRUE).values.astype(float)
source = (source - source.mean(0)) / source.std()
shuffled = draw.permutation(len(stimuli))
shared_noise = np.exp(-abs(np.subtract.outer(range(VOXELS), range(VOXELS))) / 2)
mixing = np.linalg.cholesky(shared_noise)


def subject():
    """Runs x stimuli x voxels of one, simulated."""
    through = draw.normal(size=(source.shape[1], VOXELS)) / np.sqrt(source.shape[1])
    own = 0.5 * draw.normal(size=(len(source), VOXELS))
    noise = 4 * draw.normal(size=(RUNS, len(source), VOXELS)) @ mixing.T
    return source @ through + own + noise


responses = xr.DataArray(
    np.stack([subject() for _ in range(SUBJECTS)])[:, :, shuffled],
    {"stimulus": stimuli.index[shuffled], "subject": [f"simulated {k}" for k in range(SUBJECTS)]},
    ("subject", "run", "stimulus", "voxel"),
    name="it",
)

# %% [markdown]
# ## Their RDMs, cross-validated
#
# Noise makes any two patterns differ. The crossnobis distance multiplies the difference in one run
# with that in another, in which noise is independent, so it adds nothing on average. Voxels are
# weighted by the precision of the noise, here of each subject, from what runs differ by.

# %%
residuals = (responses - responses.mean("run")).values.reshape(SUBJECTS, -1, VOXELS)
dof = (RUNS - 1) * len(stimuli)
precision = xr.DataArray(
    [prec_from_residuals(one, dof) for one in residuals],
    {"subject": responses["subject"]},
    ("subject", "voxel", "voxel_"),
)
brain = responses.to_dataset().lens.rdm(metric="crossnobis", over="run", noise=precision)
print(dict(brain.sizes), f"{(brain < 0).mean().item():.1%} are below 0")

# %% [markdown]
# ## Scores
#
# Each layer with each subject, joined by id, and with a hypothesis: patches differ if they are of
# other photographs. The ceiling is what the true RDM is expected to score with subjects as noisy as
# these. `mean_low` and `mean_high` are for other patches and other subjects.

# %%
photograph = stimuli["photograph"].to_numpy()
differ = (photograph[:, None] != photograph).astype(float)
references = {
    "simulated area": brain.isel(layer=0, drop=True),
    "photograph": pd.DataFrame(differ, stimuli.index, stimuli.index),
}
operations = layers[layers["func"].isin(["input", "relu", "adaptive_avg_pool2d", "linear"])]
options = {"metric": "sqeuclidean", "bootstrap": 200}  # squared distances, as crossnobis is one
scores = activations.lens.score(references, operations, **options)
columns = ["op", "mean", "mean_low", "mean_high", "ceiling_low", "ceiling_high"]
area = scores[scores["reference"] == "simulated area"].drop_duplicates("op")
print(area[columns].round(3).to_string(index=False))

# %%
axes = lf.plot_scores(scores)
axes.figure.savefig("scores.png")

# %% [markdown]
# ## Which layers differ
#
# Intervals of single scores overlap though layers differ, as other patches and subjects move all
# layers alike. The differences are taken in the same samples.

# %%
best = area.loc[area["mean"].idxmax(), "op"]
differences = activations.lens.score_differences(
    {"simulated area": references["simulated area"]}, operations, **options
)
with_best = differences[(differences["op"] == best) | (differences["op_"] == best)]
print(f"{best} scores best; the subjects were made of {TRUE}")
print(with_best[["op", "op_", "difference", "low", "high", "p"]].round(3).to_string(index=False))

# %% [markdown]
# What a reader needs to repeat it is with the scores.

# %%
print(scores.attrs)
