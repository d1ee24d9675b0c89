"""Every command of this project; each makes its own environment the first time it runs."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2"
# pip, not uv: pip takes the large torch wheel from a local folder where one is configured.
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

DIRECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
# Of torch the very release of the index, and no local build such as 2.13.0+cpu, with which the
# torchvision of the index does not load.
LOWEST = [r.replace(">=", "===" if r.startswith("torch>") else "==") for r in DIRECT]
_VERSIONS = "from importlib.metadata import version as v; print(v('torch'), v('torchvision'))"


def installed_torch() -> list[str]:
    """torch and torchvision as the Python that makes the environments has them, or nothing."""
    python = getattr(sys, "_base_executable", sys.executable)
    found = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True)
    lowest = next(Requirement(text) for text in DIRECT if text.startswith("torch>"))
    if found.returncode or found.stdout.split()[0] not in lowest.specifier:
        return []
    torch, torchvision = found.stdout.split()
    return [f"torch=={torch}", f"torchvision=={torchvision}"]


TORCH = installed_torch()


@nox.session(venv_params=["--system-site-packages"] if TORCH else [])
def demo(session: nox.Session) -> None:
    """Trace a ResNet-18 on two photographs: tables, files and pictures in demo/."""
    session.log(
        f"1 of 2: the environment, with the {' and '.join(TORCH)} of this machine"
        if TORCH
        else "1 of 2: the environment; torch is large, some minutes the first time"
    )
    # silent=False: pip says what it does
    session.install("-e", ".[demo]", *TORCH, silent=False)
    session.log("2 of 2: the model, its tables and pictures: less than a minute")
    session.run("python", "tutorials/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, the examples in docstrings and README included."""
    session.install("-e", ".[test]", silent=False)
    session.run("pytest", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """All tests with the lowest version of each direct dependency."""
    session.install("-e", ".[test]", *LOWEST, silent=False)
    session.run("pytest", *session.posargs)


@nox.session(python=["3.11", "3.13"])
def newest(session: nox.Session) -> None:
    """All tests with the newest version of everything, on the oldest and newest Python."""
    session.install("--upgrade", "--upgrade-strategy=eager", "-e", ".[test]", silent=False)
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting and types."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "--strict")


@nox.session
def docs(session: nox.Session) -> None:
    """The reference, from the docstrings: examples run, links checked; `-- offline`: own links."""
    session.install("-e", ".[docs]")
    folder = Path("build", "docs")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("tutorials/reference", folder / "source")
    more = () if "offline" in session.posargs else ("linkcheck",)
    for builder in ("html", "doctest", *more):
        session.log(f"sphinx: {builder}")
        session.run(
            "python", "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", builder,
            str(folder / "source"), str(folder / builder),
        )  # fmt: skip
    session.log(f"open {folder / 'html' / 'index.html'}")


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel and the source distribution, checked as a package index would; in dist/."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))


@nox.session
def bench(session: nox.Session) -> None:
    """Time and memory beside other tools: of tracing, or `-- gradients`, or `-- pictures`."""
    session.install("-e", ".[bench]")
    parts = {"gradients": "tests/bench_gradients.py", "pictures": "tests/bench_pictures.py"}
    script = parts.get("".join(session.posargs[:1]), "tests/bench.py")
    given = session.posargs[1:] if script != "tests/bench.py" else session.posargs
    session.run("python", script, *given)


@nox.session
def zoo(session: nox.Session) -> None:
    """Trace and validate models of torchvision, timm, transformers and many more; in zoo/."""
    session.install("-e", ".[zoo]")
    out = [] if "--out" in session.posargs else ["--out", "zoo/zoo.parquet"]
    session.run("python", "-W", "ignore", "tests/zoo", *out, *session.posargs)
