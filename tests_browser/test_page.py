"""The page of `rnn_numpy.debug` in a browser: what it shows is what was recorded, and it does what keys say."""

from decimal import Decimal

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, debug
from rnn_numpy.debug.page import write
from tests.debug.networks import LAYERS, T, ready
from tests.debug.test_page import attending

# Goes to places as a person does, by the page's fields, and reads what stands there.
READ = """
const set = (id, value) => {
  const field = document.getElementById(id);
  field.value = String(value);
  field.dispatchEvent(new Event(field.tagName === "SELECT" || id === "goto" ? "change" : "input", { bubbles: true }));
};
const texts = (row) => [...row.cells].map((one) => one.textContent);
const read = (id) => [...document.querySelectorAll(`#${id} tbody tr`)].map(texts);
const found = [];
for (const [layer, sequence, t, unit] of arguments[0]) {
  if (window.rnn_numpy.state.layer !== layer) {
    set("layer", layer);
    await frame();
  }
  set("sequence", sequence); set("goto", t); set("unit", unit);
  await frame(); // in which the page has its one update
  found.push([read("step"), read("units"), document.getElementById("table-section").hidden ? [] : read("table")]);
}
return found;
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An LSTM over 60 steps, two sequences, with a page that has all there is: a matrix (t, k), stops, a second run."""
    path = tmp_path_factory.mktemp("page") / "lstm.html"
    lstm, rng = LSTM(3, 8, rng=0), np.random.default_rng(0)
    output, _, trace = lstm.forward(rng.normal(size=(60, 2, 3)))
    doutput = np.zeros_like(output)
    doutput[[20, 59]] = rng.normal(size=(2, 2, 8))
    back = lstm.backward(trace, doutput)
    x = trace.x.copy()
    x[30, 1, 2] += 1e-9
    other = lstm.forward(x)[2]
    lstm.backward(other, doutput)
    tk, stops = np.tril(rng.random((60, 60))), ["norm(dh_prev) < 1e-2"]
    debug.write_html(path, lstm, trace, back, sequences=[1, 0], tk=tk, compare=other, stops=stops)
    return path, trace


@pytest.fixture
def page(run):
    return run[0]


def written(value):
    """Return a number's text; of float32 its digits alone, whose form changes from version to version of NumPy."""
    return repr(float(value)) if value.dtype == np.float64 else f"{Decimal(str(value)).normalize():e}"


def expected(recorded, name, t, n):
    """Return the row of an array that belongs to step t, as texts."""
    array = getattr(recorded, name)
    after = int(recorded.is_state(name) and not recorded.reverse)
    return [repr(float(value)) if array.dtype == np.float64 else str(value) for value in array[t + after, n]]


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, np.float64) for kind in LAYERS), ("lstm", np.float32)])
def test_every_number_is_the_array_s(kind, dtype, browser, tmp_path):
    layer, trace, doutput = ready(kind, "out of order", dtype)
    back = layer.backward(trace, doutput)
    debug.write_html(tmp_path / "page.html", layer, trace, back, sequences=[1, 3])
    browser.open(tmp_path / "page.html")
    browser.press("t")
    rng = np.random.default_rng(0)
    names = list(trace.layers)
    places = [[int(rng.integers(most)) for most in (len(names), 2, T, 5)] for _ in range(50)]
    for (layer_number, sequence, t, unit), (step, units, table) in zip(places, browser.wait(READ, places), strict=True):
        recorded, n = trace[names[layer_number]], [1, 3][sequence]
        widest = max(getattr(recorded, row[0]).shape[2] for row in step)
        chosen = min(unit, widest - 1)
        for column, (name, value, after, *_, bad) in enumerate(step):
            row = expected(recorded, name, t, n)
            assert value == (row[chosen] if chosen < len(row) else ""), (name, t, n, chosen)
            if t + 1 < T:
                later = expected(recorded, name, t + 1, n)
                assert after == (later[chosen] if chosen < len(later) else "")
            assert [line[column + 1] for line in table] == [*row, *[""] * (widest - len(row))]
            assert bad == "0"
        lead = expected(recorded, f"d{recorded.states[0]}", t, n)
        assert {int(row[0]): row[1] for row in units} == {int(row[0]): lead[int(row[0])] for row in units}
        assert [abs(float(row[1])) for row in units] == sorted((abs(float(one)) for one in lead), reverse=True)[:8]
    assert browser.messages() == []


def equations(browser):
    """Return the equations as they stand there, by what they make: symbols, numbers, result, notes."""
    lines = browser.run(
        "const lines = [...document.querySelectorAll('#lines .equation')];"
        "return lines.map((one) => [...one.children].map((p) => p.textContent))"
    )
    return {line[0].partition(" = ")[0]: line for line in lines}


def test_equations_have_the_numbers_in_place(browser, run):
    page, trace = run
    browser.open(page, "#t=41&u=3&n=1&a=da_f")
    browser.press("d")
    found = equations(browser)
    assert next(iter(found)) == "da_f"
    step = trace[41]
    dc, c_prev, f, da_f = (repr(float(getattr(step, name)[1, 3])) for name in ("dc", "c_prev", "f", "da_f"))
    dc, c_prev = (f"({text})" if text.startswith("-") else text for text in (dc, c_prev))
    symbols, numbers, result, _ = found["da_f"]
    assert symbols == "da_f = dc · c_prev · f · (1 - f)   B3"
    assert numbers == f"= {dc} · {c_prev} · {f} · (1 - {f})"
    assert f"recorded {da_f}, " in result
    # What is no product of a matrix and no tanh comes out as it was recorded, in the browser as well.
    apart = {
        name: int(line[2].rpartition(", ")[2].removesuffix(" ulp")) for name, line in found.items() if " ulp" in line[2]
    }
    assert {name: apart[name] for name in ("c", "h", "dc")} == {"c": 0, "h": 0, "dc": 0}
    assert max(apart[name] for name in ("da_i", "da_f", "da_g", "da_o")) <= 2
    assert max(apart.values()) <= 8
    assert found["dc"][0].partition("   ")[0] == "dc = dc_handed + dh · dm_dc"


@pytest.mark.parametrize("kind", LAYERS)
def test_equations_of_every_cell_hold_in_the_browser(kind, browser, tmp_path):
    layer, trace, doutput = ready(kind)
    debug.write_html(tmp_path / "page.html", layer, trace, layer.backward(trace, doutput), sequences=[1])
    browser.open(tmp_path / "page.html", "#t=4&u=2")
    browser.press("d")
    found = equations(browser)
    wrong = {
        name: line
        for name, line in found.items()
        if " ulp" in line[2] and "≈" not in line[2] and int(line[2].rpartition(", ")[2].removesuffix(" ulp")) > 2
    }
    assert wrong == {}
    assert sum(" ulp" in line[2] for line in found.values()) >= 2
    assert browser.messages() == []


def test_a_page_that_reads_the_wrong_row_is_found(browser, run, monkeypatch, tmp_path):
    own, (_, trace) = write._file, run
    assert "array.state && !layer().reverse ? 1 : 0" in own("script.js")
    wrong = own("script.js").replace("array.state && !layer().reverse ? 1 : 0", "0")
    monkeypatch.setattr(write, "_file", lambda name: wrong if name == "script.js" else own(name))
    debug.write_html(tmp_path / "page.html", LSTM(3, 8, rng=0), trace, sequences=[1])
    browser.open(tmp_path / "page.html")
    shown = {row[0]: row[1] for row in browser.wait(READ, [[0, 0, 41, 3]])[0][0]}
    expected_ = {name: expected(trace["l0"], name, 41, 1)[3] for name in ("h", "f")}
    assert shown["h"] != expected_["h"]
    assert shown["f"] == expected_["f"]


def test_texts_of_numbers_are_pythons(browser, tmp_path):
    layer, trace, _ = ready("rnn", dtype=np.float32)
    debug.write_html(tmp_path / "single.html", layer, trace)
    layer, trace, _ = ready("rnn")
    debug.write_html(tmp_path / "double.html", layer, trace)
    rng = np.random.default_rng(0)
    for dtype, name, bits in ((np.float32, "single", np.uint32), (np.float64, "double", np.uint64)):
        browser.open(tmp_path / f"{name}.html")
        values = rng.integers(np.iinfo(bits).max, size=2000, dtype=bits, endpoint=True).view(dtype)
        near = rng.integers(1, 4096, 500) / 2.0 ** rng.integers(0, 30, 500)  # also halfway between two texts
        values = [
            *values[np.isfinite(values)],
            *near.astype(dtype),
            *map(dtype, (0, -0.0, 1, 1e-4, 1e16, 9999999.5, 1e22)),
        ]
        shown = browser.run("return arguments[0].map(window.rnn_numpy.exact)", [float(value) for value in values])
        expected = [written(value) for value in values]
        shown = [text if dtype == np.float64 else f"{Decimal(text).normalize():e}" for text in shown]
        # -0.0 does not get through the driver.
        assert [pair for pair in zip(shown, expected, strict=True) if pair[0] != pair[1] and pair[1] != "-0.0"] == []


def test_keys(browser, page):
    browser.open(page)
    left, right, up, home, end = "\ue012", "\ue014", "\ue013", "\ue011", "\ue010"
    assert browser.state["time"] == 59
    browser.press(left, left, up)
    assert (browser.state["time"], browser.state["unit"]) == (57, 1)
    browser.press(home, right)
    assert browser.state["time"] == 1
    browser.run(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true, bubbles: true}))"
    )
    browser.settle()
    assert browser.state["time"] == 11
    browser.press(end, "]", "t")
    assert browser.state["time"] == 59
    assert browser.state["sequence"] == 1
    assert browser.state["table"] is True
    browser.press("[", "t", "d")
    assert browser.state["sequence"] == 0
    assert browser.state["digits"] is True
    stops = browser.run("return window.rnn_numpy.header.layers[0].stops.map((stop) => stop.t)")
    assert stops == sorted(stops, reverse=True)
    assert stops
    browser.press("n")
    assert browser.state["time"] == stops[0]
    browser.press("e")
    assert browser.run("return document.activeElement.id") == "equations"
    browser.press("g", "\ue009a", "\ue000", "7", left)  # in the field keys are the field's
    assert browser.run("return document.activeElement.id") == "goto"
    browser.press("\ue007")
    assert browser.state["time"] == 7
    browser.press("?")
    assert browser.run("return document.getElementById('keys').open") is True
    browser.press("\ue00c")
    assert browser.run("return document.getElementById('keys').open") is False
    browser.press("p")
    assert browser.messages() == []


def test_the_address_is_a_place(browser, page):
    browser.open(page, "#t=41&u=3&n=0&a=da_f")
    assert browser.run(
        "return [document.getElementById('place').textContent, document.getElementById('unit').value]"
    ) == ["41", "3"]
    assert browser.run("return document.getElementById('array').selectedOptions[0].textContent") == "da_f"
    assert browser.run("return document.getElementById('sequence').selectedOptions[0].textContent") == "0"
    browser.press("\ue014")
    browser.wait("await new Promise((done) => setTimeout(done, 400))")
    assert browser.run("return location.hash") == "#l=l0&n=0&a=da_f&u=3&t=42"
    for wrong in ("#t=1e9&u=-1&n=7&l=l9", "#t=<img>&u=NaN", "#%%%&t", "#t=999999999&u=999999999"):
        browser.run("location.hash = arguments[0]", wrong)
        browser.settle()
    assert browser.state["time"] == 59
    assert browser.state["unit"] == 7
    assert browser.messages() == []


def test_a_scrub_paints_no_map_again(browser, page):
    browser.open(page)
    before, after, moved = browser.wait("""
        const { counts } = window.rnn_numpy, time = document.getElementById("time"), seen = new Set();
        const before = { ...counts };
        for (let k = 0; k < 300; k++) {
          for (const place of [k % 60, (k + 1) % 60]) { // two changes, one update
            time.value = String(place);
            time.dispatchEvent(new Event("input", { bubbles: true }));
          }
          await frame();
          seen.add(document.getElementById("cursor").style.left);
        }
        await frame();
        return [before, { ...counts }, seen.size];
    """)
    assert after["paints"] == before["paints"]
    assert 295 <= after["updates"] - before["updates"] <= 301
    assert moved == 60


def test_nothing_is_asked_for_and_nothing_runs(browser, page, tmp_path):
    browser.open(page)
    assert {address.partition("#")[0] for address in browser.requests()} == {page.as_uri()}
    assert browser.messages() == []
    # The same page with what another hand has put in: none of it runs.
    text = page.read_text(encoding="utf-8")
    bad = (
        "<script>window.bad = 1</script><img src=x onerror='window.bad = 2'><p id=styled style='color: red'></p>"
        "<script src='https://127.0.0.1:9/x.js'></script><link rel=stylesheet href='https://127.0.0.1:9/x.css'>"
        "<iframe src='https://127.0.0.1:9/'></iframe><style>body { display: none }</style></body>"
    )
    (tmp_path / "bad.html").write_text(text.replace("</body>", bad), encoding="utf-8")
    browser.open(tmp_path / "bad.html")
    assert browser.run("return [typeof window.bad, getComputedStyle(document.body).display]") == ["undefined", "block"]
    assert (
        browser.wait("""
        const added = document.createElement("script");
        added.textContent = "window.bad = 3";
        document.body.append(added);
        await frame();
        return typeof window.bad;
    """)
        == "undefined"
    )
    refused = browser.messages()
    assert len(refused) >= 6
    assert all("Content Security Policy" in message for message in refused)
    # And a script of the page itself, whose hash is right, may ask nobody.
    asks = "fetch('https://127.0.0.1:9/').catch((error) => { window.asked = String(error); });"
    layer, trace, _ = ready("rnn")
    own = write._file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_file", lambda name: own(name) + (asks if name == "script.js" else ""))
        debug.write_html(tmp_path / "asks.html", layer, trace)
    browser.open(tmp_path / "asks.html")
    browser.wait("while (!window.asked) await frame();")
    assert any("connect" in message and "Content Security Policy" in message for message in browser.messages())


@pytest.mark.needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(scheme, browser, page, axe):
    browser.command(
        "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    browser.open(page, "#t=41&u=3")
    browser.press("t", "d")
    browser.run(axe)
    found = browser.wait("const found = await axe.run(); return [found.violations, found.passes.length]")
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found[0]] == []
    assert found[1] > 20
    # It would find one.
    browser.run("document.getElementById('time').removeAttribute('id')")
    assert "label" in {one["id"] for one in browser.wait("return (await axe.run()).violations")}


def test_what_a_screen_reader_is_told(browser, page):
    browser.open(page, "#t=41&u=3&n=1")
    said = browser.run("return document.getElementById('time').getAttribute('aria-valuetext')")
    assert said.startswith("t = 41 of 60, norm of dh ")
    assert said.endswith(" times that of the step visited before")
    labels = browser.run(
        "return [...document.querySelectorAll('#heatmaps canvas')].map((one) => one.getAttribute('aria-label'))"
    )
    assert all("largest at t = " in label for label in labels)
    # At most three messages a second, however fast the steps go.
    told = browser.wait("""
        let told = 0;
        const what = { childList: true, characterData: true, subtree: true };
        new MutationObserver(() => { told++; }).observe(document.getElementById("live"), what);
        const time = document.getElementById("time"), until = performance.now() + 2000;
        for (let k = 0; performance.now() < until; k++) {
          time.value = String(k % 60);
          time.dispatchEvent(new Event("input", { bubbles: true }));
          await frame();
        }
        return told;
    """)
    assert told <= 7


def test_dark_reduced_motion_and_forced_colours(browser, page):
    browser.open(page)
    look = "return [getComputedStyle(document.body).backgroundColor, document.getElementById('play').hidden]"
    pixel = (
        "const maps = [...document.querySelectorAll('#heatmaps canvas')];"
        "const map = maps.find((one) => one.ariaLabel.startsWith('h,'));"
        "return [...map.getContext('2d').getImageData(5, 3, 1, 1).data]"
    )
    light, colour = browser.run(look), browser.run(pixel)
    assert light == ["rgb(255, 255, 255)", False]
    features = {"prefers-color-scheme": "dark", "prefers-reduced-motion": "reduce"}
    browser.command(
        "Emulation.setEmulatedMedia",
        media="",
        features=[{"name": name, "value": value} for name, value in features.items()],
    )
    browser.settle()
    assert browser.run(look) == ["rgb(18, 18, 18)", True]
    assert browser.run(pixel) != colour
    browser.press(" ")
    assert browser.state["playing"] is False
    assert "reduced motion" in browser.text("#live")
    browser.command("Emulation.setEmulatedMedia", media="", features=[{"name": "forced-colors", "value": "active"}])
    browser.settle()
    edge = "return getComputedStyle(document.getElementById('cursor')).borderLeftColor"
    assert browser.run(edge) == browser.run(
        "document.body.style.color = 'Highlight'; return getComputedStyle(document.body).color"
    )


def test_play_goes_as_the_pass_does(browser, page):
    browser.open(page)
    browser.press(" ")
    browser.wait("while (window.rnn_numpy.state.playing) await frame();")
    assert browser.state["time"] == 0


def test_print_is_one_step(browser, page):
    browser.open(page, "#t=41&u=3")
    browser.command("Emulation.setEmulatedMedia", media="print", features=[])
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    is_there = "return document.querySelector(arguments[0]).getBoundingClientRect().height > 0"
    names = ("#run", ".controls", "#step", "#equations", "#table", "#stops")
    shown = {name: browser.run(is_there, name) for name in names}
    assert shown == {
        "#run": False,
        ".controls": False,
        "#step": True,
        "#equations": True,
        "#table": True,
        "#stops": False,
    }


@pytest.mark.parametrize("width", [320, 640])
def test_narrow_windows_reflow(width, browser, page):
    browser.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    try:
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    finally:
        browser.command("Emulation.clearDeviceMetricsOverride")


def test_a_pointer_goes_to_a_place(browser, page):
    browser.open(page)
    browser.run("""
        const field = document.querySelectorAll("#heatmaps .map")[6], box = field.getBoundingClientRect();
        const place = { clientX: box.left + box.width * 20.5 / 60, clientY: box.top + box.height * 0.95, pointerId: 1 };
        field.setPointerCapture = () => {};
        field.dispatchEvent(new PointerEvent("pointerdown", place));
    """)
    browser.settle()
    state = browser.state
    assert (state["time"], state["array"], state["unit"]) == (20, 3, 0)


def test_the_matrix_and_two_runs(browser, page):
    browser.open(page, "#t=41")
    assert browser.text("#tk-text").startswith("row t = 41, ")
    browser.run("document.querySelector('#tk-largest button').click()")
    browser.settle()
    assert browser.state["time"] < 41
    assert "l0 t = 30 x[1, 2]" in browser.text("#compare-text")
    browser.run("document.getElementById('compare-go').click()")
    browser.settle()
    assert browser.state["time"] == 30
    row = browser.run("return [...document.querySelector('#step tbody tr').cells].map((one) => one.textContent)")
    assert row[0] == "x"
    assert float(row[3]) - float(row[1]) == pytest.approx(1e-9, rel=1e-6)
    assert int(row[4]) > 0


@pytest.mark.parametrize(
    "title",
    [
        "</script><img src=x onerror=window.bad=1>",
        "\u202etitle\u2066",
        "x" * 10_000,
        "{{script}} <!-- data -->",
        "\ud800",
    ],
)
def test_titles_are_text(title, browser, tmp_path):
    layer, trace, _ = ready("rnn")
    debug.write_html(tmp_path / "page.html", layer, trace, title=title)
    browser.open(tmp_path / "page.html")
    assert browser.text("h1") == title.replace("\ud800", "?")
    assert browser.run("return typeof window.bad") == "undefined"
    assert browser.run("return document.documentElement.scrollWidth") <= 1280
    assert browser.messages() == []


def test_a_map_of_attention(browser, tmp_path):
    decoder, trace, back = attending()
    debug.write_html(tmp_path / "page.html", decoder, trace, back, sequences=[2])
    browser.open(tmp_path / "page.html", "#a=alpha&u=4&t=6")
    (row,) = [row for row in browser.wait(READ, [[0, 0, 6, 4]])[0][0] if row[0] == "alpha"]
    assert row[1] == repr(float(trace.alpha[6, 2, 4]))
    labels = browser.run("return [...document.querySelectorAll('#heatmaps canvas')].map((one) => one.ariaLabel)")
    (label,) = [label for label in labels if label.startswith("alpha,")]
    assert label.startswith("alpha, 7 × 9: ")
    apart = {name: line[2].rpartition(", ")[2] for name, line in equations(browser).items()}
    assert {name: apart[name] for name in "cifgo"}.keys() == set("cifgo")
    assert all(apart[name].endswith(" ulp") and int(apart[name].split()[0]) < 8 for name in "cifgo")
    assert browser.messages() == []


def test_compact_says_so(browser, tmp_path):
    layer, trace, doutput = ready("lstm")
    debug.write_html(tmp_path / "page.html", layer, trace, layer.backward(trace, 1e-250 * doutput), precision="compact")
    browser.open(tmp_path / "page.html", "#t=4&u=2&n=0")
    assert "24 bits" in browser.text("#about")
    (row,) = [row for row in browser.wait(READ, [[0, 0, 4, 2]])[0][0] if row[0] == "dh"]
    n = browser.run("return window.rnn_numpy.header.sequences[0].n")
    assert float(row[1]) == pytest.approx(trace.dh[5, n, 2], rel=1e-6, abs=0)
    assert browser.messages() == []


def test_spanish(browser, tmp_path):
    layer, trace, doutput = ready("gru")
    debug.write_html(tmp_path / "page.html", layer, trace, layer.backward(trace, doutput), lang="es")
    browser.open(tmp_path / "page.html")
    assert browser.text("#equations-title") == "Ecuaciones"
    assert browser.run("return document.documentElement.lang") == "es"
    assert browser.messages() == []


def test_what_is_not_finite_is_hatched(browser, tmp_path):
    gru, x = GRU(1, 4, rng=0), np.ones((20, 1, 1))
    x[7] = np.nan
    with np.errstate(invalid="ignore"):
        output, _, trace = gru.forward(x)
        back = gru.backward(trace, np.ones_like(output))
    debug.write_html(tmp_path / "page.html", gru, trace, back)
    browser.open(tmp_path / "page.html", "#t=7&u=0")
    assert "l0 t = 7 x[0, 0] = nan" in browser.text("#origin")
    rows = browser.run("return [...document.querySelectorAll('#heatmaps .row')].map((one) => one.textContent.trim())")
    assert next(row for row in rows if row.startswith("h ")).endswith("52 not finite")
    assert browser.run("return document.querySelector('#step tbody').textContent").count("nan") > 5
    assert browser.messages() == []


def test_two_runs_side_by_side(browser, tmp_path):
    """Both runs' maps on one scale, each alone, and what is between them."""
    layer, trace, doutput = ready("gru")
    back = layer.backward(trace, doutput)
    x = np.array(trace.x)
    x[4, 1, 0] += 1e-6
    _, _, other = layer.forward(x)
    layer.backward(other, doutput)
    debug.write_html(tmp_path / "page.html", layer, trace, back, sequences=[1], compare=other)
    browser.open(tmp_path / "page.html")
    labels = "return [...document.querySelectorAll('#heatmaps canvas')].map((one) => one.ariaLabel)"
    found = browser.run(labels)
    assert [label.partition(",")[0] for label in found[:4]] == ["x", "x", "r", "r"]
    assert [", other run" in label for label in found[:4]] == [False, True, False, True]
    assert found[0].partition(": ")[2] == found[1].partition(": ")[2]  # one range for both
    for choice, words in (("this", ""), ("other", ", other run"), ("difference", ", difference")):
        browser.run(
            f"const runs = document.getElementById('runs'); runs.value = '{choice}';"
            "runs.dispatchEvent(new Event('change')); return new Promise((done) => requestAnimationFrame(done))"
        )
        found = browser.run(labels)
        assert len(found) == len(browser.run("return window.rnn_numpy.header.layers[0].arrays"))
        assert all(words in label for label in found)
    assert found[0].startswith(f"x, difference, 2 × {T}: |·| 1.000e-06 … 1.000e-06") and "at t = 4, unit 0" in found[0]
    assert browser.messages() == []
    assert browser.run("return document.getElementById('runs-field').hidden") is False


def test_an_attention_map_and_its_equations(browser, tmp_path):
    layer, trace, doutput = ready("attention additive")
    debug.write_html(tmp_path / "page.html", layer, trace, layer.backward(trace, doutput), sequences=[0])
    browser.open(tmp_path / "page.html", "#t=4&u=2&a=alpha")
    browser.press("d")
    found = equations(browser)
    step = trace[4]
    assert found["alpha"][0] == "alpha = softmax(score, exists)   F2"
    assert f"recorded {float(step.alpha[0, 2])!r}, " in found["alpha"][2]
    alpha, dalpha = (f"{float(getattr(step, name)[0, 2])!r}" for name in ("alpha", "dalpha"))
    inner = float((step.alpha[0] * step.dalpha[0]).sum())
    said = found["dscore"][1].replace("(", "").replace(")", "")
    assert said.startswith(f"= {alpha} · {dalpha} - ")
    assert abs(float(said.rpartition(" - ")[2]) / inner - 1) < 1e-12  # of one number a sequence, whatever the unit
    assert "units" not in found and "located" not in found  # arrays of the memory, which the page has not
    label = browser.run("return [...document.querySelectorAll('#heatmaps canvas')].map((one) => one.ariaLabel)")
    (alpha_map,) = [one for one in label if one.startswith("alpha, ")]
    assert alpha_map.startswith(f"alpha, 3 × {T}: ")
    assert browser.run("return document.getElementById('runs-field').hidden")
