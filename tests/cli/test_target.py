"""FILE.py:FUNCTION: the file runs as `python FILE.py` would run it, and what goes wrong is one line with its number."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ended

from rnn_numpy.cli.common import BadInputError
from rnn_numpy.cli.target import load_target, target_error

LOSS = "def loss(x=2):\n    return x * x\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in an empty folder; what the files import does not stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # a compiled copy would be seen, whatever the environment
    modules, path = dict(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(text: str) -> str:
    with pytest.raises(BadInputError) as caught:
        load_target(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What it loads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "model.py",
        "MODEL.PY",
        "my model (2).py",
        "a.b.py",
        "-x.py",
        "été.py",
        "json.py",
        "rnn_numpy.py",
        "with:colon.py",
        "no/where/near/model.py",
        "C:\\my work\\model.py",
        "C:/work/model.py",
        ".py/model.py",
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_of_any_name(here: Path, name: str, absolute: bool) -> None:
    path = write(name, LOSS)
    before = {name: sys.modules[name] for name in ("json", "rnn_numpy")}
    loss = load_target(f"{here / path if absolute else path}:loss")
    assert (loss(), loss(3), loss(x=4)) == (4, 9, 16)
    assert {name: sys.modules[name] for name in before} == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no compiled copy


def test_a_dotted_name_and_other_callables() -> None:
    text = """
import functools

class Model:
    @staticmethod
    def loss(x):
        return ("static", x)

    def method(self, x):
        return ("method", x)

class Called:
    def __call__(self, x):
        return ("called", x)

model = Model()
called = Called()
bound = functools.partial(model.method, 5)
"""
    write("m.py", text)
    assert load_target("m.py:Model.loss")(1) == ("static", 1)
    assert load_target("m.py:model.method")(2) == ("method", 2)
    assert load_target("m.py:called")(3) == ("called", 3)
    assert load_target("m.py:bound")() == ("method", 5)
    assert type(load_target("m.py:Model")()).__name__ == "Model"


def test_the_function_keeps_name_signature_and_source() -> None:
    write("m.py", '"""A file."""\n' + LOSS)
    loss = load_target("m.py:loss")
    assert loss.__name__ == "loss"
    assert str(inspect.signature(loss)) == "(x=2)"
    assert inspect.getsource(inspect.unwrap(loss)) == LOSS


def test_what_the_function_raises_comes_out_as_it_is() -> None:
    write("m.py", "def loss():\n    raise TypeError('no complex numbers')\n")
    loss = load_target("m.py:loss")
    with pytest.raises(TypeError, match="^no complex numbers$"):
        loss()


def test_neighbours_are_found_while_the_file_and_while_the_function_runs(here: Path) -> None:
    write("far/early.py", "value = 1\n")
    write("far/late.py", "value = 2\n")
    write("early.py", "value = 'of the working folder'\n")
    code = """
import sys
first = sys.path[0]
import early
def loss():
    import late
    return first, early.value, late.value, sys.path[0]
"""
    write("far/m.py", code)
    folder = str((here / "far").resolve())
    assert load_target("far/m.py:loss")() == (folder, 1, 2, folder)


def test_the_folder_of_a_link_is_the_one_it_leads_to() -> None:
    write("real/neighbour.py", "value = 1\n")
    write("real/m.py", "import neighbour\ndef loss():\n    return neighbour.value\n")
    Path("link.py").symlink_to("real/m.py")
    assert load_target("link.py:loss")() == 1


def test_the_path_is_as_before_after_whatever_the_file_did_to_it() -> None:
    before = list(sys.path)
    write("m.py", "import sys\nsys.path.remove(sys.path[0])\n" + LOSS)
    load_target("m.py:loss")
    assert sys.path == before
    write("m.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_target("m.py:loss")
    assert sys.path == before


def test_the_same_as_python_runs_it(here: Path) -> None:
    """A link, a neighbour, and what tells the two apart: the block for __main__."""
    write("far/neighbour.py", "value = 'near'\n")
    code = """
import os, sys, neighbour
told = [neighbour.value, sys.path[0], __file__, __package__ or None]
def tell():
    return told
if __name__ == "__main__":
    print("\\n".join(map(str, tell())))
"""
    path = write("far/my model.py", code)
    done = ended([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert list(map(str, load_target(f"{path}:tell")())) == done.stdout.splitlines()


def test_dataclasses_and_pickle_find_the_module() -> None:
    text = """
from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Point:
    x: float
    y: dataclasses.InitVar[float] = 0.0

def make():
    @dataclasses.dataclass
    class Local:
        z: dataclasses.InitVar[int] = 1

    Local()
    return Point(1.5)
"""
    write("m.py", text)
    point = load_target("m.py:make")()
    assert pickle.loads(pickle.dumps(point)) == point


def test_a_file_that_changed_is_read_again() -> None:
    for value in (1, 2, 3):  # within one second and of one size, which a compiled copy would not notice
        write("m.py", f"def loss():\n    return {value}\n")
        assert load_target("m.py:loss")() == value


def test_a_file_that_fails_leaves_the_one_before_it() -> None:
    write("m.py", LOSS)
    loss = load_target("m.py:loss")
    module = sys.modules[loss.__module__]
    write("m.py", "1 / 0\n")
    refusal("m.py:loss")
    assert sys.modules[loss.__module__] is module and loss() == 4


# What it refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "loss",
        "m.py",
        "m.py:",
        ":loss",
        "m.py:loss()",
        "m.py:a b",
        "C:\\work\\m.py",
        "C:/work/m.py",
        "m.py: loss",
    ],
)
def test_another_form(text: str) -> None:
    write("m.py", LOSS)
    assert refusal(text) == f"TARGET: must be FILE.py:FUNCTION; got {text!r}"


@pytest.mark.parametrize("name", ["m.txt", "m", "m.py:", "m.pyc", ".py", "C"])
def test_not_a_py(name: str) -> None:
    write(name, LOSS)
    assert refusal(f"{name}:loss") == f"{name}: must be a Python file, whose name ends in .py"


@pytest.mark.parametrize("name", ["none.py", "no/m.py", "m.py/n.py", "C:\\work\\m.py", "broken.py"])
def test_no_such_file(name: str) -> None:
    write("m.py", LOSS)
    Path("broken.py").symlink_to("nothing")
    assert refusal(f"{name}:loss") == f"{name}: there is no such file"


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.py").mkdir()
    assert refusal("folder.py:loss") == "folder.py: cannot be read: Is a directory"
    Path("loop.py").symlink_to("loop.py")
    assert refusal("loop.py:loss") == "loop.py: cannot be read: Too many levels of symbolic links"

    # The superuser, who may run the tests, can read anything: so the refusal is staged.
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal("m.py:loss") == "m.py: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport no_such_module\n", "m.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("from . import x\n", "m.py, line 1: ImportError: attempted relative import with no known parent package"),
        ("x = 1\n\nx.y\n", "m.py, line 3: AttributeError: 'int' object has no attribute 'y'"),
        ("assert 1 > 2\n", "m.py, line 1: AssertionError"),
        ("raise ValueError('one\\n\\n   two')\n", "m.py, line 1: ValueError: one two"),
        ("def f():\n    1 / 0\n\n\nf()\n", "m.py, line 2: ZeroDivisionError: division by zero"),
        (
            "import json\n\njson.loads('x')\n",
            "m.py, line 3: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        ),
        ("x = 1\nimport helper\n", "m.py, line 2: RuntimeError: in the helper"),
        ("x = 1\nimport unreadable\n", "m.py, line 2: SyntaxError: invalid syntax (unreadable.py, line 3)"),
        ("x = 1\ny = = 2\n", "m.py, line 2: SyntaxError: invalid syntax"),
        (
            "if True:\nx = 1\n",
            "m.py, line 2: IndentationError: expected an indented block after 'if' statement on line 1",
        ),
        ("import sys\nsys.exit('stop')\n", "m.py, line 2: SystemExit: stop"),
        ("raise SystemExit\n", "m.py, line 1: SystemExit"),
        ("raise MemoryError\n", "m.py, line 1: MemoryError"),
        ("open('none.txt')\n", "m.py, line 1: FileNotFoundError: [Errno 2] No such file or directory: 'none.txt'"),
    ],
)
def test_what_the_file_raises_is_one_line_with_its_number(text: str, message: str) -> None:
    write("helper.py", "\n\n\n\n\n\n\nraise RuntimeError('in the helper')\n")
    write("unreadable.py", "\n\nz = = 3\n")
    write("m.py", text)
    assert refusal("m.py:loss") == message


def test_a_dot_in_the_name_makes_no_package() -> None:
    write("a.b.py", "from . import x\n")
    assert refusal("a.b.py:loss") == (
        "a.b.py, line 1: ImportError: attempted relative import with no known parent package"
    )


def test_bytes_that_are_no_text() -> None:
    Path("m.py").write_bytes(b"x = 1\0\n")
    assert re.fullmatch("m\\.py(, line 1)?: (Syntax|Value)Error: source code .* null bytes", refusal("m.py:loss"))
    Path("m.py").write_bytes(b"x = 1\ny = '\xff'\n")
    message = refusal("m.py:loss")
    assert message.startswith("m.py, line 2: SyntaxError: ") and "utf-8" in message


def test_the_cause_is_kept_for_a_debugger() -> None:
    write("m.py", "1 / 0\n")
    with pytest.raises(BadInputError) as caught:
        load_target("m.py:loss")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_no_such_function() -> None:
    text = "import os\nfrom json import loads\nvalue = 1\ndef loss(): pass\ndef _own(): pass\nclass Model: pass\n"
    write("m.py", text)
    for name in ("los", "Model.loss", "loss.a.b", ".loss", "loss.", "a..b"):
        assert refusal(f"m.py:{name}") == f"m.py: has no {name!r}; it defines loss, Model"
    write("empty.py", "")
    assert refusal("empty.py:loss") == "empty.py: has no 'loss'; it defines no function"


def test_what_cannot_be_called() -> None:
    write("m.py", "value = 1.5\nclass Model:\n    size = [1]\n")
    assert refusal("m.py:value") == "m.py: 'value' cannot be called; it is of type float"
    assert refusal("m.py:Model.size") == "m.py: 'Model.size' cannot be called; it is of type list"


# What the function raises later ---------------------------------------------------------------------------------------


def raised_by(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        function()
    return caught.value


def test_an_error_of_the_function_names_its_innermost_line_in_the_file() -> None:
    write("helper.py", "\n\n\ndef fail():\n    raise OverflowError('too\\nlarge')\n")
    write("m.py", "import helper\ndef inner():\n    helper.fail()\n\ndef loss():\n    return inner()\n")
    loss = load_target("m.py:loss")
    told = target_error("m.py:loss", raised_by(loss))
    assert isinstance(told, BadInputError)
    assert str(told) == "m.py, line 3: OverflowError: too large"


def test_an_error_from_elsewhere_names_no_line() -> None:
    write("m.py", LOSS)
    assert str(target_error("m.py:loss", raised_by(lambda: int("x")))) == (
        "m.py: ValueError: invalid literal for int() with base 10: 'x'"
    )


def test_in_a_command_line_the_folder_stays_clean() -> None:
    path = write("far/m.py", LOSS)
    code = "import sys; from rnn_numpy.cli.target import load_target; print(load_target(sys.argv[1])())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = ended(
        [sys.executable, "-W", "error", "-c", code, f"{path}:loss"], env=environment, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"4\n", b"")
    assert [entry.name for entry in path.parent.iterdir()] == ["m.py"]
