# %% [markdown]
# # Where does the time go? Profiling a model, and finding its bottleneck
#
# A trace has the time of every operation, and each row holds enough to count its FLOPs and bytes.
# So profiling is sorting a table. Here: a small segmentation network that is slower than it looks,
# and two questions: which line of the code is to blame, and what would it gain to change it?

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import lensframe_pd as lf

pd.set_option("display.width", 130, "display.max_columns", 12, "display.max_colwidth", 40)
torch.manual_seed(0)


class Attend(nn.Module):
    """Every pixel looks at every other."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x):
        q, k, v = (f(x).flatten(2).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1)
        return x + (weights @ v).transpose(1, 2).view_as(x)


class Segment(nn.Module):
    def __init__(self, width=16, attend_at=1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 5, padding=2)
        self.attend_at = attend_at
        self.attend = Attend(width)
        self.body = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(3)]
        )
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.body(self.stem(x).relu())
        small = nn.functional.avg_pool2d(x, self.attend_at)
        seen = nn.functional.interpolate(self.attend(small), size=x.shape[2:])
        return self.head(x + seen)


model, image = Segment().eval(), torch.rand(1, 3, 48, 48)

# %% [markdown]
# One run's times are noisy: `repeats=5` gives each operation the median of five more runs.

# %%
with torch.no_grad():
    layers = lf.trace(model, image, repeats=5, save=None).layers
print(layers.lens.summary())

# %% [markdown]
# `profile` is the same as numbers, by module, function, line of code, or operation. The sum over a
# column is the whole model's, so shares are honest.

# %%
lines = layers.lens.profile("source").sort_values("seconds", ascending=False)
print(lines[["calls", "seconds", "share", "flops", "act_bytes"]].head(5))
print(layers.lens.profile("func")[["calls", "flops", "params"]].head(8))

# %% [markdown]
# Parameters say nothing here: the attention has 816 of 9,026. FLOPs and memory do: its weights are
# 2,304 x 2,304, a number for each pair of pixels. What is alive at the moment of the peak, and
# until when?

# %%
modules = layers.lens.profile("module", 1)[["params", "flops", "act_bytes"]]
print((modules / modules.loc[""]).astype(float).round(3))
print(layers.lens.alive()[["bytes", "until"]])
print(f"peak of activations: {layers.lens.memory()['live_bytes'].max() / 1e6:.0f} MB")

# %% [markdown]
# Is the time spent computing, or moving memory? A roofline puts each operation at its FLOPs per
# byte: matrix products stand to the right, softmax at the left: no faster arithmetic will help
# that.

# %%
costs = layers.lens.costs()
costs["intensity"] = costs["flops"] / costs["moved_bytes"]
most = costs.nlargest(4, "moved_bytes")
print(most[["func", "module", "flops", "moved_bytes", "intensity"]].round(1))
costs.lens.plot_roofline()
plt.savefig("roofline.png")
plt.close()
layers.lens.plot_time()
plt.savefig("time.png")
plt.close()

# %% [markdown]
# The picture tells the same to who does not read tables: one box is red.

# %%
layers.lens.collapse(1).lens.draw("before.svg", color="seconds")
layers.lens.chrome_trace("trace.json")  # opens in Perfetto
print(Path("trace.json").stat().st_size > 0)

# %% [markdown]
# ## The change, before it is trained
#
# Attention at half the resolution has a sixteenth of the pairs. Two frames are joined on their
# labels to see what has another shape; costs are counted from the frames.

# %%
with torch.no_grad():
    changed = lf.trace(Segment(attend_at=2).eval(), image, repeats=5, save=None).layers
both = layers[["func", "shape_str"]].assign(shape_str_after=changed["shape_str"])
print(both.query("shape_str != shape_str_after"))


def total(frame):
    costs = frame.lens.costs()
    return {
        "MFLOP": costs["flops"].sum() / 1e6,
        "peak MB": frame.lens.memory()["live_bytes"].max() / 1e6,
        "ms": frame["seconds"].sum() * 1e3,
    }


table = pd.DataFrame({"before": total(layers), "after": total(changed)})
table["ratio"] = table["before"] / table["after"]
print(table.round(1))

# %% [markdown]
# Frames are data: keep one for each version of your model, and the history of its costs is a
# query.

# %%
for name, frame in {"before": layers, "after": changed}.items():
    lf.write(frame, f"{name}.parquet")
files = {name: lf.read(f"{name}.parquet") for name in ("before", "after")}
history = pd.concat(files, names=["version"])
print(history.groupby("version", sort=False)[["seconds", "nbytes", "n_params"]].sum())
