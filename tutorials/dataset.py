# %% [markdown]
# # A data set through a model, killed half way
#
# `lf.trace` holds one batch. A data set goes to a store: `lf.extract` writes as it computes, and
# goes on where it was when it is killed. Here photographs that come with scikit-learn and
# scikit-image are cut into 2,000 patches, and a ResNet-18 sees them all.

# %%
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import submitit
import torch
from skimage import data
from sklearn.datasets import load_sample_images
from torchvision.models import resnet18

import lensframe_pd as lf

# %% [markdown]
# ## The stimuli
#
# One row per patch, indexed by its id. Ids stand at their values from here to the RDM; the other
# columns come along as coordinates.

# %%
china, flower = load_sample_images().images
photographs = {"china": china, "flower": flower, "cat": data.chelsea(), "coffee": data.coffee()}
SIZE, EACH = 32, 500


def patches():
    """2,000 patches as one tensor, and the table of what they are."""
    draw, pieces, rows = np.random.default_rng(0), [], []
    for name, photograph in photographs.items():
        for k in range(EACH):
            y, x = (int(draw.integers(n - SIZE)) for n in photograph.shape[:2])
            patch = photograph[y : y + SIZE, x : x + SIZE]
            pieces.append(patch.transpose(2, 0, 1))
            rows.append((f"{name}_{k}", name, y, x, patch.mean() / 255))
    table = pd.DataFrame(rows, columns=["patch", "photograph", "y", "x", "brightness"])
    return torch.tensor(np.stack(pieces)) / 255, table.set_index("patch")


images, table = patches()
torch.manual_seed(0)
# untrained here; with weights=ResNet18_Weights.DEFAULT trained ones are downloaded
model = resnet18().eval().requires_grad_(False)

# %% [markdown]
# ## What to keep
#
# Rows of one small trace say which values; columns say what becomes of them. The plan says what
# that takes, and runs one batch only.

# %%
layers = lf.trace(model, images[:2], save=None).layers
blocks = [f"relu_{k}" for k in (1, 5, 9, 13, 17)]
rows = layers.loc[[*blocks, "linear_1"]].assign(dtype="float16", pool="mean", chunk=2)
call = {"to": "patches.zarr", "save": rows, "stimulus": table, "batch_size": 50}
plan = lf.extract(model, images, plan=True, **call)
print(plan[["shape", "dtype", "bytes", "files"]])

# %% [markdown]
# ## Killed, and gone on with
#
# This very file, started as another process, extracts; as soon as some blocks are there, it is
# killed. What is in the store's ledger stays, and the same call computes the rest.

# %%
if "fill" in sys.argv:  # this is the other process
    lf.extract(model, images, **call)
    sys.exit()


def missing(store):
    return lf.read(store).attrs["missing_stimuli"] if Path(store).exists() else len(images)


victim = subprocess.Popen([sys.executable, __file__, "fill"], stdout=subprocess.DEVNULL)
while victim.poll() is None and missing("patches.zarr") > 1700:
    time.sleep(0.02)
victim.kill()
victim.wait()
left = missing("patches.zarr")
print(f"killed: {left} of {len(images)} patches are missing")

started = time.perf_counter()
seen = lf.extract(model, images, **call)
print(f"went on: {left} patches in {time.perf_counter() - started:.1f} s")
print(f"now {seen.attrs['missing_stimuli']} are missing")

# %% [markdown]
# A store that any zarr reader opens; values are read when they are used.

# %%
print(seen)

# %% [markdown]
# ## From the store to an RDM
#
# Do patches of one photograph look alike to the network? Every tenth patch makes a picture that can
# be looked at.

# %%
some = seen.isel(stimulus=slice(None, None, 10))
rdms = some.lens.rdm([*blocks, "linear_1"], "correlation")
one = some["photograph"].values
same, other = one[:, None] == one, ~np.eye(len(one), dtype=bool)


def apart(rdm):
    """How much further apart patches of two photographs are than two of one."""
    return rdm[~same].mean() - rdm[same & other].mean()


contrast = pd.Series({layer: apart(rdms.sel(layer=layer).values) for layer in rows.index})
print(contrast.round(4))

figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
sns.heatmap(rdms.sel(layer="relu_17").values, ax=left_axes, square=True, cbar=False)
left_axes.set(title="relu_17, 200 patches of 4 photographs", xticks=[], yticks=[])
sns.barplot(x=contrast.index, y=contrast.values, ax=right_axes, color="0.6")
right_axes.set(xlabel="layer", ylabel="between less within photographs")
figure.savefig("patches.svg")

# %% [markdown]
# ## On a cluster
#
# Parts are shares of one store: any number of processes fill it, without locks, and each can be
# killed and started again. On SLURM that is a job array, here by submitit; where there is no SLURM
# the same jobs run one after the other.

# %%
JOBS = 4


def job(part):
    few = {**call, "to": "few.zarr", "stimulus": table[:200], "save": rows.loc[["relu_17"]]}
    lf.extract(model, images[:200], part=(part, JOBS), **few)
    return part


slurm = "slurm" if shutil.which("srun") else "debug"
executor = submitit.AutoExecutor(folder="jobs", cluster=slurm)
executor.update_parameters(timeout_min=60, cpus_per_task=1)
done = [task.result() for task in executor.map_array(job, range(JOBS))]
few = lf.read("few.zarr")
print(f"{len(done)} jobs, {few.attrs['missing_stimuli']} patches missing")

# %% [markdown]
# With `dask.distributed` it is one call, and a worker that is lost loses nothing:
#
#     lf.extract(make_model, make_data, client=Client("scheduler:8786"), **call)

# %%
print("files:", *sorted(os.listdir()))
