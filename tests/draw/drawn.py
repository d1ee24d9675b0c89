"""Drawings read back: by Graphviz itself (its JSON output), not by us."""

import html
import json
import re
import shutil
import subprocess
import sysconfig

import pandas as pd

PURE = shutil.which("graphviz-pure", path=sysconfig.get_path("scripts"))
PNG = b"\x89PNG\r\n\x1a\n"


def rows(*cells):
    """(op, kind, shape_str, module, module_stack, parents, params) as a frame."""
    names = ["op", "kind", "shape_str", "module", "module_stack", "parents", "params"]
    return pd.DataFrame(list(cells), columns=names).set_index("op")


def read_back(source):
    """Nodes (label to attributes), edges (pairs of labels, sorted) and boxes (text to labels)."""
    done = subprocess.run([PURE, "-Tdot_json"], input=source.encode(), capture_output=True)
    assert done.returncode == 0
    assert b"rror" not in done.stderr
    graph = json.loads(done.stdout)
    objects = graph.get("objects", [])
    labels = {o["_gvid"]: o["id"].replace("\\\\", "\\") for o in objects if "id" in o}
    nodes = {labels[o["_gvid"]]: o for o in objects if "id" in o}
    edges = [(labels[e["tail"]], labels[e["head"]]) for e in graph.get("edges", [])]
    boxes = {
        html.unescape(re.sub("<[^>]*>", "", o["label"])): {labels[k] for k in o["nodes"]}
        for o in objects
        if "nodes" in o
    }
    return nodes, sorted(edges), boxes


def text(node):
    """The lines of a node's label."""
    return [html.unescape(re.sub("<[^>]*>", "", line)) for line in node["label"].split("<BR/>")]


def edge_labels(source):
    """(source, target, label) of every edge, as Graphviz reads it."""
    done = subprocess.run([PURE, "-Tdot_json"], input=source.encode(), capture_output=True)
    graph = json.loads(done.stdout)
    labels = {o["_gvid"]: o.get("id", "") for o in graph["objects"]}
    return sorted(
        (labels[e["tail"]], labels[e["head"]], e.get("label", "").strip()) for e in graph["edges"]
    )
