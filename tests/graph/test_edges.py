"""The graph as a table of edges and as one of networkx."""

import pytest

import lensframe_pd as lf


def test_edges_are_the_exploded_parents(net):
    exploded = net[["parents", "parent_args"]].explode(["parents", "parent_args"]).dropna()
    edges = net.lens.edges()
    assert edges["target"].tolist() == exploded.index.tolist()
    assert edges["source"].tolist() == exploded["parents"].tolist()
    assert edges["arg"].tolist() == exploded["parent_args"].tolist()
    assert set(edges["passes"]) == {"1>1"}


def test_edges_name_the_passes(recurrent):
    edges = recurrent.lens.edges()
    loop = edges[(edges["source"] == "tanh_1:1") & edges["target"].str.startswith("linear_2")]
    assert loop[["target", "arg", "passes"]].values.tolist() == [["linear_2:2", "input", "1>2"]]


def test_networkx_has_columns_and_arguments(net):
    graph = net.lens.to_networkx()
    assert list(graph) == net.index.tolist()
    assert graph.nodes["linear_1"]["params"] == ("stem.weight", "stem.bias")
    assert {d["arg"] for _, _, d in graph.in_edges("add_1", data=True)} == {"input", "other"}
    assert graph.number_of_edges() == net["n_parents"].sum()


@pytest.mark.parametrize(
    "verb", ["edges", "roll", "unroll", "to_networkx"],
)  # fmt: skip
def test_a_missing_column_is_named(net, verb):
    bare = net[["kind"]]
    with pytest.raises(lf.LensKeyError, match=f"{verb} needs column"):
        getattr(bare.lens, verb)()
