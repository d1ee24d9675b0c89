"""DOT text -> SVG, PNG or PDF, with whichever program is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html import escape
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from lensframe_pd.errors import LensAttributeError, LensRuntimeError, LensValueError, warn
from lensframe_pd.files.atomic import new_file
from lensframe_pd.files.places import place_to_write

_TEXT_SUFFIXES = (".gv", ".dot")
_PICTURE_SUFFIXES = (".svg", ".png", ".pdf")
PAGE = ".html"
_PURE_FORMATS = ("svg", "png")
_PURE_PROGRAMS = ("graphviz-pure", "graphviz-pure.exe")
LARGE = 800  #: nodes from which on the layout may be less than the best
_LIMIT = 5000  # nodes above which a picture takes minutes and shows nothing
_SECONDS = 60
#: Few rounds of the layout's optimiser, straight lines.
QUICK = {"nslimit": "1", "nslimit1": "1", "mclimit": "0.3", "splines": "line"}
# What an edge says of its end stands there: in the middle it is far from what it is about, and a
# label with a place of its own bends the edges around it. Those round loops keep theirs.
_EDGE = re.compile(r"^(\t+n\d+ -> n\d+ \[(?!.*constraint=false).*?)\blabel=", re.MULTILINE)
_BESIDE_HEAD = "labelangle=-40 labeldistance=1.6"
_DPI = 96  # of a PNG, unless it is told
_SIZE = re.compile(r'width="([\d.]+)pt"\s+height="([\d.]+)pt"')
_DARK = """<style>@media (prefers-color-scheme: dark) {
.edge path[stroke="#66717d"], .edge polygon[stroke="#66717d"] { stroke: #9fb0c0; }
.edge polygon[fill="#66717d"] { fill: #9fb0c0; }
.edge text[fill="#4a5560"], .cluster > text, .graph > text { fill: #c9d4df; }
.cluster > path, .cluster > polygon { stroke: #56636f; }
}</style>"""


class Page:
    """A graph as a page of HTML; shows itself in a notebook, in a frame.

    Attributes
    ----------
    html
        The whole file.
    """

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" '
            'style="width: 100%; height: 640px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Page: {len(self.html.encode(errors='replace')) / 1e6:.2f} MB>"


_FORMS = ("svg", "png", "pdf")


class Drawing:
    """A drawn graph; shows itself in a notebook.

    Attributes
    ----------
    source
        The graph as DOT text.
    n_nodes
        How many rows it shows.
    """

    def __init__(
        self,
        source: str | Callable[[], str],
        n_nodes: int = 0,
        advice: str = "",
        page: Callable[[], Page] | None = None,
        scale: float = 1.0,
        slow: bool = False,
    ) -> None:
        self._source = source
        self.n_nodes = n_nodes
        self._advice = advice
        self._page = page
        self._scale = scale
        self._slow = slow

    @property
    def source(self) -> str:
        if not isinstance(self._source, str):
            self._source = self._source()
        return self._source

    def page(self) -> Page:
        """The graph as a page whose modules open and shut; a notebook shows it in a frame.

        The same that `draw("net.html")` writes. It needs the extra `page`.

        Raises
        ------
        LensRuntimeError
            The extra is not installed.
        LensValueError
            The drawing was made of text, not of rows.
        """
        if self._page is None:
            raise LensValueError("page: this drawing was made of text; layers.lens.draw() has rows")
        return self._page()

    def render(self, form: str) -> bytes:
        """The picture as `"svg"`, `"png"` or `"pdf"`.

        Raises
        ------
        LensRuntimeError
            No program is installed that can write this format, or it failed.
        LensValueError
            The graph has too many nodes for a picture; the error says how to have fewer.
        """
        if form not in _FORMS:
            raise LensValueError(
                f"render gives the bytes of {', '.join(_FORMS)}, not of {form!r}; .save(path) "
                "writes a file"
            )
        refuse_too_large(self.n_nodes, self._advice)
        large = self.n_nodes > LARGE
        if self._slow:
            warn(
                f"draw: {self.n_nodes} rows with long edges may take more than {_SECONDS} s to "
                f"lay out; quicker: {self._advice}"
            )
        options = [] if self._scale == 1 else self._scaled(form, large)
        picture = _run(self.source, form, large, self._advice, options)
        return _dark(_sized(picture, self._scale)) if form == "svg" else picture

    def _scaled(self, form: str, large: bool) -> list[str]:
        """What tells Graphviz the size of pixels or, by the size it would have, of paper."""
        if form == "png":
            return [f"-Gdpi={_DPI * self._scale:g}"]
        if form == "svg":
            return []
        plain = _run(self.source, "svg", large, self._advice, [])
        inches = [float(points) / 72 * self._scale for points in _size_of(plain)]
        return [f"-Gsize={inches[0]:.3f},{inches[1]:.3f}!"]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture (.svg, .png, .pdf), a page (.html) or text (.gv, .dot), by its suffix.

        Raises
        ------
        LensFileError
            Nothing can be written there: there is no such folder, or you may not.
        LensValueError
            The suffix is none of these, or the graph has too many nodes.
        LensRuntimeError
            No program is installed that can write this format, or it failed.
        """
        place = place_of(path)
        suffix = Path(path).suffix.lower()
        if is_text(path):
            content = self.source.encode(errors="replace")
        elif suffix == PAGE:
            content = self.page().html.encode(errors="replace")
        else:
            content = self.render(suffix[1:])
        with new_file(place) as new:
            new.write_bytes(content)
        return Path(path)

    def __getattr__(self, name: str) -> NoReturn:
        hint = "it has save(path), page(), render(form) and source"
        if name in ("show", "view", "display", "plot"):
            hint = "a notebook shows it by itself, at the end of a cell; .save(path) writes it"
        raise LensAttributeError(f"a drawing has no {name!r}; {hint}")

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()

    def __repr__(self) -> str:
        return f"<Drawing: {self.n_nodes} nodes, {len(self.source.splitlines())} lines of DOT>"


def place_of(path: str | os.PathLike[str]) -> Path:
    """Where a picture is written, once it is certain that it can be.

    Raises
    ------
    LensFileError
        Nothing can be written there.
    LensTypeError
        It is no path.
    LensValueError
        Its suffix is of no picture, or it is a folder.
    """
    place = place_to_write(path, folder=False)
    suffixes = (*_PICTURE_SUFFIXES, PAGE, *_TEXT_SUFFIXES)
    if Path(path).suffix.lower() not in suffixes:
        raise LensValueError(
            f"cannot draw to {Path(path).name!r}: its suffix must be one of {', '.join(suffixes)}"
        )
    return place


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether the suffix asks for the graph as text."""
    return Path(path).suffix.lower() in _TEXT_SUFFIXES


def refuse_too_large(n_nodes: int, advice: str) -> None:
    """Raise, rather than work for minutes on a picture that shows nothing.

    Raises
    ------
    LensValueError
        With what to do instead.
    """
    if n_nodes > _LIMIT:
        raise LensValueError(f"draw: {n_nodes} rows make no picture anybody can read; {advice}")


def _dark(svg: bytes) -> bytes:
    """The picture with lines and text that can be seen on a dark page."""
    at = svg.index(b">", svg.index(b"<svg")) + 1
    return svg[:at] + _DARK.encode() + svg[at:]


def _size_of(svg: bytes) -> tuple[str, str]:
    """Width and height of an SVG, in points."""
    found = _SIZE.search(svg.decode())
    if found is None:
        raise LensRuntimeError("draw: Graphviz wrote an SVG without a size")
    return found[1], found[2]


def _sized(svg: bytes, scale: float) -> bytes:
    if scale == 1:
        return svg
    width, height = (float(points) * scale for points in _size_of(svg))
    return _SIZE.sub(f'width="{width:g}pt" height="{height:g}pt"', svg.decode(), count=1).encode()


def _run(source: str, form: str, large: bool, advice: str, options: list[str]) -> bytes:
    """Render with the first program that can: Graphviz' own `dot`, else graphviz-pure."""
    commands = list(_commands(form))
    if not commands:
        also = ", or pip install graphviz-pure" if form in _PURE_FORMATS else ""
        raise LensRuntimeError(
            f"nothing here can draw {form}: install Graphviz so that `dot` is on PATH{also}; "
            "a path that ends in .gv writes the graph as text"
        )
    if large:
        quick = " ".join(f"{name}={value};" for name, value in QUICK.items())
        source = source.replace("{", f"{{ {quick}", 1)
    source = _EDGE.sub(rf"\1{_BESIDE_HEAD} headlabel=", source)
    # some versions of dot crash on edges that the layout is to ignore
    tries = [(commands[0], source), (commands[0], source.replace("constraint=false", ""))]
    tries += [(command, source) for command in commands[1:]]
    for command, text in tries:
        try:
            done = subprocess.run(
                [command, f"-T{form}", *options],
                input=text.encode(),
                capture_output=True,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise LensRuntimeError(
                f"draw: {Path(command).name} has not laid out this graph in {_SECONDS} s; {advice}"
            ) from None
        if not done.returncode:
            return done.stdout
        if done.returncode > 0:  # it says why, and so would the next
            break
    said = done.stderr.decode(errors="replace").strip() or f"signal {-done.returncode}"
    raise LensRuntimeError(f"{command} failed: {said}")


def _commands(form: str) -> Iterator[str]:
    system = shutil.which("dot")
    if system:
        yield system
    if form in _PURE_FORMATS:
        try:
            files = metadata.files("graphviz-pure") or []
        except metadata.PackageNotFoundError:
            return
        # The package is one program, in a folder that need not be on PATH.
        yield from (str(f.locate()) for f in files if f.name in _PURE_PROGRAMS)
