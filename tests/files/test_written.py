"""Each verb that writes a file says what to do where it cannot, and leaves what was there."""

import os
from pathlib import Path

import pytest
import torch

import lensframe_pd as lf

PICTURES = [".svg", ".png", ".gv", ".dot", ".html"]


def writers():
    """What writes one file, by a name that says what."""
    found = {f"draw {suffix}": (suffix, lambda t, p: t.layers.lens.draw(p)) for suffix in PICTURES}
    return found | {
        "save .svg": (".svg", lambda t, p: t.layers.lens.draw().save(p)),
        "chrome_trace": (".json", lambda t, p: t.layers.lens.chrome_trace(p)),
        "to_assembly": (".nc", lambda t, p: t.activations.lens.to_assembly("linear_1", path=p)),
        "write layers": (".parquet", lambda t, p: lf.write(t.layers, p)),
        "write activations": (".nc", lambda t, p: lf.write(t.activations, p)),
    }


WRITERS = writers()
each_writer = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(scope="module")
def traced():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval()
    return lf.trace(model, torch.ones(4, 3), stimulus=list("abcd"))


@each_writer
def test_a_missing_folder(name, traced, tmp_path):
    suffix, write = WRITERS[name]
    for missing in (tmp_path / "no" / "such", tmp_path / "a_file"):
        (tmp_path / "a_file").touch()
        with pytest.raises(
            lf.LensError, match=r"there is no folder .*mkdir\(parents=True\)"
        ) as info:
            write(traced, missing / f"x{suffix}")
        assert isinstance(info.value, OSError)
    assert os.listdir(tmp_path) == ["a_file"]


@each_writer
def test_a_folder_of_that_name(name, traced, tmp_path):
    suffix, write = WRITERS[name]
    (tmp_path / f"x{suffix}").mkdir()
    with pytest.raises(lf.LensError, match="no file"):
        write(traced, tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == [f"x{suffix}"]


@each_writer
def test_what_is_no_path(name, traced, tmp_path):
    suffix, write = WRITERS[name]
    with open(tmp_path / f"x{suffix}", "wb") as opened:
        for given in (3, opened, b"x.svg"):
            with pytest.raises(lf.LensTypeError, match=r"no path to write to; give a str"):
                write(traced, given)


@each_writer
def test_what_was_there_stays_where_writing_fails(name, traced, tmp_path, monkeypatch):
    suffix, write = WRITERS[name]
    target = tmp_path / f"x{suffix}"
    target.write_bytes(b"before")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(lf.LensError, match=r"was not written.*is full"):
        write(traced, target)
    assert target.read_bytes() == b"before"
    monkeypatch.undo()
    write(traced, str(target))
    assert target.read_bytes() != b"before"
    assert os.listdir(tmp_path) == [target.name]


@each_writer
def test_a_link_is_written_through(name, traced, tmp_path):
    suffix, write = WRITERS[name]
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / f"x{suffix}"
    link.symlink_to(Path("..", "real"))
    write(traced, link)
    assert link.is_symlink()
    assert (tmp_path / "real").stat().st_size > 0


def test_a_suffix_of_no_picture_is_refused_before_anything_is_laid_out(traced, tmp_path):
    for name in ("x.jpg", "x", "x.svg.gz"):
        with pytest.raises(lf.LensValueError, match=r"its suffix must be one of \.svg"):
            traced.layers.lens.draw(tmp_path / name)
    assert os.listdir(tmp_path) == []
