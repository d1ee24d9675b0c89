"""The page: opened from disk in a browser, with real clicks and keys, and no network."""

import base64
import gzip
import hashlib
import json
import os
import re

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.draw.boxes import boxes_of
from lensframe_pd.draw.node import nodes_of
from lensframe_pd.draw.page import classic, module_table

from .browser import Browser, program


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return x + self.act(self.fc(x)) * 2


class Net(nn.Module):
    """Two stages of blocks, one of them in a module that holds nothing else."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.stage = nn.Sequential(Block(), Block())
        self.wrapped = nn.Sequential(nn.Sequential(Block(), nn.Linear(4, 5)))

    def forward(self, x):
        return self.wrapped(self.stage(self.stem(x))).mean()


HOSTILE = [
    "<script>window.ran=1</script>", "<img src=x onerror=window.ran=1>",
    "</script><script>window.ran=1", "</style><svg onload=window.ran=1>",
    "' onclick='window.ran=1", '" onmouseover="window.ran=1', "javascript:window.ran=1",
    "{{DATA}}", "{{CODE}}", "<!--", "-->", "]]>", "&lt;b&gt;", "&amp;quot;", "\\N", "\\", 'a"b',
    "a'b", "a\nb", "a\tb", "a\x00b", "a\u2028b", "\ud800", "\u202eevil", "cluster_0", "n0", "m0",
    "__proto__", "constructor", "<B>x", "<<B>x</B>>", "%s{}$&`${window.ran=1}`", "日本語",
    "x" * 300, "graph", "]; } digraph {", "a/b", "a,b", "a:2", "https://example.com/x",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if program() is None:
        assert not os.environ.get("CI"), "no Chromium here, and on CI there must be one"
        pytest.skip("no Chromium on PATH")
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def layers():
    return lf.trace(Net().eval(), torch.rand(2, 3)).layers


@pytest.fixture(scope="module")
def site(layers, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "net.html"
    layers.lens.draw(path)
    return path


def data_of(html):
    packed = re.search(r'id="data">([^<]*)<', html)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def shown(browser):
    """Labels of the boxes, in bold on them."""
    return browser.js(
        "[...document.querySelectorAll('#view g.node')].map(g => "
        "[...g.querySelectorAll('text[font-weight=bold]')].map(t => t.textContent).join(''))"
    )


def box(data, path):
    (number,) = [k for k, b in enumerate(data["boxes"]) if b["facts"]["module"] == path]
    return f"#m{number}"


def quiet(browser):
    assert set(browser.requests()) <= {"file", "blob", "about"}
    assert browser.complaints() == []


def test_the_file_is_whole(site):
    html = site.read_text()
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'wasm-unsafe-eval'" in html
    assert "default-src 'none'" in html
    assert html.count("<script") == 3
    assert "<svg" in html  # what is seen without JavaScript
    assert "<td>wrapped.0</td>" in html
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)


def test_what_a_module_took_is_what_collapse_says(layers, site):
    data = data_of(site.read_text())
    sums = {b["facts"]["module"]: b["sums"] for b in data["boxes"]}
    for depth in (1, 2):
        rows = layers.lens.collapse(depth=depth)
        for path in {*rows.index} & {*sums}:
            assert sums[path]["n_params"] == rows.loc[path, "n_params"]
            assert sums[path]["seconds"] == pytest.approx(rows.loc[path, "seconds"])
            inside = layers["module_stack"].map(lambda s, p=path: f"{p}:1" in s)
            assert sums[path]["numel"] == layers.loc[inside, "numel"].sum()


@pytest.mark.browser
def test_opening_and_shutting_with_the_mouse(browser, layers, site, tmp_path):
    data = data_of(site.read_text())
    browser.open(site)
    quiet(browser)
    start = shown(browser)
    assert "stage" not in start  # it holds two blocks that repeat: open, they are shut
    assert {"stage.0", "stage.1"} <= {*start}
    block = box(data, "stage.1")
    x, y, *_ = browser.place(f"{block} text")
    browser.settled(lambda: browser.click(block))
    assert "stage.1" not in shown(browser)
    assert len(shown(browser)) == len(start) - 1 + 4
    after = browser.place(f"{block} text")  # the heading of what was opened
    assert after[:2] == pytest.approx([x, y], abs=2)
    left, top = browser.js(
        f"(() => {{ const b = document.querySelector('{block} > a > path, {block} > path, "
        f"{block} path').getBoundingClientRect(); return [b.left + 3, b.top + b.height / 2] }})()"
    )
    browser.click_at(left, top)  # where it is empty: told, not shut
    assert browser.js("document.querySelector('#row h2').textContent") == "stage.1"
    assert len(shown(browser)) == len(start) + 3
    browser.settled(lambda: browser.click(f"{block} text"))
    assert shown(browser) == start
    browser.settled(lambda: browser.js("history.back()"))
    assert len(shown(browser)) == len(start) + 3
    browser.settled(lambda: browser.js("history.forward()"))
    assert shown(browser) == start
    browser.picture(tmp_path / "net.png")
    quiet(browser)


@pytest.mark.browser
def test_every_depth_has_the_boxes_of_collapse(browser, layers, site):
    browser.open(site)
    for depth in (1, 2, 3):
        browser.settled(
            lambda d=depth: browser.js(
                f"(() => {{ const s = document.getElementById('depth'); s.value = '{d}'; "
                "s.dispatchEvent(new Event('change')) })()"
            )
        )
        rows = layers.lens.collapse(depth=depth)
        assert len(shown(browser)) == len(rows)
        assert browser.js("document.querySelectorAll('#view g.edge').length") == sum(
            len({*p}) for p in rows["parents"]
        )
    assert browser.js("document.getElementById('n').textContent") == f"{len(rows)} boxes"
    quiet(browser)


@pytest.mark.browser
def test_a_newer_fold_ends_the_older(browser, layers, site):
    browser.open(site)
    browser.js(
        "(() => { const s = document.getElementById('depth'); for (const d of ['3', '2', '1']) "
        "{ s.value = d; s.dispatchEvent(new Event('change')) } })()"
    )
    browser.until(lambda: len(shown(browser)) == len(layers.lens.collapse(depth=1)))
    browser.settled(lambda: browser.click(f"{box(data_of(site.read_text()), 'stage')} text"))
    assert {"stage.0", "stage.1"} <= {*shown(browser)}
    quiet(browser)


@pytest.mark.browser
def test_searching_telling_colouring_and_the_keyboard(browser, layers, site):
    browser.open(site)
    browser.press("/", "/")
    browser.write("stage.1")
    assert browser.js("document.getElementById('found').textContent") == "4 rows"
    browser.settled(lambda: browser.press("Enter"))
    told = browser.js("document.getElementById('row').textContent")
    assert "linear_3" in told
    assert "stage.1.fc.weight" in told
    browser.js(
        "(() => { const s = document.getElementById('color'); "
        "s.value = [...s.options].find(o => o.text === 'seconds').value; "
        "s.dispatchEvent(new Event('change')) })()"
    )
    ends = browser.js("document.getElementById('key').textContent")
    assert re.search(r"\d (m|µ|n)?s", ends), ends
    assert "no value" in ends  # of what no call made
    fill = browser.js(
        "[...document.querySelectorAll('#view g.node')].filter(g => "
        "g.textContent.includes('input_1'))[0].querySelector('path').style.fill"
    )
    assert fill == "rgb(240, 242, 244)"
    browser.press("Escape")
    first = browser.js("document.querySelector('#view .on')?.id")
    browser.press("ArrowDown")
    assert browser.js("document.querySelector('#view .on')?.id") != first
    quiet(browser)


@pytest.mark.browser
def test_hostile_names(browser, tmp_path):
    model = nn.Sequential()
    for i, name in enumerate(HOSTILE):
        inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        name = name.replace("\ud800", "surrogate")  # no text of Arrow's: frames cannot hold it
        inner.__class__ = type(name.replace("\x00", ""), (nn.Sequential,), {})
        model.add_module(name.replace(".", "") + (f"#{i}" if i % 2 else ""), inner)
    layers = lf.trace(model.eval(), torch.ones(1, 4), save=None).layers
    words = (HOSTILE * 9)[: len(layers)]
    cells = pd.Series(words, index=layers.index, dtype=object)
    layers = layers.assign(**{"<b>column</b>": cells, "where": cells, "title": cells})
    path = tmp_path / "hostile.html"
    layers.lens.draw(path, URL="where", label="title", color="title")
    browser.open(path)
    browser.settled(
        lambda: browser.js(
            "(() => { const s = document.getElementById('depth'); s.value = '2'; "
            "s.dispatchEvent(new Event('change')) })()"
        )
    )
    assert browser.js("document.querySelectorAll('#view g.node').length") == len(layers)
    for k in range(0, len(layers), 7):
        browser.js(
            f"document.querySelector('#view #n{k} text')"
            ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        )
    links = browser.js(
        "[...document.querySelectorAll('a')].map(a => a.getAttribute('xlink:href') ?? "
        "a.getAttribute('href'))"
    )
    assert {*links} <= {"https://example.com/x", None, ""}
    assert browser.js("window.ran") is None
    assert browser.js("document.querySelectorAll('script').length") == 3
    quiet(browser)


@pytest.mark.browser
def test_a_notebook_shows_it_in_a_frame(browser, layers, tmp_path):
    frame = layers.lens.draw().page()._repr_html_()
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset='utf-8'>{frame}")
    browser.open(path, until="document.querySelector('iframe')?.contentWindow?.ready")
    inside = "document.querySelector('iframe').contentWindow"
    n = browser.js(f"{inside}.lensframe.count()")
    browser.js(f"{inside}.document.querySelector('#view g.node[id^=m] text').dispatchEvent("
               "new MouseEvent('click', {bubbles: true}))")  # fmt: skip
    browser.until(lambda: browser.js(f"{inside}.lensframe.count()") > n)
    assert browser.complaints() == []


@pytest.mark.browser
def test_a_rolled_loop_and_a_wall_of_boxes(browser, tmp_path, traced):
    traced.lens.roll().lens.draw(tmp_path / "loop.html")
    browser.open(tmp_path / "loop.html")
    assert browser.js("document.querySelectorAll('#view g.edge path[stroke=\"#d55e00\"]').length")
    quiet(browser)

    def wall(x):
        for _ in range(1600):
            x = x.sin()
        return x

    lf.trace(wall, torch.ones(1), save=None).layers.lens.draw(tmp_path / "wall.html")
    browser.open(tmp_path / "wall.html")
    assert "1602 boxes" in browser.js("document.getElementById('say').textContent")
    quiet(browser)


def test_a_page_of_rows_by_hand(recurrent):
    html = recurrent.lens.draw().page().html
    assert data_of(html)["labels"] == list(recurrent.index)


def test_equal_frames_are_equal_pages(layers):
    assert layers.lens.draw().page().html == layers.lens.draw().page().html


def test_the_page_that_a_file_has_is_that_of_the_drawing(layers, site):
    assert site.read_text() == layers.lens.draw().page().html


def test_odd_cells_are_told():
    layers = lf.trace(nn.ReLU().eval(), torch.ones(2)).layers.assign(
        a=[{"x": [1]}, None, float("inf")], b=pd.array([1, None, 3], "Int64"), c=[[1, 2], (), "x"],
        d=pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
    )  # fmt: skip
    columns = {c["name"]: c["cells"] for c in data_of(layers.lens.draw().page().html)["columns"]}
    assert columns["a"] == ["{'x': [1]}", None, "inf"]
    assert columns["b"] == [1, None, 3]
    assert columns["c"] == ["1, 2", "", "x"]
    assert columns["d"][1] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.reset_index(), lambda f: f.lens.roll(), lambda f: f.lens.collapse("auto"),
        lambda f: f.query("func == 'linear'"), lambda f: f.lens.costs(), lambda f: f.iloc[::-1],
        lambda f: f.assign(a=1).rename(columns={"a": 5}), lambda f: f.iloc[:1],
        lambda f: f.assign(big=[2**80] * len(f), many=1j, kinds=f["func"].astype("category")),
    ],
)  # fmt: skip
def test_pages_of_any_rows(change, layers):
    frame = change(layers)
    assert len(data_of(frame.lens.draw().page().html)["labels"]) == len(frame)


def test_without_the_extra(layers, monkeypatch):
    from lensframe_pd.draw import page

    page._graphviz.cache_clear()
    monkeypatch.setattr(page, "_LAYOUT", "no_such_package")
    with pytest.raises(lf.LensRuntimeError, match=r"lensframe-pd\[page\]"):
        layers.lens.draw().page()
    page._graphviz.cache_clear()


def test_the_asset_still_exports_graphviz():
    from importlib import resources

    code = (resources.files("easydot.assets") / "index.js").read_text()
    assert "const Graphviz_ = " in classic(code)
    assert "export" not in classic(code)[-200:]
    with pytest.raises(lf.LensRuntimeError, match="no export Graphviz"):
        classic("const a = 1; export {a as Other};")


def test_wrong_pages(layers, tmp_path):
    with pytest.raises(lf.LensKeyError, match="'nope'"):
        layers.lens.draw(tmp_path / "net.html", color="nope")
    with pytest.raises(lf.LensValueError, match="no rows"):
        layers.iloc[:0].lens.draw(tmp_path / "net.html")
    from lensframe_pd.draw.render import Drawing

    with pytest.raises(lf.LensValueError, match="made of text"):
        Drawing("digraph {}").page()


class Fed(nn.Module):
    """What is above is fed back from the second step on, with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.up, self.back = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x, above):
        y = self.up(x).tanh()
        return y if above is None else y * self.back(above)


def test_a_module_that_is_called_often_is_one_row_of_the_table():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.area, self.head = Fed(), nn.Sequential(nn.Linear(4, 2), nn.ReLU())

        def forward(self, x):
            above = None
            for _ in range(3):
                above = self.area(x, above)
            return self.head(above)

    layers = lf.trace(Loop().eval(), torch.rand(5, 4)).layers.assign(seconds=1.0)
    boxes, _ = boxes_of(layers, nodes_of(layers))
    table = module_table(layers, boxes)
    assert list(table.index) == ["area", "head"]
    assert list(table["parameters"]) == ["78.3%", "21.7%"]  # 20 + 16 and 10 of 46
    inside = layers["module"].str.startswith("area")
    assert table.loc["area", "time"] == f"{inside.mean():.1%}"
