import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph.exporters.markup import escaped
from interactgraph.exporters.text import csv_text, distinct, json_text, xml_text

CODES = range(0x110000)


def test_every_character_that_xml_allows_survives():
    for start in range(0, 0x110000, 0x8000):
        text = "".join(map(chr, range(start, start + 0x8000)))
        document = f'<t a="{escaped(xml_text(text))}">{escaped(xml_text(text))}</t>'
        root = ET.fromstring(document.encode())
        assert root.text == root.get("a") == xml_text(text)
        assert len(xml_text(text)) == len(text)


@pytest.mark.parametrize(
    ("clean", "replaced"), [(xml_text, 29 + 2048 + 2), (csv_text, 1 + 2048), (json_text, 2048)]
)
def test_only_what_is_forbidden_is_replaced(clean, replaced):
    assert sum(clean(chr(code)) != chr(code) for code in CODES) == replaced


@pytest.mark.parametrize("clean", [xml_text, csv_text, json_text])
def test_replacements_are_visible(clean):
    changed = {clean(chr(code)) for code in CODES if clean(chr(code)) != chr(code)}
    assert all(c == "\ufffd" or "\u2400" <= c < "\u2420" for c in changed)


def test_json_text_can_be_written():
    text = json_text("".join(map(chr, CODES)))
    assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("aA\x00␀_"), max_size=3)))
def test_distinct(names):
    cleaned = distinct(names, xml_text, {"a"}, str.lower)
    assert len({name.lower() for name in cleaned} | {"a"}) == len(names) + 1
    assert all(new.startswith(xml_text(old)) for old, new in zip(names, cleaned, strict=True))
    if len({xml_text(name).lower() for name in names} | {"a"}) == len(names) + 1:
        assert cleaned == [xml_text(name) for name in names]
