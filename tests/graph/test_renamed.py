"""Names of one model as those of another."""

import pytest

import lensframe_pd as lf
from lensframe_pd.graph.renamed import common_names

HERE = ["conv1", "conv10", "blocks.0.fc1", "blocks.1.fc1", "blocks.1.norm.weight", "head"]
THERE = ["stem", "conv10", "h.0.mlp.fc", "h.1.mlp.fc", "h.1.ln.g", "net.head"]


@pytest.mark.parametrize(
    ("rename", "name", "expected"),
    [
        (None, "conv1", "conv1"),
        ({}, "conv1", "conv1"),
        ({"conv1": "stem"}, "conv1", "stem"),
        ({"conv1": "stem"}, "conv1.weight", "stem.weight"),
        ({"conv1": "stem"}, "conv10", "conv10"),  # another name
        ({"conv1": "stem"}, "blocks.conv1", "blocks.conv1"),  # another place
        ({"blocks": "h"}, "blocks.1.fc1", "h.1.fc1"),
        ({"blocks.*.fc1": "h.*.mlp.fc"}, "blocks.1.fc1.bias", "h.1.mlp.fc.bias"),
        ({"blocks": "h", "blocks.*.fc1": "h.*.mlp.fc"}, "blocks.0.fc1", "h.0.mlp.fc"),
        ({"blocks": "h", "blocks.*.fc1": "h.*.mlp.fc"}, "blocks.0.norm", "h.0.norm"),
        ({"blocks.*.fc1": "h.*.mlp.fc", "blocks.1.fc1": "h.1.mlp.fc"}, "blocks.1.fc1",
         "h.1.mlp.fc"),
        ({"blocks.1.norm.weight": "h.1.ln.g"}, "blocks.1.norm.weight", "h.1.ln.g"),
        ({"conv1": "conv10", "conv10": "stem"}, "conv1", "conv10"),  # once, not on and on
        ({"": "net"}, "head", "net.head"),
        ({"": "net"}, "", "net"),
        ({"": "net", "conv1": "stem"}, "conv1", "stem"),
        (str.upper, "head", "HEAD"),
    ],
)  # fmt: skip
def test_names_here_as_there(rename, name, expected):
    found = common_names(rename, HERE, THERE)
    assert found.mine(name) == expected
    assert found.theirs(name) == name


@pytest.mark.parametrize(
    ("rename", "name", "expected"),
    [
        ({"stem": "conv1"}, "stem.bias", "conv1.bias"),
        ({"h.*.mlp.fc": "blocks.*.fc1"}, "h.1.mlp.fc", "blocks.1.fc1"),
        ({"net": ""}, "net.head", "head"),
        ({"net": ""}, "net", ""),
    ],
)
def test_the_other_way_round(rename, name, expected):
    found = common_names(rename, HERE, THERE)
    assert found.theirs(name) == expected
    assert found.mine(name) == name


@pytest.mark.parametrize(
    ("rename", "named"),
    [
        ({"conv2": "stem"}, "no module or parameter here 'conv2'; did you mean 'conv1'"),
        ({"conv1": "stam"}, "no module or parameter there 'stam'; did you mean 'stem'"),
        ({"blocks.*.fc2": "h.*.mlp.fc"}, r"no module or parameter here 'blocks.\*.fc2'"),
        ({"conv1": "head"}, "no module or parameter there 'head'; did you mean 'net.head'"),
        ({"stem": "h"}, "no module or parameter here 'h'"),
        ({"none": "nothing"}, "no module or parameter here 'none'"),
    ],
)
def test_what_neither_has_is_an_error(rename, named):
    with pytest.raises(lf.LensKeyError, match=named):
        common_names(rename, HERE, THERE)


@pytest.mark.parametrize("rename", ["conv1", ["conv1", "stem"], {"conv1": 3}, {3: "conv1"}])
def test_what_is_no_map_is_an_error(rename):
    with pytest.raises(lf.LensTypeError, match="rename is a mapping of names here to names there"):
        common_names(rename, HERE, THERE)
