"""The inventories beside this file: where the few names of Python and NumPy that our pages refer to are documented.

    python docs/inventories/renew.py             # write them from the list below
    python docs/inventories/renew.py --network   # hold the list against the real ones first: what has moved is said

A build of the site reads them and asks no host. A name that is missing here is a warning of Sphinx's, an error with -W:
add it, and renew. Needs sphobjinv, of the extra docs. Written on 2026-11-27, for Python 3 and NumPy's stable pages.
"""

import sys
from pathlib import Path

import sphobjinv

FOLDER = Path(__file__).parent
# name: (domain:role, address below the project's; $ stands for the name)
PYTHON = {
    **{name: ("py:class", f"library/functions.html#{name}") for name in ("bool", "complex", "float", "int")},
    **{
        name: ("py:class", f"library/stdtypes.html#{name}")
        for name in ("bytes", "dict", "list", "range", "set", "str", "tuple")
    },
    **dict.fromkeys(("False", "None", "True"), ("py:data", "library/constants.html#$")),
    **dict.fromkeys(
        ("KeyError", "MemoryError", "TypeError", "ValueError"), ("py:exception", "library/exceptions.html#$")
    ),
    **{name: ("std:term", f"glossary.html#term-{name}") for name in ("iterable", "iterator", "mapping", "sequence")},
    "callable": ("py:function", "library/functions.html#$"),
    "bltin-boolean-values": ("std:label", "library/stdtypes.html#$"),
    "collections.abc.Callable": ("py:class", "library/collections.abc.html#$"),
    "concurrent.futures.Executor": ("py:class", "library/concurrent.futures.html#$"),
    "pathlib.Path": ("py:class", "library/pathlib.html#$"),
}
NUMPY = {
    **dict.fromkeys(("numpy.dtype", "numpy.memmap", "numpy.ndarray"), ("py:class", "reference/generated/$.html#$")),
    "numpy.random.Generator": ("py:class", "reference/random/generator.html#$"),
    "array_like": ("std:term", "glossary.html#term-array_like"),
    "arrays.scalars": ("std:label", "reference/arrays.scalars.html#arrays-scalars"),
}  # fmt: skip
PROJECTS = {
    "python": ("https://docs.python.org/3/", "3", PYTHON),
    "numpy": ("https://numpy.org/doc/stable/", "", NUMPY),
}


def inventory(project, version, names):
    """Return the names as an inventory."""
    found = sphobjinv.Inventory()
    found.project, found.version = project, version
    for name, (kind, address) in sorted(names.items()):
        domain, role = kind.split(":")
        uri = address.replace("$", name)  # a short form of Sphinx's own stands at an address's end alone
        found.objects.append(
            sphobjinv.DataObjStr(name=name, domain=domain, role=role, priority="1", uri=uri, dispname="-")
        )
    return found


def moved(address, names):
    """Return what the project's own inventory has elsewhere, or has not at all."""
    real = {
        (one.name, f"{one.domain}:{one.role}"): one.uri_expanded
        for one in sphobjinv.Inventory(url=f"{address}objects.inv").objects
    }
    for name, (kind, uri) in names.items():
        there = real.get((name, kind))
        if there != uri.replace("$", name):
            yield f"{kind} {name}: {uri.replace('$', name)} here, {there} there"


if __name__ == "__main__":
    for project, (address, version, names) in PROJECTS.items():
        if "--network" in sys.argv[1:]:
            differences = list(moved(address, names))
            if differences:
                sys.exit("\n".join(differences))
        plain = inventory(project, version, names).data_file(contract=True)
        (FOLDER / f"{project}.inv").write_bytes(sphobjinv.compress(plain))
