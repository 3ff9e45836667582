"""No module uses a private name of another: what somebody else is to use has a public name, and keeps it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rnn_numpy"

# Underscores that are no secret, or for which Python and its libraries have no other name.
NO_SECRETS = {
    "_asdict",  # of named tuples, whose fields have the names without
    "_fields",
    "_make",
    "_replace",
    "_SubParsersAction",  # argparse: for annotations
    "_exit",  # os
    "_mpf_",  # mpmath: sign, mantissa, exponent
}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in NO_SECRETS


def own_names(tree):
    """Return the names that a module defines, as functions, classes or attributes of whatever it makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id


def foreign_private_names(text):
    """Yield (name, line) for each private name that is another module's."""
    tree = ast.parse(text)
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            # A class may use what its bases have.
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if is_private(alias.name):
                    yield alias.name, node.lineno


def test_no_module_uses_a_private_name_of_another():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for private, line in foreign_private_names(path.read_text(encoding="utf-8")):
            found.append(f"{name}:{line}: {private}")
    assert found == []


def test_private_names_of_others_would_be_found():
    text = """
from rnn_numpy.core.memory import _pool, empty
class Layer:
    def __init__(self, layer):
        self._own = layer._width("h")
        self._inherited()
        layer._own = 1
        layer.params._flat
        type(self)._bases_method()
    def copy(self, pair):
        return pair._replace(a=self.__dict__)
"""
    assert sorted(foreign_private_names(text)) == [("_bases_method", 9), ("_flat", 8), ("_pool", 2), ("_width", 5)]
