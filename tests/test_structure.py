"""Imports go one way, top to bottom, so that the package can be read in that order."""

import ast
from pathlib import Path

import lensframe_pd

# A module may import those above it; `__init__` and the verbs come last.
ORDER = """
errors functions schema storage tape environment config axes constants values recurrence modules
lineage dims frame activations tracer selection run compare rerun snapshot witness dependence
determinism verdicts invariants interference
repeats recorded resume replay validate trace roll graph collapse render style node draw
rebuild meta costs profile memory summary chrome plots roofline select
ids features distances rdm cka score atomic stored_names arrow stores handoff io concat
accessor __init__
""".split()
FOLDER = Path(lensframe_pd.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lensframe_pd":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lensframe_pd."):
            yield node.module.removeprefix("lensframe_pd.")


def test_every_module_has_its_place():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(ORDER)


def test_imports_go_one_way():
    backwards = [
        (name, other)
        for place, name in enumerate(ORDER)
        for other in imported(FOLDER / f"{name}.py")
        if other in ORDER and ORDER.index(other) >= place
    ]
    assert backwards == []
