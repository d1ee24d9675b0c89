"""The README runs as it stands and prints what it shows."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def lines(text):
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def test_every_example_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [m.groups() for m in BLOCK.finditer(README)]
    names = {}
    shown = 0
    for (language, code), (following, expected) in zip(
        blocks, [*blocks[1:], ("", "")], strict=True
    ):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), names)
        wanted = expected if following == "text" else ""
        assert lines(printed.getvalue()) == lines(wanted)
        shown += bool(wanted)
    assert shown == sum(language == "text" for language, _ in blocks) > 0
    assert (tmp_path / "block.svg").read_text().count('class="node"') == 9 + 1  # the legend
    assert (tmp_path / "layers.parquet").stat().st_size > 0


def test_every_column_is_in_the_readme():
    from lensframe_pd.schema import COLUMNS

    table = README[README.index("## The columns") :]
    assert [c for c in COLUMNS if f"`{c}`" not in table] == []


def test_a_package_index_is_given_no_place_in_the_repository():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hooks = project["tool"]["hatch"]["metadata"]["hooks"]
    text = README
    assert text.count("](tutorials/") + text.count('src="tutorials/') > 10
    for rule in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert re.findall(r"\]\([^)h#]|src=|<img|!\[", text) == []
    assert "`tutorials/stages.svg`: ResNet-18 by stages" in text
    assert text.count("```") == README.count("```")


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
