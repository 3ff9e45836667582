"""`gradcheck` of functions of many entries: directions first, entries where they disagree, and a budget."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_numpy.checks import GradcheckReport, gradcheck, watch
from rnn_numpy.checks.watch import Watch
from rnn_numpy.errors import GradientCheckError, OptionError

Arrays = Mapping[str, Any]


class Net:
    """A net of two tanh layers, 3 060 entries, with the same sizes along both axes of one weight; counts its calls."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.scale, self.calls = scale, 0
        self.point = {
            "W": rng.normal(size=(40, 40)) / 7,
            "b": rng.normal(size=40),
            "V": rng.normal(size=(35, 40)) / 7,
            "c": rng.normal(size=20)[:, None],
        }
        self.x, self.y = rng.normal(size=(6, 40)), rng.normal(size=(6, 35))

    def hidden(self, p: Arrays) -> Any:
        return np.tanh(self.x @ p["W"].T + p["b"])

    def loss(self, p: Arrays) -> Any:
        self.calls += 1
        output = np.tanh(self.hidden(p) @ p["V"].T)
        return self.scale * (np.sum((output - self.y) ** 2) + np.sum(p["c"] ** 3))

    def grads(self, p: Arrays) -> dict[str, Any]:
        hidden = self.hidden(p)
        output = np.tanh(hidden @ p["V"].T)
        da = 2 * self.scale * (output - self.y) * (1 - output**2)
        dz = da @ p["V"] * (1 - hidden**2)
        return {"W": dz.T @ self.x, "b": dz.sum(axis=0), "V": da.T @ hidden, "c": 3 * self.scale * p["c"] ** 2}

    def wrong(self, name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], dict[str, Any]]:
        return lambda p: {**self.grads(p), name: change(self.grads(p)[name])}


class RealNet(Net):
    """The same for real arrays alone."""

    def loss(self, p: Arrays) -> Any:
        if p["W"].dtype != np.float64:
            raise TypeError("real arrays, please")
        return super().loss(p)


def verdicts(report: GradcheckReport) -> dict[str, str]:
    return {row.title: row.verdict for row in report.rows}


def at(index: tuple[int, ...], factor: float) -> Callable[[Any], Any]:
    """Return what multiplies one entry."""

    def change(array: Any) -> Any:
        array[index] *= factor
        return array

    return change


@pytest.mark.parametrize("kind", [Net, RealNet])
@pytest.mark.parametrize("seed", range(5))
def test_a_right_gradient_passes_with_few_calls(kind: type[Net], seed: int) -> None:
    net = kind(seed)
    report = gradcheck(net.loss, net.point, grads=net.grads, seed=seed)
    assert report.ok and set(verdicts(report)) == {"W", "b", "V", "c"}
    assert report.error < (1e-14 if kind is Net else 1e-10)
    assert net.calls < 800  # where there are 3 060 entries


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "index"), [("W", (3, 7)), ("V", (34, 0)), ("b", (39,)), ("c", (11, 0))])
def test_one_entry_wrong_by_a_billionth_of_itself_is_found(seed: int, name: str, index: tuple[int, ...]) -> None:
    net = Net(seed)
    report = gradcheck(net.loss, net.point, grads=net.wrong(name, at(index, 1 + 1e-9)), seed=seed)
    assert [title for title, verdict in verdicts(report).items() if verdict == "WRONG"] == [name]
    assert report[name].index == index
    assert net.calls < 800


@pytest.mark.parametrize("kind", [Net, RealNet])
def test_a_row_is_found(kind: type[Net]) -> None:
    net = kind()
    report = gradcheck(net.loss, net.point, grads=net.wrong("V", at((5,), 1.001)))
    assert report["V"].verdict == "WRONG" and report["V"].index[0] == 5
    assert report.diagnosis is not None and report.diagnosis.kind == "entries rescaled"
    assert "40 of 1400 entries of V" in report.diagnosis.why


def test_a_transposed_block_is_found() -> None:
    def turned(array: Any) -> Any:
        array[8:12, 20:24] = array[8:12, 20:24].T.copy()
        return array

    net = Net()
    report = gradcheck(net.loss, net.point, grads=net.wrong("W", turned))
    row, column = report["W"].index
    assert report["W"].verdict == "WRONG" and 8 <= row < 12 and 20 <= column < 24


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda g: -g, "sign"),
        (lambda g: 2.5 * g, "constant factor"),
        (lambda g: 0 * g, "never accumulated"),
        (lambda g: g.T.copy(), "transposed"),
        (lambda g: np.clip(g, -1, 1), "clipped"),
        (lambda g: g * (1 + 1e-8), "constant factor"),
        (lambda g: g + 1, "wrong derivative"),  # the right one plus 1
    ],
)
def test_what_is_wrong_throughout_is_named_from_some_entries(change: Callable[[Any], Any], kind: str) -> None:
    net = Net()
    report = gradcheck(net.loss, net.point, grads=net.wrong("W", change))
    assert [title for title, verdict in verdicts(report).items() if verdict == "WRONG"] == ["W"]
    assert report.diagnosis is not None and report.diagnosis.kind == kind
    told = "too many groups of entries of W do not agree to look at each entry: 484 of 1600 were looked at"
    assert any(note.startswith(told) for note in report.notes)
    assert net.calls < 1200


@pytest.mark.parametrize("change", [at((3, 7), 1.01), lambda g: -g])
def test_a_loss_for_real_arrays_alone_is_divided_too(change: Callable[[Any], Any]) -> None:
    net = RealNet()
    report = gradcheck(net.loss, net.point, grads=net.wrong("W", change), seconds=math.inf)
    assert verdicts(report) == {"W": "WRONG", "b": "ok", "V": "ok", "c": "ok"}
    assert report.method.startswith("ridders along random directions, by entries")


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_size_of_the_loss_does_not_matter(scale: float) -> None:
    net = Net(scale=scale)
    assert gradcheck(net.loss, net.point, grads=net.grads).ok
    report = gradcheck(net.loss, net.point, grads=net.wrong("W", at((0, 0), 1 + 1e-8)))
    assert report["W"].verdict == "WRONG" and report["W"].index == (0, 0)


def test_a_float32_gradient_is_judged_by_groups_that_are_small_enough() -> None:
    net = Net()
    assert gradcheck(net.loss, net.point, grads=net.wrong("W", np.float32)).ok
    report = gradcheck(net.loss, net.point, grads=net.wrong("W", lambda g: np.float32(at((3, 3), 1.01)(g))))
    assert report["W"].verdict == "WRONG" and report["W"].index == (3, 3)


def relu(p: Arrays) -> Any:
    return np.sum(np.maximum(p["w"], 0) * np.arange(1.0, 1 + p["w"].size))


def relu_grads(p: Arrays) -> dict[str, Any]:
    return {"w": (p["w"] > 0) * np.arange(1.0, 1 + p["w"].size)}


def at_kinks() -> dict[str, Any]:
    w = np.random.default_rng(0).normal(size=1200)
    w[[100, 700]] = 0
    return {"w": w}


def test_groups_without_a_kink_are_told_from_those_with_one() -> None:
    report = gradcheck(relu, at_kinks(), grads=relu_grads, seconds=math.inf)
    assert report.ok and sorted(kink.index for kink in report.kinks) == [(100,), (700,)]
    wrong = gradcheck(relu, at_kinks(), grads=lambda p: {"w": at((50,), 1.5)(relu_grads(p)["w"])}, seconds=math.inf)
    assert wrong["w"].verdict == "ok" if at_kinks()["w"][50] <= 0 else wrong["w"].index == (50,)


def test_zeros_and_arrays_without_entries() -> None:
    point = {"zero": np.zeros(1500), "ignored": np.ones(30), "none": np.zeros((0, 4)), "one": np.array(2.0)}

    def value(p: Arrays) -> Any:
        return np.sum(p["zero"] ** 2) + p["one"] ** 3 + np.sum(p["none"]) + 0 * np.sum(p["ignored"])

    def right(p: Arrays) -> dict[str, Any]:
        return {"zero": 2 * p["zero"], "ignored": 0 * p["ignored"], "none": p["none"], "one": 3 * p["one"] ** 2}

    assert gradcheck(value, point, grads=right).ok
    for name in ("zero", "ignored"):
        claimed = np.zeros(point[name].shape)
        claimed[7] = 1e-30
        report = gradcheck(value, point, grads=lambda p, n=name, c=claimed: {**right(p), n: c})
        assert report[name].verdict == "WRONG" and report[name].index == (7,)
        assert report.diagnosis is not None and report.diagnosis.kind == "wrong derivative"


# ---------------------------------------------------------------------------------------------- the budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Give a clock that goes on by a second whenever `tick` is called."""
    clock = SimpleNamespace(now=0.0)

    def tick() -> None:
        clock.now += 1.0

    clock.tick = tick
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock.now))
    yield clock


def slow(clock: SimpleNamespace, function: Callable[[Arrays], Any]) -> Callable[[Arrays], Any]:
    def slowed(p: Arrays) -> Any:
        clock.tick()
        return function(p)

    return slowed


def test_a_budget_that_ends_before_the_last_array_says_which(clock: SimpleNamespace) -> None:
    net = Net()
    unlimited = gradcheck(slow(clock, net.loss), net.point, grads=net.grads, seconds=math.inf)
    assert unlimited.ok
    clock.now = 0.0

    def progress(done: int, total: int, label: str) -> None:
        if label == "directions of V":  # the time is up while these are looked at, however many calls came before
            clock.now = 1e6

    report = gradcheck(slow(clock, net.loss), net.point, grads=net.grads, seconds=1e5, progress=progress)
    assert verdicts(report) == {"W": "ok", "b": "ok", "V": "undecided", "c": "undecided"}
    assert [report[name].note for name in ("V", "c")] == ["not looked at"] * 2
    assert not report.ok and report.diagnosis is None and str(report).endswith("undecided")
    (note,) = (note for note in report.notes if note.startswith("not looked at"))
    assert "1400 of the 1400 entries of V, 20 of the 20 entries of c; one by one they take about " in note
    assert report.to_dict()["rows"][2]["error"] is None


def test_a_budget_that_ends_among_entries_says_how_many(clock: SimpleNamespace) -> None:
    loss, point = slow(clock, relu), at_kinks()
    assert gradcheck(loss, point, grads=relu_grads, seconds=math.inf, trials=False).ok
    needed, clock.now = clock.now, 0.0
    report = gradcheck(loss, point, grads=relu_grads, seconds=needed - 100, trials=False)
    row = report["w"]
    assert row.verdict == "undecided" and row.note.endswith("of 1200 entries looked at")
    looked = int(row.note.split()[0])
    assert 1100 < looked < 1200
    assert any(f"s: {1200 - looked} of the 1200 entries of w; one by one they take about" in n for n in report.notes)


def test_a_direction_that_disagrees_is_wrong_even_if_no_entry_was_looked_at(clock: SimpleNamespace) -> None:
    net, seen = Net(), []

    def progress(done: int, total: int, label: str) -> None:
        seen.append((clock.now, label))

    grads = net.wrong("c", at((3, 0), 1.5))
    gradcheck(slow(clock, net.loss), net.point, grads=grads, seconds=math.inf, progress=progress)
    last = [now for now, label in seen if label == "directions of c"][3]  # the first four are of all of it
    clock.now = 0.0
    report = gradcheck(slow(clock, net.loss), net.point, grads=grads, seconds=last + 1)
    assert report["c"].verdict == "WRONG" and report["c"].note == "0 of 20 entries looked at"
    assert report["c"].index == ()


@pytest.mark.parametrize("method", ["complex step", "ridders"])
def test_a_budget_for_a_method_by_entries(clock: SimpleNamespace, method: str) -> None:
    net = Net()
    report = gradcheck(slow(clock, net.loss), net.point, grads=net.grads, method=method, seconds=400.0, names=["W"])
    row = report["W"]
    assert report.method == method and row.verdict == "undecided"
    looked = int(row.note.split()[0])
    assert 1 < looked < 1600
    assert any(f"{1600 - looked} of the 1600 entries of W" in note for note in report.notes)
    assert gradcheck(net.loss, net.point, grads=net.grads, method=method, seconds=math.inf, names=["b"]).ok


def test_a_budget_for_directions_alone(clock: SimpleNamespace) -> None:
    net, last = Net(), [0.0]

    def progress(done: int, total: int, label: str) -> None:
        last[0] = last[0] or clock.now * (label == "directions of V")

    loss = slow(clock, net.loss)
    assert gradcheck(loss, net.point, grads=net.grads, method="directional", seconds=math.inf, progress=progress).ok
    clock.now = 0.0
    report = gradcheck(loss, net.point, grads=net.grads, method="directional", seconds=last[0] - 0.5)
    assert verdicts(report) == {"W": "ok", "b": "ok", "V": "undecided", "c": "undecided"}
    assert any(note.startswith("not looked at, for the time") and note.endswith("s: V, c") for note in report.notes)


def test_a_budget_for_few_entries() -> None:
    point = {"w": np.array([0.3, -0.7])}
    report = gradcheck(lambda p: np.sum(p["w"] ** 2), point, grads=lambda p: {"w": 2 * p["w"]}, seconds=100.0)
    assert report.ok
    report = gradcheck(lambda p: np.sum(p["w"] ** 2), point, grads=lambda p: {"w": 5 * p["w"]}, seconds=100.0)
    assert report.diagnosis is not None and report.diagnosis.kind == "constant factor"


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, "5", True])
def test_a_budget_that_is_none_is_refused(seconds: Any) -> None:
    net = Net()
    with pytest.raises(OptionError, match="gradcheck: seconds must be a positive number, or None; got "):
        gradcheck(net.loss, net.point, grads=net.grads, seconds=seconds)


def test_a_loss_that_modifies_its_arrays_is_told() -> None:
    net = Net()

    def scribbling(p: Arrays) -> Any:
        value = net.loss(p)
        p["W"].setflags(write=True)
        p["W"] += 0.125
        return value

    with pytest.raises((GradientCheckError, ValueError)):
        gradcheck(scribbling, net.point, grads=net.grads)


def test_two_runs_give_the_same_report() -> None:
    net = Net()
    for change in (lambda g: g, lambda g: -g, at((3, 7), 2.0)):
        one, two = (gradcheck(net.loss, net.point, grads=net.wrong("W", change)).to_dict() for _ in range(2))
        assert one == two


def test_progress_goes_up_to_its_end() -> None:
    net, told = Net(), []
    gradcheck(net.loss, net.point, grads=net.wrong("W", at((3, 7), 2.0)), progress=lambda *args: told.append(args))
    assert told[-1][0] == told[-1][1] and [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert all(done <= total for done, total, _ in told)


# ---------------------------------------------------------------------------------------------- the line on a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_a_long_check_shows_a_line_on_a_terminal_alone(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], shown: bool
) -> None:
    written = stream()
    monkeypatch.setattr("sys.stderr", written)
    net = Net()
    gradcheck(slow(clock, net.loss), net.point, grads=net.grads, seconds=math.inf)
    text = written.getvalue()
    assert bool(text) is shown
    if shown:
        assert "\rgradcheck: directions of V, 8 of 16, about " in text
        assert text.endswith(" \r")  # and takes it away


def test_a_short_check_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal()
    monkeypatch.setattr("sys.stderr", written)
    gradcheck(lambda p: np.sum(p["w"] ** 2), {"w": np.ones(2)}, grads=lambda p: {"w": 2 * p["w"]})
    assert written.getvalue() == ""


def test_a_ctrl_c_takes_the_line_away(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal()
    monkeypatch.setattr("sys.stderr", written)
    net = Net()

    def interrupted(p: Arrays) -> Any:
        clock.tick()
        if "directions of V" in written.getvalue():
            raise KeyboardInterrupt
        return net.loss(p)

    with pytest.raises(KeyboardInterrupt):
        gradcheck(interrupted, net.point, grads=net.grads, seconds=math.inf)
    assert written.getvalue().endswith(" \r")


def test_a_watch_without_an_end() -> None:
    with Watch("test") as endless:
        assert not endless.is_over and endless.seconds == math.inf
