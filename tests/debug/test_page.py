"""The page without a browser: its numbers, its hashes, what it refuses. With one: tests_browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, debug
from rnn_numpy.debug.page import write
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.layers.attention import AttentionLSTM
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

    def values(self, one, array):
        """Return an array of one layer: a block, or made of other arrays as its tree says."""
        if "made" not in array:
            return self.block(array["block"])
        arrays = {other["name"]: other for other in one["arrays"]}
        after = 0 if one["reverse"] else 1

        def value(tree):
            match tree:
                case ["number", number]:
                    return number
                case ["name", name]:
                    reference = one["references"][name]
                    whole = self.values(one, arrays[reference["array"]])
                    return whole[reference["row"] :][: one["count"]]
                case [sign, left, right]:
                    return OPERATORS[sign](value(left), value(right))

        made = value(array["made"])
        if not array["state"]:
            return made
        parts = [self.block(array["initial"]), made]
        return np.concatenate(parts if after else parts[::-1])


OPERATORS = {"+": np.add, "-": np.subtract, "*": np.multiply, "**": np.power, ">": np.greater}


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
            np.testing.assert_array_equal(page.values(one, array), expected, strict=True)
    assert [one["n"] for one in page.header["sequences"]] == [2, 0]
    given = LENGTHS[lengths] or [len(trace)] * 4
    assert [one["length"] for one in page.header["sequences"]] == [given[2], given[0]]


@pytest.fixture
def run():
    layer, trace, doutput = ready("lstm")
    return layer, trace, layer.backward(trace, doutput)


def test_the_policy_has_the_hashes_of_what_is_there(run):
    page = Parts(debug.html(*run))
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    for part in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.parts[part].encode()).digest()).decode()
        assert f"{part}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    # The policy is the first that the page says, and nothing in it comes from elsewhere.
    assert [tag for tag, _ in page.tags][:3] == ["html", "head", "meta"]
    assert not any(name in given for _, given in page.tags for name in ("src", "href", "style", "onclick", "onload"))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.parts["script"] + page.parts["style"])
    assert "innerHTML" not in page.parts["script"]


TITLES = [
    "</script><img src=x onerror=alert(1)>",
    "\u202etitle\u2066",
    "x" * 10_000,
    "{{script}} <!-- data -->",
    "&amp;\x00",
    "\ud800",
]


@pytest.mark.parametrize("title", TITLES)
def test_a_title_is_text(title, run):
    page, plain = Parts(debug.html(*run, title=title)), Parts(debug.html(*run))
    assert page.header["title"] == title
    assert len(page.tags) == len(plain.tags)
    assert page.parts["script"] == plain.parts["script"]
    assert title.replace("\ud800", "?").replace("\x00", "\ufffd") in page.text.replace("\x00", "\ufffd")


def test_no_word_is_missing():
    words = json.loads(write._file("words.json"))
    assert list(words) == list(write.LANGUAGES)
    assert list(words["en"]) == list(words["es"])
    used = set(re.findall(r"\{\{word ([a-z ]+)\}\}", write._file("template.html")))
    used |= set(re.findall(r"words\.([a-z]+)", write._file("script.js")))
    used |= set(re.findall(r'words\["([a-z ]+)"\]', write._file("script.js")))
    assert used <= set(words["en"])


def test_compact_is_half_as_large_and_keeps_small_numbers(run):
    layer, trace, doutput = ready("lstm")
    back = layer.backward(trace, 1e-250 * doutput)
    exact, compact = (Parts(debug.html(layer, trace, back, precision=one, max_mb=1)) for one in ("exact", "compact"))
    for array in compact.header["layers"][0]["arrays"]:
        n = compact.header["sequences"][0]["n"]
        expected, shown = getattr(trace.top, array["name"])[:, [n]], compact.block(array["block"])
        largest = abs(expected).max(axis=2, keepdims=True)
        assert (abs(shown - expected) <= 2.0**-24 * largest).all()
        assert np.count_nonzero(shown) == np.count_nonzero(expected)
    numbers = [
        sum(len(page.parts[name]) for name in page.parts if name.startswith("block")) for page in (exact, compact)
    ]
    assert numbers[1] < 0.7 * numbers[0]


def test_what_follows_bit_for_bit_is_made_in_the_page(run):
    one = Parts(debug.html(*run)).header["layers"][0]
    assert [array["name"] for array in one["arrays"] if "made" in array] == ["h"]
    # Not where one bit is another.
    _, trace, _ = run
    trace.top.arrays["h"][3, 0, 0] = np.nextafter(trace.top.arrays["h"][3, 0, 0], 9)
    page = Parts(debug.html(*run, sequences=[0]))
    (array,) = (array for array in page.header["layers"][0]["arrays"] if array["name"] == "h")
    np.testing.assert_array_equal(page.block(array["block"]), trace.h[:, [0]])


def test_some_steps_and_some_arrays(run):
    layer, trace, back = run
    page = Parts(
        debug.html(layer, trace, back, steps=(2, 6), names=["h", "a_f", "df"], sequences=3, stops=["t == 4", "t == 8"])
    )
    (one,) = page.header["layers"]
    assert (one["first"], one["count"]) == (2, 4)
    found = {array["name"]: page.values(one, array) for array in one["arrays"]}
    np.testing.assert_array_equal(found["h"], trace.h[2:7, [3]])
    np.testing.assert_array_equal(found["df"], trace.df[2:6, [3]])
    np.testing.assert_array_equal(found["a_f"], trace.a[2:6, [3], 5:10])
    assert [stop["t"] for stop in one["stops"]] == [4]
    for steps in (range(2, 6), slice(2, 6), [2, 6]):
        assert Parts(debug.html(layer, trace, back, steps=steps)).header["layers"][0]["first"] == 2


@pytest.mark.parametrize("text", ["norm(dh) > 2.5", "max(f) > 0.6"])
def test_stops_are_those_of_a_stepper(text):
    layer, trace, doutput = ready("lstm")
    stepper, found = debug.Stepper(layer, trace, doutput), set()
    while stop := stepper.run(text):
        found.add((stop.step.t, stop.evidence))
    page = Parts(debug.html(layer, trace, stops=[text]))
    # Of a stretch of steps at which a condition holds, the first that the pass comes to.
    at = {t for t, _ in found}
    expected = {(t, evidence) for t, evidence in found if t + 1 not in at}
    assert expected
    assert {(stop["t"], stop["evidence"]) for stop in page.header["layers"][0]["stops"]} == expected


def test_a_pass_that_was_left(run):
    layer, trace, doutput = ready("gru")
    steps = layer.backward_steps(trace, doutput)
    for _ in range(3):
        next(steps)
    page = Parts(debug.html(layer, trace))
    (one,) = page.header["layers"]
    dh = page.block(next(array["block"] for array in one["arrays"] if array["name"] == "dh"))
    np.testing.assert_array_equal(dh, trace.dh[:, [page.header["sequences"][0]["n"]]])
    assert np.isnan(dh[0]).all()
    assert one["reached"] == 6


def test_forward_alone_and_two_runs(run):
    layer, trace, _ = ready("gru")
    page = Parts(debug.html(layer, trace))
    assert page.header["layers"][0]["backward"] is False
    x = trace.x.copy()
    x[5, 1, 0] = np.nextafter(x[5, 1, 0], 9)
    other = layer.forward(x)[2]
    page = Parts(debug.html(layer, trace, compare=other, sequences=1))
    assert page.header["compare"].startswith("l0 t = 5 x[1, 0]")
    assert page.header["apart"] == {"layer": "l0", "t": 5, "name": "x", "n": 1, "unit": 0}
    for array in page.header["layers"][0]["arrays"]:
        np.testing.assert_array_equal(page.block(array["other"]), getattr(other.top, array["name"])[:, [1]])
    assert Parts(debug.html(layer, trace, compare=trace)).header["apart"] is None


def attending():
    """Return a decoder that attends, its trace and its gradients."""
    decoder, rng = AttentionLSTM(2, 5, rng=0), np.random.default_rng(0)
    output, _, trace = decoder.forward(rng.normal(size=(9, 3, 2)), given={"values": rng.normal(size=(7, 3, 5))})
    return decoder, trace, decoder.backward(trace, rng.normal(size=output.shape))


def test_what_attention_looks_at_is_a_map():
    decoder, trace, back = attending()
    page = Parts(debug.html(decoder, trace, back, sequences=[2]))
    (alpha,) = (array for array in page.header["layers"][0]["arrays"] if array["name"] == "alpha")
    assert (alpha["kind"], alpha["width"]) == ("part", 7)
    np.testing.assert_array_equal(page.block(alpha["block"]), trace.alpha[:, [2]])


def test_a_matrix(run):
    table = np.tril(np.arange(81.0).reshape(9, 9))
    page = Parts(debug.html(*run, tk=table, steps=(2, 8)))
    about = page.header["layers"][0]["tk"]
    np.testing.assert_array_equal(page.block(about["block"]), table[2:8, 2:8])
    assert (about["size"], about["tile"]) == (6, 1)


def test_a_large_matrix_is_the_largest_of_tiles():
    rnn = RNN(1, 2, rng=0)
    _, _, trace = rnn.forward(np.ones((600, 1, 1)))
    table = np.random.default_rng(0).random((600, 600))
    page = Parts(debug.html(rnn, trace, tk={"l0": table}))
    about = page.header["layers"][0]["tk"]
    assert (about["size"], about["tile"]) == (200, 3)
    np.testing.assert_array_equal(page.block(about["block"]), table.reshape(200, 3, 200, 3).max(axis=(1, 3)))


WRONG = {
    "layer": (lambda r: debug.html(None, r[1]), OptionError, "layer must be a recurrent layer; got NoneType"),
    "trace": (lambda r: debug.html(r[0], None), OptionError, "trace must be the third result of forward; got NoneType"),
    "names": (
        lambda r: debug.html(*r, names=["h", "hh"]),
        OptionError,
        "'hh' is no array of this trace; there are x, a, i,",
    ),
    "no names": (lambda r: debug.html(*r, names=[]), OptionError, "names must be at least one"),
    "steps": (lambda r: debug.html(*r, steps=(3, 12)), OptionError, "steps must be within 0 to 9; got 3 to 12"),
    "step": (lambda r: debug.html(*r, steps=range(0, 9, 2)), OptionError, r"steps must be \(start, stop\)"),
    "sequence": (lambda r: debug.html(*r, sequences=[4]), OptionError, "0 to N - 1 = 3, each once; got .4."),
    "twice": (lambda r: debug.html(*r, sequences=[1, 1]), OptionError, "each once"),
    "precision": (lambda r: debug.html(*r, precision="f2"), OptionError, "precision must be"),
    "lang": (lambda r: debug.html(*r, lang="de"), OptionError, "lang must be"),
    "stops": (lambda r: debug.html(*r, stops=["norm(dhh) > 1"]), OptionError, "no 'dhh'; it has"),
    "no expression": (lambda r: debug.html(*r, stops="1 +"), OptionError, "is no expression"),
    "matrix": (lambda r: debug.html(*r, tk=np.ones((3, 3))), ShapeError, r"\(T, T\)"),
    "matrix of": (lambda r: debug.html(*r, tk={"l7": np.ones((9, 9))}), OptionError, r"tk\['l7'\]"),
    "compare": (lambda r: debug.html(*r, compare=1), OptionError, "compare must be the third result"),
    "complex": (lambda r: debug.html(*ready("rnn", dtype=complex)[:2]), OptionError, "float32 and float64"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_refused(what, run):
    call, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        call(run)


def test_a_page_over_its_size_says_the_arithmetic():
    lstm = LSTM(3, 64, rng=0)
    _, _, trace = lstm.forward(np.ones((500, 4, 3)))
    with pytest.raises(OptionError) as caught:
        debug.html(lstm, trace, sequences=range(4), max_mb=2)
    said = str(caught.value)
    T, S, units, arrays, bytes_, numbers = re.search(
        r"T = (\d+) steps x (\d+) sequences x (\d+) units in (\d+) arrays x ([\d.]+) bytes = ([\d.]+) MB", said
    ).groups()
    assert int(T) * int(S) * int(units) * float(bytes_) / 1e6 == pytest.approx(float(numbers), rel=0.01)
    assert (int(units), int(arrays)) == (3 + 7 * 64, 8)
    assert all(argument in said for argument in ("steps=", "sequences=", "names=", "precision="))
    whole = float(re.search(r"would have about ([\d.]+) MB", said)[1])
    assert len(debug.html(lstm, trace, sequences=range(4), max_mb=100)) / 1e6 <= 1.05 * whole
    # Of arrays none of which follows from others it is the size.
    with pytest.raises(OptionError) as caught:
        debug.html(lstm, trace, sequences=range(4), names=["i", "f", "g"], max_mb=2)
    whole = float(re.search(r"would have about ([\d.]+) MB", str(caught.value))[1])
    size = len(debug.html(lstm, trace, sequences=range(4), names=["i", "f", "g"], max_mb=100)) / 1e6
    assert size == pytest.approx(whole, rel=0.05)


def test_weights_that_are_too_large_stay_out():
    lstm = LSTM(3, 100, rng=0)
    _, _, trace = lstm.forward(np.ones((20, 1, 3)))
    small, large = (Parts(debug.html(lstm, trace, max_mb=most)) for most in (0.5, 20))
    assert "W_hh" in large.header["layers"][0]["references"]
    assert "W_hh" not in small.header["layers"][0]["references"]
    assert {"h_prev", "b"} <= set(small.header["layers"][0]["references"])


def test_a_file_is_whole_or_not_there(run, tmp_path):
    path = tmp_path / "page.html"
    debug.write_html(path, *run, title="ñ")
    assert path.read_text(encoding="utf-8") == debug.html(*run, title="ñ")
    before = path.read_bytes()
    with pytest.raises(OptionError):
        debug.write_html(path, *run, names=["nothing"])
    assert path.read_bytes() == before
    for where in (tmp_path / "no" / "page.html", tmp_path, f"{tmp_path}/\0.html"):
        with pytest.raises(OptionError, match=r"debug.write_html: .* cannot be written: "):
            debug.write_html(where, *run)
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_a_notebook_shows_the_page_and_without_scripts_a_table(run):
    shown = debug.show(*run, height=300)
    page = Parts(shown._repr_html_())
    (tag, frame), *rest = page.tags
    assert tag == "iframe"
    assert frame["srcdoc"] == debug.html(*run)
    assert (frame["sandbox"], frame["height"]) == ("allow-scripts", "300")
    assert "table" in {tag for tag, _ in rest}
    assert "write_html" in repr(shown)


def test_a_step_is_a_table(run):
    step = run[1][4]
    page = Parts(step._repr_html_())
    assert {tag for tag, _ in page.tags} == {"table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "rect"}
    lines = repr(step).split("\n")[2:]
    assert len([tag for tag, _ in page.tags if tag == "rect"]) == len(lines) == len(step.names)
    for line in lines:
        name, *_, norm, _ = line.split()
        assert name in page.text
        assert norm in page.text
    lengths = {
        name: float(given["width"])
        for name, (tag, given) in zip(step.names, [one for one in page.tags if one[0] == "rect"], strict=True)
    }
    norms = {name: np.linalg.norm(getattr(step, name)) for name in step.names}
    assert max(lengths, key=lengths.get) == max(norms, key=norms.get)
    assert min(lengths, key=lengths.get) == min(norms, key=norms.get)
    _, _, trace = RNN(1, 2, rng=0).forward(np.full((2, 1, 1), np.nan))
    assert "nan" in trace[0]._repr_html_()


def test_the_norms_of_a_complex_step_are_those_of_complex_numbers():
    layer = RNN(2, 4, dtype=np.complex128, rng=0)
    x = np.random.default_rng(0).normal(size=(5, 2, 2)) * (1 + 2j)
    output, _, trace = layer.forward(x)
    layer.backward(trace, np.ones_like(output) * 1j)
    step = trace[2]
    for line in repr(step).splitlines()[2:]:
        name, *_, norm, bad = line.split()
        assert float(norm) == pytest.approx(np.linalg.norm(getattr(step, name)), rel=5e-3) and bad == "0"
        assert f'aria-label="norm {norm}"' in step._repr_html_()


def test_a_run_without_gradients_beside_one_with_them_is_refused():
    layer, trace, doutput = ready("lstm")
    _, other, _ = ready("lstm")
    result = layer.backward(trace, doutput)
    with pytest.raises(OptionError, match="compare has no dh, dc, .* of l0: a backward pass has run on trace, not on"):
        debug.html(layer, trace, result, compare=other)
    assert debug.html(layer, trace, compare=other, names=["h", "c"])
    assert debug.html(layer, other, compare=trace)
