"""Every command of this project; each makes its own environment the first time it runs."""

import nox

nox.needs_version = ">=2025.2"
# pip, not uv: pip takes the large torch wheel from a local folder where one is configured.
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]


@nox.session
def demo(session: nox.Session) -> None:
    """Trace a ResNet-18 on two photographs: tables, files and pictures in demo/."""
    session.install("-e", ".[demo]")
    session.run("python", "tutorials/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, the examples in docstrings and README included."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting and types."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "--strict")


@nox.session
def bench(session: nox.Session) -> None:
    """Time and memory, beside other tracers."""
    session.install("-e", ".[bench]")
    session.run("python", "tests/bench.py", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """Trace and validate models of torchvision, timm, transformers and many more; in zoo/."""
    session.install("-e", ".[zoo]")
    out = [] if "--out" in session.posargs else ["--out", "zoo/zoo.parquet"]
    session.run("python", "-W", "ignore", "tests/zoo", *out, *session.posargs)
