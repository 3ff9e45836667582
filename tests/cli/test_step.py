"""The prompt of `rnn-numpy step` by scripts: transcripts in tests/cli/step, JSON, exit codes, what is typed wrong.

A transcript is what a terminal would show: its lines "(step) ..." are the script that is run. Words must be equal,
numbers to the digits that are printed. `python -m tests.cli.test_step` writes them anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM
from rnn_numpy.cli import main
from rnn_numpy.cli.prompt import Prompt
from rnn_numpy.cli.session import Case

FOLDER = Path(__file__).parent / "step"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))
MINE = str(FOLDER / "mine.py")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def written_down(path: Path) -> tuple[list[str], list[str], str]:
    """Return the command's arguments, the script, and the whole text of a transcript."""
    text = path.read_text(encoding="utf-8")
    first, *lines = text.splitlines()
    options = first.removeprefix("$ rnn-numpy step ").replace("mine.py:", f"{MINE}:").split()
    return options, [line.removeprefix("(step) ") for line in lines if line.startswith("(step) ")], text


def ran(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the script of a transcript; return what there is then."""
    options, commands, text = written_down(path)
    script = tmp_path / "script"
    script.write_text("\n".join(commands), encoding="utf-8")
    capsys.readouterr()
    code = main(["step", *options, "-x", str(script)])
    out, err = capsys.readouterr()
    err = err.replace(str(script), "script")
    return "\n".join(
        [text.splitlines()[0], out.rstrip("\n"), *([err.rstrip("\n")] if err else []), f"exit code {code}\n"]
    )


def assert_alike(found: str, wanted: str) -> None:
    """Words are equal, numbers to the last digit that is printed, counts of ulps not at all."""
    for got, line in zip(found.splitlines(), wanted.splitlines(), strict=True):
        got, line = (re.sub(r"[\d.e+]+ ulp", "ulp", re.sub(r"\s+", " ", text)) for text in (got, line))
        assert NUMBER.sub("#", got) == NUMBER.sub("#", line)
        for one, other in zip(NUMBER.findall(got), NUMBER.findall(line), strict=True):
            mantissa, _, exponent = other.partition("e")
            digits = min(len(mantissa.partition(".")[2]), 11)  # what a product leaves of the last of sixteen
            unit = 10.0 ** (int(exponent or 0) - digits)
            assert abs(float(one) - float(other)) <= 1.001 * unit, f"{got!r} for {line!r}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcripts(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_alike(ran(path, tmp_path, capsys), path.read_text(encoding="utf-8"))


def test_a_transcript_with_another_number_or_word_is_told() -> None:
    text = "(step) p norm(dh)\n1.7320508075688772\n|dh| 4.30e-01"
    assert_alike(text.replace("772", "774"), text)
    for wrong in (text.replace("1.73205", "1.73206"), text.replace("4.30", "4.32"), text.replace("dh|", "da|")):
        with pytest.raises(AssertionError):
            assert_alike(wrong, text)


def step(capsys: pytest.CaptureFixture[str], *arguments: str, case: str = "vanishing") -> tuple[int, str, str]:
    """Run `rnn-numpy step` with commands; what begins with a dash is an option."""
    options = [word for word in arguments if word.startswith("-")]
    commands = [part for word in arguments if not word.startswith("-") for part in ("-c", word)]
    capsys.readouterr()
    code = main(["step", f"{MINE}:{case}", *options, *commands])
    return (code, *capsys.readouterr())


# ------------------------------------------------------------------------------------------------ numbers


def records(out: str) -> list[dict]:
    """Return lines of JSON; NaN and Infinity are not JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in out.splitlines()]


def test_json_has_every_digit(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [
        "n",
        "b norm(dh_prev) < 1e-2",
        "c",
        "p dh",
        "x dh[0, 1:3]",
        "e da 1",
        "info b",
        "set dh_prev *= 0",
        "diff 1 2",
    ]
    code, out, _ = step(capsys, "--json", *commands, "finish")
    found = records(out)
    assert code == 0
    assert [record["command"] for record in found] == ["", *commands, "finish"]
    from tests.cli.step.mine import vanishing

    layer, trace, doutput = vanishing()
    back = layer.backward(trace, doutput)
    assert found[3]["stopped_by"][0]["condition"] == "1: norm(dh_prev) < 1e-2"
    assert found[3]["t"] == 8
    assert found[3]["norms"]["dh_prev"] == pytest.approx(np.linalg.norm(trace[8].dh_prev), rel=1e-14)
    assert found[4]["value"] == trace[8].dh.tolist()
    assert found[5]["value"] == [trace[8].dh[0, 1:3].tolist()]
    assert found[6]["value"] == trace[8].da[0, 1]
    assert found[7]["breakpoints"][0]["hits"] == 1
    assert found[9]["difference"]["t"] == 8
    written = found[10]["result"]  # in the fork nothing goes on
    assert written["dh_0"] == 0
    assert written["weight_hh_l0"] < np.linalg.norm(back.grads["weight_hh_l0"])


def test_json_of_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = step(capsys, "--json", "p dh_prev", "p norm(dh_prev)", "nan", "foo", case="infinite")
    found = records(out)
    assert found[0]["norms"]["dh_prev"] == "nan"
    assert found[1]["value"] == [["nan"] * 3]
    assert found[2]["value"] == "nan"
    assert found[3]["origin"] == {"layer": "l0", "t": 5, "name": "x", "index": [0, 0], "value": "inf"}


def test_finish_is_backward_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.cli.step.mine import final

    layer, trace, doutput, dh_n = final()
    stdout = io.StringIO()
    prompt = Prompt(Case(layer, trace, doutput, dh_n), io.StringIO(), stdout)
    prompt.run(
        ["n 2", "set dh_prev = 0", "n", "fork 1", "b norm(dh) > 0", "c", "rc", "tk", "nan", "s", "finish"], "here"
    )
    same = layer.backward(trace, doutput, dh_n)
    assert prompt.session.stepper.result.grads.flat.tobytes() == same.grads.flat.tobytes()
    assert prompt.session.stepper.result.dc_0.tobytes() == same.dc_0.tobytes()


def test_what_if_is_the_linear_response(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = step(capsys, "--json", "n 5", "finish", "goto 10", "set dh_prev *= 3", "finish")
    found = records(out)
    through, tripled = found[2]["result"]["dh_0"], found[5]["result"]["dh_0"]
    assert tripled == pytest.approx(3 * through, rel=1e-13)


# ------------------------------------------------------------------------------------------------ asserts, scripts


def test_asserts_decide_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert step(capsys, "assert norm(dh) > 1")[0] == 0
    code, out, err = step(capsys, "assert norm(dh) > 5", "assert t == 19", "assert violated()")
    assert code == 1
    assert re.findall(r"^(assert failed|holds)", out, re.MULTILINE) == ["assert failed", "holds", "assert failed"]
    assert err == ""
    assert step(capsys, "assert norm(dh) > 5", "q")[0] == 1


def test_a_script_ends_at_the_first_command_that_cannot_be_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "commands"
    path.write_text("# a comment\n\nn\nb norm(hd) > 1\nn\n")
    code = main(["step", f"{MINE}:vanishing", "-x", str(path)])
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith(f"rnn-numpy step: {path}, line 4: b norm(hd) > 1: a step of l0 has no 'hd'")
    assert len(err.splitlines()) == 1
    assert out.count("(step)") == 2


def test_order_of_c_and_x_and_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "two words"
    path.write_text("n 2\r\np t", newline="")
    assert main(["step", f"{MINE}:vanishing", "-c", "p t", "-x", str(path), "-c", f"source {path}"]) == 0
    assert re.findall(r"^\d+$", capsys.readouterr().out, re.MULTILINE) == ["19", "17", "15"]
    path.write_text(f"source {path}")
    assert main(["step", f"{MINE}:vanishing", "-x", str(path)]) == 2
    assert capsys.readouterr().err.endswith(f"{path} sources itself\n")
    for k in range(12):
        (tmp_path / f"{k}").write_text(f"source {tmp_path / str(k + 1)}")
    assert main(["step", f"{MINE}:vanishing", "-x", str(tmp_path / "0")]) == 2
    assert "scripts stand 10 deep" in capsys.readouterr().err


def test_saved_commands_run_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "saved"
    _, first, _ = step(capsys, "n 3", "b norm(dh) < 1e-2", "c", "h", "set dh_prev[0, 1] = 2", "n", f"save {path}")
    assert path.read_text().splitlines() == ["n 3", "b norm(dh) < 1e-2", "c", "set dh_prev[0, 1] = 2", "n"]
    assert main(["step", f"{MINE}:vanishing", "-x", str(path)]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[-3:] == first.splitlines()[-5:-2]


def test_commands_from_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n\np t\nassert t < 3\n"))
    assert main(["step", f"{MINE}:vanishing"]) == 1
    out, _ = capsys.readouterr()
    assert re.findall(r"^\d+$", out, re.MULTILINE) == ["18"]  # an empty line of a script repeats nothing


class Keyboard(io.StringIO):
    """Standard input that says that it is a terminal; Ctrl-C is typed as ^C."""

    def isatty(self) -> bool:
        return True

    def readline(self, *size: int) -> str:
        line = super().readline(*size)
        if line == "^C\n":
            raise KeyboardInterrupt
        if line == "\\xff\n":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return line


def test_a_keyboard_whose_output_is_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard("foo\nn\n\n\\xff\n^C\np t\nassert t == 0\n"))
    assert main(["step", f"{MINE}:vanishing"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "*** there is no command 'foo'" in out
    assert "(step) 17\n" in out
    assert "--KeyboardInterrupt--" in out and "*** what was typed is no text" in out
    monkeypatch.setattr(sys, "stdin", Keyboard("foo\np t\n"))
    assert main(["step", f"{MINE}:vanishing", "--json"]) == 0


def test_names_are_completed() -> None:
    prompt, _ = terminal()
    assert prompt.completenames("rev") == ["reverse_continue", "reverse_next"]
    assert prompt.completedefault("dh_", "p dh_", 2, 5) == ["dh_prev"]
    assert "norm_above" in prompt.completedefault("norm", "b norm", 2, 6)


def test_a_pipe_that_is_no_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"n\n\xff\n"), "utf-8"))
    assert main(["step", f"{MINE}:vanishing"]) == 2
    assert capsys.readouterr().err == "rnn-numpy step: standard input: is no text in utf-8\n"


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["step", f"{MINE}:vanishing"]) == 2
    assert "-c or -x" in capsys.readouterr().err
    assert main(["step", f"{MINE}:vanishing", "-c", "n"]) == 0


# ------------------------------------------------------------------------------------------------ what is typed wrong

WRONG = """
foo
foo bar
nn
b
b norm(
b norm(dh
b dh
b dh > 1
b norm(dhh) > 1
b 99
b -1
b l7:3
b l0:99
b 3,
b jump()
b jump(dh, 10, 3)
b jump(dh, 0.5)
b jump('dh; x', 2)
b saturated(dh, 7)
b __import__('os').system('true')
b (lambda: 1)()
b open('x')
b [1 for i in 3]
b dh.tofile
b 1/0
b norm(dh) > 1 and jump
b jump(norm(dh))
b jump(dh) + 1
b sign_change(dh, 99)
n 0
n -1
n 1.5
n x
n 1 2
n 99999999999999999999999
rn 0
c 3
rc 3
finish 3
until
until norm(
goto
goto x
goto 99
goto -1
goto 3 l9
goto 3 4
goto l0
p
p norm(
p import os
p dh[
p dh[7, 0]
p dh[0, 99]
p dh[1.5]
p dh @ dh
p foo
p W_hh[0, 1]
p dh[0][1]
p 'text'
p f'{t}'
p t.real
p x := 1
p -dh - not dh
p norm(3)
p tanh
p dh, da
x
x foo
x dh[0
x norm(dh)
x W_hh
x t
x dh[0, 99]
x/4 dh
display
display foo
display dh[0, 99]
undisplay 3
undisplay x
e foo
e da 99
e da -1
e da 0 99
e da 0 1 2
e da[0, :]
e da[
e 3 da
e x
s foo
s 99
l 3
a 3
w 3
u
d
u 1
plot
plot foo
plot W_hh
plot norm(
tk foo
tk weight_hh.z
nan 3
set
set dh_prev
set foo = 1
set x = 1
set dh = 1
set h = 1
set dh_prev == 1
set dh_prev[0, 99] = 1
set dh_prev[0] = dh[0, 0:2]
set dh_prev = x
set dh_prev = foo
set W_hh = 1
set t = 3
set dh_prev[0, 1.5] = 1
set at = 1
set dh_prev ** 2 = 1
fork 9
fork 0
fork x
forks 3
diff
diff 1
diff 1 9
diff a b
assert
assert dh
assert norm(
assert foo
assert 3
source
source /nowhere/at/all
source /
save
save /nowhere/at/all
save /
h foo
info
info foo
disable 9
enable x
ignore
ignore 1
ignore 9 1
ignore a b
cl
cl 9
cl x
condition
condition 1
condition 9 t < 3
whatis
whatis foo
p dh, da
p norm(dh), foo
x dh 99
x dh 3 9
x dh 1 2 3
b jump dh 10 11 12
b if
b 3 if
b norm(dh) if
;; foo
()
{}
'
import os
q = 3
n = 3
print(t
exec('1')
__class__
do_next
-
x?
!!
??
dh[0, 99]
norm(foo)
tk 3
run 3
b norm(dh) > 1e400
p 10 ** 10 ** 10
b jump(dh, factor=
b jump(dh, wrong=3)
b non_finite(3)
b violated(-1)
b saturated(foo)
rs
"""
STRANGE = ["set dh_prev = ", "\\", "\x00", "\x1b[31m", "é", "€ 3", "b " + "(" * 400, "b " + "1+" * 400 + "1"]
FINE = {
    "b",
    "until",
    "display",
    "b 1/0",
    "b 3,",
    "p 10 ** 10 ** 10",
    "??",
    "assert 3",
    "e x",
    "x t",
    "b 3 if",
}  # none of them wrong after all


def terminal(case: str = "vanishing") -> tuple[Prompt, io.StringIO]:
    """Return a prompt as at a terminal, and what it writes."""
    from tests.cli.step import mine

    stdout = io.StringIO()
    return Prompt(Case(*getattr(mine, case)()), io.StringIO(), stdout), stdout


def batched(N: int, H: int, forward: bool, dtype: Any = np.float64) -> tuple[Prompt, io.StringIO]:
    lstm, stdout = LSTM(2, H, dtype=dtype, rng=0), io.StringIO()
    output, _, trace = lstm.forward(np.random.default_rng(0).normal(size=(6, N, 2)).astype(dtype))
    return Prompt(Case(lstm, trace, np.ones_like(output), forward=forward), io.StringIO(), stdout), stdout


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (2, 2), (3, 2)], ids=str)
def test_what_is_set_is_set_however_a_row_lies_in_memory(size: tuple[int, int], forward: bool) -> None:
    prompt, stdout = batched(*size, forward)
    name = "h" if forward else "dh_prev"
    prompt.onecmd("n 2")
    prompt.onecmd(f"set {name} = 9")
    assert (getattr(prompt.session.step, name) == 9).all(), stdout.getvalue()
    prompt.onecmd(f"set {name}[0, :] *= 2")
    row = getattr(prompt.session.step, name)
    assert (row[0] == 18).all() and (row[1:] == 9).all()
    prompt.onecmd("diff 1 2")
    assert "no difference" not in stdout.getvalue()


def test_a_complex_line_is_not_drawn() -> None:
    prompt, stdout = batched(1, 2, False, np.complex128)
    for said, told in (("dh[0,0]", "plot: 'dh[0, 0]' is complex"), ("dh", "norm(dh)")):
        prompt.onecmd("n 2")
        prompt.onecmd(f"plot {said}")
        assert told.replace(" ", "") in stdout.getvalue().replace(" ", "")


def test_a_whole_number_may_be_too_large() -> None:
    prompt, stdout = batched(1, 2, False)
    prompt.onecmd("n 99999999999999999999999")
    assert "n: takes whole numbers below 10^18; got one of 23 digits" in stdout.getvalue()


def test_no_sequence_is_stepped_through_as_well() -> None:
    prompt, stdout = batched(0, 3, False)
    for line in ("n", "p norm(dh)", "x dh", "e dh_prev", "finish"):
        prompt.onecmd(line)
    said = stdout.getvalue()
    assert "cannot be done" not in said and "dh_prev has no entry: (N, units) = (0, 3)" in said


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("case", ["vanishing", "attending"])
def test_what_is_typed_by_a_cat_is_a_line(case: str, forward: bool) -> None:
    """Words of the prompt's in any order: an answer, or what is wrong, and nothing that it cannot say."""
    from tests.cli.step import mine

    words = [
        *Prompt.commands(),
        *"dh h alpha values units dunits W_hh b_i t norm(h) softmax(h,h) total(values)".split(),
    ]
    words += "jump(h,2) violated() not and = *= 0 3 -1 [0,1] [9,9] ;; ( ) 1e999 'x' norm() l0 @ .T".split()
    rng, stdout = np.random.default_rng(0), io.StringIO()
    prompt = Prompt(Case(*getattr(mine, case)(), forward=forward), io.StringIO(), stdout)
    for _ in range(300):
        line = " ".join(rng.choice(words, rng.integers(1, 5)))
        if not {"help", "html", "save", "source"} & set(line.split()):
            prompt.onecmd(line)
    said = stdout.getvalue()
    at = said.find("cannot be done")
    assert at < 0, said[at - 200 : at + 200]
    assert "*** " in said and " t = " in said


@pytest.mark.parametrize("case", ["vanishing", "stacked"])
def test_what_is_typed_wrong_is_a_line_and_changes_nothing(case: str) -> None:
    prompt, stdout = terminal(case)
    prompt.onecmd("n 2")
    place = prompt.session.place()
    silent = []
    for line in [*WRONG.strip().splitlines(), *STRANGE]:
        if case == "stacked" and line in ("d", "u", "x x"):
            continue
        stdout.seek(0)
        stdout.truncate()
        assert prompt.onecmd(line) is False, line
        said = stdout.getvalue()
        assert "Traceback" not in said, line
        assert "cannot be done" not in said, (line, said)
        if not said.startswith("*** "):
            silent.append(line)
        elif prompt.session.place() != place and not line.startswith("goto"):
            raise AssertionError(f"{line} moved the pass")
        prompt.onecmd(f"goto {place.split()[-1]} {place.split()[0]}")
    assert prompt.session.forks[1:] == []
    assert set(silent) <= FINE


def test_habits_from_other_debuggers(capsys: pytest.CaptureFixture[str]) -> None:
    stops = ["b l0:5 if norm(dh) < 1", "b jump dh 1.2", "b nan", "b violated", "condition 2 t == 9", "c"]
    commands = ["n ;; n;;p t", *stops, "p t, norm(da)", "whatis da", "x dh 3", "x dh 3 0", "cond 1 3", "c"]
    code, out, err = step(capsys, *commands)
    assert (code, err) == (0, "")
    answers = [answer.splitlines()[1:] for answer in out.split("(step) ")[1:]]
    assert answers[0][-1] == "17"
    assert "stopped by 2: t == 9" in answers[6][0]
    assert answers[7][0].startswith("9, 0.0")
    assert answers[8] == ["da (1, 4) float64: B2, da = dh * (1 - h ** 2)"]
    assert answers[9] == answers[10] and answers[9][0].startswith("dh[0, 3]  ")
    assert "stopped by 1: 3" in answers[12][0]
    assert "dh = doutput + dh_n" in step(capsys, "e dh")[1]
    assert "dh_prev of t = 19" in step(capsys, "n", "e dh")[1]
    assert "of #1, the true pass" in step(capsys, "set dh_prev = 1/0", "nan")[1]


def test_the_page_for_a_browser(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = tmp_path / "a page.html", tmp_path / "b {}.html"
    code, out, _ = step(capsys, "n 3", "b norm(dh) < 1e-2", "set dh_prev = 0", f"html {first}", f"--html={second}")
    assert code == 0
    assert "that of #1, the true pass" in out
    text = first.read_text(encoding="utf-8")
    assert (text.startswith("<!doctype html>") and "norm(dh) &lt; 1e-2" in text) or "norm(dh) \\u003c 1e-2" in text
    assert len(second.read_text(encoding="utf-8")) == len(text)
    code, _, err = step(capsys, f"--html={tmp_path}")
    assert (code, err) == (2, f"rnn-numpy step: {tmp_path}: is a directory; name a file\n")


def test_a_file_of_trained_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **{f"up.{name}": array for name, array in GRU(3, 4, rng=0).params.items()})
    assert main(["step", "--model", str(path), "--length", "9", "-c", "n", "-c", "assert not violated()"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].endswith("T = 9, N = 1, random numbers; dL/dh of half the square of the last output")
    assert main(["step", "--model", str(path), "--data", "eeg", "-c", "n"]) == 2
    assert "eeg has 4 channels, up reads 3" in capsys.readouterr().err
    assert main(["step", "--model", str(path), "--model-layer", "down", "-c", "n"]) == 2
    assert "has up; got 'down'" in capsys.readouterr().err
    path.write_bytes(b"no weights")
    assert main(["step", "--model", str(path), "-c", "n"]) == 2


@pytest.mark.parametrize("cell", ["rnn-relu", "gru-before", "peephole", "layernorm"])
def test_networks_on_a_series(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--hidden", "5", "--length", "12", "--layers", "2", "--batch", "2", "--bidirectional", "--loss", "all"]
    commands = [
        "b violated()",
        "c",
        "restart",
        "n 3",
        "e",
        "s",
        "l",
        "a",
        "w",
        "d",
        "u",
        "plot h",
        "tk",
        "nan",
        "finish",
    ]
    arguments = ["step", "--cell", cell, *sizes, *(part for line in commands for part in ("-c", line))]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "stopped by" not in out
    assert "dL/dh of the squared error of all steps" in out


@pytest.mark.parametrize("case", ["complex_numbers", "batch_first", "own_cell", "float32", "stacked", "relu"])
def test_every_kind_of_layer(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    looks = [
        "n 2",
        "p dh",
        "p dh[0, 1]",
        "x dh",
        "a",
        "w",
        "l",
        "info d",
        "info f",
        "fork",
        "display norm(dh)",
        "plot dh",
    ]
    stops = ["nan", "b norm(dh) > 0 and not nan", "b norm(dh) > 0", "ignore 2 1", "n", "c", "info b", "cl all"]
    code, out, err = step(capsys, *looks, *stops, "set dh_prev *= 2", "n", "diff 1 2", "finish", "w", case=case)
    assert (code, err) == (0, "")
    assert "arises here" in out
    code, out, err = step(capsys, "--json", *looks, *stops, case=case)
    assert (code, err) == (0, "")
    assert len(records(out)) == 1 + len(looks) + len(stops)


def test_a_cell_without_equations(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`Cell.equations` is empty" in step(capsys, "e", case="own_cell")[2]
    assert "n goes to the next step" in step(capsys, "s", case="own_cell")[2]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["mine.py"], "TARGET: must be FILE.py:FUNCTION"),
        ([f"{MINE}:nothing"], "has no 'nothing'"),
        ([f"{MINE}:two"], "must return (layer, trace, doutput), or these and dh_n; got a tuple of 2"),
        ([f"{MINE}:no_layer"], "the first it returns must be a recurrent layer; got int"),
        ([f"{MINE}:no_trace"], "the second it returns must be the trace"),
        ([f"{MINE}:wrong_gradient"], "doutput"),
        ([f"{MINE}:raising"], "ZeroDivisionError: division by zero"),
        ([f"{MINE}:final", "--data", "eeg"], "brings its own network and data"),
        ([f"{MINE}:final", "--hidden", "3", "--seed", "1"], "--hidden, --seed would change nothing; leave them out"),
        (["--model", MINE, "--gain", "3"], "--gain would change nothing"),
        (["--model-layer", "l0"], "without --model: --model-layer would change nothing"),
        (["--cell", "mamba"], "invalid choice: 'mamba'"),
        (["--length", "0"], "--length"),
        (["--length", "1000000000"], "step through a shorter one"),
        (["--data", "/nowhere/at/all.csv"], "/nowhere/at/all.csv"),
        (["--model", "/nowhere/at/all.onnx"], "/nowhere/at/all.onnx"),
        (["-x", "/nowhere/at/all"], "/nowhere/at/all: there is no such file"),
        (["-x", "-"], "must be the name of a file"),
        (["-x", "/"], "cannot be read"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["-c"], "expected one argument"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", *arguments, *([] if arguments == ["-c"] else ["-c", "n"])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.startswith("rnn-numpy step: ")
    assert len(err.splitlines()) == 1


def test_the_forward_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit the trace; what is written changes what comes after; a breakpoint on a forward array."""
    from tests.cli.step.mine import vanishing

    _, trace, _ = vanishing()
    code, out, _ = step(capsys, "--forward", "--json", "n 4", "p h", "b norm(h) < 1", "set h = 0", "n", "finish")
    found = records(out)
    assert code == 0 and [record["t"] for record in found if "norms" in record][:2] == [0, 4]
    assert found[2]["value"] == trace[4].h.tolist() and set(found[1]["norms"]) == {"h", "a"}
    assert found[5]["t"] == 5 and found[5]["fork"] == 2
    assert set(found[6]["result"]) == {"output", "h_n"}
    code, _, err = step(capsys, "--forward", "p dh")
    assert code == 2 and "gradients are there once a backward pass has begun" in err


def test_a_slip_has_a_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" in step(capsys, "nxet")[2]
    assert "'dis' may be disable, display" in step(capsys, "dis")[2]
    assert step(capsys, "disp norm(dh)", "cont", "reverse-next 3", "bt", "ll")[0] == 0
    assert "fix" not in step(capsys, "e foo")[2]


def test_a_breakpoint_that_cannot_be_asked_is_none() -> None:
    prompt, stdout = terminal("attending")
    for text in ("sign_change(values,0)", "sign_change(exists,0)", "jump(W_hh)", "norm(h) > 1 and non_finite(keys)"):
        stdout.seek(stdout.truncate(0))
        prompt.onecmd(f"b {text}")
        assert "is no array of a step, (N, units)" in " ".join(stdout.getvalue().split())
    assert not prompt.session.breakpoints
    prompt.onecmd("display t")
    prompt.onecmd("c")
    said = stdout.getvalue()
    assert "display 1  t = 5\n" in said and "display 1  t = 5.0" not in said and "the pass is through" in said


def write_anew() -> None:
    """Write the transcripts by the commands in them."""
    for path in TRANSCRIPTS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
            with contextlib.redirect_stderr(io.StringIO()) as err:
                captured = SimpleNamespace(readouterr=lambda out=out, err=err: (out.getvalue(), err.getvalue()))
                text = ran(path, Path(folder), captured)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_anew()
