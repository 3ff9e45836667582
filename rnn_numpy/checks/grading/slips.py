"""What people write in place of the lines of `rnn_numpy.layers.textbook`, and what to say of it, in two languages.

A `Line` is a piece of a backward function's text, with what stands there by mistake; of `returned`, an expression in
place of one that is returned. `loop` marks what one step alone does not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Words(NamedTuple):
    """The same in English and in Spanish."""

    en: str
    es: str


@dataclass(frozen=True)
class Slip:
    """One mistake: `new` stands where the textbook has `old`; `equation` is what it makes wrong, `label` its line."""

    label: str
    equation: str
    old: str
    new: str
    words: Words
    loop: bool = False


class Slips(NamedTuple):
    """The mistakes of one function: within its lines, and of each result that it returns, in order."""

    lines: Sequence[Slip]
    returned: Sequence[Sequence[Slip]]


def instead(wrong: str, right: str) -> Words:
    """Return the words for one thing in place of another."""
    return Words(f"{wrong} stands where {right} belongs", f"está {wrong} donde va {right}")


def missing(what: str, es: str = "") -> Words:
    """Return the words for what is missing."""
    return Words(f"{what} is missing", f"falta {es or what}")


def _line(label: str, equation: str, old: str, *slips: tuple[str, Words], loop: bool = False) -> list[Slip]:
    return [Slip(label, equation, old, new, words, loop) for new, words in slips]


TANH, SIGMOID = "the derivative of tanh", "the derivative of the sigmoid"
TANH_ES, SIGMOID_ES = "la derivada de tanh", "la derivada de la sigmoide"
SIGN = Words("its sign is wrong", "tiene el signo cambiado")
TRANSPOSED = Words("it is transposed", "está traspuesto")
ONE_SEQUENCE = Words("it keeps one sequence alone: an = stands where += belongs",
    "se queda con una sola secuencia: hay un = donde va +=")  # fmt: skip
NOT_SUMMED = Words("it is not summed over the N sequences", "falta sumar sobre las N secuencias")


def _no_derivative(kind: str, formula: str) -> Words:
    en, es = (TANH, TANH_ES) if kind == "tanh" else (SIGMOID, SIGMOID_ES)
    return Words(f"{en}, {formula}, is missing", f"falta {es}, {formula}")


def _other_derivative(wrong: str, right: str) -> Words:
    return Words(
        f"the derivative is {right}; {wrong} stands there",
        f"la derivada es {right}; está {wrong}",
    )


def _loop(to: str, count: str = "len(x)") -> list[Slip]:
    """Return mistakes of the loop over the steps, which are those of any cell."""
    steps = f"reversed(range({count}))"
    slips = [
        *_line("B1", "dh_t", "dh + doutput[t]",
            ("doutput[t]", Words("what step t+1 hands back is overwritten by doutput_t, not added to it",
                "doutput_t pisa lo que devuelve el paso t+1, en lugar de sumarse")),
            (f"dh + doutput[t] * (t == {count} - 1)", Words("the loss of the last step alone enters",
                "entra sólo la pérdida del último paso")),
            ("dh + doutput[t] * (t < 0)", Words("doutput_t does not enter: dh_n alone goes back",
                "no entra doutput_t: sólo vuelve dh_n")),
            ("dh + doutput[t - 1]", instead("doutput_{t-1}", "doutput_t"))),
        *_line("", "t", steps,
            (f"range({count})", Words("the steps are gone through forward; backward begins with the last one",
                "los pasos se recorren hacia adelante; hay que empezar por el último")),
            (f"reversed(range(1, {count}))", Words("the first step, t = 0, is left out",
                "queda afuera el primer paso, t = 0")),
            (f"reversed(range({count} - 1))", Words("the last step, t = T-1, is left out",
                "queda afuera el último paso, t = T-1"))),
        *_line("B1", "dh_n", to, (to.replace("dh_n", "0 * dh_n"),
            Words("dh_n does not enter: the last state has a gradient of its own",
            "no entra dh_n: el último estado tiene un gradiente propio"))),
    ]  # fmt: skip
    return [Slip(slip.label, slip.equation, slip.old, slip.new, slip.words, True) for slip in slips]


def _products(name: str, da: str, source: str, symbol: str, others: Mapping[str, str]) -> list[Slip]:
    """Return mistakes of a weight's gradient, sums(da, source)."""
    d = "da_t"
    first, last = f"{source}[:1]", f"{source}[-1:]"
    slips = [(f"sums({da}, {expression})", instead(other, symbol), False) for expression, other in others.items()]
    slips += [
        (f"sums({source}, {da})", TRANSPOSED, False),
        (f"np.einsum('tni,tnj->nij', {da}, {source})", NOT_SUMMED, False),
        (f"np.outer({da}[0, -1], {source}[0, -1])", ONE_SEQUENCE, False),
        (f"np.outer({da}[0, 0], {source}[0, 0])", ONE_SEQUENCE, False),
        (f"sums({da}[:, -1:], {source}[:, -1:])", ONE_SEQUENCE, True),
        (f"sums({da}[:1], {first})", Words("it keeps the first step alone: an = stands where += belongs",
            "se queda sólo con el primer paso: hay un = donde va +="), True),
        (f"sums({da}[-1:], {last})", Words("it keeps the last step alone", "se queda sólo con el último paso"), True),
        (f"sums({da}[1:], {source}[1:])", Words("the first step, t = 0, is not in the sum",
            "el primer paso, t = 0, no está en la suma"), True),
        (f"sums({da}[:-1], {source}[:-1])", Words("the last step, t = T-1, is not in the sum",
            "el último paso, t = T-1, no está en la suma"), True),
        (f"{da}.sum(0).T @ {source}.sum(0)",
            Words(f"a product of sums stands where the sum of the products {d} {symbol}^T belongs",
            f"hay un producto de sumas donde va la suma de los productos {d} {symbol}^T"), True),
        (f"{da}.sum(1).T @ {source}.sum(1)", Words("it mixes sequences: a product of sums over N",
            "mezcla secuencias: es un producto de sumas sobre N"), False),
    ]  # fmt: skip
    return [Slip("BW", name, "", new, words, loop) for new, words, loop in slips]


def _biases(name: str, da: str) -> list[Slip]:
    last = (Words("it keeps the last step alone", "se queda sólo con el último paso"), True)
    first = (Words("it keeps the first step alone: an = stands where += belongs",
        "se queda sólo con el primer paso: hay un = donde va +="), True)  # fmt: skip
    slips = [
        (f"{da}.sum(0)", NOT_SUMMED, False),
        (f"{da}[0, -1]", ONE_SEQUENCE, False),
        (f"{da}[0, 0]", ONE_SEQUENCE, False),
        (f"{da}[:, -1].sum(0)", ONE_SEQUENCE, True),
        (f"{da}.sum(1)", Words("it is not summed over the T steps", "falta sumar sobre los T pasos"), True),
        (f"{da}.sum((0, 1))[None]", Words("it has an axis too many", "le sobra un eje"), False),
        (f"{da}.sum((0, 1))[:, None]", Words("it has an axis too many", "le sobra un eje"), False),
        (f"{da}.sum()", Words("it is summed over the units as well", "se sumó también sobre las unidades"), False),
        (f"{da}[-1].sum(0)", *last),
        (f"{da}[0].sum(0)", *first),
        (f"{da}[1:].sum((0, 1))", Words("the first step, t = 0, is not in the sum",
            "el primer paso, t = 0, no está en la suma"), True),
    ]  # fmt: skip
    return [Slip("BW", name, "", new, words, loop) for new, words, loop in slips]


def _returned(
    states: int, ih: str = "da", hh: str = "da", more: Mapping[str, Sequence[Slip]] | None = None
) -> list[list[Slip]]:
    """Return the mistakes of dx, of the initial states, and of the parameters' gradients."""
    more = more or {}
    dx = [Slip("B0", "dx_t", "", f"{ih} @ W_hh", instead("W_hh", "W_ih")),
        Slip("B0", "dx_t", "", f"({ih} @ W_ih)[::-1]", Words("its steps are in reverse order",
            "sus pasos están en orden inverso"), True)]  # fmt: skip
    inputs = _products("dW_ih", ih, "x", "x_t", {"h[:-1]": "h_{t-1}", "h[1:]": "h_t"})
    hidden = _products("dW_hh", hh, "h[:-1]", "h_{t-1}", {"h[1:]": "h_t", "x": "x_t"})
    wrapped = Words("the index -1 wraps around: at t = 0 the last state stands where h_{-1}, the initial one, belongs",
        "el índice -1 da la vuelta: en t = 0 está el último estado donde va h_{-1}, el inicial")  # fmt: skip
    hidden.append(Slip("BW", "dW_hh", "", f"sums({hh}, np.roll(h[1:], 1, axis=0))", wrapped, True))
    found = [dx, *([] for _ in range(states)), inputs, hidden, _biases("db_ih", ih), _biases("db_hh", hh)]
    for index, name in enumerate(("dW_ih", "dW_hh", "db_ih", "db_hh"), start=1 + states):
        found[index] += more.get(name, ())
    return found


# ---------------------------------------------------------------------------------------------- the tanh RNN

_D = "1 - h_t^2"
RNN = Slips(
    [
        *_line("B2", "da_t", "dh * (1 - h[t + 1] ** 2)",
            ("dh", _no_derivative("tanh", _D)),
            ("dh * (1 - h[t] ** 2)", instead("h_{t-1}", "h_t")),
            ("dh * (1 - h[t + 1])", _other_derivative("1 - h_t", _D)),
            ("dh * (1 - np.tanh(h[t + 1]) ** 2)", Words("h_t is tanh(a_t) already: tanh is taken twice",
                "h_t ya es tanh(a_t): se tomó tanh dos veces")),
            ("dh * h[t + 1] * (1 - h[t + 1])", _other_derivative("h_t (1 - h_t)", _D)),
            ("dh * (1 + h[t + 1] ** 2)", _other_derivative("1 + h_t^2", _D)),
            ("dh * (h[t + 1] ** 2 - 1)", _other_derivative("h_t^2 - 1", _D)),
            ("dh * h[t + 1]", _other_derivative("h_t", _D)),
            ("dh * (1 - h[t + 1] ** 2) ** 2", Words(f"{_D} stands there twice", f"{_D} está dos veces")),
            ("(1 - h[t + 1] ** 2)", missing("dh_t"))),
        *_line("B1", "dh_{t-1}", "da[t] @ W_hh",
            ("da[t] @ W_hh.T", instead("W_hh^T", "W_hh")),
            ("dh @ W_hh", instead("dh_t", "da_t")),
            ("dh @ W_hh.T", Words("dh_t stands where da_t belongs, and W_hh^T where W_hh belongs",
                "está dh_t donde va da_t, y W_hh^T donde va W_hh")),
            ("da[t]", missing("W_hh")),
            ("0 * dh", Words("nothing is handed to the step before", "no se le devuelve nada al paso anterior")),
            ("dh + da[t] @ W_hh", Words("dh_t is added to it: h_{t-1} reaches h_t through a_t alone",
                "se le suma dh_t: h_{t-1} llega a h_t sólo por a_t")),
            ("dh", Words("dh_t itself is handed on, past the step",
                "se devuelve el mismo dh_t, sin pasar por el paso")),
            ("da[t] @ W_hh * (1 - h[t] ** 2)", Words("the tanh of the step before, 1 - h_{t-1}^2, belongs to that step",
                "la tanh del paso anterior, 1 - h_{t-1}^2, le toca a ese paso")),
            ("(da[t] @ W_hh).mean(0, keepdims=True) + 0 * dh", Words("it is the mean over the N sequences",
                "es el promedio sobre las N secuencias")),
            ("-da[t] @ W_hh", SIGN)),
        *_loop(to="np.zeros_like(h[1:]), dh_n"),
    ],
    _returned(1),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- LSTM


def _gate(label: str, gate: str, right: str, before: str, wrong_d: str, *slips: tuple[str, Words]) -> list[Slip]:
    """Return the mistakes of one gate's pre-activation: its derivative stands at the end of `right`."""
    kind = "tanh" if f"{gate}**2" in right else "sigmoid"
    formula = f"1 - {gate}^2" if kind == "tanh" else f"{gate} (1 - {gate})"
    other = f"{gate} (1 - {gate})" if kind == "tanh" else f"1 - {gate}^2"
    return _line(label, f"da_{gate}", right,
        (before, _no_derivative(kind, formula)),
        (f"{before} * {wrong_d}", _other_derivative(other, formula)),
        (f"{before} * (1 - {gate})", _other_derivative(f"1 - {gate}", formula)),
        (f"{before} * {gate}", _other_derivative(gate, formula)),
        (f"0 * ({right})", Words("it is 0: the gate is left out", "es 0: la compuerta quedó afuera")),
        (f"-({right})", SIGN),
        *slips)  # fmt: skip


LSTM = Slips(
    [
        *_line("B4", "dc_t", "dc = dc + dh * o * (1 - tanh_c**2)",
            ("dc = dc", Words("what comes through h_t, dh_t * o * (1 - tanh(c_t)^2), is missing",
                "falta lo que llega por h_t: dh_t * o * (1 - tanh(c_t)^2)")),
            ("dc = dh * o * (1 - tanh_c**2)", Words("the dc_t that step t+1 handed back is missing",
                "falta el dc_t que devolvió el paso t+1")),
            ("dc = dc + dh * o", _no_derivative("tanh", "1 - tanh(c_t)^2")),
            ("dc = dc + dh * (1 - tanh_c**2)", missing("o")),
            ("dc = dc + dh * o * (1 - c[t + 1] ** 2)", instead("c_t", "tanh(c_t)")),
            ("dc = dc + dh * o * (1 - np.tanh(c[t]) ** 2)", instead("c_{t-1}", "c_t")),
            ("dc = dc + dh * o * (1 - tanh_c)", _other_derivative("1 - tanh(c_t)", "1 - tanh(c_t)^2")),
            ("dc = dc + dh * o * tanh_c * (1 - tanh_c)", _other_derivative("tanh(c_t) (1 - tanh(c_t))",
                "1 - tanh(c_t)^2")),
            ("dc = dc + dh * o * (1 - (o * tanh_c) ** 2)", instead("h_t", "tanh(c_t)")),
            ("dc = dc + dh * o * (1 - o) * (1 - tanh_c**2)", instead("o (1 - o)", "o"))),
        *_gate("B4", "o", "dh * tanh_c * o * (1 - o)", "dh * tanh_c", "(1 - o**2)",
            ("dh * c[t + 1] * o * (1 - o)", instead("c_t", "tanh(c_t)")),
            ("dc * tanh_c * o * (1 - o)", instead("dc_t", "dh_t")),
            ("dh * np.tanh(c[t]) * o * (1 - o)", instead("c_{t-1}", "c_t")),
            ("dh * o * tanh_c * o * (1 - o)", Words("an o too many", "sobra un o")),
            ("dh * o * (1 - o)", missing("tanh(c_t)"))),
        *_gate("B3", "i", "dc * g * i * (1 - i)", "dc * g", "(1 - i**2)",
            ("dh * g * i * (1 - i)", instead("dh_t", "dc_t")),
            ("dc * c[t] * i * (1 - i)", instead("c_{t-1}", "g")),
            ("dc * i * (1 - i)", missing("g"))),
        *_gate("B3", "f", "dc * c[t] * f * (1 - f)", "dc * c[t]", "(1 - f**2)",
            ("dc * c[t + 1] * f * (1 - f)", instead("c_t", "c_{t-1}")),
            ("dc * np.tanh(c[t]) * f * (1 - f)", instead("tanh(c_{t-1})", "c_{t-1}")),
            ("dc * h[t] * f * (1 - f)", instead("h_{t-1}", "c_{t-1}")),
            ("dh * c[t] * f * (1 - f)", instead("dh_t", "dc_t")),
            ("dc * g * f * (1 - f)", instead("g", "c_{t-1}")),
            ("dc * f * (1 - f)", missing("c_{t-1}"))),
        *_gate("B3", "g", "dc * i * (1 - g**2)", "dc * i", "g * (1 - g)",
            ("dh * i * (1 - g**2)", instead("dh_t", "dc_t")),
            ("dc * g * (1 - g**2)", instead("g", "i")),
            ("dc * f * (1 - g**2)", instead("f", "i")),
            ("dc * (1 - g**2)", missing("i")),
            ("dc * i * (1 - i) * (1 - g**2)", instead("i (1 - i)", "i"))),
        *_line("B3", "dc_{t-1}", "dc = dc * f",
            ("dc = dc", missing("f")),
            ("dc = dc * i", instead("i", "f")),
            ("dc = dh * f", instead("dh_t", "dc_t")),
            ("dc = dc * f * (1 - f)", instead("f (1 - f)", "f")),
            ("dc = dc * (1 - f)", instead("1 - f", "f")),
            ("dc = 0 * dc", Words("nothing is handed to c_{t-1}", "no se le devuelve nada a c_{t-1}"))),
        *_line("B3", "da_t", "np.concatenate([da_i, da_f, da_g, da_o], axis=-1)",
            *((f"np.concatenate([{', '.join('da_' + gate for gate in order)}], axis=-1)",
               Words(f"the blocks stand in the order {', '.join(order)}; W_ih and W_hh have i, f, g, o",
                     f"los bloques están en el orden {', '.join(order)}; W_ih y W_hh tienen i, f, g, o"))
              for order in ("ifog", "figo", "fiog", "iofg", "gifo", "fgio", "igfo", "ofgi"))),
        *_line("B1", "dh_{t-1}", "dh = da[t] @ W_hh",
            ("dh = 0 * dh", Words("nothing is handed to h_{t-1}", "no se le devuelve nada a h_{t-1}")),
            ("dh = dh + da[t] @ W_hh", Words("dh_t is added to it: h_{t-1} reaches h_t through the gates alone",
                "se le suma dh_t: h_{t-1} llega a h_t sólo por las compuertas")),
            ("dh = da_o @ np.split(W_hh, 4)[3]", Words("the output gate's way alone is there; i, f and g are missing",
                "está sólo el camino de la compuerta o; faltan i, f y g")),
            ("dh = da[t] @ W_hh * o", Words("an o too many", "sobra un o")),
            ("dh = -da[t] @ W_hh", SIGN)),
        *_loop(to="np.zeros_like(gates), dh_n"),
        *_line("B3", "dc_n", "dh_n, dc_n", ("dh_n, 0 * dc_n",
            Words("dc_n does not enter", "no entra dc_n")), loop=True),
    ],
    _returned(2),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- GRU

_RESET = Words("h_{t-1} comes in through r * (W_hn h_{t-1} + b_hn): r is missing in the rows of n",
    "h_{t-1} entra por r * (W_hn h_{t-1} + b_hn): falta r en las filas de n")  # fmt: skip


def _blocks(order: str) -> str:
    """Return the lines that put the GRU's blocks side by side."""
    ih, hh = (", ".join(n if gate == "n" else f"da_{gate}" for gate in order) for n in ("da_n", "da_n * r"))
    return f"np.concatenate([{ih}], axis=-1)\n        da_hh[t] = np.concatenate([{hh}], axis=-1)"


GRU = Slips(
    [
        *_gate("B4", "z", "dh * (h[t] - n) * z * (1 - z)", "dh * (h[t] - n)", "(1 - z**2)",
            ("dh * (h[t + 1] - n) * z * (1 - z)", instead("h_t", "h_{t-1}")),
            ("dh * h[t] * z * (1 - z)", instead("h_{t-1}", "h_{t-1} - n")),
            ("dh * n * z * (1 - z)", instead("n", "h_{t-1} - n"))),
        *_gate("B3", "n", "dh * (1 - z) * (1 - n**2)", "dh * (1 - z)", "n * (1 - n)",
            ("dh * z * (1 - n**2)", instead("z", "1 - z")),
            ("dh * (1 - n**2)", missing("1 - z"))),
        *_gate("B2", "r", "da_n * q * r * (1 - r)", "da_n * q", "(1 - r**2)",
            ("da_n * h[t] * r * (1 - r)", instead("h_{t-1}", "q = W_hn h_{t-1} + b_hn")),
            ("dh * q * r * (1 - r)", instead("dh_t", "da_n")),
            ("dh * (1 - z) * q * r * (1 - r)", Words("the derivative of n's tanh is missing on the way to r",
                "falta la derivada de la tanh de n en el camino a r")),
            ("da_n * n * r * (1 - r)", instead("n", "q")),
            ("da_n * r * (1 - r)", missing("q"))),
        *_line("B2", "da_hh", "da_n * r], axis=-1)",
            ("da_n], axis=-1)", _RESET),
            ("da_n * q], axis=-1)", instead("q", "r")),
            ("da_n * z], axis=-1)", instead("z", "r")),
            ("da_n * (1 - r)], axis=-1)", instead("1 - r", "r"))),
        *_line("B1", "dh_{t-1}", "dh = dh * z + da_hh[t] @ W_hh",
            ("dh = da_hh[t] @ W_hh",
                Words("the direct way, dh_t * z, is missing", "falta el camino directo, dh_t * z")),
            ("dh = dh * z", Words("the way through the gates, W_hh^T da_hh, is missing",
                "falta el camino por las compuertas, W_hh^T da_hh")),
            ("dh = dh * (1 - z) + da_hh[t] @ W_hh", instead("1 - z", "z")),
            ("dh = dh + da_hh[t] @ W_hh", Words("z is missing: dh_t * z", "falta z: dh_t * z")),
            ("dh = dh * z + da_ih[t] @ W_hh", Words("r is missing in the rows of n, on the way through W_hn",
                "falta r en las filas de n, en el camino por W_hn")),
            ("dh = 0 * dh", Words("nothing is handed to h_{t-1}", "no se le devuelve nada a h_{t-1}"))),
        *_line("B2", "da_t", _blocks("rzn"),
            *((_blocks(order), Words(f"the blocks stand in the order {', '.join(order)}; W_ih and W_hh have r, z, n",
                f"los bloques están en el orden {', '.join(order)}; W_ih y W_hh tienen r, z, n"))
              for order in ("zrn", "nrz", "rnz", "nzr", "znr"))),
        *_loop(to="np.zeros_like(gates[..., : len(W_hh)]), dh_n"),
    ],
    _returned(1, "da_ih", "da_hh", {
        "dW_ih": [Slip("BW", "dW_ih", "", "sums(da_hh, x)", instead("da_n * r", "da_n"))],
        "dW_hh": [Slip("BW", "dW_hh", "", "sums(da_ih, h[:-1])", _RESET)],
        "db_ih": [Slip("BW", "db_ih", "", "da_hh.sum((0, 1))", instead("da_n * r", "da_n"))],
        "db_hh": [Slip("BW", "db_hh", "", "da_ih.sum((0, 1))", _RESET)],
    }),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- attention, the loss

_CENTRED = "alpha * (dalpha - np.sum(alpha * dalpha, axis=1, keepdims=True))"
ATTENTION = Slips(
    [
        *_line("B2", "dscore", _CENTRED,
            ("dalpha",
                Words("the softmax is passed as if it were the identity",
                    "se pasa la softmax como si fuera la identidad")),
            ("alpha * dalpha",
                Words("sum_s alpha_s dalpha_s is not subtracted: weights add up to 1, one up, others down",
                "falta restar sum_s alpha_s dalpha_s: los pesos suman 1, si uno sube otros bajan")),
            ("alpha * (1 - alpha) * dalpha",
                Words("the softmax's Jacobian has its diagonal alone; its other entries are -alpha_s alpha_j",
                "el jacobiano de la softmax tiene sólo la diagonal; el resto es -alpha_s alpha_j")),
            ("alpha * (dalpha - np.sum(dalpha, axis=1, keepdims=True))",
                instead("sum_s dalpha_s", "sum_s alpha_s dalpha_s")),
            ("alpha * (dalpha - np.mean(dalpha, axis=1, keepdims=True))",
                instead("mean_s dalpha_s", "sum_s alpha_s dalpha_s")),
            ("alpha * dalpha - np.sum(alpha * dalpha, axis=1, keepdims=True)",
                Words("alpha multiplies the whole difference, the subtracted sum as well",
                    "alpha multiplica a toda la diferencia, también a la suma que se resta")),
            ("alpha * (dalpha - np.sum(alpha * dalpha, axis=0, keepdims=True))",
                Words("the sum is over s, not over the sequences",
                "la suma es sobre s, no sobre las secuencias")),
            ("alpha * (dalpha + np.sum(alpha * dalpha, axis=1, keepdims=True))",
                Words("the sum is subtracted, not added",
                "la suma se resta, no se suma")),
            ("dalpha - np.sum(alpha * dalpha, axis=1, keepdims=True)", missing("alpha")),
            (f"-{_CENTRED}", SIGN)),
        *_line("B3", "dalpha", '"nm,snm->ns", dcontext, values',
            ('"nm,snm->ns", dcontext, keys', instead("keys", "values")),
            ('"nm,snm->ns", query, values', instead("query", "dcontext"))),
    ],
    [
        [Slip("B1", "dquery", "", 'np.einsum("ns,snm->nm", dscore, values)', instead("values", "keys")),
         Slip("B1", "dquery", "", 'np.einsum("ns,snm->nm", alpha, keys)', instead("alpha", "dscore")),
         Slip("B1", "dquery", "", 'np.einsum("ns,snm->snm", dscore, keys)',
             Words("it is not summed over s", "falta sumar sobre s"))],
        [Slip("B1", "dkeys", "", 'np.einsum("ns,nm->snm", dscore, dcontext)', instead("dcontext", "query")),
         Slip("B1", "dkeys", "", 'np.einsum("ns,nm->snm", alpha, query)', instead("alpha", "dscore")),
         Slip("B1", "dkeys", "", 'np.einsum("ns,nm->nsm", dscore, query)',
             Words("its axes are (N, S, M), not (S, N, M)",
             "sus ejes son (N, S, M), no (S, N, M)")),
         Slip("B1", "dkeys", "", "dkeys + dvalues", Words("dvalues is added to it: they are two results",
             "se le sumó dvalues: son dos resultados")),
         Slip("B1", "dkeys", "", "dvalues", instead("dvalues", "dkeys"))],
        [Slip("B3", "dvalues", "", 'np.einsum("ns,nm->snm", dscore, dcontext)', instead("dscore", "alpha")),
         Slip("B3", "dvalues", "", 'np.einsum("ns,nm->snm", alpha, query)', instead("query", "dcontext")),
         Slip("B3", "dvalues", "", 'np.einsum("ns,nm->nsm", alpha, dcontext)',
             Words("its axes are (N, S, M), not (S, N, M)",
             "sus ejes son (N, S, M), no (S, N, M)")),
         Slip("B3", "dvalues", "", "dkeys + dvalues", Words("dkeys is added to it: they are two results",
             "se le sumó dkeys: son dos resultados")),
         Slip("B3", "dvalues", "", "dkeys", instead("dkeys", "dvalues"))],
    ],
)  # fmt: skip

CROSS_ENTROPY = Slips(
    [],
    [
        [
            Slip("B2", "dlogits", "", f"{new}{mean}", words)
            for new, words in (
                ("p", Words("the one-hot target, y, is not subtracted", "falta restar y, el objetivo one-hot")),
                ("-y / p", Words("this is the derivative by p; the softmax is missing: p - y",
                    "esto es la derivada respecto de p; falta pasar la softmax: p - y")),
                ("(p - y) * p * (1 - p)", Words("p (1 - p) is too much: the logarithm cancels it",
                    "sobra p (1 - p): el logaritmo la cancela")),
                ("(logits - y)", instead("logits", "p = softmax(logits)")),
                ("(e - y)", Words("e is not divided by its sum", "e no está dividida por su suma")),
                ("(e / e.sum(axis=0, keepdims=True) - y)",
                    Words("the softmax sums over the sequences; it is over the classes",
                    "la softmax suma sobre las secuencias; va sobre las clases")),
                ("(e / e.sum() - y)", Words("the softmax sums over everything; it is over the classes of one row",
                    "la softmax suma sobre todo; va sobre las clases de cada fila")),
                ("-y * (1 - p)", Words("the classes that are not the target have gradients, too: p",
                    "las clases que no son el objetivo también tienen gradiente: p")),
            )
            for mean in (" / len(target)", "")
        ]
    ],
)  # fmt: skip
