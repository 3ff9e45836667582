"""`gradcheck` of two functions over a dict of arrays: what passes, what is wrong, and what cannot be decided."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.checks import GradcheckReport, assert_gradients, gradcheck
from rnn_numpy.errors import GradientCheckError

POINT = {"w": np.array([0.3, -0.7, 1.2]), "b": np.array([0.5, 0.1])}
METHODS = ("auto", "complex step", "ridders", "fourth order", "central difference", "directional")

Arrays = Mapping[str, Any]


def loss(p: Arrays) -> Any:
    return 2 * np.sum(np.tanh(p["w"])) + np.sum(p["b"] ** 3)


def grads(p: Arrays) -> dict[str, Any]:
    return {"w": 2 / np.cosh(p["w"]) ** 2, "b": 3 * p["b"] ** 2}


def changed(change: Callable[[Any], Any]) -> Callable[[Arrays], dict[str, Any]]:
    """Return grads with that of w changed."""
    return lambda p: {**grads(p), "w": change(grads(p)["w"])}


def verdicts(report: GradcheckReport) -> dict[str, str]:
    return {row.title: row.verdict for row in report.rows}


# ---------------------------------------------------------------------------------------------- right and wrong


@pytest.mark.parametrize("method", METHODS)
def test_a_right_gradient_passes_by_every_method(method: str) -> None:
    report = gradcheck(loss, POINT, grads=grads, method=method)
    assert report.ok and report.diagnosis is None
    assert report.error < {"central difference": 1e-9}.get(method, 1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-100, 1.0, 1e100])
def test_one_entry_that_is_wrong_by_a_millionth_fails_by_every_method(method: str, size: float) -> None:
    wrong = np.array([1.0, 1.0, 1 + 1e-6])
    report = gradcheck(
        lambda p: size * loss(p),
        POINT,
        grads=lambda p: {"w": size * grads(p)["w"] * wrong, "b": size * grads(p)["b"]},
        method=method,
    )
    assert verdicts(report) == {"w": "WRONG", "b": "ok"}
    with pytest.raises(GradientCheckError, match="^the gradient check failed\ngradcheck a function of 2 arrays, 5 ent"):
        report.raise_if_failed()


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-100, 1e100, 1e300])
def test_gradients_of_any_size_are_judged_alike(size: float) -> None:
    def small(p: Arrays) -> Any:
        return size * loss(p)

    for method in METHODS:
        if method == "complex step" and size == 1e-300:
            continue  # the step times the derivative has no digits: see the next test
        right = gradcheck(small, POINT, grads=lambda p: {k: size * g for k, g in grads(p).items()}, method=method)
        assert verdicts(right) == {"w": "ok", "b": "ok"}, (method, right)
        for factor, kind in ((0.0, "never accumulated"), (1.0001, "constant factor"), (-1.0, "sign")):
            report = gradcheck(
                small, POINT, grads=lambda p, c=factor: {k: c * size * g for k, g in grads(p).items()}, method=method
            )
            assert verdicts(report) == {"w": "WRONG", "b": "WRONG"}, (method, factor, report)
            assert report.diagnosis is not None
            assert report.diagnosis.kind == ("unknown" if method == "directional" else kind)


def test_a_derivative_too_small_for_a_complex_step_is_told() -> None:
    def tiny(p: Arrays) -> Any:
        return 1e-300 * loss(p)

    def right(p: Arrays) -> dict[str, Any]:
        return {name: 1e-300 * g for name, g in grads(p).items()}

    report = gradcheck(tiny, POINT, grads=right)
    assert report.ok and report.method == "ridders"
    assert report.notes == ["no complex step: the derivative is 1e-300; times the step, it leaves the range of numbers"]
    report = gradcheck(tiny, POINT, grads=right, method="directional")
    assert report.ok and report.method == "ridders along random directions"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda g: 2.5 * g, "constant factor"),
        (lambda g: -g, "sign"),
        (lambda g: 0 * g, "never accumulated"),
        (lambda g: g * [1, 1, 1.5], "entries rescaled"),
        (lambda g: g + POINT["w"], "starts as the weights"),
        (lambda g: np.clip(g, -1, 1), "clipped"),
        (lambda g: g * [5, -3, 0], "unknown"),
    ],
)
def test_a_mistake_is_named(change: Callable[[Any], Any], kind: str) -> None:
    report = gradcheck(loss, POINT, grads=changed(change))
    assert verdicts(report) == {"w": "WRONG", "b": "ok"}
    assert report.diagnosis is not None and report.diagnosis.kind == kind


def test_a_transpose_is_named() -> None:
    M, x = np.arange(9.0).reshape(3, 3) / 5, np.array([0.1, 0.2, 0.3])

    def right(p: Arrays) -> dict[str, Any]:
        return {"M": np.outer(1 - np.tanh(p["M"] @ x) ** 2, x)}

    def turned(p: Arrays) -> dict[str, Any]:
        return {"M": right(p)["M"].T}

    assert gradcheck(lambda p: np.sum(np.tanh(p["M"] @ x)), {"M": M}, grads=right).ok
    report = gradcheck(lambda p: np.sum(np.tanh(p["M"] @ x)), {"M": M}, grads=turned)
    assert report.diagnosis is not None and report.diagnosis.kind == "transposed"


@given(st.integers(0, 2**32 - 1), st.floats(-120, 120), st.sampled_from([1e-9, 1e-4, 1.0]))
def test_whatever_the_size_a_right_gradient_passes_and_a_wrong_one_fails(
    seed: int, decades: float, error: float
) -> None:
    rng = np.random.default_rng(seed)
    A, size = rng.normal(size=(3, 4)), 10.0**decades
    point = {"x": rng.normal(size=4)}

    def right(p: Arrays) -> dict[str, Any]:
        return {"x": size * (1 - np.tanh(A @ p["x"]) ** 2) @ A}

    def value(p: Arrays) -> Any:
        return size * np.sum(np.tanh(A @ p["x"]))

    worst = int(np.argmax(np.abs(right(point)["x"])))
    off = np.ones(4)
    off[worst] += error
    assert gradcheck(value, point, grads=right, seed=seed).ok
    assert not gradcheck(value, point, grads=lambda p: {"x": right(p)["x"] * off}, seed=seed).ok


# ---------------------------------------------------------------------------------------------- what a loss ignores


@pytest.mark.parametrize("method", METHODS)
def test_of_an_ignored_parameter_only_zero_is_right(method: str) -> None:
    def half(p: Arrays) -> Any:
        return np.sum(p["w"] ** 2)

    report = gradcheck(half, POINT, grads=lambda p: {"w": 2 * p["w"], "b": 0 * p["b"]}, method=method)
    assert report.ok and report["b"].error == 0
    claimed = np.array([0.0, 1e-200 if method in ("auto", "complex step") else 1e-3])
    report = gradcheck(half, POINT, grads=lambda p: {"w": 2 * p["w"], "b": claimed}, method=method)
    assert verdicts(report) == {"w": "ok", "b": "WRONG"}


def test_the_diagnosis_of_a_gradient_of_what_is_ignored() -> None:
    report = gradcheck(lambda p: np.sum(p["w"] ** 2), POINT, grads=lambda p: {"w": 2 * p["w"], "b": p["w"][:2]})
    assert str(report.diagnosis) == "wrong derivative: the loss does not change with b: the gradient must be exactly 0"
    assert report["b"].error == np.inf and report["b"].index == (1,)


def test_differences_do_not_judge_what_they_cannot_see() -> None:
    def hidden(p: Arrays) -> Any:
        return 1e8 + 1e-12 * loss(p)

    def right(p: Arrays) -> dict[str, Any]:
        return {name: 1e-12 * g for name, g in grads(p).items()}

    assert gradcheck(hidden, POINT, grads=right).ok  # the complex step has no such trouble
    assert verdicts(gradcheck(hidden, POINT, grads=right, method="ridders")) == {"w": "undecided", "b": "undecided"}


# ---------------------------------------------------------------------------------------------- shapes and dtypes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [np.array(2.0), np.float64(2.0)])
def test_shapes_without_axes_and_without_entries(method: str, number: Any) -> None:
    point = {"one": number, "none": np.zeros((0, 3))}

    def value(p: Arrays) -> Any:
        return p["one"] ** 3 + np.sum(p["none"])

    report = gradcheck(value, point, grads=lambda p: {"one": 3 * p["one"] ** 2, "none": 0 * p["none"]}, method=method)
    assert report.ok and report["one"].shape == () and report["none"].shape == (0, 3)
    report = gradcheck(value, point, grads=lambda p: {"one": 4 * p["one"] ** 2, "none": 0 * p["none"]}, method=method)
    assert verdicts(report) == {"one": "WRONG", "none": "ok"}


def test_arrays_are_taken_as_they_are_and_left_as_they_were() -> None:
    w = np.repeat(POINT["w"], 2)[::2]
    b = POINT["b"].copy()[::-1]
    w.flags.writeable = b.flags.writeable = False
    before = w.tobytes(), b.tobytes()
    report = gradcheck(loss, {"w": w, "b": b}, grads=grads)
    assert report.ok and (w.tobytes(), b.tobytes()) == before


def test_float32_parameters_are_checked_at_their_values() -> None:
    report = gradcheck(loss, {name: array.astype(np.float32) for name, array in POINT.items()}, grads=grads)
    assert report.ok and report.error < 1e-14
    assert report.notes == [f"{name} is float32: differentiated at its values in float64" for name in POINT]


def test_a_float32_gradient_is_judged_to_its_digits() -> None:
    report = gradcheck(loss, POINT, grads=changed(np.float32))
    assert report.ok and 1e-9 < report.error < 1e-7
    assert report.notes == ["the gradient of w is float32, and judged to its seven digits"]
    report = gradcheck(loss, POINT, grads=changed(lambda g: np.float32(g * [1, 1, 1 + 1e-4])))
    assert verdicts(report) == {"w": "WRONG", "b": "ok"}


def test_a_loss_in_float32_has_too_few_digits() -> None:
    report = gradcheck(lambda p: np.float32(loss(p)), POINT, grads=grads, method="ridders")
    assert not report.ok and verdicts(report) == {"w": "undecided", "b": "undecided"}


def test_names_choose() -> None:
    wrong = changed(lambda g: 2 * g)
    assert gradcheck(loss, POINT, grads=wrong, names="b").ok
    assert [row.title for row in gradcheck(loss, POINT, grads=wrong, names=["w", "w"]).rows] == ["w"]
    assert not gradcheck(loss, POINT, grads=wrong, names=["w"]).ok


# ---------------------------------------------------------------------------------------------- kinks and real losses


@pytest.mark.parametrize("method", ["auto", "ridders", "fourth order", "central difference"])
@pytest.mark.parametrize(
    ("claimed", "verdict"), [(0.0, "ok"), (0.5, "ok"), (1.0, "ok"), (1.01, "WRONG"), (-0.01, "WRONG")]
)
def test_at_a_kink_whatever_lies_between_both_slopes_is_right(method: str, claimed: float, verdict: str) -> None:
    point = {"w": np.array([0.0, 1.0, -1.0])}
    report = gradcheck(
        lambda p: np.sum(np.maximum(p["w"], 0)), point, grads=lambda p: {"w": np.array([claimed, 1, 0])}, method=method
    )
    assert verdicts(report) == {"w": verdict}
    assert report["w"].note == "kink" and [kink.index for kink in report.kinks] == [(0,)]
    assert "at a kink of the loss any number between both slopes is right: w[0]: slope 0 from b" in " ".join(
        str(report).split()
    )


@pytest.mark.parametrize("off", [[0, 1e-6, 0], [0, 0, 1e-6]])
def test_a_kink_does_not_excuse_the_other_entries(off: list[float]) -> None:
    point = {"w": np.array([0.0, 1.0, -1.0])}
    report = gradcheck(lambda p: np.sum(np.abs(p["w"])), point, grads=lambda p: {"w": np.sign(p["w"]) + off})
    assert verdicts(report) == {"w": "WRONG"} and report["w"].index == (off.index(1e-6),)


def test_directions_over_a_kink_are_not_judged() -> None:
    point = {"w": np.array([0.0, 1.0, -1.0])}
    report = gradcheck(
        lambda p: np.sum(np.maximum(p["w"], 0)), point, grads=lambda p: {"w": (p["w"] > 0) * 1.0}, method="directional"
    )
    assert verdicts(report) == {"w": "undecided"} and "no complex step: loss has a kink at the point" in report.notes


def real_only(p: Arrays) -> Any:
    if p["w"].dtype != np.float64:
        raise AssertionError
    return np.linalg.norm(p["w"]) + np.var(p["b"])


def real_only_grads(p: Arrays) -> dict[str, Any]:
    return {"w": p["w"] / np.linalg.norm(p["w"]), "b": p["b"] - np.mean(p["b"])}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "complex step"])
def test_a_loss_for_real_arrays_alone(method: str) -> None:
    report = gradcheck(real_only, POINT, grads=real_only_grads, method=method)
    assert report.ok
    wrong = gradcheck(
        real_only, POINT, grads=lambda p: {**real_only_grads(p), "b": 1.0001 * real_only_grads(p)["b"]}, method=method
    )
    assert verdicts(wrong) == {"w": "ok", "b": "WRONG"}


@pytest.mark.parametrize("method", ["auto", "directional"])
def test_a_loss_that_drops_the_imaginary_part_is_not_called_wrong(method: str) -> None:
    report = gradcheck(lambda p: np.sum(np.abs(p["w"])), {"w": POINT["w"]}, grads=lambda p: {"w": np.sign(p["w"])})
    assert report.ok and report.method.startswith("ridders") and "absolute" in report.notes[0]


# ---------------------------------------------------------------------------------------------- chaos, noise, domains


def logistic(p: Arrays, steps: int) -> Any:
    z = p["w"][0]
    for _ in range(steps):
        z = 3.9 * z * (1 - z)
    return z


def logistic_grads(p: Arrays, steps: int) -> dict[str, Any]:
    z, slope = p["w"][0], 1.0
    for _ in range(steps):
        slope *= 3.9 * (1 - 2 * z)
        z = 3.9 * z * (1 - z)
    return {"w": np.array([slope])}


@pytest.mark.parametrize("method", ["auto", "ridders", "directional"])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1.5])
def test_in_chaos_nothing_is_called_right_or_wrong(method: str, factor: float) -> None:
    report = gradcheck(
        lambda p: logistic(p, 200),
        {"w": np.array([0.3])},
        grads=lambda p: {"w": factor * logistic_grads(p, 200)["w"]},
        method=method,
    )
    assert not report.ok and verdicts(report) == {"w": "undecided"} and report.diagnosis is None
    assert "rounding" in report.notes[-1] and "no verdict on the whole loss is possible" in report.notes[-1]
    with pytest.raises(GradientCheckError):
        report.raise_if_failed()


@pytest.mark.parametrize("method", ["auto", "ridders", "directional"])
@pytest.mark.parametrize("steps", range(5, 120, 10))
def test_on_the_way_into_chaos_a_right_gradient_is_never_called_wrong(method: str, steps: int) -> None:
    point = {"w": np.array([0.3])}
    report = gradcheck(lambda p: logistic(p, steps), point, grads=lambda p: logistic_grads(p, steps), method=method)
    assert verdicts(report)["w"] in ("ok", "undecided")
    assert report.ok or steps > 20 or (steps > 10 and method == "ridders")


@pytest.mark.parametrize("method", ["auto", "ridders"])
def test_differences_keep_to_the_domain_of_the_loss(method: str) -> None:
    point = {"w": np.array([1e-8, 2.0])}
    report = gradcheck(lambda p: np.sum(np.log(p["w"])), point, grads=lambda p: {"w": 1 / p["w"]}, method=method)
    assert report.ok and report.method == ("complex step" if method == "auto" else "ridders")


def test_where_an_oracle_leaves_the_domain_the_user_gets_no_warning() -> None:
    point = {"w": np.array([1e-8, 2.0])}
    with np.errstate(all="warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradcheck(lambda p: np.sum(np.log(p["w"])), point, grads=lambda p: {"w": 1 / p["w"]}).ok


def test_numbers_at_the_end_of_the_range() -> None:
    point = {"w": np.array([709.7])}
    report = gradcheck(lambda p: np.sum(np.exp(p["w"])), point, grads=lambda p: {"w": np.exp(p["w"])})
    assert report.ok and report.notes[-1].startswith("no Taylor test: overflow")
    report = gradcheck(lambda p: np.sum(np.exp(p["w"])), point, grads=lambda p: {"w": -np.exp(p["w"])})
    assert verdicts(report) == {"w": "WRONG"}


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    for method in METHODS:
        told.clear()
        gradcheck(loss, POINT, grads=grads, method=method, progress=lambda *args: told.append(args))
        assert told[-1][0] == told[-1][1] and [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_an_assertion_returns_the_report_or_raises() -> None:
    assert assert_gradients(loss, POINT, grads=grads).ok
    with pytest.raises(GradientCheckError, match="constant factor: w: 2 times the right gradient"):
        assert_gradients(loss, POINT, grads=changed(lambda g: 2 * g))


def test_two_runs_give_the_same_report() -> None:
    for method in METHODS:
        one, two = (gradcheck(loss, POINT, grads=grads, method=method, seed=5).to_dict() for _ in range(2))
        assert one == two


@pytest.mark.parametrize("seed", range(40))
def test_digits_that_a_formula_has_lost_are_not_called_wrong(seed: int) -> None:
    # 1 - tanh^2 where tanh is close to 1: it hardly moves with its point, and yet few of its digits are right.
    rng = np.random.default_rng(seed)
    A = 3 * rng.normal(size=(3, 4))
    point = {"x": rng.normal(size=4)}
    for factor, verdict in ((1.0, "ok"), (1.0001, "WRONG")):
        report = gradcheck(
            lambda p: np.sum(np.tanh(A @ p["x"])),
            point,
            grads=lambda p, c=factor: {"x": c * (1 - np.tanh(A @ p["x"]) ** 2) @ A},
        )
        assert verdicts(report) == {"x": verdict}


# ------------------------------------------------------------------------------------------------ narrower inside


def narrow_net(seed, dtype):
    """Return a loss that computes in a dtype of its own and returns a float, its right gradients, and a point."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(7, 3))

    def hidden(p, kind):
        return np.tanh(x.astype(kind) @ p["W"].astype(kind).T + p["b"].astype(kind))

    def loss(p):
        return float(np.sum((hidden(p, dtype) - y.astype(dtype)) ** 2))

    def grads(p, off=1.0):
        h = hidden(p, np.float64)
        d = 2 * (h - y) * (1 - h * h)
        return {"W": off * d.T @ x, "b": d.sum(axis=0)}

    return loss, grads, {"W": rng.normal(size=(3, 4)), "b": rng.normal(size=3)}


def test_a_loss_in_single_precision_inside_is_never_called_wrong():
    for seed in range(20):
        loss, grads, point = narrow_net(seed, np.float32)
        report = gradcheck(loss, point, grads=grads, seed=seed)
        assert report.verdict == "undecided", report
        assert any("loss is rough: rounding moves it by" in note for note in report.notes)
        wrong = gradcheck(loss, point, grads=lambda p: grads(p, 1.5), seed=seed)  # noqa: B023
        assert wrong.verdict == "FAILED"


@pytest.mark.parametrize("seed", range(3))
def test_the_same_in_double_precision_is_decided(seed):
    loss, grads, point = narrow_net(seed, np.float64)
    report = gradcheck(loss, point, grads=grads)
    assert report.ok and not any("rough" in note for note in report.notes)
