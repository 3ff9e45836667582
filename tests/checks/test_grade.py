"""`grade` names the mistakes that students make, none of them wrongly, and stands what their functions do."""

import inspect
import re
import warnings

import numpy as np
import pytest
from graded import MISTAKES, SOLUTIONS, student

from rnn_numpy.checks import grade
from rnn_numpy.checks.grading import exercises, grader
from rnn_numpy.checks.grading.exercises import EXERCISES
from rnn_numpy.errors import OptionError


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_solution_is_right(name):
    found = grade(student(name))
    assert found.ok, found.words
    assert (found.exercise, found.equations) == (name, ())
    count = len(EXERCISES[name].results)
    expected = f"all {count} gradients are" if count > 1 else "the gradient is"
    assert str(found) == f"{name}: {expected} right."
    assert grade(student(name), lang="es").words.endswith("bien.")


def test_there_are_solutions_of_all_exercises():
    assert set(SOLUTIONS) == set(EXERCISES)
    assert len(MISTAKES) >= 25


@pytest.mark.parametrize(("name", "old", "new", "equation", "words"), MISTAKES, ids=lambda value: str(value)[:24])
def test_a_mistake_is_named(name, old, new, equation, words):
    found = grade(student(name, (old, new)))
    assert not found.ok
    assert found.equations == tuple(equation.split(", ")), found.words
    (line,) = [line for line in found.words.splitlines() if f"{equation}: " in line]
    assert words in line
    assert "none of the known" not in found.words


@pytest.mark.parametrize(
    ("name", "changes", "equations"),
    [
        ("rnn_step_backward", [("da_t.T @ h_prev", "da_t.T @ h_t"), ("da_t @ W_hh", "da_t @ W_hh.T")],
         {"dh_{t-1}", "dW_hh"}),
        ("rnn_step_backward", [("(1 - h_t * h_t)", "(1 - h_t)"), ("np.sum(da_t, axis=0)", "da_t.mean(0)")],
         {"da_t", "db_ih", "db_hh"}),
        ("rnn_backward", [("(1 - h[t + 1] ** 2)", "(1 - h[t + 1])"), ("dh = da @ W_hh", "dh = da @ W_hh.T")],
         {"da_t", "dh_{t-1}"}),
        ("rnn_step_backward", [("(1 - h_t * h_t)", "(1 - h_t) * (1 - h_prev)"), ("da_t @ W_hh", "dh_t * 3")], None),
        ("lstm_step_backward", [("dc * c_prev", "dc * c_t"), ("do * o * (1 - o)", "do")], {"da_f", "da_o"}),
        ("gru_step_backward", [("r * dn)", "dn)"), ("z * dh_t + ", "")], {"da_hh", "dh_{t-1}"}),
        ("attend_backward", [(" - np.outer(alpha[n], alpha[n])", ""), ("np.outer(alpha[n], dcontext[n])",
            "np.outer(dscore, dcontext[n])")], {"dscore", "dvalues"}),
    ],
)  # fmt: skip
def test_two_mistakes_at_once(name, changes, equations):
    found = grade(student(name, *changes))
    assert not found.ok
    if equations is not None:
        assert set(found.equations) == equations, found.words
    else:  # neither is known
        assert "none of the known mistakes" in found.words


def test_what_is_right_and_what_is_wrong_for_one_line_is_told_apart():
    found = grade(student("rnn_step_backward", ("da_t @ W_hh", "dh_t @ W_hh")))
    assert found.words.splitlines() == [
        "rnn_step_backward: not yet.",
        "  B1  dh_{t-1}: dh_t stands where da_t belongs",
        "  wrong for that alone: dh_prev",
        "  right: dx_t, dW_ih, dW_hh, db_ih, db_hh",
    ]


@pytest.mark.parametrize(
    ("name", "changes", "lines"),
    [
        ("lstm_step_backward", [("dc * c_prev", "dc * h_prev * g")], ["B3  da_f: wrong, and by none"]),
        ("lstm_step_backward", [("dc * c_prev", "dc * c_t"), ("do * o * (1 - o)", "do"), ("dc * f, da.T", "dc, da.T")],
         ["B3  da_f: c_t stands where c_{t-1} belongs", "B4  da_o: o and 1 - o are missing", "dc_prev: f is missing"]),
        ("lstm_step_backward", [("dh_t * o * (1 - tanh_c**2)", "dh_t * i * (1 - tanh_c**2)")],
         ["B4  dc_t: i stands where o belongs"]),
        ("lstm_step_backward", [("dc * g, dc", "dc_t * g, dc")], ["B3  da_i: dc_t stands where dL/dc_t belongs"]),
        ("gru_step_backward", [("dn * q * r", "dn * q * z"), ("da_hh.T @ h_prev", "2 * da_hh.T @ h_prev")],
         ["B2  da_r: z stands where r belongs", "BW  dW_hh: it is twice the right one"]),
        ("gru_step_backward", [("z * (1 - z)", "z * (1 - q)"), ("r * dn)", "q * r * dn)")],
         ["B4  da_z: 1 - q stands where 1 - z belongs", "B2  da_hh: q is one factor too many"]),
        ("lstm_backward", [("dc * c[t] * f * (1 - f)", "dc * c[t] * f * (1 - i)")],
         ["B3  da_f: 1 - i stands where 1 - f belongs"]),
        ("rnn_backward", [("dh = da @ W_hh", "dh = da @ W_hh + 0.1 * (t > 0)")], ["t: right for one step, T = 1"]),
    ],
)  # fmt: skip
def test_what_is_in_no_table_is_found_by_its_factor(name, changes, lines):
    found = [line.strip() for line in grade(student(name, *changes)).words.splitlines()[1:]]
    told = [line for line in found if not line.startswith(("right: ", "wrong for that alone: "))]
    assert len(told) == len(lines), told
    assert all(line.startswith(start) for line, start in zip(told, lines, strict=True)), told


def test_a_mistake_of_ones_own_is_unknown_and_says_where():
    found = grade(student("rnn_step_backward", ("dx_t = da_t @ W_ih", "dx_t = da_t @ W_ih + 0.125")))
    assert found.equations == ("dx_t",)
    line = found.words.splitlines()[1]
    match = re.fullmatch(r"  B0  dx_t: wrong, .* dx_t\[\d, \d\] is (\S+), right is (\S+)", line)
    assert float(match[1]) - float(match[2]) == pytest.approx(0.125, abs=1e-5)


def test_what_is_still_zeros_is_told_as_that():
    found = grade(student("rnn_backward", (SOLUTIONS["rnn_backward"].partition("range(T - 1, -1, -1):")[2], """
        pass
    return dx, dh, dW_ih, dW_hh, db, db
""")))  # fmt: skip
    assert "dx: it is 0 throughout" in found.words
    assert "dW_ih, dW_hh, db_ih, db_hh: it is 0 throughout" in found.words
    assert [line.split(":")[0].split()[-1] for line in found.words.splitlines()[1:]] == ["dx", "db_hh", "dh_0"]


def test_single_precision_is_named():
    found = grade(student("rnn_step_backward", ("return dx_t,", "return dx_t.astype(np.float32),")))
    assert "single precision" in found.words
    assert found.equations == ("dx_t",)


# ------------------------------------------------------------------------------------------------ languages


def test_the_words_come_in_spanish_and_in_both():
    mine = student("rnn_step_backward", ("da_t.T @ h_prev", "da_t.T @ h_t"))
    spanish = grade(mine, lang="es").words
    assert "BW  dW_hh: está h_t donde va h_{t-1}" in spanish
    assert grade(mine, lang="both").words == f"{spanish}\n{grade(mine).words}"
    assert repr(grade(mine)) == str(grade(mine)) == grade(mine).words


def every_word():
    for exercise in EXERCISES.values():
        for slip in (*exercise.slips.lines, *(slip for each in exercise.slips.returned for slip in each)):
            yield exercise.name, slip


def test_spanish_and_english_say_the_same_symbols():
    symbols = re.compile(r"[A-Za-z]+_\{?[\w-]+\}?|1 - \w(?:_t)?\^2|\bt\+1\b")
    for name, slip in every_word():
        assert sorted(symbols.findall(slip.words.en)) == sorted(symbols.findall(slip.words.es)), (name, slip.words)
        assert not re.search(r"\b(the|is|stands|belongs|missing|wrong)\b", slip.words.es), slip.words.es


# ------------------------------------------------------------------------------------------------ whatever is handed in


def told(function, *names, **options):
    """Return the words on a function that could not be compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grade(function, *names, **options)
    assert not found.ok
    assert found.equations == ("call",)
    return found.words


STEP = "dh_t, x_t, h_prev, h_t, W_ih, W_hh"


def of(body):
    """Return a step with a body of one's own."""
    return student("rnn_step_backward", (SOLUTIONS["rnn_step_backward"].partition(":\n")[2], body))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    pass\n", "It returns None: end it with `return dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh`."),
        ("    return ...\n", "It must return 6 arrays, dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh;"),
        ("    return ..., None, 1, 2, 3, 4\n", "dx_t is ...: it is still to be written."),
        ("    return 'a', 1, 2, 3, 4, 5\n", "dx_t must be an array of real numbers; it is str."),
        ("    return 1j * x_t, 1, 2, 3, 4, 5\n", "dx_t must be an array of real numbers; it is complex128."),
        ("    return [[1], [2, 3]], 1, 2, 3, 4, 5\n", "dx_t must be an array of real numbers; it is list."),
        ("    return {'dx_t': x_t}\n", "The dict it returns lacks dh_prev, dW_ih, dW_hh, db_ih, db_hh."),
        ("    dh_t *= 1 - h_t**2\n    return dh_t\n", "It changes its argument dh_t: work on a copy"),
        ("    W_hh[...] = 0\n    return W_hh\n", "It changes its argument W_hh"),
        ("    return dh_t @ W_hh @ W_ih.T\n", "With N = 2, D = 3, H = 4 it stops with an error"),
        ("    return undefined\n", "NameError: name 'undefined' is not defined"),
        ("    raise ValueError\n", "ValueError: -"),
        ("    raise SystemExit(1)\n", "SystemExit: 1"),
        ("    return my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh)\n", "RecursionError"),
        ("    r = np.random.normal(size=6)\n    return tuple(r)\n", "Called twice with the same arguments"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told(body, words):
    assert words in told(of(body))
    assert told(of(body), lang="es") != told(of(body))


def test_an_error_is_told_with_its_line():
    def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
        return np.dot(x_t, dh_t)

    number = inspect.getsourcelines(my_step)[1] + 1
    assert f"in line {number}, `return np.dot(x_t, dh_t)`: ValueError" in told(my_step)
    assert f"en la línea {number}, `return np.dot(x_t, dh_t)`: ValueError" in told(my_step, lang="es")


@pytest.mark.parametrize("other", [None, 3, "rnn", np.zeros(3)], ids=["None", "3", "str", "array"])
def test_what_is_no_function_is_told(other):
    assert "What came is no function" in told(other)
    assert "What came is no function" in told(other, "rnn_backward")


def test_arguments_that_do_not_fit_are_told():
    assert "does not know which exercise this is" in told(lambda a, b: None)
    assert "rnn_step_backward(dh_t, x_t, h_prev, h_t, W_ih, W_hh)" in told(lambda a, b: None)
    assert "must take rnn_backward(doutput" in told(lambda a, b: None, "rnn_backward")
    assert "It returns None" in told(lambda *given: None, "rnn_backward")


def test_the_exercise_is_known_by_arguments_by_name_or_as_it_is_said():
    right = student("rnn_step_backward")

    def rnn_step_backward(*given):
        return right(*given)

    assert grade(right).exercise == grade(rnn_step_backward).exercise == "rnn_step_backward"
    assert grade(lambda *given: right(*given), "rnn_step_backward").ok

    def with_an_option(dh_t, x_t, h_prev, h_t, W_ih, W_hh, verbose=False):
        return right(dh_t, x_t, h_prev, h_t, W_ih, W_hh)

    assert grade(with_an_option).ok


def test_a_dict_and_a_list_are_results_as_well():
    right = student("rnn_step_backward")
    names = tuple(EXERCISES["rnn_step_backward"].results)
    assert grade(lambda *given: dict(zip(names, right(*given), strict=True)), "rnn_step_backward").ok
    assert grade(lambda *given: list(right(*given)), "rnn_step_backward").ok


def test_a_wrong_shape_is_told_in_letters():
    found = grade(student("lstm_step_backward", ("da.T @ h_prev", "np.zeros((2, 2))")))
    assert "dW_hh: its shape is (2, 2); (4 H, H) = (16, 4) is right" in found.words


def test_a_result_that_is_transposed_is_told():
    found = grade(student("cross_entropy_backward", ("return p / N", "return (p / N).T")))
    assert "B2  dlogits: it is transposed" in found.words


def test_what_fails_at_some_sizes_alone_is_told():
    found = grade(student("rnn_step_backward", ("np.sum(da_t, axis=0)", "np.sum(da_t, axis=0) * (len(x_t) > 1)")))
    assert "db_ih, db_hh: right in general, wrong for one sequence, N = 1" in found.words


def test_nan_is_told():
    found = grade(student("rnn_step_backward", ("da_t @ W_ih", "da_t @ W_ih / 0")))
    assert "dx_t: it has NaN or inf in it" in found.words


def test_there_are_no_other_exercises_and_languages():
    with pytest.raises(OptionError, match="grade: exercise must be one of"):
        grade(np.sin, "perceptron")
    with pytest.raises(OptionError, match="grade: lang must be one of"):
        grade(np.sin, lang="fr")


# ------------------------------------------------------------------------------------------------ the tables


@pytest.mark.parametrize("name", EXERCISES)
def test_each_mistake_of_the_tables_is_one_of_the_textbooks_text(name):
    exercise = EXERCISES[name]
    for slip in grader.lines_of(exercise):
        assert grader.edited(exercise, [slip]) is not None, slip


# Of each exercise, another share of its mistakes: all of them take half a minute, and are all named.
@pytest.mark.parametrize("name", EXERCISES)
def test_a_mistake_of_the_tables_is_named_and_no_other(name):
    exercise = EXERCISES[name]
    mistakes = [((slip,), slip, None, 0) for slip in grader.lines_of(exercise)]
    for index in range(len(exercise.results)):
        mistakes += [((), slip, index, k) for k, slip in enumerate(grader.returned_of(exercise, index), start=1)]
    for slips, slip, index, number in mistakes[::24]:
        function = grader.edited(exercise, slips)
        points = []
        for sizes, seed in zip(exercises.GENERAL, (20, 21), strict=True):
            given = exercise.drawn(exercise.sizes(sizes), seed)
            found = function(*given)
            results = [each[0] if k != index else each[number] for k, each in enumerate(found)]
            points.append(grader._Point(exercise, exercise.sizes(sizes), given, [np.asarray(one) for one in results]))
        wrong = [k for k in range(len(exercise.results)) if not all(point.is_right(k) for point in points)]
        findings, _ = grader._explained(exercise, points, wrong)
        assert [finding.words for finding in findings] == [slip.words], slip
