# %% [markdown]
# # A first look: a ResNet-18 that saw two photographs
#
# What one run of a model gives: tables to read, files to keep, pictures to look at. `nox -s demo`
# runs this, and so does `python tutorials/demo.py [folder]`; the files go to that folder. The
# weights are random, so nothing is downloaded.

# %%
import sys
from pathlib import Path

import pandas as pd
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

import lensframe_pd as lf

pd.set_option("display.width", 140, "display.max_columns", 20, "display.max_colwidth", 40)


def title(text):
    print(f"\n\n{text}\n{'=' * len(text)}")


# %% [markdown]
# Scikit-learn brings two photographs. They are prepared as ImageNet models take them.

# %%
names = ["china", "flower"]
prepare = v2.Compose(
    [
        v2.Resize(256),
        v2.CenterCrop(224),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)
images = torch.stack([prepare(Image.fromarray(load_sample_image(f"{name}.jpg"))) for name in names])

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
with torch.no_grad():
    trace = lf.trace(model, images, stimulus=names)
layers, activations = trace

# %% [markdown]
# `layers` is a DataFrame with one row per operation. So questions about the model are pandas.

# %%
title("layers: one row per operation")
print(f"{len(layers)} rows, {len(layers.columns)} columns; the first ten, six columns:\n")
print(layers[["func", "module", "shape_str", "parents", "n_params", "seconds"]].head(10))

title("the same frame, by function")
by_func = layers.groupby("func", sort=False).agg(
    ops=("step", "size"),
    parameters=("n_params", "sum"),
    megabytes=("nbytes", lambda n: n.sum() / 1e6),
    milliseconds=("seconds", lambda s: s.sum() * 1e3),
)
print(by_func.round(2))
own = sum(p.numel() for p in model.parameters())
print(f"\nparameters in the rows: {layers['n_params'].sum():,}; in the model: {own:,}")

# %% [markdown]
# `activations` is an xarray Dataset. Its variables have the labels of the rows, its dimensions the
# names of what they are, and the photographs are found by name.

# %%
title("activations: one variable per row, named by its label")
print(activations)

title("one layer")
print('activations.lens["relu_17"].mean(["channel", "y", "x"])\n')
per_image = activations.lens["relu_17"].mean(["channel", "y", "x"])
print(per_image)

# %% [markdown]
# The run was a plain run: tracing changed no bit of the output, and each row can be checked.

# %%
with torch.no_grad():
    same = torch.equal(trace.output, model(images))
print(f"\nthe traced output equals a plain run's, bit for bit: {same}")

report = trace.validate()
print(f"{report['passed'].sum()} of {len(report)} rows pass validation")

title("where the time goes: layers.lens.summary(depth=1)")
print(layers.lens.summary(depth=1))

# %% [markdown]
# Everything goes to files that other tools read, and a frame is drawn as it is: all of it, modules
# as one row each, or a part.

# %%
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
folder.mkdir(parents=True, exist_ok=True)

title("files")
layers.to_parquet(folder / "layers.parquet")
layers.to_feather(folder / "layers.arrow")
activations.to_netcdf(folder / "activations.nc")
layers.lens.draw(folder / "resnet18.svg")
layers.lens.draw(folder / "resnet18.png")
layers.lens.collapse(depth=1).lens.draw(folder / "stages.png", color="seconds")
block = layers[layers["module"].str.startswith("layer2.0")]
block.lens.draw(folder / "layer2.0.png")
what = {
    "stages.png": "the model as its four stages, coloured by time: open this first",
    "resnet18.svg": "every operation, to zoom and search in a browser",
    "resnet18.png": "the same as a bitmap",
    "layer2.0.png": "one block: filter the frame, draw what is left",
    "layers.parquet": "the table, for pandas.read_parquet, DuckDB, Polars",
    "layers.arrow": "the table, for pandas.read_feather",
    "activations.nc": "all values, for xarray.open_dataset",
}
for name, words in what.items():
    path = folder / name
    print(f"{path!s:<26} {path.stat().st_size / 1e6:6.2f} MB  {words}")

# %% [markdown]
# And now? In the same folder, with the same Python:

# %%
title("try next")
print(f"""\
open {folder / "stages.png"}
{sys.executable}
>>> import lensframe_pd as lf, torch
>>> trace = lf.trace(your_model, your_input)
>>> trace.layers.lens                  # the verbs, by purpose
>>> trace.layers.lens.draw("net.svg")
>>> trace.activations.lens["fc"]       # any layer, or module path

tutorials/ten_minutes.py goes on from here.""")
