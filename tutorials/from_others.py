# %% [markdown]
# # Coming from THINGSvision, or from nnsight
#
# Our side of both tables is run below. Of theirs the calls are named as in their documentation,
# and are not run.
#
# ## THINGSvision
#
# It extracts the activations of modules of pretrained vision models for images in a folder.
#
# | THINGSvision | lensframe_pd |
# |---|---|
# | `extractor = get_extractor(model_name=..., source="timm", pretrained=True)` | `model = timm.create_model(..., pretrained=True).eval()`: bring the model you like |
# | `extractor.show_model()` | `lf.trace(model, x, save=None).layers.lens.summary()` |
# | `ImageDataset(root=..., backend=..., transforms=...)` | `torchvision.datasets.ImageFolder(root, transform)`: any torch data set |
# | `DataLoader(dataset, batch_size=32, backend=...)` | `torch.utils.data.DataLoader(dataset, 32)`, or `batch_size=32` |
# | `extractor.extract_features(batches, module_name="layer4", flatten_acts=True)` | `lf.extract(model, loader, to="acts.zarr", save=["layer4"])` |
# | `output_dir=..., step_size=...` | every extraction goes to disk as it runs, and resumes |
# | `flatten_acts=True` | `activations.lens.features("layer4")`: flat, with the axes kept as coordinates |
# | `save_features(features, out_path, file_format="npy")` | the store is zarr; `lf.write(ds, "acts.nc")`; `.to_numpy()` |
# | `file_names` beside the features | `stimulus=`: ids, or a table of stimuli, in the store itself |
# | `compute_rdm(features, method="correlation")` | `stored.lens.rdm("layer4")` |
# | `correlate_rdms(a, b, correlation="pearson")` | `stored.lens.score({"b": b}, comparison="pearson")` |
# | `get_cka(...)`, `cka.compare(a, b)` | `a.lens.cka(b)` |
#
# Theirs, and not ours: a catalogue of models with their own preprocessing by one name, alignment
# (gLocal), TensorFlow. Ours, and not theirs: every operation and not only modules, values of loops
# by pass, ids at every value, and what ran as a table.

# %%
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

import lensframe_pd as lf

torch.manual_seed(0)
pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels[:200] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
names = pd.DataFrame({"digit": digits[:200]}, index=[f"image_{i}" for i in range(200)])
model = nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10)
).eval()

print(lf.trace(model, images[:2], save=None).layers.lens.summary()[["type", "output", "params"]])
loader = torch.utils.data.DataLoader(images, 32)
stored = lf.extract(model, loader, to="acts.zarr", save=["1", "4"], stimulus=names)
flat = stored.lens.features("relu_1")
rdms = stored.lens.rdm(["relu_1", "relu_2"])
reference = rdms.sel(layer="relu_2", drop=True)
alike = stored.lens.score({"the other": reference}, ["relu_1"], comparison="pearson")
print(flat.shape, dict(rdms.sizes), float(alike["score"].iloc[0].round(2)))
print(stored.lens.cka().values.round(2))

# %% [markdown]
# ## nnsight
#
# It opens a model's forward as a context in which values are read and set, also on remote
# machines.
#
# | nnsight | lensframe_pd |
# |---|---|
# | `model = LanguageModel("gpt2")` | any model, as it is, with its tokenizer |
# | `with model.trace(text):` | `trace = lf.trace(model, tokenizer(text, return_tensors="pt"))` |
# | `h = model.transformer.h[5].output[0].save()` | `trace.activations.lens["transformer.h.5"]`; all is saved unless `save=` says less |
# | `model.transformer.h[5].output[0][:] = 0` | `lf.trace(model, x, values={"transformer.h.5": 0})` |
# | `.output = f(.output)` | `values={"transformer.h.5": f}` |
# | `model.transformer.h[5].mlp.act.input` | any operation is a row: `layers.lens.find("transformer.h.5.mlp")` |
# | `model.transformer.h[5].attn.source` (operations inside) | the same rows: `add_3`, `softmax_6` |
# | `h.grad` and `loss.backward()` inside | `lf.trace(..., gradients=True).gradients(loss)` |
# | a loop of traces, each with another value | `trace.patch(values, metric)`: each row in turn, about half a forward each |
# | `model.generate(...)`, `tracer.iter` | `lf.trace(model.generate, ...)`: passes of each layer |
# | `tracer.stop()` | `lf.trace(..., save=["transformer.h.5"], stop=True)` |
# | `NDIF`, `remote=True` | none: the model runs where you are |
#
# Theirs, and not ours: remote execution of models too large for you, code of your own inside the
# forward, batches of several prompts with different interventions. Ours, and not theirs: the whole
# run as a table, the proof that it is what the model did, ids, stores, pictures.


# %%
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(x)


text = torch.randint(0, 50, (2, 7))
language = nn.Sequential(nn.Embedding(50, 16), Layer(), Layer(), nn.Linear(16, 50)).eval()
with torch.no_grad():
    trace = lf.trace(language, text, stimulus=["a", "b"])
    hidden = trace.activations.lens["1"]
    zeroed = lf.trace(language, text, values={"1": 0})
    halved = lf.trace(language, text, values={"1": lambda h: h / 2})
    effects = trace.patch(0, lambda y: (y - trace.output).norm(), rows=["1", "2", "1.mlp"])
print(dict(hidden.sizes), trace.layers.lens.find("1.mlp").index.tolist())
print(effects["metric"].round(2))
gradients = lf.trace(language, text, gradients=True).gradients(
    lambda y: y[:, -1].logsumexp(-1).sum()
)
print(gradients.lens["1"].dims)
early = lf.trace(language, text, save=["1"], stop=True)
print(len(early.layers), "of", len(trace.layers), "rows were run")
