"""Pictures and pages of models beside those of TorchLens, torchview and torchvista.

Run as `python tests/bench_pictures.py [--only PART ...] [--to FOLDER] [--limit SECONDS]`. Each tool
draws each model in a process of its own: boxes, height to width, size of the file, seconds without
those of the import. What is not installed is left out. With `--to` the files stay, to be looked at.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

Model = tuple[nn.Module, dict[str, Any]]

# ------------------------------------------------------------------ models


def vision(name: str) -> Model:
    import torchvision

    return getattr(torchvision.models, name)(), {"x": torch.rand(1, 3, 224, 224)}


def bert() -> Model:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=96, intermediate_size=192, num_attention_heads=4, vocab_size=500
    )
    return BertModel(config), {"input_ids": torch.arange(6)[None]}


def llama() -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, num_hidden_layers=12,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.arange(6)[None]}


def whisper() -> Model:
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=64, encoder_layers=6, decoder_layers=6, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=300,
        max_source_positions=50, num_mel_bins=20, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    words = torch.ones(1, 3, dtype=torch.long)
    return Hears(WhisperModel(config)), {"sound": torch.rand(1, 20, 100), "words": words}


class Hears(nn.Module):
    """Whisper by position, for tools that give no names to inputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, sound: Tensor, words: Tensor) -> Tensor:
        return self.model(input_features=sound, decoder_input_ids=words).last_hidden_state


class Generates(nn.Module):
    """`generate` as a forward, for tools that take modules only."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.generate(input_ids, max_new_tokens=20, min_new_tokens=20, do_sample=False)


class Twice(nn.Sequential):
    def __init__(self, ins: int, outs: int) -> None:
        norms = [nn.BatchNorm2d(outs), nn.ReLU()]
        convolutions = [nn.Conv2d(ins, outs, 3, padding=1), nn.Conv2d(outs, outs, 3, padding=1)]
        super().__init__(convolutions[0], *norms, convolutions[1], nn.BatchNorm2d(outs), nn.ReLU())


class Up(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.up, self.body = nn.ConvTranspose2d(ins, outs, 2, 2), Twice(2 * outs, outs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.body(torch.cat([skip, self.up(x)], 1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [16 * 2**level for level in range(5)]
        self.first = Twice(3, 16)
        self.downs = nn.ModuleList(
            [nn.Sequential(nn.MaxPool2d(2), Twice(n, 2 * n)) for n in widths[:-1]]
        )
        self.ups = nn.ModuleList([Up(2 * n, n) for n in widths[-2::-1]])
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for down in self.downs:
            found.append(down(found[-1]))
        y = found.pop()
        for up in self.ups:
            y = up(y, found.pop())
        return self.last(y)


MODELS: dict[str, Callable[[], Model]] = {
    "ResNet-50": lambda: vision("resnet50"),
    "swin_t": lambda: vision("swin_t"),
    "maxvit_t": lambda: vision("maxvit_t"),
    "BERT, 12 layers": bert,
    "Llama, 12 layers": llama,
    "Whisper": whisper,
    "generate, 20 tokens": lambda: (Generates(llama()[0]), {"input_ids": torch.arange(1, 6)[None]}),
    "U-Net": lambda: (UNet(), {"x": torch.rand(1, 3, 64, 64)}),
}

# ------------------------------------------------------------------ tools


def depth_of(model: nn.Module) -> int:
    """How deep modules lie: a page that folds to this depth holds as much as one of ours."""
    return max(name.count(".") + 1 for name, _ in model.named_modules() if name)


def lens_picture(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    import lensframe_pd as lf

    layers = lf.trace(model, inputs, save=None).layers
    layers.lens.collapse("auto").lens.draw(file.with_suffix(".svg"))


def lens_page(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    import lensframe_pd as lf

    lf.trace(model, inputs, save=None).layers.lens.draw(file.with_suffix(".html"))


def torchlens_trace(model: nn.Module, inputs: dict[str, Any]) -> Any:
    import torchlens as tl

    return tl.trace(model, [*inputs.values()], save=None)


def torchlens_picture(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    torchlens_trace(model, inputs).draw(
        collapse="auto", vis_outpath=str(file), vis_fileformat="svg", vis_save_only=True
    )


def torchlens_page(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    import torchlens as tl

    tl.export.html(torchlens_trace(model, inputs), file.with_suffix(".html"))


def torchview_picture(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    from torchview import draw_graph

    graph = draw_graph(model, input_data=inputs, device="cpu").visual_graph
    file.with_suffix(".svg").write_bytes(graph.pipe("svg"))


def torchvista_page(model: nn.Module, inputs: dict[str, Any], file: Path) -> None:
    from torchvista import trace_model

    trace_model(
        model, tuple(inputs.values()),
        collapse_modules_after_depth=depth_of(model), export_format="html",
        export_path=str(file.with_suffix(".html")),
    )  # fmt: skip


TOOLS: dict[str, tuple[str, Callable[[nn.Module, dict[str, Any], Path], None]]] = {
    "collapse('auto').draw": ("lensframe_pd", lens_picture),
    "TorchLens draw": ("torchlens", torchlens_picture),
    "torchview": ("torchview", torchview_picture),
    "draw('net.html')": ("lensframe_pd", lens_page),
    "TorchLens export.html": ("torchlens", torchlens_page),
    "torchvista": ("torchvista", torchvista_page),
}


def drawn(tool: str, name: str, folder: Path) -> dict[str, Any]:
    """What one tool makes of one model."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    package, draw = TOOLS[tool]
    importlib.import_module(package)
    file = folder / re.sub(r"\W+", "_", f"{name} {tool}")
    start = perf_counter()
    with torch.no_grad():
        draw(model.eval(), inputs, file)
    seconds = perf_counter() - start
    (written,) = [p for p in folder.glob(f"{file.name}.*") if p.suffix in (".svg", ".html")]
    found: dict[str, Any] = {"seconds": seconds, "bytes": written.stat().st_size}
    size = re.search(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"', written.read_text())
    if written.suffix == ".svg" and size:
        boxes = re.findall(r'class="node">\s*<title>([^<]*)', written.read_text())
        found["boxes"] = sum(title != "legend" for title in boxes)
        found["ratio"] = float(size[2]) / float(size[1])
    return found


def report(tool: str, name: str, folder: Path, limit: float) -> None:
    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, name, "--to", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        found = json.loads(done.stdout.strip().splitlines()[-1]) if not done.returncode else {}
        failed = done.stderr.strip().splitlines()[-1:]
    except subprocess.TimeoutExpired:
        found, failed = {}, [f"more than {limit:.0f} s"]
    if not found:
        print(f"{name:22}{tool:24}  {' '.join(failed)[:120]}", flush=True)
        return
    shape = f"{found['ratio']:>8.2f}" if "ratio" in found else f"{'':8}"
    print(f"{name:22}{tool:24}{found.get('boxes', ''):>7}{shape}{found['bytes'] / 1e3:>10.0f}"
          f"{found['seconds']:>9.1f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="PART", help="models with this in their name")
    parser.add_argument("--to", metavar="FOLDER", help="where the files stay")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one (default 300)")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(drawn(*options.one, Path(options.to))))
        return
    tools = {t: package for t, (package, _) in TOOLS.items() if importlib.util.find_spec(package)}
    missing = {package for package, _ in TOOLS.values()} - {*tools.values()}
    if missing:
        print(f"not installed, so left out: {', '.join(sorted(missing))}")
    print(f"{'':46}{'boxes':>7}{'h / w':>8}{'kB':>10}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.to or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in MODELS:
            if any(part in name for part in options.only or [""]):
                for tool in tools:
                    report(tool, name, folder, options.limit)


if __name__ == "__main__":
    main()
