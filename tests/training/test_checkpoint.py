"""Checkpoint files: what goes in comes out, damage and strangers are refused in one line, a failure leaves the old."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trainings
from messages import assert_raises
from processes import ended
from trainings import NAMES, digest, go, made, outcome

import rnn_numpy
from rnn_numpy import GRU, SequenceModel
from rnn_numpy.errors import DataError, DTypeError, RNNNumpyError, StateDictError
from rnn_numpy.training import SGD, Adam, Batches, Best, Patience, fit, load_checkpoint, save_checkpoint, train

FIRST = "rnn_numpy_checkpoint.json"


class Bare:
    """In place of a training: what has a state."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state


def refusal(path):
    """Return the one line with which a file is refused, without its path."""
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"load_checkpoint: {path}: "), text
    return text.removeprefix(f"load_checkpoint: {path}: ")


# ------------------------------------------------------------------------------------------------ there and back

ODD = {
    "numbers": [0, -1, 2**200, True, False, None, 0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3],
    "not finite": [float("nan"), float("inf"), -float("inf")],
    "text": ["", "é\ud800\U0001f600\0\n", "array"],
    "array": {"array": "training/x", "tuple": [], "dict": {}, "float": "nan"},
    "nested": ([(), {}, []], ((1,), [2], {"": ({},)})),
    "a/b\\..\0": {"ü" * 300: np.arange(3), "ü" * 301: np.arange(4)},
}


def test_plain_values_come_back_as_they_are(tmp_path):
    save_checkpoint(tmp_path / "a.npz", Bare(), **ODD)
    assert digest(load_checkpoint(tmp_path / "a.npz").extra) == digest(ODD)
    scalars = {"a": np.float32(0.1), "b": np.int64(3), "c": np.bool_(True), "d": np.str_("x")}
    save_checkpoint(tmp_path / "a.npz", Bare(), **scalars)
    plain = {"a": float(np.float32(0.1)), "b": 3, "c": True, "d": "x"}
    assert digest(load_checkpoint(tmp_path / "a.npz").extra) == digest(plain)


def test_a_name_of_an_argument_may_be_a_name_of_what_is_saved(tmp_path):
    save_checkpoint(tmp_path / "a.npz", Bare(), path="here", training=[1])
    assert load_checkpoint(tmp_path / "a.npz").extra == {"path": "here", "training": [1]}


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u8", "i8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_arrays_come_back_to_the_bit(tmp_path, dtype, shape):
    bits = np.random.default_rng(0).bytes(np.dtype(dtype).itemsize * int(np.prod(shape)))
    array = np.frombuffer(bits, "u1").view(dtype).reshape(shape) if dtype != "?" else np.ones(shape, bool)
    versions = [array, array.T, array[..., ::-1] if shape else array, array.astype(array.dtype.newbyteorder(">"))]
    save_checkpoint(tmp_path / "a.npz", Bare(arrays=versions))
    for found, given in zip(load_checkpoint(tmp_path / "a.npz").training["arrays"], versions, strict=True):
        native = given.astype(given.dtype.newbyteorder("="))
        assert found.dtype == native.dtype and found.shape == given.shape
        assert found.tobytes() == native.tobytes() and found.flags.writeable


@pytest.mark.parametrize("name", NAMES)
def test_a_training_comes_back_in_all_its_parts(tmp_path, name):
    training = made(name)
    go(training, 7)
    before = digest(training.state_dict())
    save_checkpoint(tmp_path / "a.npz", training)
    assert digest(training.state_dict()) == before
    assert digest(load_checkpoint(tmp_path / "a.npz").training) == before


def test_numpy_reads_the_arrays(tmp_path):
    training = made("rows-float32")
    save_checkpoint(tmp_path / "a.npz", training)
    with np.load(tmp_path / "a.npz") as arrays:
        found = arrays["training/parameters/rnn.weight_hh_l1"]
    assert np.array_equal(found, training.model.params["rnn.weight_hh_l1"])


def test_equal_trainings_make_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_checkpoint(tmp_path / name, made("rows-float32"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_versions_are_noted_without_a_warning(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save_checkpoint(path, Bare())
    checkpoint = load_checkpoint(path)
    assert checkpoint.notes == () and checkpoint.versions["rnn_numpy"] == rnn_numpy.__version__
    assert set(checkpoint.versions) == {"rnn_numpy", "numpy", "python", "blas", "processor"}
    monkeypatch.setattr(rnn_numpy, "__version__", "99.1")
    assert load_checkpoint(path).notes == (f"rnn_numpy was {checkpoint.versions['rnn_numpy']}, is 99.1",)


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "a.npz"
    save_checkpoint(path, Bare(), note="old")
    itself = []
    itself.append(itself)
    for value, message in [
        ({"b": [1, object()]}, "a.b.1 must be a dict, list, tuple, number, str, bool, None or array; got object"),
        ({1, 2}, "a must be a dict, list, tuple, number, str, bool, None or array; got set"),
        (1j, "a must be a dict, list, tuple, number, str, bool, None or array; got complex"),
        (b"x", "a must be a dict, list, tuple, number, str, bool, None or array; got bytes"),
        ({"b": {3: 4}}, "a.b must have keys that are str; got int 3"),
        (np.array([None]), "a must hold plain numbers or booleans; got dtype object"),
        (np.array(["x"]), "a must hold plain numbers or booleans; got dtype <U1"),
        (np.ma.array([1.0]), "a must hold plain numbers or booleans; got dtype float64"),
        (itself, "a.0... is nested deeper than 100, or holds itself"),
    ]:
        expected = f"save_checkpoint: extra.{message}"
        assert_raises(DTypeError, expected, lambda value=value: save_checkpoint(path, Bare(), a=value))
    message = "Training.state_dict: batches must have state_dict, as Batches, Windows and Draws have; generator has not"
    model = SequenceModel(GRU(1, 2, rng=0), 1, rng=0)
    training = train(model, (None for _ in "ab"), SGD(model.params, lr=0.1))
    assert_raises(DTypeError, message, lambda: save_checkpoint(path, training))
    assert load_checkpoint(path).extra == {"note": "old"} and os.listdir(tmp_path) == ["a.npz"]
    message = "save_checkpoint: path must end in .npz; got 'a.ckpt'"
    assert_raises(DataError, message, lambda: save_checkpoint("a.ckpt", Bare()))
    assert_raises(DataError, message.replace("save", "load"), lambda: load_checkpoint("a.ckpt"))


# --------------------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a checkpoint, and a path to write others to."""
    path = tmp_path_factory.mktemp("small") / "a.npz"
    save_checkpoint(path, Bare(x=np.arange(3.0), y=0.5), note="n")
    return path.read_bytes(), path


def test_a_file_that_was_cut_off_anywhere_is_refused(small):
    data, path = small
    said = set()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        said.add(refusal(path))
    assert said == {
        "is empty",
        "is not a checkpoint of rnn_numpy, or only the beginning of one",
        "is damaged: it was cut off or changed, its SHA-256 is another one",
    }


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_file_with_any_byte_altered_is_refused(small, flip):
    data, path = small
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        refusal(path)
    path.write_bytes(data)
    assert load_checkpoint(path).extra == {"note": "n"}


def test_bytes_in_front_behind_and_in_between_are_refused(small):
    data, path = small
    for changed in (b"\0" + data, data + b"\0", data + data, data[:500] + b"\0" + data[500:], data[:500] + data[501:]):
        path.write_bytes(changed)
        refusal(path)


def test_strangers_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    stranger = "is not a checkpoint of rnn_numpy, or only the beginning of one"
    assert refusal(path) == "cannot be read: No such file or directory"
    for content in (b"x", b"some text\n" * 100, pickle.dumps({"training": 1}), b"PK\x05\x06" + bytes(18), bytes(5000)):
        path.write_bytes(content)
        assert refusal(path) == stranger
    np.savez(path, a=np.zeros(3))
    assert refusal(path) == stranger
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x" * 200)
        archive.writestr(FIRST, "{}")
    assert refusal(path) == stranger
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FIRST, "{}")
    assert refusal(path) == "is damaged: it was cut off or changed, its SHA-256 is another one"
    path.unlink()
    path.mkdir()
    assert refusal(path) == "cannot be read: Is a directory"
    assert_raises(
        DataError,
        "load_checkpoint: a\0.npz: cannot be read: embedded null byte",
        lambda: load_checkpoint("a\0.npz"),
    )


def forged(state, members=()):
    """Return a file with a good digest and anything inside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(FIRST), state if isinstance(state, str) else json.dumps(state))
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    content = buffer.getvalue()[:-64]
    return content + hashlib.sha256(content).hexdigest().encode()


WHOLE = {"format": "", "version": 1, "versions": {}, "training": {"dict": {}}, "extra": {"dict": {}}}


def test_a_newer_format_is_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(forged({"version": 2, "versions": {"rnn_numpy": "7.0"}}))
    assert refusal(path) == (
        "has format 2, this rnn_numpy reads up to 1; it was saved by rnn_numpy 7.0: update to that"
    )


def test_what_somebody_else_wrote_is_refused_whatever_it_is(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(forged(WHOLE))
    assert load_checkpoint(path).training == {}
    deep = '{"version": 1, "versions": {}, "extra": {"dict": {}}, "training": ' + '{"tuple": [' * 99999 + "]}" * 99999
    for state in (
        "", "[]", "3", "{}", "{", "null", deep + "}",
        WHOLE | {"version": 0}, WHOLE | {"version": True}, WHOLE | {"version": "1"}, WHOLE | {"versions": None},
        {"version": 1}, {"version": 2}, WHOLE | {"training": {"array": "a"}}, WHOLE | {"training": {"array": 3}},
        WHOLE | {"training": {"bad": 1}}, WHOLE | {"training": {}}, WHOLE | {"training": {"dict": 1}},
        WHOLE | {"training": {"float": "x"}}, WHOLE | {"training": {"dict": {}, "tuple": []}},
    ):  # fmt: skip
        path.write_bytes(forged(state))
        refusal(path)
    used = WHOLE | {"training": {"array": "a"}}
    objects = io.BytesIO()
    np.save(objects, np.array([print], object))
    for content in (b"", b"\x93NUMPY", objects.getvalue(), b"\x93NUMPY\x01\x00\x02\x00{}"):
        path.write_bytes(forged(used, [("a.npy", content)]))
        refusal(path)


# ------------------------------------------------------------------------------------------- failing to write


@contextlib.contextmanager
def stays(path):
    """What happens within must fail with one line, and leave the checkpoint that is there, and nothing else."""
    before, names = path.read_bytes(), sorted(os.listdir(path.parent))
    with pytest.raises(DataError) as caught:
        yield caught
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"save_checkpoint: {path}: cannot be written: "), text
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == names
    assert load_checkpoint(path).extra == {"note": "old"}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_system_that_refuses_leaves_the_old_checkpoint(tmp_path, monkeypatch, call, number):
    path = tmp_path / "a.npz"
    training = made("rows-float32")
    save_checkpoint(path, training, note="old")

    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    with stays(path) as caught, monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        save_checkpoint(path, training)
    assert str(caught.value).endswith(f": {os.strerror(number)}")


def test_a_folder_that_is_none_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, said in (("file/a.npz", "Not a directory"), ("nowhere/a.npz", "No such file or directory")):
        message = f"save_checkpoint: {tmp_path / path}: cannot be written: {said}"
        assert_raises(DataError, message, lambda path=path: save_checkpoint(tmp_path / path, Bare()))


FULL = """
import resource, sys
import trainings
from rnn_numpy.errors import DataError
from rnn_numpy.training import save_checkpoint

training = trainings.made("rows-float32")
for room in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        save_checkpoint(sys.argv[1], training)
    except DataError as error:
        print(error)
"""


def test_a_disk_that_gets_full_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.npz"
    save_checkpoint(path, made("rows-float32"), note="old")
    before = path.read_bytes()
    rooms = [0, 1, 4096, len(before) - 100]
    support = Path(trainings.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(support.parents[1]), str(support), *sys.path])}
    command = [sys.executable, "-W", "error", "-c", FULL, str(path), *map(str, rooms)]
    done = ended(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = f"save_checkpoint: {path}: cannot be written: {os.strerror(errno.EFBIG)}\n"
    assert done.stdout == line * len(rooms)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]


# --------------------------------------------------------------------------------------- what does not belong


def built(
    hidden=4, samples=11, dtype=np.float64, layer=GRU, optimizer=Adam, bits=np.random.PCG64, shift=0.0, **options
):
    rng = np.random.default_rng(9)
    x, classes = rng.normal(size=(6, samples, 2)).astype(dtype) + dtype(shift), rng.integers(3, size=samples)
    model = SequenceModel(layer(2, hidden, dtype=dtype, rng=0), 3, loss="cross_entropy", rng=1)
    batches = Batches(x, classes, batch_size=3, axis=(1, 0), rng=np.random.Generator(bits(2)))
    return train(model, batches, optimizer(model.params, lr=0.1), **options)


def mean(t):
    return 0.1


OTHERS = {
    "hidden": (built(hidden=5), "parameter rnn.weight_ih_l0 is float64 (15, 2) here, float64 (12, 2) in the state"),
    "dtype": (
        built(dtype=np.float32),
        "parameter rnn.weight_ih_l0 is float32 (12, 2) here, float64 (12, 2) in the state",
    ),
    "layers": (
        train(
            model := SequenceModel(GRU(2, 4, 2, rng=0), 3, loss="cross_entropy", rng=1),
            [()],
            Adam(model.params),
        ),
        "parameter rnn.weight_ih_l1 is float64 (12, 4) here, not there in the state",
    ),
    "optimizer": (built(optimizer=SGD), "optimizer is 'SGD' here, 'Adam' in the state"),
    "accumulate": (built(accumulate=2), "accumulate is 2 here, 1 in the state"),
    "schedule": (built(schedule=mean), "schedule is 'a function' here, 'None' in the state"),
    "clip": (built(clip=0.5), "clip is '0.5' here, 'None' in the state"),
    "data": (built(shift=1e-3), "the data are not those of the state, though there are as many"),
    "samples": (built(samples=12), "samples is 12 here, 11 in the state"),
    "bits": (built(bits=np.random.MT19937), "the generator rng is a MT19937 here, a PCG64 in the state"),
    "generators": (
        built(generators={"more": np.random.default_rng(0)}),
        "generators: state must have generators.more; it has model.rnn, batches.rng",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_does_not_belong_is_refused_by_its_first_difference_and_changes_nothing(other):
    training = built()
    next(training)
    state = training.state_dict()
    different, message = OTHERS[other]
    before = digest(different.state_dict())
    with pytest.raises(StateDictError) as caught:
        different.load_state_dict(state)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert digest(different.state_dict()) == before


def test_generators_that_were_one_must_be_one():
    shared, apart = made("text-float64"), made("text-float64")
    assert shared.generators["model.rnn"] is shared.generators["batches.rng"]
    apart.batches.rng = np.random.Generator(np.random.Philox(1))
    message = "the generator batches.rng is {} here, {} in the state"
    for training, other, words in (
        (apart, shared, ("one of its own", "that of model.rnn")),
        (shared, apart, ("that of model.rnn", "one of its own")),
    ):
        before = digest(training.state_dict())
        with pytest.raises(StateDictError) as caught:
            training.load_state_dict(other.state_dict())
        assert str(caught.value) == "Training.load_state_dict: " + message.format(*words)
        assert digest(training.state_dict()) == before


def parts_of(state, path=()):
    """Yield the paths of all entries of a nested state."""
    for key, value in state.items() if isinstance(state, dict) else ():
        yield (*path, key)
        yield from parts_of(value, (*path, key))


def changed(state, path, value):
    """Return a state with another value at a path; without the entry for `missing`."""
    first, *rest = path
    if rest:
        return state | {first: changed(state[first], rest, value)}
    return {key: part for key, part in state.items() if key != first} if value is missing else state | {first: value}


missing = object()


@pytest.mark.parametrize("name", ["text-float32", "accumulate-float64"])
def test_no_state_that_is_not_whole_gets_in(name):
    training = made(name)
    go(training, 7)
    state = training.state_dict()
    fresh = made(name, seed=3)
    before = digest(fresh.state_dict())
    tried = 0
    for path in [*parts_of(state)]:
        for value in (missing, object(), "x", [3]):
            with contextlib.suppress(RNNNumpyError):
                fresh.load_state_dict(changed(state, path, value))
                pytest.fail(f"{path}: {value!r} was taken")
            assert digest(fresh.state_dict()) == before, path
            tried += 1
    assert tried > 150
    fresh.load_state_dict(state)
    assert digest(fresh.state_dict()) == digest(state)


@pytest.mark.parametrize("name", ["rows-float64", "text-float64", "accumulate-float64", "drawn-float64"])
def test_each_part_of_a_state_matters(name):
    """What is taken from a fresh training in place of the saved one changes what comes out."""
    training = made(name)
    go(training, 10)
    state, fresh = training.state_dict(), made(name, seed=3).state_dict()
    go(training, 6)
    expected = outcome(training)
    matters = {"parameters", "optimizer", "generators", "number", "history"}
    further = {
        "text": {"batches", "carried"},
        "accumulate": {"batches", "sum"},
        "rows": {"batches"},
        "drawn": {"schedule"},
    }
    matters |= further.get(name.split("-")[0], set())
    for part in matters:
        other = made(name, seed=5)
        other.load_state_dict(state | {part: fresh[part]})
        go(other, 6)
        assert outcome(other) != expected, part
    other = made(name, seed=5)
    other.load_state_dict(state)
    go(other, 6)
    assert outcome(other) == expected


# ---------------------------------------------------------------------------------------------------------- fit


def test_fit_saves_and_goes_on_with_patience_and_best(tmp_path):
    path = tmp_path / "a.npz"

    def start(seed):
        training = built(optimizer=Adam)
        training.model.params.flat += seed
        return training, Patience(3), Best(training.model.params)

    def go_on(parts, updates, **options):
        training, patience, best = parts
        values = [5.0, 4.0, 4.5, 3.0, 3.5, 3.5, 2.0, 1.0]
        fit(
            training, updates, validate=lambda: values[training.number // 2 - 1], every=2,
            patience=patience, best=best, **options,
        )  # fmt: skip
        return parts

    straight = go_on(start(0), 16)
    go_on(start(0), 7, save=path, save_every=3)
    checkpoint = load_checkpoint(path)
    later = start(1)
    for part, state in zip(later, (checkpoint.training, *checkpoint.extra.values()), strict=True):
        part.load_state_dict(state)
    assert later[0].number == 7 and later[1].waited == 1 and later[2].best == 4.0
    go_on(later, 16, save=path)
    for part, other in zip(later, straight, strict=True):
        found, expected = part.state_dict(), other.state_dict()
        for state in (found, expected):
            state.get("history", {}).pop("seconds", None)
        assert digest(found) == digest(expected)
    assert load_checkpoint(path).training["number"] == 16


def test_fit_saves_when_it_is_told_to(tmp_path, monkeypatch):
    import rnn_numpy.training.loop as loop

    saved = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, training, **extra: saved.append(training.number))
    fit(built(), 7, save="a.npz", save_every=3)
    assert saved == [3, 6, 7]
    saved.clear()
    fit(built(), 6, save="a.npz", validate=lambda: 0.0, every=2)
    assert saved == [2, 4, 6]
    saved.clear()
    fit(built(), 5, save="a.npz")
    fit(built(), 5, validate=lambda: 0.0, every=2)
    assert saved == [5]
