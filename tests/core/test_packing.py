"""Packing and padding against torch.nn.utils.rnn, live, over drawn lengths, orders, axes and dtypes; and their errors.

Nothing is computed, so that all comparisons are exact, dtypes included.
"""

import copy
import pickle

import numpy as np
import pytest
from frameworks import torch
from frameworks import torch_rnn as theirs
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy.core.packing import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)
from rnn_numpy.errors import DTypeError, OptionError, RNNNumpyError, ShapeError

DTYPES = [np.float64, np.float32, np.complex128, np.int64, np.int8, np.uint8, np.bool_]
# Of the lengths, in whatever form a caller has them.
FORMS = [
    list,
    tuple,
    np.array,
    lambda n: np.array(n, np.int16),
    lambda n: np.array(n, np.uint64),
    lambda n: torch.tensor(n),
]


def same(ours, reference):
    """Whether an array is a tensor: shape, dtype and every entry."""
    expected = reference.numpy()
    return ours.dtype == expected.dtype and ours.shape == expected.shape and np.array_equal(ours, expected)


def same_pack(ours, reference):
    pairs = [(ours.data, reference.data), (ours.batch_sizes, reference.batch_sizes)]
    for mine, other in zip(ours[2:], reference[2:], strict=True):
        assert (mine is None) == (other is None)
        pairs += [] if mine is None else [(mine, other)]
    return all(same(mine, other) for mine, other in pairs)


def filled(shape, dtype):
    """Numbers that are all different where the dtype has as many."""
    return np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def time_major(array, batch_first):
    return array.swapaxes(0, 1) if batch_first else array


@st.composite
def batches(draw, max_batch=8):
    """Draw a padded array, its lengths, batch_first and enforce_sorted.

    torch's sort keeps the order of sequences of equal length up to 16 of them.
    """
    N, T = draw(st.integers(1, max_batch), label="N"), draw(st.integers(1, 6), label="T")
    lengths = draw(st.lists(st.integers(1, T), min_size=N, max_size=N), label="lengths")
    enforce_sorted = draw(st.booleans(), label="enforce_sorted")
    if enforce_sorted:
        lengths = sorted(lengths, reverse=True)
    trailing = tuple(draw(st.lists(st.integers(1, 3), max_size=2), label="trailing axes"))
    batch_first = draw(st.booleans(), label="batch_first")
    padded = filled(((N, T) if batch_first else (T, N)) + trailing, draw(st.sampled_from(DTYPES), label="dtype"))
    return padded, lengths, batch_first, enforce_sorted


@pytest.mark.needs_torch
@given(batches(), st.sampled_from(FORMS), st.integers(0, 2), st.booleans())
def test_packing_and_padding_are_torchs(batch, form, extra, other_axes):
    padded, lengths, batch_first, enforce_sorted = batch
    before = padded.copy()
    ours = pack_padded_sequence(padded, form(lengths), batch_first, enforce_sorted)
    reference = theirs.pack_padded_sequence(torch.tensor(padded), lengths, batch_first, enforce_sorted)
    assert same_pack(ours, reference)

    total_length = max(lengths) + extra if extra else None
    back, back_lengths = pad_packed_sequence(ours, other_axes, 1, total_length)
    expected, expected_lengths = theirs.pad_packed_sequence(reference, other_axes, 1, total_length)
    assert same(back, expected) and same(back_lengths, expected_lengths)
    assert back.flags.c_contiguous and back.flags.writeable

    parts = unpack_sequence(ours)
    assert all(same(part, other) for part, other in zip(parts, theirs.unpack_sequence(reference), strict=True))
    assert [len(part) for part in parts] == lengths == ours.lengths.tolist()
    assert np.array_equal(padded, before)


@pytest.mark.needs_torch
@given(batches(), st.booleans(), st.sampled_from(["left", "right"]))
def test_sequences_are_padded_packed_and_unpadded_as_by_torch(batch, batch_first, side):
    padded, lengths, _, enforce_sorted = batch
    columns = time_major(padded, batch[2]).swapaxes(0, 1)
    sequences = [column[:length] for column, length in zip(columns, lengths, strict=True)]
    tensors = [torch.tensor(sequence) for sequence in sequences]
    expected = theirs.pad_sequence(tensors, batch_first, 1, side)
    assert same(pad_sequence(iter(sequences), batch_first, 1, side), expected)
    assert same_pack(pack_sequence(iter(sequences), enforce_sorted), theirs.pack_sequence(tensors, enforce_sorted))

    # Of any array: these are cut off on the right, whichever side was padded.
    ours = unpad_sequence(expected.numpy(), lengths, batch_first)
    # torch transposes what it is given, in place.
    reference = theirs.unpad_sequence(expected.clone(), torch.tensor(lengths), batch_first)
    assert all(same(part, other) for part, other in zip(ours, reference, strict=True))


@pytest.mark.needs_torch
def test_sequences_without_steps_are_padded_and_unpadded():
    sequences = [np.ones((0, 2)), np.ones((3, 2))]
    padded = pad_sequence(sequences)
    assert same(padded, theirs.pad_sequence([torch.tensor(sequence) for sequence in sequences]))
    assert [len(part) for part in unpad_sequence(padded, [0, 3])] == [0, 3]
    assert pad_sequence(sequences[:1]).shape == (0, 1, 2)
    assert unpad_sequence(np.ones((3, 0)), []) == []


@pytest.mark.parametrize("batch_first", [True, False])
def test_results_are_new_arrays(batch_first):
    x = np.ones((3, 3))
    packed = pack_padded_sequence(x, [3, 3, 3], batch_first)
    (single,) = unpack_sequence(pack_sequence([x]))
    pairs = [
        (x, packed.data),
        (packed.data, pad_packed_sequence(packed, batch_first)[0]),
        (packed.data, packed.pack(x).data),
        (x, pad_sequence([x], batch_first)),
        (x, pack_sequence([x]).data),
        (x, single),
        *((x, part) for part in unpad_sequence(x, [3, 3, 3], batch_first)),
        *((packed.data, part) for part in unpack_sequence(packed)),
    ]
    assert not any(np.shares_memory(*pair) for pair in pairs)
    # Each part owns its memory: one that is kept does not keep the others.
    assert all(part.base is None for part in unpack_sequence(packed) + unpad_sequence(x, [3, 3, 3], batch_first))


@pytest.mark.needs_torch
def test_many_sequences_of_equal_length_keep_their_order():
    lengths = np.random.default_rng(0).integers(1, 4, size=1000)
    padded = filled((3, 1000), float)
    packed = pack_padded_sequence(padded, lengths, enforce_sorted=False)
    for length in (1, 2, 3):
        group = packed.sorted_indices[lengths[packed.sorted_indices] == length]
        assert len(group) > 100 and np.all(np.diff(group) > 0)
    # torch has another order within a group, and the same sequences.
    reference = theirs.pack_padded_sequence(torch.tensor(padded), torch.tensor(lengths), enforce_sorted=False)
    assert same(packed.batch_sizes, reference.batch_sizes)
    assert same(pad_packed_sequence(packed)[0], theirs.pad_packed_sequence(reference)[0])


@pytest.mark.needs_torch
@given(st.permutations(range(7)), st.sampled_from(FORMS))
def test_inverse_permutation(permutation, form):
    inverse = invert_permutation(form(permutation))
    assert same(inverse, theirs.invert_permutation(torch.tensor(permutation)))
    assert np.array_equal(np.array(permutation)[inverse], np.arange(7))


def test_inverse_of_nothing():
    assert invert_permutation(None) is None
    assert invert_permutation([]).shape == (0,)


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.needs_torch
@given(batches(), st.integers(0, 2**32 - 1))
def test_gradients_are_torchs(batch, seed):
    padded, lengths, batch_first, enforce_sorted = batch
    rng = np.random.default_rng(seed)
    T = time_major(padded, batch_first).shape[0]
    x = torch.tensor(rng.normal(size=padded.shape), requires_grad=True)
    reference = theirs.pack_padded_sequence(x, lengths, batch_first, enforce_sorted)
    ours = pack_padded_sequence(x.detach().numpy(), lengths, batch_first, enforce_sorted)
    dy = rng.normal(size=ours.data.shape)
    reference.data.backward(torch.tensor(dy))
    assert same(ours.with_data(dy).padded(batch_first, total_length=T)[0], x.grad)

    data = torch.tensor(ours.data, requires_grad=True)
    y = theirs.PackedSequence(data, reference.batch_sizes, reference.sorted_indices, reference.unsorted_indices)
    back, _ = theirs.pad_packed_sequence(y, batch_first, total_length=T + 1)
    dx = rng.normal(size=back.shape)
    back.backward(torch.tensor(dx))
    assert same(ours.pack(dx, batch_first).data, data.grad)


@given(batches(), st.integers(0, 2**32 - 1))
def test_gradients_of_lists_of_sequences_are_adjoint(batch, seed):
    """<dy, f(x)> = <df(dy), x> for the pairs that the module names; small integers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    _, lengths, batch_first, _ = batch
    T, N = max(lengths), len(lengths)
    xs, dxs = ([rng.integers(-9, 10, size=(length, 2)) for length in lengths] for _ in range(2))
    dx = rng.integers(-9, 10, size=(N, T, 2) if batch_first else (T, N, 2))

    def inner(left, right):
        return sum(int((a * b).sum()) for a, b in zip(left, right, strict=True))

    padded, packed = pad_sequence(xs, batch_first), pack_sequence(xs, enforce_sorted=False)
    dy = rng.integers(-9, 10, size=packed.data.shape)
    assert inner(dx, padded) == inner(unpad_sequence(dx, lengths, batch_first), xs)
    assert inner(dxs, unpad_sequence(dx, lengths, batch_first)) == inner(pad_sequence(dxs, batch_first), dx)
    assert inner(dy, packed.data) == inner(unpack_sequence(packed.with_data(dy)), xs)
    assert inner(dxs, unpack_sequence(packed)) == inner(pack_sequence(dxs, enforce_sorted=False).data, packed.data)


# ------------------------------------------------------------------------------------------------ PackedSequence


def example():
    return pack_sequence([[1.0], [2.0, 3.0, 4.0], [5.0, 6.0]], enforce_sorted=False)


@pytest.mark.needs_torch
def test_a_packed_sequence_is_a_named_tuple_that_cannot_be_changed():
    packed = example()
    assert packed._fields == theirs.PackedSequence(torch.ones(1), torch.ones(1))._fields
    data, batch_sizes, sorted_indices, unsorted_indices = packed
    assert data is packed.data and len(packed) == 4 and isinstance(packed, tuple)
    with pytest.raises(AttributeError):
        packed.data = np.ones(6)
    with pytest.raises(AttributeError):
        packed.more = 1
    for array in (batch_sizes, sorted_indices, unsorted_indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    assert (packed.batch_size, packed.max_length, packed.lengths.tolist()) == (3, 3, [1, 3, 2])


def test_parts_are_copied_but_data_are_not():
    data, sizes, order = np.arange(4.0), np.array([2, 2]), np.array([1, 0])
    packed = PackedSequence(data, sizes, order)
    sizes[:], order[:] = 9, 9
    assert packed.data is data and packed.batch_sizes.tolist() == [2, 2] and packed.sorted_indices.tolist() == [1, 0]


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_copies_and_pickles_are_equal_and_still_read_only(twin):
    packed, other = example(), twin(example())
    assert type(other) is PackedSequence and other == packed and not other != packed
    assert not other.batch_sizes.flags.writeable and not other.sorted_indices.flags.writeable


def test_equality_is_that_of_layout_and_data():
    packed = example()
    assert packed != packed.with_data(packed.data + 1)
    assert packed != pack_sequence([[1.0, 2.0, 3.0], [4.0]])
    assert packed != tuple(packed) and packed != "packed"
    assert PackedSequence([1, 2], [2]) == PackedSequence([1, 2], [2], [0, 1])
    assert PackedSequence([1, 2], [2]) != PackedSequence([1, 2], [2], [1, 0])
    with pytest.raises(TypeError, match="unhashable"):
        hash(packed)


def test_each_permutation_follows_from_the_other():
    order, places = [2, 0, 1], [1, 2, 0]
    data = np.arange(3)
    for packed in (PackedSequence(data, [3], order), PackedSequence(data, [3], None, places)):
        assert packed.sorted_indices.tolist() == order and packed.unsorted_indices.tolist() == places
        assert packed == PackedSequence(data, [3], order, places)
    assert PackedSequence(data, [3])[2:] == (None, None)


@given(batches())
def test_what_a_layer_made_of_the_padded_array_is_packed_again(batch):
    padded, lengths, batch_first, enforce_sorted = batch
    packed = pack_padded_sequence(padded, lengths, batch_first, enforce_sorted)
    x, found = packed.padded()
    assert found.tolist() == lengths and x.shape[:2] == (max(lengths), len(lengths))
    output = filled((*x.shape[:2], 4), np.float64)
    again = packed.pack(output)
    assert packed.same_layout(again) and again.data.dtype == np.float64
    for n, (part, length) in enumerate(zip(unpack_sequence(again), lengths, strict=True)):
        assert np.array_equal(part, output[:length, n])
    assert packed.pack(x) == packed


def test_padding_is_not_read():
    packed = example()
    output = np.full((5, 3), np.nan)
    output[0], output[1, 1:], output[2, 1] = 1, 2, 3
    assert packed.pack(output).data.tolist() == [1, 1, 1, 2, 2, 3]
    assert packed.pack(output.T, batch_first=True).data.tolist() == [1, 1, 1, 2, 2, 3]


def test_layouts_differ_by_lengths_and_by_order():
    packed = pack_sequence([[1, 2], [3]])
    assert packed.same_layout(pack_sequence([[[9.0], [9.0]], [[9.0]]], enforce_sorted=False))
    assert not packed.same_layout(pack_sequence([[3], [1, 2]], enforce_sorted=False))
    assert not packed.same_layout(pack_sequence([[1, 2, 3]]))


def test_astype_converts_the_data_alone():
    packed = example().astype(np.float32)
    assert packed.data.dtype == np.float32 and packed == example() and packed.batch_sizes.dtype == np.intp


def test_repr_stays_one_line():
    packed = example()
    expected = "PackedSequence(data (6,) float64, batch_sizes [3 2 1], sorted_indices [1 2 0])"
    assert repr(packed) == expected
    long = repr(pack_sequence([np.ones((500, 2))] * 400, enforce_sorted=False))
    assert "\n" not in long and len(long) < 200


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.int64, -3.0, -3),
        (np.int64, np.int8(-3), -3),
        (np.uint8, 255, 255),
        (np.bool_, True, True),
        (np.float32, 0.1, np.float32(0.1)),
        (np.float32, np.inf, np.inf),
        (np.float64, np.array(2), 2.0),
        (np.complex128, 1 + 2j, 1 + 2j),
    ],
)
def test_padding_values_that_fit(dtype, value, expected):
    packed = pack_sequence([filled(2, dtype), filled(1, dtype)])
    padded, _ = pad_packed_sequence(packed, padding_value=value)
    assert padded.dtype == dtype and padded[1, 1] == expected
    assert np.isnan(pad_packed_sequence(pack_sequence([[1.0, 2.0], [3.0]]), padding_value=np.nan)[0][1, 1])


# ------------------------------------------------------------------------------------------------ errors

SORTED = (
    "when enforce_sorted is True; got lengths[1] = 4 after 3. Pass enforce_sorted=False to have the sequences sorted"
)
X = np.zeros((4, 3))
INTS = pack_sequence([[1, 2], [3]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: pack_padded_sequence(X, [3, 4, 1]),
            OptionError,
            f"pack_padded_sequence: lengths must be sorted in decreasing order {SORTED}",
        ),
        (
            lambda: pack_sequence([[0] * 3, [0] * 4]),
            OptionError,
            f"pack_sequence: lengths must be sorted in decreasing order {SORTED}",
        ),
        (
            lambda: pack_padded_sequence(X, [3, 0, 1], enforce_sorted=False),
            OptionError,
            "pack_padded_sequence: length of all samples has to be greater than 0; got lengths[1] = 0. "
            "Drop empty sequences from the batch",
        ),
        (
            lambda: pack_padded_sequence(X, [3, 2, -1]),
            OptionError,
            "pack_padded_sequence: length of all samples has to be greater than 0; got lengths[2] = -1",
        ),
        (
            lambda: pack_sequence([[1.0], []]),
            OptionError,
            "pack_sequence: length of all samples has to be greater than 0; got lengths[1] = 0. "
            "Drop empty sequences from the batch",
        ),
        (
            lambda: pack_padded_sequence(X, [6, 3, 1]),
            OptionError,
            "pack_padded_sequence: lengths[0] must be at most T = 4, the steps of input; got 6",
        ),
        (
            lambda: pack_padded_sequence(X, np.array([2**63 + 1, 3, 1], np.uint64)),
            OptionError,
            f"pack_padded_sequence: lengths[0] must be at most T = 4, the steps of input; got {2**63 - 1}",
        ),
        (
            lambda: pack_padded_sequence(X, [4, 4, 4, 4], batch_first=True),
            OptionError,
            "pack_padded_sequence: lengths[0] must be at most T = 3, the steps of input; got 4",
        ),
        (
            lambda: pack_padded_sequence(X, [3, 1]),
            ShapeError,
            "pack_padded_sequence: expected len(lengths) to be equal to the batch size of input, shape (N,) = (3,); "
            "got (2,)",
        ),
        (
            lambda: pack_padded_sequence(X, [[3, 1, 1]]),
            ShapeError,
            "pack_padded_sequence: lengths must have shape (N,) = (3,); got (1, 3)",
        ),
        (
            lambda: pack_padded_sequence(X, 3),
            ShapeError,
            "pack_padded_sequence: lengths must have shape (N,) = (3,); got ()",
        ),
        (
            lambda: pack_padded_sequence(X, [3.0, 2.0, 1.0]),
            DTypeError,
            "pack_padded_sequence: lengths must be integers; got dtype float64",
        ),
        (
            lambda: pack_padded_sequence(X, [True, True, True]),
            DTypeError,
            "pack_padded_sequence: lengths must be integers; got dtype bool",
        ),
        (
            lambda: pack_padded_sequence(X[0], [3]),
            ShapeError,
            "pack_padded_sequence: input must have shape (T, N, ...), at least two axes; got (3,)",
        ),
        (
            lambda: pack_padded_sequence(1.0, [3], batch_first=True),
            ShapeError,
            "pack_padded_sequence: input must have shape (N, T, ...), at least two axes; got ()",
        ),
        *(
            (
                lambda shape=shape: pack_padded_sequence(np.zeros(shape), [1] * shape[1]),
                ShapeError,
                f"pack_padded_sequence: cannot pack empty arrays: input must have no axis of size 0; got {shape}",
            )
            for shape in [(0, 3), (4, 0), (4, 3, 0)]
        ),
        (
            lambda: pack_padded_sequence([["a"]], [1]),
            DTypeError,
            "pack_padded_sequence: input must hold numbers; got dtype <U1",
        ),
        (
            lambda: pack_padded_sequence(np.ma.ones((4, 3)), [1, 1, 1]),
            DTypeError,
            "pack_padded_sequence: input must not be a masked array: its mask would be lost; fill it, or use lengths",
        ),
        (
            lambda: pack_padded_sequence(X, [3, 1, 1], 1),
            DTypeError,
            "pack_padded_sequence: batch_first must be True or False; got int 1",
        ),
        (
            lambda: pack_padded_sequence(X, [3, 1, 1], False, None),
            DTypeError,
            "pack_padded_sequence: enforce_sorted must be True or False; got NoneType None",
        ),
        (
            lambda: pad_packed_sequence(X),
            DTypeError,
            "pad_packed_sequence: sequence must be a PackedSequence; got ndarray",
        ),
        (
            lambda: pad_packed_sequence(INTS, "yes"),
            DTypeError,
            "pad_packed_sequence: batch_first must be True or False; got str 'yes'",
        ),
        (
            lambda: pad_packed_sequence(INTS, total_length=1),
            OptionError,
            "pad_packed_sequence: expected total_length to be at least the length of the longest sequence, T = 2; "
            "got 1",
        ),
        (
            lambda: INTS.padded(total_length=1),
            OptionError,
            "PackedSequence.padded: expected total_length to be at least the length of the longest sequence, T = 2; "
            "got 1",
        ),
        (
            lambda: pad_packed_sequence(INTS, total_length=3.0),
            DTypeError,
            "pad_packed_sequence: total_length must be an integer; got float 3.0",
        ),
        *(
            (
                lambda dtype=dtype, value=value: pad_packed_sequence(INTS.astype(dtype), padding_value=value),
                OptionError,
                f"pad_packed_sequence: padding_value must be a number that {dtype} can hold; got {value!r}",
            )
            for dtype, value in [
                ("int64", 0.5),
                ("int64", float("nan")),
                ("int64", 1e30),
                ("int64", 3j),
                ("int8", 300),
                ("uint8", -1),
                ("bool", 2),
                ("float32", 1e300),
                ("float64", 1j),
                ("float64", 1 + 0j),
            ]
        ),
        (
            lambda: pad_packed_sequence(INTS, padding_value="0"),
            DTypeError,
            "pad_packed_sequence: padding_value must be a number; got str '0'",
        ),
        (
            lambda: pad_sequence([[1], [2, 3]], padding_value=[0]),
            DTypeError,
            "pad_sequence: padding_value must be a number; got list [0]",
        ),
        *(
            (
                lambda call=call: call([]),
                ShapeError,
                f"{call.__name__}: received an empty list of sequences; there must be at least one, N >= 1",
            )
            for call in (pad_sequence, pack_sequence)
        ),
        (lambda: pad_sequence(3), DTypeError, "pad_sequence: expected iterable for sequences; got int"),
        (
            lambda: pad_sequence(INTS),
            DTypeError,
            "pad_sequence: sequences must be a list of arrays; got a PackedSequence. Use unpack_sequence",
        ),
        (
            lambda: pad_sequence([[1], 2]),
            ShapeError,
            "pad_sequence: sequences[1] must have shape (T_n, ...), at least one axis; got ()",
        ),
        (
            lambda: pad_sequence([np.ones((2, 3)), np.ones((2, 4))]),
            ShapeError,
            "pad_sequence: sequences[1] must have shape (T_n, ...) = (T_n, 3), as sequences[0]; got (2, 4)",
        ),
        (
            lambda: pad_sequence([np.ones(2), np.ones((2, 3))]),
            ShapeError,
            "pad_sequence: sequences[1] must have shape (T_n, ...) = (T_n,), as sequences[0]; got (2, 3)",
        ),
        (
            lambda: pad_sequence([[1, 2], [0.5]]),
            DTypeError,
            "pad_sequence: sequences[1] must have dtype int64, that of sequences[0]; got float64. "
            "Convert it with np.asarray(..., np.int64)",
        ),
        (
            lambda: pad_sequence([[1], [2]], padding_side="up"),
            OptionError,
            "pad_sequence: expected padding_side to be one of 'left' or 'right'; got 'up'",
        ),
        (
            lambda: pad_sequence([[1], [2]], padding_side=None),
            OptionError,
            "pad_sequence: expected padding_side to be one of 'left' or 'right'; got None",
        ),
        (
            lambda: pad_sequence([[1], [2]], 0),
            DTypeError,
            "pad_sequence: batch_first must be True or False; got int 0",
        ),
        (
            lambda: pack_sequence([[1], [2]], 1),
            DTypeError,
            "pack_sequence: enforce_sorted must be True or False; got int 1",
        ),
        (
            lambda: pack_sequence([np.ones((2, 0)), np.ones((1, 0))]),
            ShapeError,
            "pack_sequence: cannot pack empty arrays: a trailing axis has size 0; got (2, 0)",
        ),
        (
            lambda: unpad_sequence(X, [5, 1, 1]),
            OptionError,
            "unpad_sequence: lengths[0] must be at most T = 4, the steps of padded_sequences; got 5",
        ),
        (
            lambda: unpad_sequence(X, [4, -1, 1]),
            OptionError,
            "unpad_sequence: length of all samples has to be at least 0; got lengths[1] = -1",
        ),
        (
            lambda: unpad_sequence(X, [4, 1, 1], batch_first=True),
            ShapeError,
            "unpad_sequence: expected len(lengths) to be equal to the batch size of padded_sequences, "
            "shape (N,) = (4,); got (3,)",
        ),
        (
            lambda: unpad_sequence(X[0], [4]),
            ShapeError,
            "unpad_sequence: padded_sequences must have shape (T, N, ...), at least two axes; got (3,)",
        ),
        (
            lambda: unpad_sequence(X, [4, 1, 1], None),
            DTypeError,
            "unpad_sequence: batch_first must be True or False; got NoneType None",
        ),
        (
            lambda: unpack_sequence([X]),
            DTypeError,
            "unpack_sequence: packed_sequences must be a PackedSequence; got list",
        ),
        *(
            (
                lambda wrong=wrong: invert_permutation(wrong),
                OptionError,
                f"invert_permutation: permutation must hold each of 0 ... N-1 = 2 once; {missing} is missing",
            )
            for wrong, missing in [([2, 0, 0], 1), ([3, 0, 1], 2), ([-1, 0, 1], 2)]
        ),
        (
            lambda: invert_permutation([0.0, 1.0]),
            DTypeError,
            "invert_permutation: permutation must be integers; got dtype float64",
        ),
        (
            lambda: invert_permutation([[0, 1]]),
            ShapeError,
            "invert_permutation: permutation must have shape (N,); got (1, 2)",
        ),
        (
            lambda: PackedSequence(1.0, [1]),
            ShapeError,
            "PackedSequence: data must have shape (sum of lengths, ...); got ()",
        ),
        (
            lambda: PackedSequence(["a"], [1]),
            DTypeError,
            "PackedSequence: data must hold numbers; got dtype <U1",
        ),
        (
            lambda: PackedSequence([], []),
            ShapeError,
            "PackedSequence: batch_sizes must have shape (T,) with T >= 1; got (0,)",
        ),
        (
            lambda: PackedSequence([1], [[1]]),
            ShapeError,
            "PackedSequence: batch_sizes must have shape (T,); got (1, 1)",
        ),
        (
            lambda: PackedSequence([1], [1.0]),
            DTypeError,
            "PackedSequence: batch_sizes must be integers; got dtype float64",
        ),
        (
            lambda: PackedSequence([1, 2], [2, 0]),
            OptionError,
            "PackedSequence: batch_sizes must be at least 1; got batch_sizes[1] = 0",
        ),
        (
            lambda: PackedSequence([1, 2, 3], [1, 2]),
            OptionError,
            "PackedSequence: batch_sizes must be nonincreasing: a sequence that has ended does not come back; "
            "got batch_sizes[1] = 2 after 1",
        ),
        (
            lambda: PackedSequence(np.ones((4, 2)), [2, 1]),
            ShapeError,
            "PackedSequence: data must have shape (sum of batch_sizes, ...) = (3, ...); got (4, 2)",
        ),
        (
            lambda: PackedSequence([], [2**62] * 4),
            ShapeError,
            f"PackedSequence: data must have shape (sum of batch_sizes, ...) = ({2**64}, ...); got (0,)",
        ),
        (
            lambda: PackedSequence([1, 2, 3], [2, 1], [0, 1, 2]),
            ShapeError,
            "PackedSequence: sorted_indices must have shape (N,) = (batch_sizes[0],) = (2,); got (3,)",
        ),
        (
            lambda: PackedSequence([1, 2, 3], [2, 1], None, [1, 1]),
            OptionError,
            "PackedSequence: unsorted_indices must hold each of 0 ... N-1 = 1 once; 0 is missing",
        ),
        (
            lambda: PackedSequence([1, 2, 3], [3], [2, 0, 1], [2, 0, 1]),
            OptionError,
            "PackedSequence: unsorted_indices must be the inverse permutation of sorted_indices; leave one out",
        ),
        (
            lambda: INTS._replace(data=np.ones(9)),
            ShapeError,
            "PackedSequence: data must have shape (sum of batch_sizes, ...) = (3, ...); got (9,)",
        ),
        (
            lambda: INTS.with_data(np.ones((2, 3))),
            ShapeError,
            "PackedSequence: data must have shape (sum of batch_sizes, ...) = (3, ...); got (2, 3)",
        ),
        *(
            (
                lambda shape=shape, first=first: INTS.pack(np.ones(shape), first),
                ShapeError,
                f"PackedSequence.pack: padded must have shape {symbols} with N = 2 and T at least 2; got {shape}",
            )
            for shape, first, symbols in [
                ((1, 2, 3), False, "(T, N, ...)"),
                ((2, 3), False, "(T, N, ...)"),
                ((2,), False, "(T, N, ...)"),
                ((3, 2), True, "(N, T, ...)"),
                ((2, 1), True, "(N, T, ...)"),
            ]
        ),
        (
            lambda: INTS.pack(np.ones((2, 2)), 1),
            DTypeError,
            "PackedSequence.pack: batch_first must be True or False; got int 1",
        ),
        (lambda: INTS.astype("real"), DTypeError, "PackedSequence.astype: not a dtype: 'real'"),
        (
            lambda: np.asarray(INTS),
            DTypeError,
            "a PackedSequence is not an array; take its .data, or .padded()",
        ),
        (
            lambda: pack_padded_sequence(INTS, [1]),
            ShapeError,
            "pack_padded_sequence: input must be an array; got PackedSequence: "
            "a PackedSequence is not an array; take its .data, or .padded()",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, RNNNumpyError)
    assert str(caught.value) == message
