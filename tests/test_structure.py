"""Imports go one way, top to bottom, so that the package can be read in that order."""

import ast
from pathlib import Path

import lensframe_pd

# A file may import those above it in its room, and those of the rooms above.
ROOMS = {
    "errors": "",
    "bars": "",
    "collector": "",
    "quantities": "",
    "cells": "",
    "schema": "",
    "labels": "",
    "files": "damage checksums places atomic steady names checked cells frames assembled packed "
    "arrow gathered stores netcdf blocks files",
    "tape": "targets functions domains dispatch silence switches codes contents objects storage "
    "regions tape alike compare context config facts places readings grouping parts openings cuts "
    "refinement edited passes rebuilt",
    "capture": "watch gradients given holding values roots attributes origins writes known lineage "
    "held handed callsites modules unseen fused selections plan sites likeness unreached "
    "edits recorder tracer iterators containers memory snapshot state process save named "
    "saving stimuli model hints inventory run placed",
    "tables": "stimuli order case pointwise reshape selection joining indexing writes aliases "
    "sequences space norms products reductions axes readers renames dims widths columns layers "
    "nonfinite tokens joins continued centres activations without gradients",
    "graph": "edges parameters contract roll periods outline runs collapse select renamed align "
    "apart wording compared diff",
    "replay": "call recording onward",
    "profile": "meta costs members profile memory summary chrome axes plots scatter repeats",
    "draw": "render markup style node links boxes columns dot page draw",
    "validation": "edited evidence verdicts invariants facts elsewhere witness metadata probes "
    "entries dependence determinism twice kept replayed resumed arranged followed "
    "retraced along ids orders descent chains alignment unshown validate",
    "patching": "sharing inputs apart outputs recomputed forwards patch",
    "rsa": "joined view ids tokens stores moments born repeated pooling features distances "
    "blockwise covariances tiles noise reported runs rdm stats cka references concordance "
    "comparisons whitened intervals ceilings measure matches score differences rdm_picture "
    "score_picture responses folds scaling ridge designs encode handoff",
    "glance": "",
    "signposts": "",
    "traced": "",
    "tracing": "",
    "extract": "concat data columns cast reduce batches source picked plan compare fingerprint "
    "given randomness first store chunks fill table resume progress extraction parts report "
    "extract",
    "accessor": "",
}
FOLDER = Path(lensframe_pd.__file__).parent
ORDER = [
    f"{room}.{name}" if name else room
    for room, names in ROOMS.items()
    for name in (names.split() if names else [""])
]


def name_of(path):
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


def imported(path):
    """Modules of this package that a file imports, as `room.name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        package, _, module = node.module.partition(".")
        if package == "lensframe_pd":
            whole = not module or (FOLDER / module).is_dir()
            prefix = f"{module}." if module else ""
            yield from (prefix + alias.name for alias in node.names) if whole else (module,)


def test_every_module_has_its_place():
    files = {name_of(path) for path in FOLDER.rglob("*.py") if path.stem != "__init__"}
    assert files == {*ORDER}


def test_imports_go_one_way():
    place = {name: k for k, name in enumerate(ORDER)}
    backwards = [
        (name, other)
        for name in ORDER
        for other in imported(FOLDER / f"{name.replace('.', '/')}.py")
        if place[other] >= place[name]
    ]
    assert backwards == []


def test_a_room_is_a_docstring():
    for path in FOLDER.glob("*/__init__.py"):
        (statement,) = ast.parse(path.read_text()).body
        assert isinstance(statement, ast.Expr), path


#: They take as long to import as all else, or are not there: only what needs one imports it.
HEAVY = frozenset(
    "dask distributed h5netcdf h5py himalaya matplotlib netCDF4 rsatoolbox scipy seaborn sklearn"
    " torchvision transformers zarr".split()
)


def test_nothing_heavy_is_imported_with_the_package():
    heavy = [
        (name, package)
        for name in ORDER
        for node in ast.parse((FOLDER / f"{name.replace('.', '/')}.py").read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for package in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if (package or "").partition(".")[0] in HEAVY
    ]
    assert heavy == []
