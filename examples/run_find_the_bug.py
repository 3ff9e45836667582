"""
Find the bug
============

Backward passes that are wrong, most of them as they once stood in somebody's code, as exercises: read one, say what is
wrong with it, see what the gradient check says, read the answer.

What you will see: three wrong layers, what `gradcheck` reports about each, and the answers. In a terminal you are asked
before you are told, and may go on through the whole zoo:

    python examples/run_find_the_bug.py                        three exercises
    python examples/run_find_the_bug.py --all                  all of them, in random order; q ends it
    python examples/run_find_the_bug.py clipped leak-missing   these
"""

# %%
# The zoo
# -------
# A specimen is a layer that is right forward and wrong backward, with all that is known of it: what is wrong, where,
# and whose mistake it was. `exhibit` gives the layer, the right one with the same parameters, and data on which they
# differ.

import ast
import inspect
import sys
import textwrap

import numpy as np

from rnn_numpy.checks import gradcheck
from rnn_numpy.zoo import DIAGNOSES, NEEDS, PARTS, ZOO, specimen

# One mistake in a formula of one step, one in the derivative of a gate, one in the loop over the steps.
THREE = ("cell-path-missing", "forget-gate-derivative-missing", "first-step-skipped")

# %%
# The exercise
# ------------
# The names of the classes, their docstrings and their comments tell the answer, so an exercise shows the code without
# them. In a formula, the names of the arguments are those of the derivation, at the head of rnn_numpy/layers/rnn.py,
# lstm.py, gru.py or attention.py. `_instead_of_step_backward` stands in place of the cell's own formula,
# `_instead_of_weights_backward` in place of one of attention's; what `_after_step_partials` writes comes after the
# right one has written.


def exercise(animal):
    tree = ast.parse(textwrap.dedent(inspect.getsource(animal.layer)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.name, node.decorator_list = "Exercise", []
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    return ast.unparse(tree)


# %%
# The question
# ------------
# One of four diagnoses is right. Where nobody sits at a terminal, the question is not asked.


def guess(animal, rng):
    others = [kind for kind in DIAGNOSES if kind not in (animal.diagnosis, *animal.also)]
    choices = [animal.diagnosis, *rng.choice(others, size=3, replace=False)]
    rng.shuffle(choices)
    for number, kind in enumerate(choices, start=1):
        print(f"  {number}  {kind}: {DIAGNOSES[kind]}")
    answer = input("What is wrong? 1 to 4, or Enter to be told, q to end: ").strip()
    if answer == "q":
        return None
    return answer.isdigit() and 1 <= int(answer) <= 4 and choices[int(answer) - 1] == animal.diagnosis


# %%
# The report
# ----------
# The check is told nothing of the mistake. It gets the layer and the data: the loss is the sum of doutput times output
# and dh_n times h_n.


def report(animal):
    shown = animal.exhibit(steps=12)
    loss = {"doutput": shown.doutput, "dh_n": shown.dh_n}
    return gradcheck(shown.layer, shown.x, shown.h_0, shown.lengths, **loss, **shown.masks)


def answer(animal):
    print(f"\nThe answer: {animal.mistake}.")
    print(f"  kind    {animal.diagnosis}")
    gate = f", gate {animal.where.gate}" if animal.where.gate else ""
    print(f"  where   {animal.where.part}{gate}: {PARTS[animal.where.part]}")
    print(f"  wrong   {', '.join(animal.where.tensors)}")
    for need in animal.needs:
        print(f"  shows   with {NEEDS[need]}")
    print(f"  seen in {animal.origin}")


# %%
# The exercises
# -------------

interactive = sys.stdin is not None and sys.stdin.isatty()
rng = np.random.default_rng()
named = [name for name in sys.argv[1:] if name != "--all"] if interactive else []
animals = [specimen(name) for name in named or THREE]
if interactive and "--all" in sys.argv:
    animals = [ZOO[index] for index in rng.permutation(len(ZOO))]

asked = right = 0
for number, animal in enumerate(animals, start=1):
    print(f"\n{'-' * 80}\nExercise {number} of {len(animals)}: a backward pass of {animal.parent.__name__}\n")
    print(textwrap.indent(exercise(animal), "    ") + "\n")
    if interactive:
        found = guess(animal, rng)
        if found is None:
            break
        asked, right = asked + 1, right + found
        print("Right." if found else "No, or not said.")
    found = report(animal)
    print(f"\nThe check says:\n\n{found}")
    answer(animal)
    assert not found.ok
if interactive:
    print(f"\n{right} of {asked} right")
