"""Damaged and forged files: refused by an error that names the file, and nothing else is opened."""

import json
import os
import random
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from stored import FORMATS, SOME, everything, same

import lensframe_pd as lf
from lensframe_pd.files import checked, checksums, packed
from lensframe_pd.files.files import read, write

FRAMES = ["l.parquet", "l.feather", "l.arrow"]
TRACES = [f"trace_{format}" for format in FORMATS]
PACKED = "packed.arrows"
DATASETS = [*(f"x{suffix}" for suffix in FORMATS.values()), PACKED]


@pytest.fixture(scope="module")
def dataset():
    return everything(["a", "bb", "c"], SOME)


@pytest.fixture
def written(trace, dataset, tmp_path, monkeypatch):
    """Writes what a name stands for; gives where it is and how what is read is compared."""

    def of(name):
        monkeypatch.setattr(packed, "_MANY", 0 if name == PACKED else 256)
        target = tmp_path / name
        if name in FRAMES:
            return write(trace.layers, target), lambda found: compare(found, trace.layers)
        if name in DATASETS:
            return write(dataset, target), lambda found: same(found.load(), dataset)
        write(trace, target, name.removeprefix("trace_"))

        def both(found):
            compare(found[0], trace.layers)
            same(found[1].load(), trace.activations)

        return target, both

    return of


def compare(found, layers):
    pd.testing.assert_frame_equal(found, layers)
    assert found.attrs == layers.attrs


def close(found):
    """HDF5 would show a file that is still open from its memory."""
    if isinstance(found, tuple):
        found.activations.close()
    elif isinstance(found, xr.Dataset):
        found.close()


def files_of(path):
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


@pytest.mark.parametrize("name", [*FRAMES, *DATASETS, *TRACES])
def test_a_flipped_bit_is_refused_or_changes_nothing(name, written):
    target, check = written(name)
    rng = random.Random(name)
    files = [file for file in files_of(target) if file.stat().st_size]
    messages = []
    for k in range(24):
        # By turns in any file, and in any byte: metadata has many files, values most bytes.
        weights = [1 if k % 2 else file.stat().st_size for file in files]
        (file,) = rng.choices(files, weights)
        bit = rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        try:
            found = read(target)
        except lf.LensValueError as error:
            messages.append(str(error))
        else:
            check(found)
            close(found)
        flip(file, bit)
    check(read(target))
    assert len(messages) > 4
    assert [text for text in messages if str(target) not in text] == []


@pytest.mark.parametrize("name", [*FRAMES, *DATASETS, *TRACES])
def test_other_damage_is_refused(name, written):
    """Every file cut, lengthened, emptied, zeroed in its middle, made another's, and gone."""
    target, check = written(name)
    # The metadata of all arrays is in that of the root; their own are for other readers.
    files = [f for f in files_of(target) if f.name != "zarr.json"]
    chosen = random.Random(name).sample(files, min(len(files), 8))
    if target.is_dir():
        roots = target.rglob("lensframe.json") if name != "x.zarr" else [target / "zarr.json"]
        chosen += roots
    for file in chosen:
        data = file.read_bytes()
        half = len(data) // 2
        damages = {
            "cut": data[:half],
            "empty": b"",
            "zeroed": data[: half // 2] + bytes(half) + data[half // 2 + half :],
            "text": b"hello",
            "nested": b'{"a":' * 5000 + b"1" + b"}" * 5000,
            "nested lists": b"[" * 100_000,
        }
        for kind, raw in damages.items():
            if raw == data:
                continue
            file.write_bytes(raw)
            with pytest.raises(lf.LensValueError) as caught:
                check(read(target))
            assert str(target) in str(caught.value), (kind, file)
        file.unlink()
        with pytest.raises(lf.LensValueError):
            check(read(target))
        file.write_bytes(data)
    found = read(target)
    check(found)
    close(found)


def test_what_stands_in_two_places_is_not_exchanged(dataset, tmp_path):
    """Files of one store that are whole, under each other's names."""
    for name, pattern in (("x.arrows", "a-b_*.arrow"), ("x.zarr", "a-b_*")):
        folder = write(dataset, tmp_path / name)
        one, other = sorted(folder.glob(pattern))[:2]
        os.rename(one, folder / "kept")
        os.rename(other, one)
        os.rename(folder / "kept", other)
        with pytest.raises(lf.LensValueError):
            read(folder).load()


def test_files_of_another_write_are_refused(trace, tmp_path):
    """All whole, of one model, and not of one write."""
    for format in FORMATS:
        folder = write(trace, tmp_path / f"a_{format}", format)
        again = write(trace, tmp_path / f"b_{format}", format)
        for entry in os.listdir(folder):
            if entry == "lensframe.json":
                continue
            os.rename(folder / entry, tmp_path / "kept")
            (shutil.copytree if (again / entry).is_dir() else shutil.copy)(
                again / entry, folder / entry
            )
            with pytest.raises(lf.LensValueError, match="of another write"):
                read(folder)
            shutil.rmtree(folder / entry) if (folder / entry).is_dir() else os.unlink(
                folder / entry
            )
            os.rename(tmp_path / "kept", folder / entry)
        read(folder)


def forge(folder, change):
    """Change what a folder says of itself, with a checksum that fits."""
    file = folder / "lensframe.json"
    content = json.loads(file.read_text())
    del content["checksum"]
    change(content)
    content["checksum"] = checksums.of_facts(content)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def audited():
    """Every path that Python opens, while the second is true.

    There is no way to remove a hook, and torch's own calls and a tracer's raise many events: so
    one for all tests here, that does nothing in a hurry.
    """
    paths, on = [], [False]

    def hook(event, args):
        if on[0] and event in ("open", "os.scandir", "os.listdir"):
            paths.append(str(args[0]))

    sys.addaudithook(hook)
    return paths, on


@pytest.fixture
def opened(audited):
    """Every path that Python opens in a test."""
    paths, on = audited
    paths.clear()
    on[0] = True
    yield paths
    on[0] = False


OUT = ["/etc/passwd", "../secret.arrow", "..", ".", "", "a/../../secret.arrow", "C:\\x", "x\0", 3,
       None, ["secret.arrow"]]  # fmt: skip


@pytest.mark.parametrize("out", OUT)
def test_no_path_leads_out_of_a_folder(out, trace, tmp_path, opened):
    outside = write(trace.activations, tmp_path / "other.arrows")
    shutil.copy(next(outside.glob("cat*.arrow")), tmp_path / "secret.arrow")

    def variables(content):
        content["variables"]["cat_1:2"] = out

    def coordinates(content):
        content["coordinates"][0]["file"] = out

    def activations(content):
        content["activations"] = out

    changes = {variables: "x.arrows", coordinates: "x.arrows", activations: "trace"}
    for change, name in changes.items():
        folder = write(trace if name == "trace" else trace.activations, tmp_path / name)
        forge(folder, change)
        opened.clear()
        with pytest.raises(lf.LensValueError, match=str(folder)):
            read(folder)
        assert [p for p in opened if "secret" in p or "passwd" in p] == []


@pytest.mark.parametrize("name", [*DATASETS[1:], *TRACES])
def test_no_link_leads_out_of_a_folder(name, written, tmp_path, opened):
    (tmp_path / "outside").mkdir()
    target, check = written(name)
    if target.is_file():
        return
    for k, entry in enumerate(sorted(target.rglob("*"))):
        away = tmp_path / "outside" / f"secret_{k}"
        os.rename(entry, away)
        entry.symlink_to(away)
        opened.clear()
        with pytest.raises(lf.LensValueError, match="leads out of"):
            read(target)
        assert [p for p in opened if "secret" in p] == []
        entry.unlink()
        os.rename(away, entry)
        if k > 25:
            break
    if "zarr" in name:
        return  # one file more is damage there
    within = next(file for file in files_of(target) if file.suffix != ".json")
    os.rename(within, within.with_name("moved"))
    within.symlink_to("moved")
    check(read(target))


def test_no_pipe_is_waited_for(trace, tmp_path):
    folder = write(trace, tmp_path / "trace")
    file = next(folder.rglob("cat*.arrow"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(lf.LensValueError, match="neither a file nor a folder"):
        read(folder)


def test_netcdf_opens_no_other_file(dataset, tmp_path):
    h5py = pytest.importorskip("h5py")
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones(3)
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource(other, "x", shape=(3,))
    links = {
        "link": lambda f: f.__setitem__("relu_9", h5py.ExternalLink(str(other), "x")),
        "soft link": lambda f: f.__setitem__("relu_9", h5py.SoftLink("/T_1")),
        "storage": lambda f: f.create_dataset("relu_9", (3,), "f8", external=str(other)),
        "virtual": lambda f: f.create_virtual_dataset("relu_9", layout),
        "group": lambda f: f.create_group("relu_9"),
    }
    for change in links.values():
        path = write(dataset, tmp_path / "x.nc")
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(lf.LensValueError, match=r"x\.nc.*relu_9"):
            read(path)


@pytest.mark.parametrize("key", ["../secret", "/etc", "a/b", "..", "https://host/x", "s3::x"])
def test_zarr_opens_no_other_store(key, dataset, tmp_path, opened):
    path = write(dataset, tmp_path / "x.zarr")
    shutil.copytree(path / "T_1", tmp_path / "secret")
    metadata = json.loads((path / "zarr.json").read_text())
    entries = metadata["consolidated_metadata"]["metadata"]
    entries[key] = entries.pop("T_1")
    (path / "zarr.json").write_text(json.dumps(metadata))
    opened.clear()
    with pytest.raises(lf.LensValueError, match=r"x\.zarr"):
        read(path).load()
    assert [p for p in opened if "secret" in p] == []


def test_a_store_says_more_than_it_holds(dataset, tmp_path):
    """A shape that would fill the memory: the files are not that large."""
    path = write(dataset, tmp_path / "x.zarr")
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"shape": [\n', '"shape": [\n 1000000000000,\n'))
    with pytest.raises(lf.LensValueError):
        read(path).load()
    folder = write(dataset, tmp_path / "x.arrows")
    file = folder / "T_1.arrow"
    table = pa.ipc.open_file(file).read_all()
    facts = json.loads(table.schema.metadata[b"lensframe"])
    del facts["checksum"]
    facts["shape"] = [10**13]
    facts["checksum"] = checksums.of_facts(facts)
    table = table.replace_schema_metadata({b"lensframe": json.dumps(facts)})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(lf.LensValueError, match=r"T_1\.arrow|x\.arrows"):
        read(folder).load()


@pytest.mark.parametrize("chunks", [None, "auto"])
@pytest.mark.parametrize("suffix", FORMATS.values())
def test_a_large_store_is_checked_when_it_is_used(suffix, chunks, dataset, tmp_path, monkeypatch):
    """Opening reads no values; each array is checked once, before its first value is given."""
    monkeypatch.setattr(checked, "AT_ONCE_BYTES", 0)
    path = write(dataset, tmp_path / f"x{suffix}")
    seen = []
    real = checked.Checked._compare
    monkeypatch.setattr(
        checked.Checked, "_compare", lambda self, *args: (seen.append(self), real(self, *args))
    )
    with read(path, chunks=chunks) as found:
        assert seen == []
        for _ in range(2):
            np.testing.assert_array_equal(found["a.b_3:1"][1:2], dataset["a.b_3:1"][1:2])
        assert len(seen) == 1
        same(found.load(), dataset)
        assert len({*map(id, seen)}) == len(seen) == len(dataset.data_vars)
    damage = max(files_of(path), key=lambda file: file.stat().st_size)
    if suffix != ".nc":
        flip(damage, 4 * damage.stat().st_size)
        with pytest.raises(lf.LensValueError, match=str(tmp_path)):
            read(path, chunks=chunks).load()


def test_lazy_values_are_checked_as_they_are_stored(dataset, tmp_path):
    """What is computed anew at each look is not compared with another computation of it."""
    calls = []

    def once(block):
        calls.append(1)
        return block + len(calls)

    lazy = dataset[["a.b_1:1"]].chunk({"stimulus": 2}).map(lambda v: v.copy())
    lazy["a.b_1:1"].data = lazy["a.b_1:1"].data.map_blocks(once, meta=np.zeros((0, 0), np.float32))
    for suffix in FORMATS.values():
        with read(write(lazy, tmp_path / f"x{suffix}")) as found:
            assert isinstance(found.load(), xr.Dataset)
