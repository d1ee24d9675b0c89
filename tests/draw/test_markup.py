"""What a column of the user's may put into a picture."""

import re
import subprocess

import graphviz
import pytest

import lensframe_pd as lf
from lensframe_pd.draw.markup import attribute, is_markup

from .drawn import PURE, rows

MARKUP = [
    "<<B>x</B>>", "<<table><tr><td>a</td><td>b</td></tr></table>>", "<a&nbsp;b>",
    "<<u>a<br/>b</u>>", "<<font color='red'>q</font>>", "<x<sub>1</sub>>", "<plain>",
    "<<b><table><tr><td>a</td></tr></table></b>>",
]  # fmt: skip
TEXT = [
    "x", "<B>x", "<", "<>", "< >", "<a & b>", "<x<table><tr><td>a</td></tr></table>>",
    "<<td>a</td>>", "<<b></b>>", "<<table></table>>", "<<hr/>>", "<<IMG SRC='/etc/passwd'/>>",
    "<<script>a</script>>",
    "<<table href='javascript:alert(1)'><tr><td>a</td></tr></table>>",
    "<<table><tr><td HREF='https://a.b'>a</td></tr></table>>", "<<b>x</i>>", "<a\x00b>", "<&bogus>",
    "\\N \\G", "a\\", '"; x [label="', "<!DOCTYPE x [<!ENTITY a 'b'>]>",
]  # fmt: skip


@pytest.mark.parametrize("words", [*MARKUP, *TEXT])
def test_a_label_is_markup_or_text_and_never_an_error(words):
    assert is_markup(words) == (words in MARKUP)
    graph = graphviz.Digraph()
    graph.node("a", label=attribute("label", words))
    done = subprocess.run([PURE, "-Tsvg"], input=graph.source.encode(), capture_output=True)
    assert done.returncode == 0
    assert b"rror" not in done.stderr
    assert b"<a " not in done.stdout


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://pytorch.org/docs", True), ("HTTP://a.b", True), ("mailto:a@b.c", True),
        ("javascript:alert(1)", False), ("JaVaScRiPt:alert(1)", False),
        (" javascript:alert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False), ("file:///etc/passwd", False),
        ("java\nscript:alert(1)", False), ("//a.b", False), ("x", False), ("", False),
        ("https://a.b\x01", False), ("vbscript:x", False), ("https://", False),
    ],
)  # fmt: skip
def test_an_address_is_a_page_or_mail(address, kept):
    frame = rows(("relu_1", "op", "2", "", (), (), ())).assign(page=address)
    source = frame.lens.draw(URL="page").source
    assert ("URL=" in source) == kept
    links = re.findall(r'xlink:href="([^"]*)"', frame.lens.draw(URL="page")._repr_svg_())
    assert links == [address] * kept


def test_a_title_with_markup_is_drawn():
    frame = rows(
        ("relu_1", "op", "2", "", (), (), ()), ("add_1", "op", "2", "", (), ("relu_1",), ())
    ).assign(title=["<<B>first</B>>", "<B>second"])
    svg = frame.lens.draw(label="title")._repr_svg_()
    assert 'font-weight="bold"' in svg
    assert "&lt;B&gt;second" in svg
    with pytest.raises(lf.LensKeyError, match="no node attribute 'href'"):
        frame.lens.draw(href="title")
