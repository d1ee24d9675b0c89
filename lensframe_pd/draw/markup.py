"""What users' columns may put into a picture: text, Graphviz' own markup, addresses; no more."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

_ADDRESS = re.compile(r"(?i)https?://\S|mailto:\S")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_UNSEEN = "\ufffd"  # stands for what no picture can hold
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|[A-Za-z]\w*);")
_LOOKS = frozenset("font b i u o s sub sup".split())
_INSIDE = {  # what Graphviz' grammar allows in what
    "table": frozenset(("tr",)),
    "tr": frozenset(("td",)),
    **dict.fromkeys(("td", "label", *_LOOKS), frozenset(("table", "br", *_LOOKS))),
    "br": frozenset[str](),
}
_OPENING = frozenset(("href", "target", "src", "id"))  # attributes that load or open something


def attribute(name: str, words: str) -> str:
    """A node's attribute as Graphviz is to read it; '' for an address that is no page or mail."""
    import graphviz

    if name == "URL":
        safe = _ADDRESS.match(words) and not _CONTROL.search(words)
        address: str = graphviz.escape(words) if safe else ""
        return address
    if name in ("label", "xlabel") and is_markup(words):
        return words
    return plain_text(words)


def plain_text(words: str) -> str:
    """A text that Graphviz shows as it stands."""
    import graphviz

    shown: str = graphviz.escape(_CONTROL.sub(_UNSEEN, words))
    return shown


def escaped(words: str) -> str:
    """A text as it stands in markup."""
    return html.escape(_CONTROL.sub(_UNSEEN, words))


def is_markup(words: str) -> bool:
    """Whether a text is a label in Graphviz' markup that holds nothing but looks.

    What is not well formed, or could load or open something, is text and stands as it is.

    Examples
    --------
    >>> is_markup("<<B>relu</B>>"), is_markup("<B>relu"), is_markup("<<IMG SRC='x.png'/>>")
    (True, False, False)
    """
    if not (words.startswith("<") and words.endswith(">")) or _CONTROL.search(words):
        return False
    try:
        root = ElementTree.fromstring(f"<label>{_ENTITY.sub('x', words[1:-1])}</label>")
    except ElementTree.ParseError:
        return False
    says = bool("".join(root.itertext()).strip()) or len(root) > 0
    return says and all(_fits(element) for element in root.iter())


def _fits(element: ElementTree.Element[Any]) -> bool:
    """Whether Graphviz would take what is in an element, and the element opens nothing."""
    tag = element.tag.lower()
    inside = [child.tag.lower() for child in element]
    if tag not in _INSIDE or not {*inside} <= _INSIDE[tag]:
        return False
    if {*map(str.lower, element.keys())} & _OPENING:
        return False
    says = bool((element.text or "").strip() or any((c.tail or "").strip() for c in element))
    if tag in ("table", "tr"):
        return bool(inside) and not says
    if tag in _LOOKS and not (inside or element.text):
        return False
    return "table" not in inside or (len(inside) == 1 and not says)
