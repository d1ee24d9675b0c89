# %% [markdown]
# # Coming from TorchLens
#
# TorchLens records a model's every operation too. This page has its calls (of version 2.36) beside
# ours, and runs both where `torchlens` is installed: `pip install torchlens`. A trace is two
# tables here, and what TorchLens has a method for is often a line of pandas or xarray.
#
# | TorchLens | lensframe_pd |
# |---|---|
# | `log = tl.trace(model, x)` | `layers, activations = lf.trace(model, x)` |
# | `log.layer_labels` | `layers.index` |
# | `log["relu_1_2"].out` | `activations["relu_1"]`, or `activations.lens["relu_1"]` |
# | `log["1"].out`, `log.modules["1"].out` | `activations.lens["1"]` |
# | `log["relu_1_2"].parents` | `layers.loc["relu_1", "parents"]` |
# | `log["relu_1_2"].children` | `layers.lens.edges().query("source == 'relu_1'")["target"]` |
# | `log.to_pandas()` | `layers` is the DataFrame |
# | `log.num_params` | `layers["n_params"].sum()` where none is shared |
# | `log.flops_by_op_type()` | `layers.lens.profile("func")["flops"]` |
# | `log["tanh_1_6:2"].out` (pass 2) | `activations["tanh_1:2"]`, or `.lens["tanh_1"].sel(pass_num=2)` |
# | `log.draw(...)` | `layers.lens.draw("net.svg")`, of any rows |
# | `tl.validate(model, x, scope="forward")` | `trace.validate()` |
# | `tl.extract(model, x, ["1"])` | `lf.trace(model, x, save=["1"], stop=True).activations` |
# | `tl.extract_dataset(model, data, layers)` | `lf.extract(model, data, to="acts.zarr", save=layers)` |
# | `log.backward(loss)`, then `.grad` | `lf.trace(..., gradients=True).gradients(loss)` |
#
# Theirs, and not ours: backends other than PyTorch (JAX, MLX, TensorFlow), graphs of the backward
# pass, and many kinds of export. Ours, and not theirs: named axes and stimulus ids, plain files
# that other tools read, and a trace that leaves torch unpatched.

# %%
import importlib.util

import numpy as np
import torch
from torch import nn

import lensframe_pd as lf

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
x = torch.rand(5, 3)
trace = lf.trace(model, x)
layers, activations = trace


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.keep = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = torch.tanh(self.read(x[:, t]) + self.keep(h))
        return h


loop, sequence = Recurrent().eval(), torch.rand(2, 5, 3)
_, states = lf.trace(loop, sequence)

# %% [markdown]
# Our side of the table, each line run:

# %%
ours = {
    "labels": list(layers.index),
    "value": activations["relu_1"].values,
    "module": activations.lens["1"].values,
    "parents": list(layers.loc["relu_1", "parents"]),
    "children": list(layers.lens.edges().query("source == 'relu_1'")["target"]),
    "params": int(layers["n_params"].sum()),
    "pass": states.lens["tanh_1"].sel(pass_num=2).values,
    "valid": bool(trace.validate()["passed"].all()),
    "extract": lf.trace(model, x, save=["1"], stop=True).activations["relu_1"].values,
}
flops = layers.lens.profile("func")["flops"]
layers.lens.draw("net.svg")
gradients = lf.trace(model, x, gradients=True).gradients(lambda y: y.sum())
print(ours["labels"], flops.to_dict())

# %% [markdown]
# And theirs, where it is installed. It wraps torch's functions when it is first used, so it comes
# last.

# %%
theirs = {}
if importlib.util.find_spec("torchlens"):
    import torchlens as tl

    log = tl.trace(model, x)
    theirs = {
        "labels": list(log.layer_labels),
        "value": log["relu_1_2"].out.detach().numpy(),
        "module": log.modules["1"].out.detach().numpy(),
        "parents": list(log["relu_1_2"].parents),
        "children": list(log["relu_1_2"].children),
        "params": int(log.num_params),
        "pass": tl.trace(loop, sequence)["tanh_1_6:2"].out.detach().numpy(),
        "valid": bool(tl.validate(model, x, scope="forward")),
        "extract": tl.extract(model, x, ["1"])["1"].detach().numpy(),
    }
    table = log.to_pandas()
    print(f"a table of {table.shape[1]} columns there, of {layers.shape[1]} here")
    for name, value in theirs.items():
        same = np.array_equal(value, ours[name])
        print(f"{name:9} {'the same' if same else f'{value} there, {ours[name]} here'}")
else:
    print("torchlens is not installed: only our side was run")

# %% [markdown]
# Labels differ in one thing: TorchLens counts layers of a function and the step (`relu_1_2`: the
# first ReLU, the second operation); here a label is `relu_1`, and the step is the column `step`.
# FLOPs are those of torch's own counter: matrix products and convolutions, without the additions
# of a bias.
