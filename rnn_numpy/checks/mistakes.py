"""The mistakes that a diagnosis may name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# What a checker may name, each with what it means.
DIAGNOSES: Mapping[str, str] = MappingProxyType(
    {
        "constant factor": "a tensor is right but for one factor",
        "missing 1/N": "that factor is the batch size, or one over it",
        "entries rescaled": "single entries are right but for factors of their own",
        "sign": "a term has the other sign",
        "transposed": "a matrix stands where its transpose should",
        "recurrence dropped": "what comes from later steps than the next few, or than none, is not there",
        "order of Jacobians": "the Jacobians of the steps are multiplied in the wrong order",
        "off by one step": "an array of the step before, or after, is read",
        "first step skipped": "t = 0 has no part in the gradient",
        "last step skipped": "t = T - 1 has no part in the gradient",
        "only the last step's loss": "what the loss adds at earlier outputs is not there",
        "final-state gradient ignored": "dh_n, or dc_n, is not read, or read at the wrong step",
        "bias doubled": "a bias gradient is counted twice",
        "bias ignored": "a bias gradient is zero",
        "gate derivative missing": "the derivative of a gate's nonlinearity is left out",
        "wrong derivative": "it is there, but of another function or of another array",
        "gates swapped": "one gate's gradient stands in another's rows",
        "reset on the wrong side": "a GRU's r_t acts before the product of W_hn backward, after it forward",
        "cell path missing": "the gradient from c_t to c_{t-1} is not there",
        "hidden path missing": "a gradient through h is not there: from h_t to c_t, or along a GRU's leak",
        "lower layer cut off": "a layer gets nothing, or too little, from the one above",
        "reverse direction not reversed": "the reverse direction runs, or is cut out, as the forward one",
        "padding leaks": "what stands past the end of a sequence has an influence",
        "batch mixed": "one sequence's gradient depends on, or lands in, another's",
        "dropout mask ignored": "backward does not multiply with the mask of forward",
        "clipped": "the result is cut off at some size",
        "lower precision": "a number is rounded to a narrower dtype on the way",
        "small gradients flushed": "numbers below some size are set to zero",
        "never accumulated": "a gradient is returned as zeros",
        "starts as the weights": "a gradient is added to a copy of the parameters, not to zeros",
        "overwritten, not added": "a sum keeps the latest of its terms alone",
        "accumulated over calls": "a call's gradient holds that of the calls before",
        "input modified": "backward writes to what it was handed, or to what a second backward reads",
        "parameters modified": "backward changes the parameters",
        "not deterministic": "equal calls give unequal results",
        "gate path missing": "nothing flows back through a gate",
        "not finite": "NaN or infinity where the gradient is a number",
        "wrong recurrence": "what a step hands to the one before is wrong, and the mistake is none of the known ones",
        "wrong sum": "all steps are right, what is summed of them is not, and the mistake is none of the known ones",
        "unknown": "the mistake is none of the known ones",
    }
)

# What a checker may say that finds the place and not the mistake.
PLACES: Mapping[str, str] = MappingProxyType(
    {
        "immediate partial": "wrong derivative",
        "recurrence": "wrong recurrence",
        "sums over steps": "wrong sum",
    }
)
