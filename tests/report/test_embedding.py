import base64
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interactgraph.report.embedding import as_script_data, packed, plain
from interactgraph.report.page import page

AWKWARD = "<>&/!-\"'`\\{}sScriptSCRIPT \t\n\r\x00\x1b\u2028\u2029\u202e\ud800\udfff\ufffe\U0001f9e0"
TEXT = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(codec=None)), max_size=30) | (
    st.sampled_from(["</script>", "<!--", "<script>", "]]>", "</SCRIPT\n>", "{{script}}"])
)
VALUES = st.recursive(
    TEXT | st.booleans() | st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False,
                                                                              allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Scripts(HTMLParser):
    """The elements of a page and the text of its script elements."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.inside = [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.inside = True
            self.texts.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.texts[-1] += text


def parsed(text):
    scripts = Scripts()
    scripts.feed(text)
    scripts.close()
    return scripts


TAGS = parsed(page({})).tags


@given(VALUES)
def test_values_come_back_and_cannot_break_out(value):
    text = as_script_data(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&")


@given(st.dictionaries(TEXT, VALUES, max_size=3))
def test_the_page_has_the_same_elements_whatever_the_data(value):
    found = parsed(page(value))
    assert found.tags == TAGS
    assert json.loads(found.texts[0]) == value


def test_numbers_that_json_lacks():
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script_data(math.nan)
    value = {"a": [np.float64("nan"), np.int64(3)], 1: (math.inf, 0.5)}
    assert plain(value) == {"a": [None, 3], "1": [None, 0.5]}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("f4", "<f4"), ("u2", "<u2"), ("i4", "<i4"), ("u1", "u1")]
)
def test_packed_arrays_come_back(kind, dtype):
    array = np.arange(6).reshape(2, 3).T  # not in row order in memory
    stored = packed(array, kind)
    assert stored["kind"] == kind
    back = np.frombuffer(base64.b64decode(stored["base64"]), dtype)
    assert back.tolist() == array.ravel().tolist()


def test_what_single_precision_cannot_hold_stays_finite():
    array = np.array([1e300, -1e300, np.inf, np.nan])
    back = np.frombuffer(base64.b64decode(packed(array, "f4")["base64"]), "<f4")
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(back, np.array([largest, -largest, np.inf, np.nan], np.float32))
