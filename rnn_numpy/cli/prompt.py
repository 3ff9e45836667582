"""The prompt of `rnn-numpy step`: pdb's and gdb's habits over one pass, the way back or the forward one.

A command prints lines of text, or with `json` one line of JSON. In a script, of -x, -c or a pipe, the first command
that cannot be done ends the run; at a terminal it is a line that begins with ***. Ctrl-C ends a command, not the
prompt. Expressions are those of `rnn_numpy.debug.when`: nothing that is typed is run as Python.
"""

from __future__ import annotations

import ast
import cmd
import difflib
import math
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy import debug
from rnn_numpy.cli.common import FAILED, BadInputError, atomic
from rnn_numpy.cli.session import Case, Session, known_words, said
from rnn_numpy.debug.expressions import evaluate, norm, parsed
from rnn_numpy.debug.rows import targets, wording
from rnn_numpy.errors import OptionError, RNNNumpyError

Array = NDArray[Any]

PROMPT = "(step) "
WIDTH = 100  # of what is no terminal
MOST = 64  # entries that `x` shows
NESTED = 10  # scripts within scripts
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"

# What else a command is called: pdb's and gdb's names.
ALIASES = {
    "n": "next", "s": "step", "c": "continue", "cont": "continue", "unt": "until", "r": "finish", "return": "finish",
    "fin": "finish", "b": "break", "tb": "tbreak", "cl": "clear", "delete": "clear", "i": "info", "rn": "reverse_next",
    "rc": "reverse_continue", "reverse-next": "reverse_next", "reverse-continue": "reverse_continue", "j": "goto",
    "jump": "goto", "w": "where", "bt": "where", "u": "up", "d": "down", "l": "list", "ll": "list", "p": "print",
    "pp": "print", "e": "explain", "a": "args", "q": "quit", "exit": "quit", "h": "help", "run": "restart",
    "EOF": "quit", "cond": "condition", "ptype": "whatis",
}  # fmt: skip
SHORT = {"print": "p", "next": "n", "step": "s", "continue": "c", "break": "b", "explain": "e", "quit": "q"}
REPEATED = ("next", "step", "continue", "reverse_next", "reverse_continue", "until", "up", "down")

GROUPS = {
    "go on": "next until continue finish step",
    "go back": "reverse_next reverse_continue goto restart",
    "stop": "break tbreak condition info disable enable ignore clear",
    "look": "print whatis x display undisplay explain list args where up down plot tk nan",
    "what if": "set forks fork diff",
    "scripts": "assert source save html quit help",
}


class Prompt(cmd.Cmd):
    """Commands over a `Session`.

    Parameters
    ----------
    case : Case
        What is stepped through.
    stdin, stdout : file
    json : bool
        One line of JSON for each command, in place of text.
    """

    def __init__(self, case: Case, stdin: IO[str], stdout: IO[str], json: bool = False) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self.json = json
        self.prompt = "" if json else PROMPT
        self.terminal = stdin.isatty()
        self.use_rawinput = self.terminal and stdout.isatty()  # readline writes to the terminal itself
        self.colours = stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.bars = BARS if _can_write(stdout, BARS) else PLAIN_BARS
        self.width = max(40, shutil.get_terminal_size((WIDTH, 24)).columns) if stdout.isatty() else WIDTH
        self.session = Session(case)
        self.code = 0
        self.done: list[str] = []  # commands that `save` writes
        self._said: dict[str, Any] = {}
        self._line = 0  # the next equation of `s`
        self._open: list[Path] = []  # scripts that are being run

    # ------------------------------------------------------------------------------------------------ running

    def interact(self) -> None:
        """Read commands from the terminal until `q` or Ctrl-D."""
        self.greet()
        while True:
            try:
                self.cmdloop()
                return
            except KeyboardInterrupt:  # at the prompt
                self.write("\n--KeyboardInterrupt--\n")
            except UnicodeDecodeError:
                self.complain("what was typed is no text in the terminal's encoding")

    def run(self, lines: Iterable[str], where: str) -> bool:
        """Run the commands of a script; return whether one of them was `quit`."""
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if not self.json:
                self.write(f"{self.prompt}{text}\n")
            try:
                if self.command(text):
                    return True
            except (RNNNumpyError, BadInputError) as error:
                raise BadInputError(f"{where.replace('{}', str(number))}: {text}: {said(error)}") from None
        return False

    def greet(self) -> None:
        """Say what is stepped through, and where the pass stands."""
        case = self.session.case
        lines = [case.title] if case.title else []
        self.say(
            "\n".join([*lines, self._halt(), "h for help"] if self.terminal else [*lines, self._halt()]), **self._at()
        )
        self._flush("")

    def onecmd(self, line: str) -> bool:
        """Run a command that was typed; what it cannot do is a line, and never the end of the prompt."""
        text = line.strip()
        if text == "EOF":
            self.write("\n")
            return True
        if not text:
            return self.emptyline()
        self.lastcmd = text
        try:
            return self.command(text)
        except KeyboardInterrupt:
            self.write(f"\ninterrupted at {self.session.place()}\n")
        except (RNNNumpyError, BadInputError) as error:
            self.complain(said(error))
        return False

    def command(self, text: str) -> bool:
        """Run one command, or several with ;; between them; return whether one ends the prompt."""
        first, more, rest = text.partition(";;")
        if more:
            return any(self.command(part.strip()) for part in (first, rest) if part.strip())
        self._said = {}
        handler, argument = self._found(text)
        try:
            ends = bool(handler(argument))
        except (RNNNumpyError, BadInputError, BrokenPipeError):
            raise
        except MemoryError:
            raise OptionError("not enough memory") from None
        except (Exception, RecursionError) as error:
            raise OptionError(f"cannot be done: {type(error).__name__}: {error}") from None
        self._flush(text)
        if handler.__name__ not in ("do_save", "do_html", "do_quit", "do_help", "do_source"):
            self.done.append(text)
        return ends

    def _found(self, text: str) -> tuple[Any, str]:
        """Return the method of a command, and its argument."""
        match = re.match(r"([A-Za-z][\w-]*|[?!])\s*(.*)", text, re.DOTALL)
        word, argument = match.groups() if match else ("", text)
        word = {"?": "help", "!": "print"}.get(word, word)
        name = ALIASES.get(word, word)
        # `c * c_prev` is an array times another one, `c` goes on.
        is_value = re.match(r"[-+] |[*/<>=!.\[@]", argument) is not None and word in self.session.rows
        if hasattr(self, f"do_{name}") and not is_value:
            return getattr(self, f"do_{name}"), argument
        starts = sorted({one for one in self.commands() if one.startswith(name)}) if name else []
        if self._is_expression(text):
            return self.do_print, text
        if len(starts) == 1 and not is_value:
            return getattr(self, f"do_{starts[0]}"), argument
        if len(starts) > 1:
            raise OptionError(f"{word!r} may be {', '.join(starts)}")
        close = difflib.get_close_matches(
            word, [*self.commands(), *ALIASES, *self.session.step.names, *known_words()], 3
        )
        raise OptionError(
            f"there is no command {word or text!r}; {'did you mean ' + ' or '.join(close) if close else 'h lists them'}"
        )

    def _is_expression(self, text: str) -> bool:
        """Whether a line is an expression that can be printed: `norm(dh)`, or a name."""
        try:
            evaluate(parsed("print", text), self.session.rows)
        except OptionError:
            tree = _tree(text)  # a call or an operation is meant as one, and print says what is wrong with it
            return isinstance(tree, ast.Call | ast.BinOp | ast.Compare | ast.Subscript | ast.BoolOp | ast.Attribute)
        return True

    @classmethod
    def commands(cls) -> list[str]:
        """Return the names of all commands."""
        return [name for names in GROUPS.values() for name in names.split()]

    def emptyline(self) -> bool:
        """Repeat the last command, if it is one that moves."""
        name = ALIASES.get(self.lastcmd.split()[0], self.lastcmd.split()[0]) if self.lastcmd else ""
        return self.onecmd(self.lastcmd) if name in REPEATED else False

    # ------------------------------------------------------------------------------------------------ writing

    def say(self, text: str, /, **numbers: Any) -> None:
        """Print lines; with json, keep `numbers` for the command's line."""
        if self.json:
            self._said.update(numbers or {"text": text})
        else:
            self.write(text + "\n")

    def _flush(self, text: str) -> None:
        if self.json:
            import json

            self.write(json.dumps({"command": text, **_plain(self._said)}, allow_nan=False) + "\n")
        self.stdout.flush()

    def complain(self, message: str) -> None:
        """Say what could not be done."""
        if self.json:
            self._said = {"error": message}
            self._flush(self.lastcmd)
            return
        lines = textwrap.wrap(message, self.width - 4, subsequent_indent="    ") or [""]
        self.write(self._red("*** " + "\n".join(lines)) + "\n")
        self.stdout.flush()

    def write(self, text: str) -> None:
        """Write what the encoding of the output can hold."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        try:
            self.stdout.write(text.encode(encoding, "replace").decode(encoding))
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise BadInputError(f"standard output: {error.strerror}") from None

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.colours else text

    def _red(self, text: str) -> str:
        return f"\x1b[31m{text}\x1b[0m" if self.colours else text

    # ------------------------------------------------------------------------------------------------ where it stands

    def _at(self) -> dict[str, Any]:
        """Return what JSON says of a halt."""
        session = self.session
        step = session.step
        found: dict[str, Any] = {"fork": session.fork.number, "layer": step.recorded.name, "t": step.t}
        found["norms"] = {name: session.number(f"norm({name})") for name in self._main()}
        found["non_finite"] = self._bad()
        if session.displays:
            found["displays"] = {text: session.number(text) for text in session.displays.values()}
        return found

    def _main(self) -> list[str]:
        """Return the names of the arrays that each halt shows."""
        step = self.session.step
        states = step.recorded.states
        if self.session.case.forward:
            return [name for name in (*states, "a") if name in self.session.rows]
        wanted = [f"d{states[0]}", *(f"d{state}_prev" for state in states), "da"]
        return [name for name in wanted if name in self.session.rows]

    def _bad(self) -> int:
        step = self.session.step
        return sum(int((~np.isfinite(getattr(step, name))).sum()) for name in step.names)

    def _halt(self, stopped: Sequence[tuple[str, str]] = (), back: str = "") -> str:
        """Return the lines of a halt."""
        session = self.session
        step, rows, behind = session.step, session.rows, session.behind
        T, made = len(step.recorded), len(behind.indices) - 1
        why = "; ".join(text for text, _ in stopped)
        place = f"#{session.fork.number} {step.recorded.name} t = {step.t} of {T}"
        left = self._bold(place) + (f"   stopped by {why}" if why else f"   {back}" if back else "")
        forward, first = session.case.forward, step.recorded.states[0]
        steps = f"{made} step{'' if made == 1 else 's'} {'on' if forward else 'back'}"
        if made:
            with np.errstate(all="ignore"):
                norms = norm(behind.value(first if forward else f"d{first}_prev").array).reshape(-1)
                pace = float(np.exp((np.log(norms[-1]) - np.log(norms[0])) / made))
            steps += f", x {pace:.4g} a step" if math.isfinite(pace) and pace > 0 else ""
        plain = len(place) + (len(f"   stopped by {why}") if why else len(f"   {back}") if back else 0)
        gap = self.width - plain - len(steps)
        lines = [left + " " * gap + steps if gap > 2 else f"{left}\n   {steps}"]
        parts = []
        for name in self._main():
            value = session.number(f"norm({name})")
            ratio = float(np.asarray(session.number(f"ratio({name})")).real) if made else math.nan
            parts.append(f"|{name}| {value:.2e}" + (f" (x {ratio:.3g})" if math.isfinite(ratio) else ""))
        parts.append(self._saturated())
        bad = self._bad()
        parts.append(self._red(f"non-finite {bad}") if bad else "non-finite 0")
        lines += _packed(list(filter(None, parts)), self.width)
        lines += [f"   {evidence}" for _, evidence in stopped if evidence]
        for number, text in session.displays.items():
            lines.append(f"   display {number}  {text} = {self._number(session.number(text))}")
        del rows
        return "\n".join(lines)

    def _saturated(self) -> str:
        """Say how many of the gates' entries are at their limits, or how many units of relu are off."""
        step = self.session.step
        if "relu" in repr(self.session.case.layer):
            return f"off {np.mean(getattr(step, step.recorded.states[0]) == 0):.0%}"
        return f"saturated {self.session.saturated():.0%}"

    def _number(self, value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return str(bool(value))
        text = str(value)
        return text.removesuffix(".0") if np.asarray(value).dtype.kind == "f" else text

    def _halted(self, stopped: Sequence[tuple[str, str]] = (), note: str = "") -> None:
        """Say where the pass stands now, and why."""
        self._line = 0
        why = [{"condition": text, "evidence": evidence} for text, evidence in stopped]
        self.say(self._halt(stopped, note), **self._at(), **({"stopped_by": why} if why else {}))

    def _ended(self) -> None:
        """Say what the pass has come to."""
        result = self.session.finish()
        step = self.session.step
        states = step.recorded.states
        if self.session.case.forward:
            output, finals, _ = result
            finals = finals if isinstance(finals, tuple) else (finals,)
            made = {"output": output} | {f"{state}_n": final for state, final in zip(states, finals, strict=True)}
            made["output"] = getattr(output, "data", output) if not isinstance(output, np.ndarray) else output
        else:
            made = {f"d{state}_0": getattr(result, f"d{state}_0") for state in states} | dict(result.grads.items())
        norms = {name: float(norm(np.asarray(array)[None]).reshape(-1)[0]) for name, array in made.items()}
        lines = _packed([f"|{name}| {value:.2e}" for name, value in norms.items()], self.width)
        text = "\n".join(["the pass is through; rn and goto go back", *lines])
        self.say(text, **self._at(), through=True, result=norms)

    # ------------------------------------------------------------------------------------------------ going on

    def do_next(self, argument: str) -> None:
        """n [K]: go on by one step of the pass, or by K; the empty line repeats it."""
        k = _whole(argument, "n", 1)
        if self.session.next(k) < k:
            self._ended()
        else:
            self._halted()

    def do_continue(self, argument: str) -> None:
        """c: go on until a breakpoint holds, else to the end."""
        _nothing(argument, "c")
        self._go()

    def do_until(self, argument: str) -> None:
        """until EXPR: go on until EXPR, or a breakpoint, holds; until 41 to step 41, until alone by one step."""
        if not argument:
            return self.do_next("")
        self._go(argument)
        return None

    def _go(self, until: str = "", back: bool = False) -> None:
        condition = self.session.condition(until) if until else None
        found = self.session.go(condition, back)
        if found is not None:
            self._halted(found)
        elif back:
            self._halted(note="the first step")
        else:
            self._ended()

    def do_finish(self, argument: str) -> None:
        """finish: run the pass to its end, past all breakpoints."""
        _nothing(argument, "finish")
        self.session.finish()
        self._ended()

    def do_step(self, argument: str) -> None:
        """s [UNIT [N]]: the next equation of this step with its numbers; after the last one, the next step."""
        names = self.session.equations()
        if not names:
            raise OptionError("the cell has no equations; n goes to the next step")
        if self._line == len(names):
            self.do_next("")
            return
        name = names[self._line]
        unit, n = self._entry(name, argument.split())
        self._line += 1
        self._explain(name, unit, n)

    # ------------------------------------------------------------------------------------------------ going back

    def do_reverse_next(self, argument: str) -> None:
        """rn [K]: go back by one step, or by K; nothing is computed, the pass keeps what it has done."""
        k = _whole(argument, "rn", 1)
        self._halted(note="" if self.session.back(k) == k else "the first step")

    def do_reverse_continue(self, argument: str) -> None:
        """rc: go back until a breakpoint holds, else to the first step."""
        _nothing(argument, "rc")
        self._go(back=True)

    def do_goto(self, argument: str) -> None:
        """goto T [LAYER]: go to step T of this layer or another one, l0 or l1_reverse, back or on."""
        layers = [word for word in argument.replace(":", " ").split() if re.fullmatch(r"-?\d+", word) is None]
        times = [word for word in argument.replace(":", " ").split() if re.fullmatch(r"-?\d+", word)]
        if len(times) != 1 or len(layers) > 1:
            raise OptionError(f"goto: say T, or T LAYER, as goto 41 {self.session.step.recorded.name}")
        self.session.goto(int(times[0]), layers[0] if layers else None)
        self._halted()

    def do_restart(self, argument: str) -> None:
        """restart: go back to the first step; breakpoints stay."""
        _nothing(argument, "restart")
        self.session.restart()
        self._halted(note="the first step")

    # ------------------------------------------------------------------------------------------------ stops

    def do_break(self, argument: str) -> None:
        """b CONDITION: stop where it holds. An expression, norm(dh_prev) > 1e-3; a step, 41 or l1:41, or a layer, l0,
        with ", EXPR" if more must hold; jump(dh, 10), saturated(f), sign_change(dh, 3), non_finite(), violated(),
        joined by and, or, not. b alone lists all.
        """
        self._break(argument, temporary=False)

    def do_tbreak(self, argument: str) -> None:
        """tb CONDITION: as b, and only once."""
        self._break(argument, temporary=True)

    def _break(self, argument: str, temporary: bool) -> None:
        if not argument:
            self.do_info("b")
            return
        found, holds = self.session.add_breakpoint(argument, temporary)
        kind = "temporary breakpoint" if temporary else "breakpoint"
        self.say(
            f"{kind} {found.number}: {found.text}" + ("   (holds here)" if holds else ""),
            breakpoint=found.number,
            condition=found.text,
            holds_here=holds,
        )

    def do_condition(self, argument: str) -> None:
        """condition K CONDITION: let breakpoint K stop by another condition."""
        number, _, text = argument.partition(" ")
        if not text.strip():
            raise OptionError("condition: say the breakpoint and its condition, as condition 1 norm(dh) > 1")
        one = self.session.breakpoint(_whole(number, "condition", 1))
        one.condition = self.session.condition(text)
        one.text = " ".join(text.split())
        self.do_info("b")

    def do_info(self, argument: str) -> None:
        """info b, display, forks: what there is."""
        what = argument.strip()
        if what and "breakpoints".startswith(what):
            lines, numbers = ["no breakpoints"], []
            if self.session.breakpoints:
                lines = ["num  on   hits  condition"]
            for one in self.session.breakpoints.values():
                notes = ", temporary" * one.temporary + f", {one.ignore} to ignore" * bool(one.ignore)
                on = "yes" if one.enabled else "no"
                lines.append(
                    f"{one.number:<4} {on:<4} {one.hits:<5} {one.text}" + (f"   ({notes[2:]})" if notes else "")
                )
                kept = {"enabled": one.enabled, "hits": one.hits, "ignore": one.ignore, "temporary": one.temporary}
                numbers.append({"number": one.number, "condition": one.text, **kept})
            self.say("\n".join(lines), breakpoints=numbers)
        elif what and "display".startswith(what):
            self._list_displays()
        elif what and "forks".startswith(what):
            self.do_forks("")
        else:
            raise OptionError("info: say info b, info display or info forks")

    def do_disable(self, argument: str) -> None:
        """disable [K ...]: breakpoints that do not stop for now; all of them without numbers."""
        self._enable(argument, False, "disable")

    def do_enable(self, argument: str) -> None:
        """enable [K ...]: undo disable."""
        self._enable(argument, True, "enable")

    def _enable(self, argument: str, enabled: bool, word: str) -> None:
        found = [self.session.breakpoint(k) for k in _wholes(argument, word)]
        for one in found or self.session.breakpoints.values():
            one.enabled = enabled
        self.do_info("b")

    def do_ignore(self, argument: str) -> None:
        """ignore K N: pass over breakpoint K the next N times."""
        numbers = _wholes(argument, "ignore")
        if len(numbers) != 2:
            raise OptionError("ignore: say the breakpoint and how many times, as ignore 1 3")
        self.session.breakpoint(numbers[0]).ignore = numbers[1]
        self.do_info("b")

    def do_clear(self, argument: str) -> None:
        """cl K ...: remove breakpoints; cl all removes them all."""
        if argument.strip() == "all":
            self.session.breakpoints.clear()
        elif not argument:
            raise OptionError("cl: say which, by number, or cl all")
        else:
            for one in [self.session.breakpoint(k) for k in _wholes(argument, "cl")]:
                self.session.breakpoints.pop(one.number, None)
        self.do_info("b")

    # ------------------------------------------------------------------------------------------------ looking

    def do_print(self, argument: str) -> None:
        """p EXPR: print an expression: dh, norm(dh), dh[0, 3], W_hh, mean(f) - mean(i), ratio(dh_prev), t."""
        text = _something(argument, "p", "p norm(dh)")
        tree = _tree(text)
        if isinstance(tree, ast.Tuple) and tree.elts:
            values = [evaluate(parsed("p", ast.unparse(node)), self.session.rows).array for node in tree.elts]
            if all(value.size == 1 for value in values):
                numbers = [value.reshape(-1)[0] for value in values]
                numbers = [
                    int(one) if ast.unparse(node) == "t" else one for one, node in zip(numbers, tree.elts, strict=True)
                ]
                self.say(", ".join(map(self._number, numbers)), value=numbers)
            else:
                raise OptionError("p: several at once are numbers, norm(dh), norm(da); an array stands alone")
            return
        array = evaluate(parsed("p", text), self.session.rows).array
        if array.size == 1:
            value = array.reshape(-1)[0]
            value = int(value) if text == "t" else value
            self.say(self._number(value), value=value)
            return
        shown = array[0] if array.ndim > 2 else array
        with np.printoptions(precision=4, threshold=200, linewidth=self.width, edgeitems=4):
            self.say(f"{' '.join(text.split())} {shown.shape}\n{shown}", value=shown)

    def do_whatis(self, argument: str) -> None:
        """whatis NAME: shape and type of an array, and the equation that makes it."""
        name = _something(argument, "whatis", "whatis dh")
        if name not in self.session.rows:
            raise self._unknown(name)
        array = self.session.rows.value(name).array
        shape = array.shape[1:] if array.ndim > 2 else array.shape
        trace = self.session.step.recorded
        made = ": {}, {}".format(*wording(trace, name)) if name in targets(trace) else ""
        self.say(f"{name} {shape} {array.dtype}{made}", name=name, shape=shape, dtype=str(array.dtype))

    def do_x(self, argument: str) -> None:
        """x NAME[n, a:b]: entries of a row, one a line, with all their digits; x NAME its first ones."""
        text = _something(argument, "x", "x dh[0, 2:5]")
        text = re.sub(r"^(\w+)\s+(\d+)$", r"\1[:, \2]", re.sub(r"^(\w+)\s+(\d+)\s+(\d+)$", r"\1[\3, \2]", text))
        places = self.session.places(text)
        name = text.partition("[")[0].strip()
        array = self.session.rows.value(name).array[0]
        flat, width = array.reshape(-1), array.shape[1]
        chosen = places.reshape(-1)
        lines = [f"{name}[{place // width}, {place % width}]  {self._number(flat[place])}" for place in chosen[:MOST]]
        if len(chosen) > MOST:
            lines.append(f"and {len(chosen) - MOST} more; say which, as x {name}[0, {MOST}:{2 * MOST}]")
        self.say("\n".join(lines), value=flat[places])

    def do_display(self, argument: str) -> None:
        """display EXPR: print it at each halt, an array by its norm; display alone lists them."""
        if not argument:
            self._list_displays()
            return
        number = self.session.add_display(argument)
        value = self.session.number(argument)
        text = self.session.displays[number]
        self.say(f"display {number}  {text} = {self._number(value)}", display=number, expression=text, value=value)

    def _list_displays(self) -> None:
        displays = self.session.displays
        lines = [f"{number:<4} {text}" for number, text in displays.items()] or ["no displays"]
        self.say(
            "\n".join(lines), displays=[{"number": number, "expression": text} for number, text in displays.items()]
        )

    def do_undisplay(self, argument: str) -> None:
        """undisplay K ...: stop it; all without a number."""
        numbers = _wholes(argument, "undisplay")
        for number in numbers:
            if number not in self.session.displays:
                raise OptionError(f"there is no display {number}")
        for number in numbers or list(self.session.displays):
            self.session.displays.pop(number, None)
        self._list_displays()

    def _entry(self, name: str, words: Sequence[str]) -> tuple[int, int]:
        """Return the unit and the sequence that are asked for; the largest entry where none is."""
        if len(words) > 2:
            raise OptionError("say the unit, and the sequence n if not the first one")
        numbers = _wholes(" ".join(words), "the entry")
        if len(numbers) == 2:
            return numbers[0], numbers[1]
        if numbers:
            return numbers[0], 0
        n, unit = self.session.largest(name)
        return unit, n

    def _explain(self, name: str, unit: int, n: int) -> None:
        trace = self.session.step.recorded
        text = debug.explain(self.session.step, name, unit, n)
        value = self.session.rows.value(name).array[0, n, unit]
        labels, equation = wording(trace, name) if name in targets(trace) else ("", text.splitlines()[1])
        self.say(text, name=name, unit=unit, n=n, value=value, equation=equation, labels=labels, text=text)

    def do_explain(self, argument: str) -> None:
        """e [NAME] [UNIT] [N]: the equation that makes an entry, with the numbers in place; e da 3 or e da[0, 3].
        Without a unit the largest entry; without a name what goes on to the step before.
        """
        step = self.session.step
        match = re.fullmatch(r"\s*(?:(\w*[A-Za-z_]\w*)\s*(\[[^\]]*\])?)?((?:\s+-?\d+|^\s*-?\d+)*)\s*", argument)
        if match is None:
            raise OptionError("e: say NAME, NAME UNIT or NAME[n, unit], as e da 3")
        name, index, words = match.groups()
        first = step.recorded.states[0]
        name = name or (first if self.session.case.forward else f"d{first}_prev")
        if index:
            places = self.session.places(f"{name}{index}")
            if places.size != 1:
                raise OptionError(f"e: one entry at a time; {name}{index} are {places.size}")
            n, unit = divmod(int(places.reshape(-1)[0]), self.session.rows.value(name).array.shape[2])
        elif name not in self.session.rows:
            raise self._unknown(name)
        else:
            unit, n = self._entry(name, words.split())
        self._explain(name, unit, n)

    def _unknown(self, name: str) -> OptionError:
        names = self.session.step.names
        close = difflib.get_close_matches(name, names, 3)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        return OptionError(f"a step has no {name!r}; {meant}it has {', '.join(names)}")

    def do_list(self, argument: str) -> None:
        """l: the equations of a step; -> is the one that s shows next."""
        _nothing(argument, "l")
        trace = self.session.step.recorded
        back = self.session.equations()
        lines, numbers = [], []
        for name in targets(trace):
            labels, text = wording(trace, name)
            mark = "->" if self._line < len(back) and back[self._line] == name else "  "
            lines.append(f"{mark} {labels:<8} {text}")
            numbers.append({"labels": labels, "equation": text})
        self.say("\n".join(lines) or "the cell has no equations", equations=numbers)

    def do_args(self, argument: str) -> None:
        """a: all arrays of this step: shape, smallest, largest, norm, entries that are not finite."""
        _nothing(argument, "a")
        step = self.session.step
        rows = {name: self.session.number(f"norm({name})") for name in step.names}
        self.say(repr(step), **self._at(), arrays=rows)

    def do_where(self, argument: str) -> None:
        """w: the layers, and how far the pass is in each."""
        _nothing(argument, "w")
        step = self.session.step
        table = self.session.stepper.table()
        lines, numbers = [], []
        for name in reversed(self.session.case.trace.layers):
            done = int((table["layer"] == name).sum())
            T = len(self.session.case.trace[name])
            here = name == step.recorded.name
            lines.append(f"{'>' if here else ' '} {name:<12} {done} of {T} steps" + (f", t = {step.t}" if here else ""))
            numbers.append({"layer": name, "done": done, "T": T})
        self.say("\n".join(lines), layers=numbers, **self._at())

    def do_up(self, argument: str) -> None:
        """u: the layer above, at the same t: the pass has been there."""
        _nothing(argument, "u")
        self._sideways(1, "this is the top layer")

    def do_down(self, argument: str) -> None:
        """d: the layer below, at the same t: the pass goes on to there."""
        _nothing(argument, "d")
        self._sideways(-1, "this is the lowest layer")

    def _sideways(self, by: int, none: str) -> None:
        step = self.session.step
        for name, other in self.session.case.trace.layers.items():
            if other.layer == step.layer + by and other.reverse == step.reverse:
                self.session.goto(step.t, name)
                self._halted()
                return
        raise OptionError(none)

    def do_plot(self, argument: str) -> None:
        """plot EXPR: a line of it, or of its norm, over the steps of this layer so far, time from left to right."""
        text = " ".join(_something(argument, "plot", "plot dh").split())
        rows = self.session.behind
        array = evaluate(parsed("plot", text), rows).array
        if array.ndim == 3 and array.shape[1:] != (1, 1):
            text, array = f"norm({text})", norm(array)
        if np.iscomplexobj(array):
            raise OptionError(f"plot: {text!r} is complex; say abs({text}), or norm(...)")
        if array.size not in (1, len(rows.indices)):
            raise OptionError(f"plot: {text!r} is the same at every step, an array {array.shape}; p prints it")
        values = np.broadcast_to(array.reshape(-1), (len(rows.indices),)).astype(float)
        times = [index + rows.trace.first for index in rows.indices]
        values, times = (values[::-1], times[::-1]) if rows.indices.step < 0 else (values, times)
        scale, line = sparkline(values, min(self.width, 200), self.bars)
        finite = values[np.isfinite(values)]
        low, high = (f"{finite.min():.3g}", f"{finite.max():.3g}") if len(finite) else ("nan", "nan")
        bad = len(values) - len(finite)
        notes = f", {bad} not finite (!)" if bad else ""
        self.say(
            f"{text}, t = {times[0]} to {times[-1]}: {low} to {high}, {scale}{notes}\n{line}",
            expression=text,
            t=times,
            value=values,
        )

    def do_tk(self, argument: str) -> None:
        """tk [PARAMETER]: this step in the table of (t, k): what the loss of step t says through the steps before, and
        what the losses of later steps say through this one.
        """
        from rnn_numpy.lab import decompose

        case, step = self.session.case, self.session.step
        title = step.recorded.name
        name = argument.strip() or "weight_hh"
        name = name if name.endswith(f"_{title}") else f"{name}_{title}"
        with np.errstate(all="ignore"):
            norms = decompose(case.layer, case.trace, case.doutput, case.dh_n, name=title).norms(name)
        lines = [f"|G(t, k)| of {name}" + ("; of the true pass, #1" if self.session.fork.number > 1 else "")]
        t, first = step.index, step.recorded.first
        for words, values in (
            (f"row t = {step.t}: its loss, through step k", norms[t]),
            (f"column k = {step.t}: the loss of step t, through this step", norms[:, t]),
        ):
            top = values.max(initial=0)
            lines.append(f"{words}: " + (f"largest {top:.3g} at {int(values.argmax()) + first}" if top else "all 0"))
            if top:
                lines.append(sparkline(values, min(self.width, 200), self.bars)[1])
        self.say("\n".join(lines), parameter=name, row=norms[t], column=norms[:, t])

    def do_nan(self, argument: str) -> None:
        """nan: where the first NaN or infinity of the whole pass came about, and what it spoils."""
        _nothing(argument, "nan")
        case = self.session.case
        with np.errstate(all="ignore"):
            result = case.layer.backward(case.trace, case.doutput, case.dh_n)
        origin = debug.first_non_finite(case.layer, case.trace, result)
        of = " (of #1, the true pass)" if self.session.fork.number > 1 else ""
        if origin is None:
            self.say(f"all of the pass is finite{of}", origin=None)
            return
        place = {"layer": origin.place.layer, "t": origin.place.t, "name": origin.place.name}
        self.say(
            repr(origin), origin={**place, "index": list(origin.index), "value": origin.value}, spoils=origin.spoils
        )

    # ------------------------------------------------------------------------------------------------ what if

    def do_set(self, argument: str) -> None:
        """set NAME[n, units] = EXPR: what if? Write into dh_prev or dc_prev here, of a forward pass into h or c, in a
        new fork, and go on there; #1 stays the true pass. set dh_prev *= 0 for all of it.
        """
        fork = self.session.write(argument)
        self.say(f"fork {fork.number} of {fork.parent}, {fork.origin}", fork=fork.number, parent=fork.parent)
        self._halted()

    def do_forks(self, argument: str) -> None:
        """forks: the passes that there are."""
        _nothing(argument, "forks")
        lines, numbers = [], []
        for fork in self.session.forks:
            step = fork.stepper.step
            at = "" if step is None else f"at {step.recorded.name} t = {step.t}"
            of = f"of #{fork.parent}, {fork.origin}" if fork.parent else "the true pass"
            lines.append(f"{'*' if fork is self.session.fork else ' '} #{fork.number} {at}   {of}")
            numbers.append({"number": fork.number, "parent": fork.parent or None, "written": fork.origin})
        self.say("\n".join(lines), forks=numbers)

    def do_fork(self, argument: str) -> None:
        """fork K: go to a fork, where it stands."""
        if not argument:
            self.do_forks("")
            return
        self.session.choose(_whole(argument, "fork", 1))
        self._halted()

    def do_diff(self, argument: str) -> None:
        """diff A B: the first difference of two forks, in order of execution, as far as both are."""
        numbers = _wholes(argument, "diff")
        if len(numbers) != 2:
            raise OptionError("diff: say two forks, as diff 1 2")
        a, b = (self.session.numbered(number).stepper for number in numbers)
        found = debug.diff(a, b)
        if found is None:
            self.say("no difference as far as both are", difference=None)
            return
        place = {"layer": found.place.layer, "t": found.place.t, "name": found.place.name}
        self.say(
            repr(found),
            difference={**place, "index": list(found.index), "values": list(found.values), "ulps": found.ulps},
        )

    # ------------------------------------------------------------------------------------------------ scripts

    def do_assert(self, argument: str) -> None:
        """assert EXPR: say where it does not hold; the exit code is then 1."""
        text = _something(argument, "assert", "assert norm(dh) < 1")
        condition = self.session.condition(text)
        rows = self.session.rows
        holds, evidence = bool(condition.holds(rows)[0]), condition.evidence(rows, 0)
        if not holds:
            self.code = FAILED
        text = " ".join(text.split())
        words = f"holds: {text}" if holds else self._red(f"assert failed at {self.session.place()}: {text}")
        self.say(words + (f"\n   {evidence}" if evidence else ""), **{"assert": text}, holds=holds, evidence=evidence)

    def do_source(self, argument: str) -> None:
        """source FILE: run the commands of a file."""
        path = Path(_something(argument, "source", "source FILE"))
        if path.resolve() in self._open:
            raise OptionError(f"source: {path} sources itself")
        if len(self._open) == NESTED:
            raise OptionError(f"source: scripts stand {NESTED} deep in each other")
        self._open.append(path.resolve())
        try:
            self.run(script(path), f"{path}, line {{}}")
        finally:
            self._open.pop()

    def do_save(self, argument: str) -> None:
        """save FILE: write the commands so far; rnn-numpy step -x FILE runs them again."""
        path = Path(_something(argument, "save", "save FILE"))
        with atomic(path) as file:
            file.write("".join(f"{line}\n" for line in self.done).encode())
        count = len(self.done)
        self.say(f"{count} command{'' if count == 1 else 's'} in {path}", saved=str(path), commands=count)

    def do_html(self, argument: str) -> None:
        """html FILE: write the true pass as one page to step through in a browser; breakpoints are its stops."""
        path = Path(_something(argument, "html", "html FILE"))
        case = self.session.case
        with np.errstate(all="ignore"):
            result = case.layer.backward(case.trace, case.doutput, case.dh_n)
            stops = [one.condition for one in self.session.breakpoints.values() if one.enabled]
            debug.write_html(path, case.layer, case.trace, result, stops=stops or None, title=case.title or None)
        note = "; it is that of #1, the true pass" if self.session.fork.number > 1 else ""
        self.say(f"{path}: {path.stat().st_size / 1e6:.2f} MB{note}", html=str(path), bytes=path.stat().st_size)

    def do_quit(self, argument: str) -> bool:
        """q: leave; so does Ctrl-D."""
        _nothing(argument, "q")
        return True

    def do_help(self, argument: str) -> None:
        """h [COMMAND]: this list, or what a command does."""
        word = argument.strip()
        if word:
            name = ALIASES.get(word, word)
            if not hasattr(self, f"do_{name}"):
                raise OptionError(f"there is no command {word!r}; h lists them")
            self.say(textwrap.fill(self._usage(name), self.width, subsequent_indent="    "))
            return
        lines = []
        for group, names in GROUPS.items():
            lines.append(self._bold(group))
            for name in names.split():
                usage, _, words = self._usage(name).partition(": ")
                first = re.split(r"[;:.] |, else|\.$", words)[0]
                line = f"  {usage:<22} {first}"
                lines.append(line if len(line) <= self.width else line[: self.width - 3] + "...")
        lines.append("also by the long names of pdb and gdb, and any beginning of them; h NAME says more")
        self.say("\n".join(lines))

    def _usage(self, name: str) -> str:
        return " ".join((getattr(self, f"do_{name}").__doc__ or "").split())

    # ------------------------------------------------------------------------------------------------ tab

    def completenames(self, text: str, *ignored: Any) -> list[str]:
        """Complete the name of a command, or of an array."""
        words = {*self.commands(), *(one for one in ALIASES if one.isalpha() and one != "EOF")}
        return sorted(word for word in words if word.startswith(text))

    def completedefault(self, *ignored: Any) -> list[str]:
        """Complete the name of an array or a function."""
        text = str(ignored[0]) if ignored else ""
        words = {*self.session.step.names, *self.session.step.recorded.weights, *known_words(), "t"}
        return sorted(word for word in words if word.startswith(text))


# ------------------------------------------------------------------------------------------------ small things


def script(path: Path) -> list[str]:
    """Return the lines of a file of commands."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{path}: is no text in UTF-8") from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def sparkline(values: Array, width: int, bars: str) -> tuple[str, str]:
    """Return "log" or "linear", and a line of at most `width` bars: 0 is a zero in log, ! NaN or infinity.

    >>> sparkline(np.array([1e-8, 1e-6, 1e-4, 1e-2, 1.0]), 40, PLAIN_BARS)
    ('log', '_-+%#')
    >>> sparkline(np.array([0.0, 1.0, np.nan, 2.0]), 40, PLAIN_BARS)
    ('linear', '_+!#')
    """
    with np.errstate(all="ignore"):
        pieces = np.array_split(values, min(width, len(values)))
        tops = np.array([piece[np.abs(piece).argmax()] if np.isfinite(piece).all() else np.nan for piece in pieces])
        finite = tops[np.isfinite(tops)]
        positive = finite[finite > 0]
        is_log = bool(len(positive) and (finite >= 0).all() and positive.max() / positive.min() > 100)
        heights = np.log(tops) if is_log else tops
        known = heights[np.isfinite(heights)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        scaled = (heights - low) / (high - low) if high > low else np.zeros_like(heights)
    found = []
    for top, place in zip(tops, scaled, strict=True):
        if not np.isfinite(top):
            found.append("!")
        elif is_log and top == 0:
            found.append("0")
        else:
            found.append(bars[min(len(bars) - 1, int(place * len(bars)))])
    return "log" if is_log else "linear", "".join(found)


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Return lines that are no wider than the terminal, of parts that stay whole."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + 3 + len(_bare(part)) > width:
            lines.append("")
        lines[-1] += "   " + part
    return lines


def _bare(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


def _can_write(file: IO[str], text: str) -> bool:
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as lists, what is not finite as its name, complex numbers as pairs."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _tree(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _nothing(argument: str, word: str) -> None:
    if argument:
        raise OptionError(f"{word}: takes nothing; got {argument!r}")


def _something(argument: str, word: str, example: str) -> str:
    if not argument.strip():
        raise OptionError(f"{word}: say what, as {example}")
    return argument.strip()


def _wholes(argument: str, word: str) -> list[int]:
    found = argument.replace(",", " ").split()
    for one in found:
        if not re.fullmatch(r"\d+", one):
            raise OptionError(f"{word}: takes whole numbers; got {one!r}")
        if len(one) > 18:
            raise OptionError(f"{word}: takes whole numbers below 10^18; got one of {len(one)} digits")
    return [int(one) for one in found]


def _whole(argument: str, word: str, default: int) -> int:
    found = _wholes(argument, word) or [default]
    if len(found) > 1 or found[0] < 1:
        raise OptionError(f"{word}: takes a whole number of at least 1; got {argument!r}")
    return found[0]
