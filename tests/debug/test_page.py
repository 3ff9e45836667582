"""The page without a browser: its numbers, its hashes, what it refuses. With one: tests_browser."""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from rnn_numpy import debug
from tests.debug.networks import LAYERS, LENGTHS, ready


class Parts(HTMLParser):
    """The scripts and styles of a page by their id, or their kind, and all other text and tags."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.open, self.text, self.tags = {}, None, "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.open = (given.get("id") or tag) if tag in ("script", "style") else None
        if self.open is not None:
            assert self.open not in self.parts
            self.parts[self.open] = ""

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open is not None:
            self.parts[self.open] += data
        else:
            self.text += data

    @property
    def header(self):
        return json.loads(self.parts["header"])

    def block(self, number):
        """Return a block of numbers as the page's script reads it."""
        about = self.header["blocks"][number]
        data = base64.b64decode(self.parts[f"block{number}"], validate=True)
        array = np.frombuffer(data, f"<{about['dtype']}").reshape(about["shape"])
        if "exponents" in about:
            return np.ldexp(array.astype(float), self.block(about["exponents"])[..., None].astype(int))
        return array


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_all_numbers_arrive(kind, lengths):
    layer, trace, doutput = ready(kind, lengths)
    back = layer.backward(trace, doutput)
    page = Parts(debug.html(layer, trace, back, sequences=[2, 0]))
    assert [one["name"] for one in page.header["layers"]] == list(trace.layers)
    for one in page.header["layers"]:
        recorded = trace[one["name"]]
        shown = [array["name"] for array in one["arrays"]]
        assert {"x", *recorded.states, *(f"d{state}" for state in recorded.states)} <= set(shown)
        assert {name for name in recorded.chain.cell.gate_names if name in recorded.names} <= set(shown)
        for array in one["arrays"]:
            expected = getattr(recorded, array["name"])[:, [2, 0]]
            np.testing.assert_array_equal(page.block(array["block"]), expected, strict=True)
    assert [one["n"] for one in page.header["sequences"]] == [2, 0]
    given = LENGTHS[lengths] or [len(trace)] * 4
    assert [one["length"] for one in page.header["sequences"]] == [given[2], given[0]]
