"""Names are read and written; what is no name is refused with the reason."""

from __future__ import annotations

import pytest

from edge_circuits.graphs.nodes import Edge, Node, parse_destination, parse_edge, parse_source

SOURCES = {
    "input": Node("input"),
    "a0.h0": Node("head", 0, 0),
    "a12.h305": Node("head", 12, 305),
    "m0": Node("mlp", 0),
    "m47": Node("mlp", 47),
}
DESTINATIONS = {
    "logits": Node("logits"),
    "a0.h0<q>": Node("head", 0, 0, "q"),
    "a3.h10<k>": Node("head", 3, 10, "k"),
    "a12.h305<v>": Node("head", 12, 305, "v"),
    "m0": Node("mlp", 0),
}
REFUSED_SOURCES = {
    "logits": "logits only read the residual stream, they are a destination",
    "a2.h3<q>": "a head writes once, so as a source it has no <q|k|v>; expected 'a2.h3'",
    "": "unknown source '': expected 'input', 'a{layer}.h{head}' or 'm{layer}'",
    "a2": "unknown source 'a2': expected",
    "a2.h": "expected 'input'",
    "a02.h1": "expected 'input'",
    "a2.h01": "expected 'input'",
    "a-1.h1": "expected 'input'",
    "m": "expected 'input'",
    " m1": "expected 'input'",
    "m1\n": "expected 'input'",
    "M1": "expected 'input'",
    "m١": "expected 'input'",
    "m1١": "expected 'input'",
    "Input": "expected 'input'",
    "m1 ": "expected 'input'",
    "resid_post": "expected 'input'",
}
REFUSED_DESTINATIONS = {
    "input": "input only writes to the residual stream, it is a source",
    "a2.h3": "a head reads with <q>, <k> and <v>; expected one of 'a2.h3<q>', 'a2.h3<k>', 'a2.h3<v>'",
    "a2.h3<o>": "unknown destination 'a2.h3<o>': expected 'a{layer}.h{head}<q|k|v>', 'm{layer}' or 'logits'",
    "a2.h3<q": "expected 'a{layer}",
    "a2.h3.q": "expected 'a{layer}",
    "a2.h3<qk>": "expected 'a{layer}",
    "m1<q>": "expected 'a{layer}",
    "output": "expected 'a{layer}",
}
REFUSED_EDGES = {
    "m0": "expected 'source->destination', e.g. 'a0.h1->a2.h3<q>'",
    "m0->": "unknown edge 'm0->': unknown destination ''",
    "->m0": "unknown edge '->m0': unknown source ''",
    "m0->m1->m2": "expected 'source->destination'",
    "m0 -> m1": "unknown source 'm0 '",
    "m0-->m1": "unknown source 'm0-'",
    "a0.h1->a2.h3": "a head reads with <q>, <k> and <v>",
    "a0.h1<q>->m3": "a head writes once",
    "logits->m1": "logits only read",
    "m1->input": "input only writes",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_parsed_and_written_again(name: str) -> None:
    assert parse_source(name) == SOURCES[name]
    assert str(SOURCES[name]) == name


@pytest.mark.parametrize("name", DESTINATIONS)
def test_a_destination_is_parsed_and_written_again(name: str) -> None:
    assert parse_destination(name) == DESTINATIONS[name]
    assert str(DESTINATIONS[name]) == name


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_an_edge_is_parsed_and_written_again(source: str, destination: str) -> None:
    edge = parse_edge(f"{source}->{destination}")
    assert edge == Edge(SOURCES[source], DESTINATIONS[destination])
    assert str(edge) == f"{source}->{destination}"


def refusal(parse: object, name: object) -> str:
    with pytest.raises(ValueError) as caught:
        parse(name)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED_SOURCES)
def test_what_is_no_source_is_refused(name: str) -> None:
    message = refusal(parse_source, name)
    assert REFUSED_SOURCES[name] in message and repr(name) in message


@pytest.mark.parametrize("name", REFUSED_DESTINATIONS)
def test_what_is_no_destination_is_refused(name: str) -> None:
    message = refusal(parse_destination, name)
    assert REFUSED_DESTINATIONS[name] in message and repr(name) in message


@pytest.mark.parametrize("name", REFUSED_EDGES)
def test_what_is_no_edge_is_refused(name: str) -> None:
    message = refusal(parse_edge, name)
    assert REFUSED_EDGES[name] in message and f"unknown edge {name!r}" in message


@pytest.mark.parametrize("name", [None, 3, ("m0", "m1"), ["m0->m1"]])
@pytest.mark.parametrize("parse", [parse_source, parse_destination, parse_edge])
def test_a_name_is_a_text(parse: object, name: object, without_type_checks: None) -> None:
    assert f"{name!r}: expected" in refusal(parse, name)
