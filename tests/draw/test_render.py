"""Text to picture, with whichever program is there."""

import html
import os
import re
from importlib import metadata

import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.draw.render import Drawing

from .drawn import PNG, PURE, rows


@pytest.fixture
def no_dot(monkeypatch, tmp_path):
    """A PATH without Graphviz."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def some_dot(monkeypatch, tmp_path):
    """A `dot` on PATH that notes how it was called and hands over to graphviz-pure."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "dot"
    script.write_text(f'#!/bin/sh\necho "$@" > "{folder}/called"\nexec "{PURE}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "called"


def test_pictures_without_graphviz(recurrent, no_dot, tmp_path):
    drawing = recurrent.lens.draw(tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(PNG)
    svg = drawing.save(tmp_path / "net.svg").read_text()
    assert svg.count('class="node"') == 10 + 1  # the legend
    assert svg.count('class="edge"') == 11
    assert 'id="linear_1:2"' in svg
    assert drawing._repr_svg_() == svg


def test_graphviz_on_path_goes_first(recurrent, some_dot, tmp_path):
    recurrent.lens.draw(str(tmp_path / "net.svg"))
    assert some_dot.read_text() == "-Tsvg\n"
    assert (tmp_path / "net.svg").read_text().count('class="node"') == 10 + 1


def test_pdf_needs_graphviz(recurrent, no_dot, tmp_path):
    with pytest.raises(lf.LensRuntimeError, match="nothing here can draw pdf: install Graphviz"):
        recurrent.lens.draw(tmp_path / "net.pdf")


def test_nothing_to_draw_with(recurrent, no_dot, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(lf.LensRuntimeError, match="pip install graphviz-pure"):
        recurrent.lens.draw()._repr_svg_()


def test_a_failing_program_is_quoted(no_dot):
    with pytest.raises(lf.LensRuntimeError, match="syntax error"):
        Drawing("digraph {").render("svg")


def test_text_files(recurrent, no_dot, tmp_path):
    for name in ("net.gv", "net.DOT"):
        drawing = recurrent.lens.draw(tmp_path / name)
        assert (tmp_path / name).read_text() == drawing.source


@pytest.mark.parametrize("name", ["net.bmp", "net"])
def test_unknown_suffix(recurrent, tmp_path, name):
    with pytest.raises(lf.LensValueError, match=r"suffix must be one of \.svg, \.png, \.pdf"):
        recurrent.lens.draw(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_pictures_can_be_read_on_a_dark_page(traced, tmp_path):
    svg = traced.lens.draw(tmp_path / "net.svg")._repr_svg_()
    assert "prefers-color-scheme: dark" in svg
    assert svg.count("<svg") == svg.count("</svg>") == 1


def chain(n):
    ops = [f"sin_{i}" for i in range(1, n + 1)]
    cells = [
        (op, "op", "1", f"b.{i // 50}", (f"b.{i // 50}:1",), (ops[i - 1],) if i else (), ())
        for i, op in enumerate(ops)
    ]
    return rows(*cells)


def test_too_many_rows_are_refused_at_once_with_advice(tmp_path):
    frame = chain(6000)
    drawing = frame.lens.draw()
    assert drawing.source.count("->") == 5999
    with pytest.raises(lf.LensValueError, match=r"collapse\(depth=1\) leaves 120"):
        drawing.save(tmp_path / "net.svg")


def test_three_thousand_rows_are_drawn(tmp_path):
    svg = chain(3000).lens.draw(tmp_path / "net.svg").render("svg")
    assert svg.count(b'class="node"') == 3000


def test_what_an_edge_says_of_its_end_stands_there():
    def forward(x):
        near = x.sin().cos().tan().sinh().cosh()
        return torch.where(x > 0, near, near * 2)

    svg = lf.trace(forward, torch.rand(3)).layers.lens.draw()._repr_svg_()

    def height(words):
        return float(re.search(rf'y="([-\d.]+)"[^>]*> *{words} *<', svg)[1])

    place = height("condition")
    assert abs(place - height("where_1")) < 45 < abs(place - height("gt_1"))
    loop = lf.trace(lambda x: [x := x.tanh() * 2 for _ in range(3)][-1], torch.rand(3)).layers
    assert "1-2 to 2-3" in html.unescape(loop.lens.roll().lens.draw()._repr_svg_())


def test_what_a_drawing_has_not():
    drawing = lf.trace(torch.exp, torch.ones(2)).layers.lens.draw()
    for name, words in {"show": "a notebook shows it by itself", "rendr": "it has save"}.items():
        with pytest.raises(lf.errors.LensAttributeError, match=words):
            getattr(drawing, name)
    assert not hasattr(drawing, "_repr_png_")
    for form in ("z.svg", "jpg", ""):
        with pytest.raises(lf.LensValueError, match=r"bytes of svg, png, pdf, .*\.save\(path\)"):
            drawing.render(form)
