"""The shape of the package: imports only go down, the engine needs NumPy alone, doors only re-export, names have docs.

The sources are parsed, not run, so that an import inside of a function counts as well.
"""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest
from offenders import offenders
from processes import ended

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rnn_numpy"

# A room imports only from itself and from rooms before it.
ROOMS = [
    "errors",
    "core",
    "engine",
    "layers",
    "checks",
    "zoo",
    "training",
    "models",
    "tasks",
    "debug",
    "lab",
    "experiments",
    "report",
    "interop",
    "cli",
]
# Rooms in which the packages of the lab extra may be imported, where they are used.
MAY_USE_EXTRAS = {"tasks", "debug", "lab", "experiments", "report", "interop", "cli"}
EXTRAS = {"matplotlib", "rich", "scipy", "threadpoolctl"}

# Names of a door that come when they are first used.
LATER = {"rnn_numpy.__init__": ["decompose", "gradcheck", "open_network"]}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "__pycache__" not in path.parts
}
DOORS = [name for name in SOURCES if name.endswith(".__init__")]
INSIDE = [name for name in SOURCES if name not in ("rnn_numpy.__init__", "rnn_numpy.__main__")]


def parsed(name):
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"), filename=str(SOURCES[name]))


def imports_of(name, tree):
    """Yield (module, line) for each module that a source imports, wherever in it; relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            # "rnn_numpy.core.files" and "rnn_numpy.core.__init__" both lie in the package "rnn_numpy.core": one dot.
            origin = name.split(".")[: -node.level] if node.level else []
            module = ".".join(origin + ([node.module] if node.module else []))
            if module == "rnn_numpy":  # from rnn_numpy import core: a room, or one of the root's names
                for alias in node.names:
                    yield f"rnn_numpy.{alias.name}" if alias.name in ROOMS else "rnn_numpy", node.lineno
            else:
                yield module, node.lineno


def room_of(module):
    """Return the room of a module of ours: None for the root itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def level(room):
    return ROOMS.index(room)


def root_level():
    """Return how high the root stands: above the rooms that it loads, which are not those of `if TYPE_CHECKING`."""
    loaded = [node for node in parsed("rnn_numpy.__init__").body if isinstance(node, ast.ImportFrom)]
    rooms = [room_of(module) for module, _ in imports_of("rnn_numpy.__init__", ast.Module(loaded, []))]
    return max(level(room) for room in rooms if room is not None)


def test_every_module_lies_in_a_known_room():
    unknown = [name for name in INSIDE if room_of(name) is None]
    assert unknown == [], f"not in a room of {', '.join(ROOMS)}"


def upward(name, tree):
    """Return the imports by which a module reaches above its room."""
    own = level(room_of(name))
    found = []
    for module, line in imports_of(name, tree):
        if module.split(".")[0] == "rnn_numpy":
            room = room_of(module)
            if (room is None and root_level() >= own) or (room is not None and level(room) > own):
                found.append(f"line {line}: {module}")
    return found


def test_imports_only_go_down():
    assert {name: found for name in INSIDE if (found := upward(name, parsed(name)))} == {}


def foreign(name):
    """Return the imports of a module that are neither ours nor in its room's means."""
    allowed = set(sys.stdlib_module_names) | {"numpy", "rnn_numpy"}
    if room_of(name) in MAY_USE_EXTRAS:
        allowed |= EXTRAS
    return [
        f"line {line}: {module}"
        for module, line in imports_of(name, parsed(name))
        if module.split(".")[0] not in allowed
    ]


def test_imports_from_outside():
    assert {name: found for name in INSIDE if (found := foreign(name))} == {}


def test_upward_imports_would_be_found():
    text = """
def f():
    from .. import lab
    from ..lab.plots import p
    from rnn_numpy import errors, RNN
    import scipy.stats
from . import trace
"""
    assert upward("rnn_numpy.core.planted", ast.parse(text)) == [
        "line 3: rnn_numpy.lab",
        "line 4: rnn_numpy.lab.plots",
        "line 5: rnn_numpy",
    ]
    assert upward("rnn_numpy.cli", ast.parse(text.replace("..", "."))) == []
    assert ("scipy.stats", 6) in imports_of("rnn_numpy.core.planted", ast.parse(text))


# ------------------------------------------------------------------------------------------------ what gets loaded


def loaded_by(statements):
    """Return the top-level names of the modules that a fresh interpreter loads for some statements."""
    code = f"""
import sys
before = set(sys.modules)
{statements}
loaded = sorted(set(sys.modules) - before)
import json
print(json.dumps(loaded))
"""
    done = ended(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        limit=120,
        check=True,
    )
    return {module.split(".")[0] for module in json.loads(done.stdout)}


def test_the_engine_loads_numpy_and_the_standard_library_alone():
    loaded = loaded_by("import rnn_numpy")
    assert loaded >= {"numpy", "rnn_numpy"}
    assert loaded - set(sys.stdlib_module_names) == {"numpy", "rnn_numpy"}
    slow = {"bz2", "json", "lzma", "shutil", "tempfile", "zipfile"}  # for files, which few programs need
    assert not loaded & slow - loaded_by("import numpy")


def test_no_module_loads_an_extra_when_imported():
    # One after another: the first that loads something foreign is told, with what it loads.
    modules = [name.removesuffix(".__init__") for name in SOURCES if name != "rnn_numpy.__main__"]
    code = f"""
import importlib, json, sys
allowed = {{*sys.stdlib_module_names, "numpy", "rnn_numpy", *(name.split(".")[0] for name in sys.modules)}}
told, seen = {{}}, set()
for name in {modules!r}:
    importlib.import_module(name)
    foreign = {{module.split(".")[0] for module in sys.modules}} - allowed - seen
    if foreign:
        told[name] = sorted(foreign)
        seen |= foreign
print(json.dumps(told))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = ended(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}


# ------------------------------------------------------------------------------------------------ doors and names


def exported(name):
    return importlib.import_module(name.removesuffix(".__init__"))


def reexports_alone(name):
    rest = parsed(name).body
    assert isinstance(rest[0], ast.Expr), "a door begins with its docstring"
    for node in rest[1:]:
        if isinstance(node, ast.Assign):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            assert targets == ["__all__"], f"line {node.lineno}: {ast.unparse(node)}"
        else:
            assert isinstance(node, ast.ImportFrom), f"line {node.lineno}: {ast.unparse(node)}"


def test_doors_only_reexport():
    assert offenders([name for name in DOORS if name != "rnn_numpy.__init__"], reexports_alone) == {}


def lists_what_it_imports(name):
    imported = [
        alias.asname or alias.name
        for node in parsed(name).body
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing")
        for alias in node.names
    ]
    module = exported(name)
    assert sorted(module.__all__) == sorted([*imported, *LATER.get(name, [])])
    assert len(set(imported)) == len(imported)
    assert all(not public.startswith("_") for public in imported)
    assert all(hasattr(module, public) for public in imported)


def test_all_is_what_is_imported():
    assert offenders(DOORS, lists_what_it_imports) == {}


def test_all_of_a_module_is_there():
    missing = {
        f"{name}.{public}"
        for name in SOURCES
        if name not in DOORS and name != "rnn_numpy.__main__"
        for public in getattr(exported(name), "__all__", [])
        if not hasattr(exported(name), public)
    }
    assert missing == set()


def test_every_error_is_exported():
    errors = importlib.import_module("rnn_numpy.errors")
    classes = [node.name for node in parsed("rnn_numpy.errors").body if isinstance(node, ast.ClassDef)]
    assert sorted(errors.__all__) == sorted(classes)


# What a wrong layer of the zoo overrides; its class says what is wrong.
HOOKS = {"backward_loop", "bptt", "close_backward", "directions_of", "open_backward", "with_parts"}


def public_definitions(tree):
    """Yield (qualified name, node) for public functions and classes, and for the public methods of these."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def test_public_names_have_docstrings():
    silent = [name for name in SOURCES if not ast.get_docstring(parsed(name))]
    for name in SOURCES:
        definitions = public_definitions(parsed(name))
        hooks = HOOKS if name.startswith("rnn_numpy.zoo.") else set()
        silent += [
            f"{name}.{qualified}"
            for qualified, node in definitions
            if not ast.get_docstring(node) and node.name not in hooks
        ]
    assert silent == []


def test_names_of_the_root():
    import rnn_numpy

    # What the README and the examples take from the root; later layers join.
    promised = {
        "gradcheck",
        "decompose",
        "RNN",
        "Linear",
        "mse_loss",
        "cross_entropy_loss",
        "clip_grad_norm",
        "clip_grad_value",
        "SGD",
    }
    assert promised <= set(rnn_numpy.__all__)
    assert all(getattr(rnn_numpy, public).__doc__ for public in rnn_numpy.__all__)


@pytest.mark.parametrize(("name", "most"), [("rnn_numpy", 40), ("rnn_numpy.lab", 50)])
def test_a_door_has_few_names(name, most):
    assert len(importlib.import_module(name).__all__) <= most


def test_rooms_and_late_names_come_when_they_are_used():
    code = """
import sys, rnn_numpy
late = ["checks", "debug", "experiments", "interop", "lab", "report", "tasks", "zoo"]
assert {*late, "gradcheck", "decompose", "open_network"} <= set(dir(rnn_numpy))
assert not [room for room in late if f"rnn_numpy.{room}" in sys.modules]
for room in late:
    assert getattr(rnn_numpy, room) is sys.modules[f"rnn_numpy.{room}"]
assert rnn_numpy.gradcheck is rnn_numpy.checks.gradcheck
assert rnn_numpy.decompose is rnn_numpy.lab.decompose
assert not {"matplotlib", "rich", "scipy"} & set(sys.modules)
"""
    done = ended([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_root_lacks_is_refused():
    import rnn_numpy

    with pytest.raises(AttributeError, match="^module 'rnn_numpy' has no attribute 'reset_difference'$"):
        rnn_numpy.reset_difference
