"""The lists of NumPy's functions are what NumPy does: every name is run, and differences say what is right."""

import warnings

import numpy as np
import pytest
from offenders import offenders

from rnn_numpy.checks import assert_grad_close, central_difference, complex_step, gradcheck
from rnn_numpy.checks.oracles import ANALYTIC_HAZARDS, ANALYTIC_SAFE, analytic_violations
from rnn_numpy.checks.oracles.analytic import overflow
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

# Since NumPy 2.5; before it is gone, what it loses is told.
pytestmark = pytest.mark.filterwarnings("ignore:numpy.fix is deprecated:DeprecationWarning")

A = np.random.default_rng(0).uniform(0.2, 0.9, size=(3, 3)) * np.array([[1, -1, 1], [-1, 1, 1], [1, 1, -1]])
WEIGHTS = np.arange(1.0, 10.0).reshape(3, 3)
# Symmetric and positive, as a function of any matrix.
SQUARE = "(a @ a.T + 3 * np.eye(3))"


# For each name a scalar function of a (3, 3) matrix whose derivative passes through the function of that name.
HAZARDS = {
    "absolute": "np.sum(np.abs(a) * w)",
    "linalg.norm": "np.linalg.norm(a)",
    "linalg.vector_norm": "np.linalg.vector_norm(a)",
    "linalg.matrix_norm": "np.linalg.matrix_norm(a)",
    "linalg.cond": "np.linalg.cond(a)",
    "var": "np.var(a * w)",
    "std": "np.std(a * w)",
    "nanvar": "np.nanvar(a * w)",
    "nanstd": "np.nanstd(a * w)",
    "conjugate": "np.sum(np.conj(a) * a * w)",
    "vdot": "np.vdot(a, a * w)",
    "vecdot": "np.sum(np.vecdot(a, a * w))",
    "linalg.vecdot": "np.sum(np.linalg.vecdot(a, a * w))",
    "vecmat": "np.sum(np.vecmat(a[0], a))",
    "correlate": "np.sum(np.correlate(a[0], a[1], 'full') * np.arange(5))",
    "cov": "np.sum(np.cov(a) * w)",
    "corrcoef": "np.sum(np.corrcoef(a) * w)",
    "real": "np.sum(np.real(a) * w)",
    "imag": "np.sum((np.imag(a) + 1) * w)",
    "real_if_close": "np.sum(np.real_if_close(a) * w)",
    "angle": "np.sum(np.angle(a) * w)",
    "sign": "np.sum(np.sign(a) * w)",
    "linalg.svd": "np.linalg.svd(a)[1][0]",
    "linalg.svdvals": "np.linalg.svdvals(a)[0]",
    "linalg.qr": "np.linalg.qr(a)[1][0, 0]",
    "linalg.eigh": f"np.linalg.eigh({SQUARE})[0][0]",
    "linalg.eigvalsh": f"np.linalg.eigvalsh({SQUARE})[0]",
    "linalg.cholesky": f"np.sum(np.linalg.cholesky({SQUARE}) * w)",
    "linalg.slogdet": "np.linalg.slogdet(a)[1]",
    "fabs": "np.sum(np.fabs(a) * w)",
    "logaddexp": "np.sum(np.logaddexp(a, 1) * w)",
    "logaddexp2": "np.sum(np.logaddexp2(a, 1) * w)",
    "hypot": "np.sum(np.hypot(a, 1) * w)",
    "arctan2": "np.sum(np.arctan2(a, 2) * w)",
    "cbrt": "np.sum(np.cbrt(a) * w)",
    "copysign": "np.sum(np.copysign(a, 1) * w)",
    "heaviside": "np.sum(np.heaviside(a, 0.5) * a)",
    "floor": "np.sum(np.floor(a) * a)",
    "ceil": "np.sum(np.ceil(a) * a)",
    "trunc": "np.sum(np.trunc(3 * a) * a)",
    "fix": "np.sum(np.fix(3 * a) * a)",
    "remainder": "np.sum(np.mod(a, 0.15) * w)",
    "floor_divide": "np.sum((a // 0.15) * a)",
    "deg2rad": "np.sum(np.deg2rad(a) * w)",
    "rad2deg": "np.sum(np.rad2deg(a) * w)",
    "interp": "np.sum(np.interp(a, [-1.0, 1.0], [0.0, 3.0]) * w)",
    "i0": "np.sum(np.i0(a) * w)",
    "quantile": "np.quantile(a, 0.3)",
    "percentile": "np.percentile(a, 30)",
}

# At a tie: a is made of two equal halves.
TIES = {
    "maximum": "np.sum(np.maximum(a[0], a[1]) * w[0])",
    "minimum": "np.sum(np.minimum(a[0], a[1]) * w[0])",
    "fmax": "np.sum(np.fmax(a[0], a[1]) * w[0])",
    "fmin": "np.sum(np.fmin(a[0], a[1]) * w[0])",
    "greater": "np.sum(np.where(a[0] > a[1], a[0], a[1]) * w[0])",
    "greater_equal": "np.sum(np.where(a[0] >= a[1], a[0], a[1]) * w[0])",
    "less": "np.sum(np.where(a[0] < a[1], a[0], a[1]) * w[0])",
    "less_equal": "np.sum(np.where(a[0] <= a[1], a[0], a[1]) * w[0])",
    "clip": "np.sum(np.clip(a, 0.5, 2.0) * w)",
    "max": "np.max(a)",
    "min": "np.min(a)",
    "argmax": "a.ravel()[np.argmax(a)]",
    "argmin": "a.ravel()[np.argmin(a)]",
    "sort": "np.sort(a.ravel())[-1]",
    "argsort": "a.ravel()[np.argsort(a.ravel())[-1]]",
    "ptp": "np.ptp(a)",
    "median": "np.median(np.concatenate([a[0, :2], 0 * w[0, :1]]))",
}

POSITIVE = "(a * a + 0.1)"
SAFE = {
    **{name: f"np.sum(np.{name}(a, w + a * a) * w)" for name in ("add", "subtract", "multiply", "divide")},
    **{name: f"np.sum(np.{name}({POSITIVE}, a) * w)" for name in ("power", "float_power")},
    **{name: f"np.sum(np.{name}(a) * w)" for name in ("negative", "positive", "square", "reciprocal", "exp", "exp2")},
    **{name: f"np.sum(np.{name}(a) * w)" for name in ("expm1", "sinc", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: f"np.sum(np.{name}(a) * w)" for name in ("arcsin", "arccos", "arctan", "arcsinh", "arctanh")},
    **{name: f"np.sum(np.{name}({POSITIVE}) * w)" for name in ("log", "log2", "log10", "log1p", "sqrt")},
    "arccosh": f"np.sum(np.arccosh(1 + {POSITIVE}) * w)",
    **{name: f"np.{name}(a * a * w)" for name in ("sum", "mean", "average", "prod", "trace", "nansum")},
    **{name: f"np.sum(np.{name}(a * a, axis=1) * w)" for name in ("cumsum", "cumprod")},
    "diff": "np.sum(np.diff(a) ** 2)",
    "gradient": "np.sum(np.gradient(a)[0] ** 2)",
    "trapezoid": "np.sum(np.trapezoid(a * a))",
    **{name: f"np.sum(np.{name}(a, a * w))" for name in ("dot", "matmul", "inner", "outer", "tensordot", "kron")},
    "matvec": "np.sum(np.matvec(a, a[0]))",
    "einsum": "np.einsum('ij,jk,ki', a, a, w)",
    "convolve": "np.sum(np.convolve(a[0], a[1]) * np.arange(5))",
    "cross": "np.sum(np.cross(a[0], a[1]) * w[0])",
    "polyval": "np.polyval(a[0], a[1, 1])",
    **{f"linalg.{name}": f"np.sum(np.linalg.{name}(a) * w)" for name in ("inv", "pinv")},
    "linalg.solve": "np.sum(np.linalg.solve(a, a[0]))",
    "linalg.lstsq": "np.sum(np.linalg.lstsq(a, a[0])[0])",
    "linalg.det": "np.linalg.det(a)",
    "linalg.matrix_power": "np.sum(np.linalg.matrix_power(a, 3) * w)",
    "linalg.multi_dot": "np.sum(np.linalg.multi_dot([a, w, a]))",
    "linalg.eig": f"np.sum(np.linalg.eig({SQUARE})[0] ** 2)",
    "linalg.eigvals": f"np.sum(np.linalg.eigvals({SQUARE}) ** 2)",
    "where": "np.sum(np.where(a > 0, a * a, w * a))",
    "concatenate": "np.sum(np.concatenate([a, a * a])[:3] * w)",
    "stack": "np.sum(np.stack([a, a * a]) * w)",
    **{name: f"np.sum(np.{name}(a * a) * w)" for name in ("flip", "transpose", "nan_to_num")},
    "roll": "np.sum(np.roll(a, 1) * w)",
    "reshape": "np.sum(np.reshape(a, (9,)) * w.ravel())",
    "take": "np.sum(np.take(a, [0, 4, 4]))",
    "diag": "np.sum(np.diag(a) ** 2)",
    "round": "np.sum(np.round(a, 1) * a)",
    "rint": "np.sum(np.rint(a) * a)",
}


def loss_of(expression):
    code = compile(expression, expression, "eval")
    return lambda p: eval(code, {"np": np, "w": WEIGHTS}, {"a": p["a"]})


def derivatives(expression, a):
    """Return the derivative by differences and what a bare complex step makes of it; None where it has none."""
    loss = loss_of(expression)
    # Since NumPy 2.5, eigenvalues of real arrays come as complex numbers, too.
    expected = central_difference(lambda p: np.real(loss(p)), {"a": a})["a"]
    found = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        moved = a.astype(complex)
        moved[index] += 1e-20j
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            try:
                result = np.asarray(loss({"a": moved}))
            except TypeError:
                return expected, "raises"
        if result.dtype.kind != "c":
            return expected, "real"
        found[index] = result.imag / 1e-20
    return expected, found


def test_every_listed_name_is_run():
    assert {*HAZARDS, *TIES} == set(ANALYTIC_HAZARDS)
    assert set(SAFE) == set(ANALYTIC_SAFE)
    assert len(set(ANALYTIC_SAFE)) == len(ANALYTIC_SAFE)
    assert not set(ANALYTIC_SAFE) & set(ANALYTIC_HAZARDS)
    assert {name for name, hazard in ANALYTIC_HAZARDS.items() if hazard.effect == "tie"} == set(TIES)


def test_hazards_lose_the_derivative():
    def loses(name):
        expected, found = derivatives(HAZARDS[name], A)
        effect = ANALYTIC_HAZARDS[name].effect
        if effect == "wrong":
            assert np.max(np.abs(found - expected)) > 0.1 * np.max(np.abs(expected))
        else:
            assert isinstance(found, str) and found == effect

    assert offenders(HAZARDS, loses) == {}


def test_a_tie_gives_the_derivative_of_one_side():
    def gives(name):
        tied = np.full((3, 3), 0.5)
        expected, found = derivatives(TIES[name], tied)
        # Differences give the mean of both slopes, a complex step one of them.
        assert np.max(np.abs(found - expected)) > 0.3 * np.max(np.abs(expected))
        expected, found = derivatives(TIES[name], A)
        assert_grad_close("a", found, expected, 1e-7)

    assert offenders(TIES, gives) == {}


def test_safe_names_keep_the_derivative():
    def keeps(name):
        expected, found = derivatives(SAFE[name], A)
        assert_grad_close("a", found, expected, 1e-7)
        assert np.max(np.abs(expected)) > 1e-3

    assert offenders(SAFE, keeps) == {}


def test_hazards_are_recorded_by_their_names():
    found = {name: analytic_violations(loss_of(text), {"a": A}) for name, text in HAZARDS.items()}
    assert found == {name: [name] for name in HAZARDS}


def test_ties_are_recorded_where_there_is_one():
    tied = {"a": np.full((3, 3), 0.5)}
    assert [name for name, text in TIES.items() if name not in analytic_violations(loss_of(text), tied)] == []
    assert [name for name, text in TIES.items() if analytic_violations(loss_of(text), {"a": A})] == []


def test_safe_names_are_not_recorded():
    assert [name for name, text in SAFE.items() if analytic_violations(loss_of(text), {"a": A})] == []


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("np.sum(abs(a))", "absolute"),
        ("np.sum(a.conj())", "conjugate"),
        ("np.sum(a.conjugate())", "conjugate"),
        ("a.var()", "var"),
        ("a.std()", "std"),
        ("np.sum(a.real)", "real"),
        ("np.sum(a.imag)", "imag"),
        ("a[1, 2].real", "real"),
        ("np.sum(a * a).real", "real"),
        ("np.sum(np.stack([np.tanh(a), a @ a])[1].real)", "real"),
        ("np.sum(np.linalg.solve(a, a)[0].conj())", "conjugate"),
        ("sum(abs(row[0]) for row in a)", "absolute"),
        ("np.linalg.norm(np.linalg.inv(a), axis=0)[0]", "linalg.norm"),
        ("np.sum(a % 0.2)", "remainder"),
    ],
)
def test_methods_operators_scalars_and_what_was_computed_before_are_seen(method, name):
    assert analytic_violations(loss_of(method), {"a": A}) == [name]


def test_in_place_operators_and_out_are_followed():
    def loss(p):
        h = np.zeros(3, p["a"].dtype)
        h += p["a"] @ np.ones(3)
        np.tanh(h, out=h)
        total = p["a"][0].copy()
        total *= h
        return np.sum(np.abs(total))

    assert analytic_violations(loss, {"a": A}) == ["absolute"]


def test_names_are_listed_once_in_the_order_of_their_use():
    text = "np.linalg.norm(a) + np.sum(a.real) + np.linalg.norm(a)"
    assert analytic_violations(loss_of(text), {"a": A}) == ["linalg.norm", "real"]


def test_only_the_named_arrays_are_followed():
    def loss(p):
        return np.sum(p["a"]) + np.sum(np.abs(p["b"]))

    point = {"a": A, "b": A}
    assert analytic_violations(loss, point) == ["absolute"]
    assert analytic_violations(loss, point, names=["a"]) == []
    with pytest.raises(OptionError, match="^analytic_violations: names must be among"):
        analytic_violations(loss, point, names=["c"])
    with pytest.raises(DTypeError, match="^analytic_violations: a must be a float64 array; got float32"):
        analytic_violations(loss, {"a": np.ones(2, np.float32)})


def test_a_loss_that_raises_is_recorded_up_to_there():
    def loss(p):
        np.abs(p["a"])
        raise KeyError("b")

    assert analytic_violations(loss, {"a": A}) == ["absolute"]


def test_what_recording_sees_is_what_the_loss_computes():
    def loss(p):
        seen.append(np.asarray(np.sum(np.tanh(p["a"]) @ p["a"])))
        return seen[-1]

    seen = []
    analytic_violations(loss, {"a": A})
    assert complex(seen[0]) == np.sum(np.tanh(A.astype(complex)) @ A.astype(complex))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("absolute", "np.sum(np.where(a.real < 0, -a, a) * w)"),
        ("linalg.norm", "np.sqrt(np.sum(a * a))"),
        ("var", "np.mean((a * w - np.mean(a * w)) ** 2)"),
        ("std", "np.sqrt(np.mean((a * w - np.mean(a * w)) ** 2))"),
        ("conjugate", "np.sum(a * a * w)"),
        ("vdot", "np.sum(a * a * w)"),
        ("vecdot", "np.sum(np.sum(a * (a * w), axis=-1))"),
        ("vecmat", "np.sum(a[0][..., None, :] @ a)"),
        ("correlate", "np.sum(np.convolve(a[0], a[1][::-1]) * np.arange(5))"),
        ("linalg.svdvals", "np.sqrt(np.sort(np.linalg.eigvals(a.T @ a))[-1])"),
        ("linalg.slogdet", "0.5 * np.log(np.linalg.det(a) ** 2)"),
        ("logaddexp", "np.sum((np.maximum(a.real, 1) + np.log(np.exp(a - np.maximum(a.real, 1)) + "
         "np.exp(1 - np.maximum(a.real, 1)))) * w)"),
        ("hypot", "np.sum(np.sqrt(a * a + 1) * w)"),
        ("arctan2", "np.sum(np.arctan(a / 2) * w)"),
        ("cbrt", "np.sum(np.sign(a.real) * (np.sign(a.real) * a) ** (1 / 3) * w)"),
        ("copysign", "np.sum(np.where(np.signbit(a.real) == np.signbit(1), a, -a) * w)"),
        ("heaviside", "np.sum(np.heaviside(a.real, 0.5) * a)"),
        ("floor", "np.sum(np.floor(a.real) * a)"),
        ("remainder", "np.sum((a - 0.15 * np.floor(a.real / 0.15)) * w)"),
        ("deg2rad", "np.sum(a * (np.pi / 180) * w)"),
    ],
)  # fmt: skip
def test_what_to_write_instead_is_the_same_function_and_keeps_the_derivative(name, instead):
    point = {"a": A}
    assert loss_of(instead)(point) == pytest.approx(loss_of(HAZARDS[name])(point), rel=1e-13)
    expected = central_difference(loss_of(HAZARDS[name]), point)["a"]
    assert_grad_close("a", complex_step(loss_of(instead), point)["a"], expected, 1e-7)


# ------------------------------------------------------------------------------------------------ overflow


def sigmoid_sum(p):
    with np.errstate(all="ignore"):
        return np.sum(1 / (1 + np.exp(-p["a"])))


def test_an_exponential_that_overflows_is_named_with_its_entry():
    point = {"a": np.array([[1.0, 2.0], [-800.0, 3.0]])}
    with pytest.raises(
        GradientCheckError, match=r"the exponential of 800 overflows, at \[1, 0\] of an array of"
    ) as told:
        complex_step(sigmoid_sum, point)
    assert "(1 + np.tanh(a / 2)) / 2" in str(told.value)
    assert overflow(lambda p: np.sum((1 + np.tanh(p["a"] / 2)) / 2), point) == ""
    assert overflow(sigmoid_sum, {"a": np.array([-709.0])}) == ""
    report = gradcheck(sigmoid_sum, point, grads=lambda p: {"a": 0.25 / np.cosh(np.maximum(p["a"], -300) / 2) ** 2})
    assert report.ok and any("the exponential of 800 overflows" in note for note in report.notes)
