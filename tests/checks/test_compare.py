import math

import numpy as np
import pytest

from rnn_numpy.checks import TOLERANCES, assert_grad_close, discrepancy, tolerance
from rnn_numpy.errors import DTypeError, GradientCheckError


def message_of(*arguments):
    with pytest.raises(GradientCheckError) as caught:
        assert_grad_close(*arguments)
    return str(caught.value)


def test_equal_arrays_have_no_error():
    assert assert_grad_close("dx", np.ones((2, 3)), np.ones((2, 3))) == 0.0


def test_message_has_error_scale_index_and_both_values():
    reference = np.array([[1.0, -4.0], [2.0, 3.0]])
    analytic = reference + np.array([[0.0, 0.0], [0.5, 0.25]])
    assert message_of("dweight_hh_l0", analytic, reference, 1e-3) == (
        "dweight_hh_l0: error 1.2e-01 of the largest reference entry 4.0e+00, allowed 1.0e-03; worst at [1, 0]: "
        "analytic 2.5, reference 2.0"
    )


@pytest.mark.parametrize("scale", [1e-300, 1e-136, 1.0, 1e300])
def test_the_scale_of_a_tensor_does_not_matter(scale):
    reference = scale * np.array([1.0, 0.5])
    assert assert_grad_close("dx", reference * (1 + 1e-14), reference) < 1e-13
    for wrong in (0 * reference, -reference, reference[::-1], reference * (1 + 1e-9)):
        with pytest.raises(GradientCheckError):
            assert_grad_close("dx", wrong, reference)


def test_zeros_pass_for_zeros_only():
    assert assert_grad_close("dh_0", np.zeros(2), np.zeros(2)) == 0.0
    assert message_of("dh_0", [0.0, 1e-300], [0.0, 0.0]) == (
        "dh_0: must be exactly 0, as the reference is; worst at [1]: analytic 1e-300, reference 0.0"
    )
    assert message_of("dh_0", [0.0], [1e-300]).startswith("dh_0: error 1.0e+00 of the largest reference entry 1.0e-300")


def test_an_error_in_a_small_entry_is_measured_against_the_largest():
    assert discrepancy([1.0, 1e-3 + 1e-6], [1.0, 1e-3]).error == pytest.approx(1e-6)
    # Not scaled by the number of entries, as some checkers do.
    many = np.ones(10_000)
    assert discrepancy(np.append(many, 1.5), np.append(many, 1.0)).error == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_fails_and_is_named(bad, side):
    pair = [np.ones((2, 2)), np.ones((2, 2))]
    pair[side][1, 1] = bad
    values = [float(array[1, 1]) for array in pair]
    assert message_of("dx", *pair) == (
        f"dx: every entry must be finite; first that is not at [1, 1]: analytic {values[0]}, reference {values[1]}"
    )
    assert not discrepancy(*pair).within(np.inf)


def test_shapes_must_be_equal():
    assert message_of("dx", np.ones((3, 1)), np.ones(3)) == "dx: must have the shape of its reference, (3,); got (3, 1)"
    with pytest.raises(GradientCheckError, match=r"shapes must be equal; got \(3, 1\) and \(3,\)"):
        discrepancy(np.ones((3, 1)), np.ones(3))


def test_empty_arrays_agree():
    assert assert_grad_close("dx", np.zeros((3, 0, 2)), np.zeros((3, 0, 2))) == 0.0


def test_the_coarser_dtype_decides_the_tolerance():
    reference = np.array([1.0, 2.0])
    assert_grad_close("dx", (reference * (1 + 1e-6)).astype(np.float32), reference)
    with pytest.raises(GradientCheckError, match=f"allowed {TOLERANCES['float64']:.1e}"):
        assert_grad_close("dx", reference * (1 + 1e-6), reference)
    with pytest.raises(GradientCheckError, match=f"allowed {TOLERANCES['float32']:.1e}"):
        assert_grad_close("dx", (reference * (1 + 1e-3)).astype(np.float32), reference)


def test_complex_values_are_compared_as_such():
    assert discrepancy([1 + 1j], [1 - 1j]).error == pytest.approx(math.sqrt(2))
    assert message_of("dx", [1 + 1j], [1 - 1j]).endswith("worst at [0]: analytic (1+1j), reference (1-1j)")


def test_tolerance_refuses_dtypes_without_one():
    with pytest.raises(DTypeError, match="must be one of float32, float64, complex128; got int64"):
        tolerance(np.int64)
    with pytest.raises(DTypeError, match="got float16"):
        assert_grad_close("dx", np.ones(2, np.float16), np.ones(2))
