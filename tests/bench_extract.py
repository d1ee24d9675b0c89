"""What extracting costs: CPU seconds beside the bare forward, hooks into files, and TorchLens."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn

import lensframe_pd as lf

PATHS = {
    "relu_1": "relu",
    "relu_5": "layer2.0",
    "relu_9": "layer3.0",
    "relu_17": "layer4.1",
    "linear_1": "fc",
}
_OF_TORCHLENS = ["relu_1_3", "relu_5_18", "relu_9_34", "relu_17_66", "linear_1_69"]
_BATCH = 32


def bare(model: nn.Module, images: Tensor, folder: Path) -> None:
    for batch in images.split(_BATCH):
        model(batch)


def hooks(model: nn.Module, images: Tensor, folder: Path) -> None:
    """What people write: hooks that clone, and a mapped file per layer."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, out, name=name: seen.__setitem__(name, out.clone())
        )
        for name, path in PATHS.items()
    ]
    files: dict[str, np.memmap] = {}
    for k, batch in enumerate(images.split(_BATCH)):
        model(batch)
        for name, value in seen.items():
            if name not in files:
                shape = (len(images), *value.shape[1:])
                files[name] = np.memmap(folder / name, np.float32, "w+", shape=shape)
            files[name][k * _BATCH : k * _BATCH + len(value)] = value.numpy()
    for handle in handles:
        handle.remove()


def extract(
    model: nn.Module, images: Tensor, folder: Path, names: tuple[str, ...] = (*PATHS,)
) -> None:
    rows = lf.trace(model, images[:2], save=None).layers.loc[[*names]]
    lf.extract(model, images, to=folder / "a.zarr", save=rows, batch_size=_BATCH)


def quarter(model: nn.Module, images: Tensor, folder: Path) -> None:
    extract(model, images, folder, ("relu_1", "relu_5"))


def torchlens(model: nn.Module, images: Tensor, folder: Path) -> None:
    import torchlens

    torchlens.extract_dataset(
        model, images, _OF_TORCHLENS, _BATCH, output_dir=folder / "a", progress=False
    )


def report_extract(quick: bool) -> None:
    """ResNet-18, 1,024 images of 64 px, five layers, one thread: the best of three, interleaved."""
    from torchvision.models import resnet18

    contenders: list[Callable[[nn.Module, Tensor, Path], None]] = [bare, hooks, extract, quarter]
    if importlib.util.find_spec("torchlens"):
        contenders.append(torchlens)
    torch.manual_seed(0)
    model, images = resnet18().eval(), torch.randn(256 if quick else 1024, 3, 64, 64)
    best = dict.fromkeys(contenders, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(3):
            for run in contenders:
                folder = Path(tempfile.mkdtemp())
                start = process_time()
                run(model, images, folder)
                best[run] = min(best[run], process_time() - start)
                shutil.rmtree(folder)
    torch.set_num_threads(threads)
    print(
        f"\nextract: {len(images)} images through ResNet-18, CPU seconds over those of the forward"
    )
    for run, seconds in best.items():
        print(f"  {run.__name__:10} {seconds:7.2f} s  {seconds / best[bare]:5.2f}x")
