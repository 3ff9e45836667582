"""Operators that are computed when a model is opened: what onnx's own reference makes of them."""

import numpy as np
import pytest
from frameworks import onnx, onnx_helper, onnx_reference

from rnn_numpy.errors import DataError
from rnn_numpy.interop.onnx_constants import FOLDED, Scope, Source

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 1
ONE, TWO = np.array([1]), np.array([2])

CASES = [
    ("Identity", [A], {}),
    ("Cast", [A], {"to": 11}),
    ("Shape", [A], {}),
    ("Shape", [A], {"start": 1}),
    ("Slice", [A, np.array([0, -1]), np.array([2**62, -(2**62)]), np.array([0, 2]), np.array([1, -1])], {}),
    ("Slice", [A, ONE, TWO], {}),
    ("Split", [A, np.array([1, 2])], {"axis": 1}),
    ("Split", [A], {"axis": 0}),
    ("Concat", [A, A + 1], {"axis": -1}),
    ("Unsqueeze", [A, np.array([0, 3])], {}),
    ("Squeeze", [A[:1], np.array([0])], {}),
    ("Squeeze", [A[:1, :1]], {}),
    ("Reshape", [A, np.array([0, -1])], {}),
    ("Transpose", [A], {}),
    ("Transpose", [A], {"perm": [1, 0, 2]}),
    ("Gather", [A, np.array([[0, 2], [1, 1]])], {"axis": 1}),
    ("Expand", [A[:, :, :1], np.array([1, 1, 4])], {}),
    ("ConstantOfShape", [np.array([2, 3])], {}),
    ("DequantizeLinear", [A.astype(np.uint8), np.float32(0.5), np.uint8(3)], {}),
    ("DequantizeLinear", [A.astype(np.int8), np.array([0.5, 0.25, 2], np.float32)], {"axis": 1}),
    ("Neg", [A], {}),
    ("Add", [A, A[0]], {}),
    ("Sub", [A, A[0]], {}),
    ("Mul", [A, A[0]], {}),
    ("Div", [A, A[0]], {}),
    ("Div", [np.array([7, -7]), np.array([2, 2])], {}),
]


def graph_of(operator, arrays, attributes):
    outputs = ["Y0", "Y1"] if operator == "Split" else ["Y0"]
    names = [f"A{k}" for k in range(len(arrays))]
    node = onnx_helper.make_node(operator, names, outputs, name="n", **attributes)
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for a, name in zip(arrays, names, strict=True)]
    values = [onnx_helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = onnx_helper.make_graph([node], "g", [], values, tensors)
    return onnx_helper.make_model(graph, opset_imports=[onnx_helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_the_reference_makes(operator, arrays, attributes):
    model = graph_of(operator, arrays, attributes)
    theirs = onnx_reference.ReferenceEvaluator(model).run(None, {})
    scope = Scope(Source(onnx, "here", None), model.graph)
    for k, reference in enumerate(theirs):
        found = scope.constant(f"Y{k}")
        assert found.dtype == reference.dtype
        assert np.array_equal(found, reference)


def test_all_of_them_are_tried():
    assert {case[0] for case in CASES} | {"Constant"} == set(FOLDED)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("value_float", 0.5), ("value_int", 3), ("value_floats", [0.5, 1.5]), ("value_ints", [3, 4])],
)
def test_constants_of_numbers(attribute, value):
    node = onnx_helper.make_node("Constant", [], ["Y"], **{attribute: value})
    graph = onnx_helper.make_graph([node], "g", [], [])
    found = Scope(Source(onnx, "here", None), graph).constant("Y")
    assert np.array_equal(found, value)
    assert found.dtype == (np.float32 if "float" in attribute else np.int64)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes", "message"),
    [
        ("Div", [ONE, np.array([0])], {}, "cannot be computed: division by 0"),
        ("Split", [A, np.array([1, 1])], {"axis": 1}, r"cannot be computed: parts of \[1, 1\] do not make 3"),
        ("Reshape", [A, np.array([5, -1])], {}, "cannot be computed: cannot reshape"),
        ("Transpose", [A], {"perm": [0, 0, 1]}, "cannot be computed"),
        ("Gather", [A, np.array([9])], {}, "cannot be computed"),
        ("Expand", [A, np.array([2**40, 1, 1, 1])], {}, "would make an array of .* bytes; not done"),
        ("Concat", [A, A[0]], {"axis": 0}, "cannot be computed"),
    ],
)
def test_what_cannot_be_computed(operator, arrays, attributes, message):
    scope = Scope(Source(onnx, "here", None), graph_of(operator, arrays, attributes).graph)
    with pytest.raises(DataError, match=rf"here: node 'n' \({operator}\): {message}"):
        scope.constant("Y0")


def test_numbers_in_fields_of_their_own():
    tensor = onnx_helper.make_tensor("W", onnx.TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    source = Source(onnx, "here", None)
    assert np.array_equal(source.array(tensor), [[1, 2], [3, 4]])
    tensor.dims[:] = [2, 2**40]
    with pytest.raises(DataError, match=r"array 'W': shape .* has 2199023255552 entries; the file has 4 of numbers"):
        source.array(tensor)
