"""GEXF by the rules of its schema (https://gexf.net, version 1.3) and of Gephi's importer.

The schema says which elements and attributes there are, where, and of which types. Gephi's
importer (ImporterGEXF, of Gephi 0.10) also wants what the schema cannot say: ends of edges that
are nodes, weights that are above zero as 32-bit floats, the size as the first attribute of its
element, and no column with the name of one of its own.
"""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg

G, VIZ = "{http://gexf.net/1.3}", "{http://gexf.net/1.3/viz}"

# Element -> its attributes (those with ! must be there), its children in their order.
GRAMMAR = {
    f"{G}gexf": ("version! variant", ("meta", "graph")),
    f"{G}meta": ("lastmodifieddate", ("creator", "keywords", "description")),
    f"{G}creator": ("", ()),
    f"{G}keywords": ("", ()),
    f"{G}description": ("", ()),
    f"{G}graph": ("defaultedgetype idtype mode", ("attributes", "nodes", "edges")),
    f"{G}attributes": ("class! mode", ("attribute",)),
    f"{G}attribute": ("id! title! type!", ("default", "options")),
    f"{G}nodes": ("count", ("node",)),
    f"{G}node": ("id! label", ("attvalues", "size", "position", "color", "shape")),
    f"{G}edges": ("count", ("edge",)),
    f"{G}edge": ("id type label source! target! weight kind", ("attvalues", "color")),
    f"{G}attvalues": ("", ("attvalue",)),
    f"{G}attvalue": ("for! value!", ()),
    f"{VIZ}size": ("value!", ()),
    f"{VIZ}position": ("x! y! z", ()),
    f"{VIZ}color": ("r! g! b! a", ()),
}
DOUBLE = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")  # finite xs:double
OWN = {
    "node": {"id", "label", "timeset", "interval"},
    "edge": {"id", "label", "source", "target", "type", "kind", "weight", "timeset", "interval"},
}


def local(element):
    return element.tag.rpartition("}")[2]


def follow_the_grammar(element):
    allowed, order = GRAMMAR[element.tag]
    names = [name.rstrip("!") for name in allowed.split()]
    assert set(element.attrib) <= set(names), element.attrib
    assert {name[:-1] for name in allowed.split() if name.endswith("!")} <= set(element.attrib)
    places = [order.index(local(child)) for child in element]
    assert places == sorted(places)
    for child in element:
        follow_the_grammar(child)


def is_value(type_, text):
    if type_ == "integer":
        return re.fullmatch("-?[0-9]+", text) and -(2**31) <= int(text) < 2**31
    return type_ == "string" or bool(DOUBLE.fullmatch(text))


def columns(inner, kind):
    """Declared attributes of nodes or edges: id -> type."""
    found = {}
    for attributes in inner.iterfind(f"{G}attributes[@class='{kind}']"):
        for attribute in attributes:
            assert attribute.get("id")
            assert attribute.get("title")
            assert attribute.get("id") not in found
            found[attribute.get("id")] = attribute.get("type")
    assert not {name.lower() for name in found} & OWN[kind]
    assert len({name.lower() for name in found}) == len(found)  # Gephi ignores case
    assert set(found.values()) <= {"string", "integer", "double"}
    return found


def check_values(element, declared):
    used = [value.get("for") for value in element.iterfind(f"{G}attvalues/{G}attvalue")]
    assert len(used) == len(set(used))
    for value in element.iterfind(f"{G}attvalues/{G}attvalue"):
        assert is_value(declared[value.get("for")], value.get("value"))


def check_drawing(node):
    (size,), (position,), (colour,) = (
        node.findall(f"{VIZ}{name}") for name in ("size", "position", "color")
    )
    assert float(size.get("value")) > 0
    assert all(DOUBLE.fullmatch(text) for text in (*position.attrib.values(), size.get("value")))
    assert all(0 <= int(value) <= 255 for value in colour.attrib.values())


def check_rules(path):
    root = ET.parse(path).getroot()
    assert (root.tag, root.get("version")) == (f"{G}gexf", "1.3")
    follow_the_grammar(root)
    inner = root.find(f"{G}graph")
    assert inner.get("defaultedgetype") == "directed"
    assert inner.get("mode") == "static"
    nodes, edges = inner.find(f"{G}nodes"), inner.find(f"{G}edges")
    assert nodes.get("count") == str(len(nodes))
    assert edges.get("count") == str(len(edges))
    declared = columns(inner, "node")
    ids = {node.get("id") for node in nodes}
    assert len(ids) == len(nodes)
    assert "" not in ids
    for node in nodes:
        check_values(node, declared)
        check_drawing(node)
    declared = columns(inner, "edge")
    assert len({edge.get("id") for edge in edges}) == len(edges)
    for edge in edges:
        assert {edge.get("source"), edge.get("target")} <= ids
        assert DOUBLE.fullmatch(edge.get("weight"))
        with np.errstate(all="raise"):
            weight = np.float32(edge.get("weight"))
        assert 0 < weight < math.inf
        check_values(edge, declared)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_graph_follows_the_rules(small_graphs, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("gexf") / "g.gexf"
    check_rules(*itg.export(graph, path, partition=partition, strength=strength))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (' version="1.3"', ' version="1.2"'),
        ("gexf.net/1.3/viz", "gexf.net/1.2/viz"),
        ('type="integer"', 'type="int32"'),
        ('type="double"', 'type="integer"'),
        ('<attribute id="layer"', '<attribute id="LABEL"'),
        ('title="layer"', 'name="layer"'),
        ('id="input/0"', 'id="input/1"'),
        ('source="input/0"', 'source="input/9"'),
        ('weight="', 'weight="-'),
        (' g="', ' g="9'),
        ('<viz:size value="', '<viz:size value="-'),
        ("</attvalues><viz:size", '<attvalue for="x" value="1"/></attvalues><viz:size'),
        ('<nodes count="9"', '<nodes count="8"'),
    ],
)
def test_the_rules_can_be_broken(graph, partition, tmp_path, right, wrong):
    (path,) = itg.export(graph, tmp_path / "g.gexf", partition=partition)
    check_rules(path)
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check_rules(path)
