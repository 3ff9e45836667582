"""Files of weights: every bit comes back, damage is found, a failed write leaves the old file, nothing is pickled."""

import io
import os
import stat
import struct
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from processes import ended

import rnn_numpy.core.storage as storage
from rnn_numpy import RNN, Linear
from rnn_numpy.errors import DataError, DTypeError, MissingExtraError, ShapeError, StateDictError
from rnn_numpy.interop import load_npz, load_safetensors, save_npz, save_safetensors

FORMATS = {"npz": (save_npz, load_npz), "safetensors": (save_safetensors, load_safetensors)}
every_format = pytest.mark.parametrize("suffix", FORMATS)

REAL_DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8"]


def same_bits(found, expected):
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == np.ascontiguousarray(expected).tobytes()
    )


def numbers(dtype, shape=(3, 2), seed=0):
    """Return arbitrary bits as an array: NaN with any payload, infinities, negative zeros among them."""
    if np.dtype(dtype).kind == "b":
        return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


# ------------------------------------------------------------------------------------------------ there and back


@every_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_comes_back_bit_for_bit(tmp_path, suffix, dtype, bidirectional):
    save, load = FORMATS[suffix]
    rnn = RNN(2, 3, 2, bidirectional=bidirectional, dtype=dtype, rng=0)
    save(tmp_path / f"rnn.{suffix}", rnn)
    loaded = load(str(tmp_path / f"rnn.{suffix}"))
    assert set(loaded) == set(rnn.params)
    assert all(same_bits(loaded[name], array) for name, array in rnn.params.items())
    twin = RNN(2, 3, 2, bidirectional=bidirectional, dtype=dtype, rng=1)
    twin.load_state_dict(loaded)
    assert twin.params.flat.tobytes() == rnn.params.flat.tobytes()
    x = np.random.default_rng(2).normal(size=(4, 1, 2)).astype(dtype)
    assert twin(x)[0].tobytes() == rnn(x)[0].tobytes()


@every_format
@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 3, 2)])
def test_every_dtype_and_shape(tmp_path, suffix, dtype, shape):
    save, load = FORMATS[suffix]
    array = numbers(dtype, shape)
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": array})
    found = load(path)["a"]
    assert same_bits(found, array)
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["c16", np.longdouble])
def test_npz_has_dtypes_that_safetensors_lacks(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype) / 7
    save_npz(tmp_path / "a.npz", {"a": array})
    found = load_npz(tmp_path / "a.npz")["a"]
    assert found.dtype == array.dtype
    assert (found == array).all()
    with pytest.raises(DTypeError, match="save_safetensors: a has dtype .*, for which the format has no place; use"):
        save_safetensors(tmp_path / "a.safetensors", {"a": array})
    assert os.listdir(tmp_path) == ["a.npz"]


@every_format
@pytest.mark.parametrize(
    "layout",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a.T,
        lambda a: a[::-1, ::2],
        lambda a: np.broadcast_to(a[0], a.shape),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: a.astype(a.dtype.newbyteorder("<")).T,
    ],
    ids=["fortran", "transposed", "strided", "broadcast", "big-endian", "little-endian"],
)
def test_every_memory_layout(tmp_path, suffix, layout):
    save, load = FORMATS[suffix]
    array = layout(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": array})
    found = load(path)["a"]
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert found.shape == array.shape
    assert (found == array).all()


def test_npz_files_of_others(tmp_path):
    """What numpy.savez and savez_compressed write, big-endian and by columns as well."""
    arrays = {
        "big": np.arange(6, dtype=">f8").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "folder/name": np.ones(2),
        "scalar": np.array(3.5),
    }
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays)
        found = load_npz(tmp_path / "a.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype.newbyteorder("=")
            assert found[name].shape == array.shape
            assert (found[name] == array).all()
            assert found[name].dtype.isnative


def test_numpy_reads_our_npz(tmp_path):
    linear = Linear(3, 2, rng=0)
    save_npz(tmp_path / "a.npz", linear.params)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert loaded.files == ["weight", "bias"]
        assert all(same_bits(loaded[name], array) for name, array in linear.params.items())


def test_others_read_our_safetensors_and_we_theirs(tmp_path):
    linear = Linear(3, 2, rng=0)
    save_safetensors(tmp_path / "a.safetensors", linear)
    theirs = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert all(same_bits(theirs[name], array) for name, array in linear.params.items())
    safetensors.numpy.save_file(linear.state_dict(), tmp_path / "b.safetensors", metadata={"format": "np"})
    loaded = load_safetensors(tmp_path / "b.safetensors")
    assert all(same_bits(loaded[name], array) for name, array in linear.params.items())


@every_format
def test_names(tmp_path, suffix):
    save, load = FORMATS[suffix]
    # Those of numpy.savez's own parameters among them.
    names = ["file", "allow_pickle", "rnn.weight_ih_l0", "ÿ α", "..", " ", "x.npy", "x"]
    save(tmp_path / f"a.{suffix}", {name: np.full(2, i) for i, name in enumerate(names)})
    loaded = load(tmp_path / f"a.{suffix}")
    assert set(loaded) == set(names)
    assert all(loaded[name][0] == i for i, name in enumerate(names))
    assert suffix == "safetensors" or list(loaded) == names


@every_format
def test_equal_arrays_make_equal_files(tmp_path, suffix):
    save, _ = FORMATS[suffix]
    for name in ("a", "b"):
        save(tmp_path / f"{name}.{suffix}", RNN(2, 3, rng=0))
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


# ------------------------------------------------------------------------------------------------ what is refused


@every_format
@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (3, DTypeError, "save_X: arrays must be a layer or a mapping of names to arrays; got int"),
        ({}, StateDictError, "save_X: arrays must hold at least one array; got an empty mapping"),
        ({1: np.ones(2)}, StateDictError, "save_X: names must be str; got int 1"),
        ({"": np.ones(2)}, StateDictError, "save_X: a name must be printable, not empty, .*; got ''"),
        ({"a/b": np.ones(2)}, StateDictError, "save_X: a name must be .* without slashes, .*; got 'a/b'"),
        ({"a\\b": np.ones(2)}, StateDictError, "save_X: a name must be"),
        ({"a\0": np.ones(2)}, StateDictError, "save_X: a name must be"),
        ({"a\ud800": np.ones(2)}, StateDictError, "save_X: a name must be"),
        ({"a": np.array([None])}, DTypeError, "save_X: a must hold numbers or booleans; got dtype object"),
        ({"a": "text"}, DTypeError, "save_X: a must hold numbers or booleans; got dtype <U4"),
        ({"a": np.zeros(2, "M8[s]")}, DTypeError, "save_X: a must hold numbers or booleans; got dtype datetime64"),
        ({"a": np.zeros(2, [("f", "f8")])}, DTypeError, "save_X: a must hold numbers or booleans; got dtype"),
        ({"a": [[1.0], [1.0, 2.0]]}, ShapeError, "save_X: a must be an array; got list"),
        ({"a": np.ma.masked_array([1.0], [True])}, DTypeError, "save_X: a must not be a masked array"),
    ],
)
def test_what_cannot_be_stored(tmp_path, suffix, arrays, error, message):
    save, _ = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error, match=message.replace("save_X", save.__name__)):
        save(path, arrays)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_half_precision_type_that_numpy_would_store_as_raw_bytes(tmp_path):
    import ml_dtypes

    array = np.ones(2, ml_dtypes.bfloat16)
    for suffix, (save, _) in FORMATS.items():
        with pytest.raises(DTypeError, match=f"{save.__name__}: a must hold numbers or booleans; got dtype bfloat16"):
            save(tmp_path / f"a.{suffix}", {"a": array})


def test_a_reserved_name(tmp_path):
    with pytest.raises(StateDictError, match="save_safetensors: the format keeps the name '__metadata__' to itself"):
        save_safetensors(tmp_path / "a.safetensors", {"__metadata__": np.ones(2)})


@every_format
def test_paths(tmp_path, suffix):
    save, load = FORMATS[suffix]
    arrays = {"a": np.ones(2)}
    for wrong in ("a", "a.npy", f"a.{suffix}.bak", f"a{suffix}", f".{suffix}"):
        for call in (lambda p: save(p, arrays), load):
            with pytest.raises(DataError, match=f"path must end in .{suffix}; got '.*{wrong}'"):
                call(str(tmp_path / wrong))
    for call in (lambda p: save(p, arrays), load):
        with pytest.raises(DTypeError, match="path, the first argument, must be a str or a path; got int"):
            call(3)
        with pytest.raises(DataError, match="cannot be (read|written)"):
            call(f"{tmp_path}/nul\0.{suffix}")
    with pytest.raises(DataError, match=f"{load.__name__}: .*none.{suffix}: cannot be read: No such file or directory"):
        load(tmp_path / f"none.{suffix}")
    with pytest.raises(DataError, match=f"{save.__name__}: .*: cannot be written: No such file or directory"):
        save(tmp_path / "no" / "folder" / f"a.{suffix}", arrays)
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load(tmp_path / f"folder.{suffix}")
    with pytest.raises(DataError, match="cannot be written: there is something there which is not a file"):
        save(tmp_path / f"folder.{suffix}", arrays)
    assert os.listdir(tmp_path) == [f"folder.{suffix}"]


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (
        lambda: save_safetensors(tmp_path / "a.safetensors", {"a": [1.0]}),
        lambda: load_safetensors("a.safetensors"),
    ):
        with pytest.raises(MissingExtraError, match=r'needs safetensors, .* pip install "rnn_numpy\[safetensors\]"'):
            call()


# ------------------------------------------------------------------------------------------------ damaged files


@every_format
def test_every_truncation_is_found(tmp_path, suffix):
    save, load = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": numbers("f4"), "b": numbers("f8", (2,))})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{load.__name__}: .*a.{suffix}"):
            load(path)


def test_every_changed_byte_of_an_npz_is_found_or_harmless(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"a": numbers("f4"), "b": numbers("f8", (2,))}
    save_npz(path, arrays)
    whole, found = path.read_bytes(), 0
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= flip
            path.write_bytes(changed)
            try:
                loaded = load_npz(path)
            except DataError as error:
                assert str(error).startswith(f"load_npz: {path}")
                found += 1
            else:  # a date, or a version that nobody reads
                assert set(loaded) == set(arrays)
                assert all(same_bits(loaded[name], array) for name, array in arrays.items())
    assert found > len(whole)


def test_every_changed_byte_of_a_safetensors_header_gives_a_dict_or_our_error(tmp_path):
    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"a": numbers("f4"), "b": numbers("f8", (2,))})
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    found = 0
    for place in range(header):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= flip
            path.write_bytes(changed)
            try:
                loaded = load_safetensors(path)
            except DataError as error:
                assert str(error).startswith(f"load_safetensors: {path}")
                found += 1
            else:
                assert all(array.dtype.kind in "biufc" for array in loaded.values())
    assert found > header


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def npy_with_header(header, content=b""):
    text = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.npy", npy(np.array([{"k": 1}, None]), allow_pickle=True))], "a: holds Python objects, which are pickled"),
        ([("a.npy", npy(np.array(["text"])))], "a: must hold numbers or booleans; got dtype <U4"),
        ([("a.npy", npy(np.zeros(2, "M8[s]")))], "a: must hold numbers or booleans; got dtype datetime64"),
        ([("a.npy", npy(np.zeros(2, [("f", "f8")])))], "a: must hold numbers or booleans"),
        ([("a.npy", npy(np.ones(2))), ("a.npy", npy(np.ones(3)))], "holds two arrays named 'a'"),
        ([("a.txt", b"text")], "holds 'a.txt', which is not an array of numpy.savez"),
        ([(".npy", npy(np.ones(2)))], "holds '.npy', which is not an array of numpy.savez"),
        ([("a.npy", b"")], "a: not an array as numpy.save writes"),
        ([("a.npy", b"text, not an array")], "a: not an array as numpy.save writes"),
        ([("a.npy", npy(np.ones(2))[:-1])], "a: shape \\(2,\\) of float64 takes 16 bytes; the file has 15"),
        ([("a.npy", npy(np.ones(2)) + b"!")], "a: shape \\(2,\\) of float64 takes 16 bytes; the file has 17"),
        (
            [
                (
                    "a.npy",
                    npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", b"8" * 8),
                )
            ],
            "a: shape \\(1000000000000,\\) of float64 takes 8000000000000 bytes; the file has 8",
        ),
        (
            [("a.npy", npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"8" * 8))],
            "a: shape \\(-1, -1\\) of float64 takes 8 bytes; the file has 8",
        ),
        (
            [("a.npy", npy_with_header("{'descr': 'nothing', 'fortran_order': False, 'shape': (1,)}"))],
            "a: not an array as numpy.save writes",
        ),
        ([("a.npy", npy_with_header("{'descr': '<f8', 'shape': (1,)}"))], "a: not an array as numpy.save writes"),
        ([("a.npy", npy_with_header("import os"))], "a: not an array as numpy.save writes"),
        ([("a.npy", b"\x93NUMPY\x09\x00" + bytes(20))], "a: not an array as numpy.save writes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_archives_that_hold_something_else(tmp_path, members, message):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    with pytest.raises(DataError, match=f"load_npz: .*a.npz: {message}"):
        load_npz(path)


@pytest.mark.parametrize("content", [b"", b"text", npy(np.ones(2)), b"PK\x03\x04" + bytes(40)])
def test_files_that_are_no_archive(tmp_path, content):
    for suffix, (_, load) in FORMATS.items():
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{load.__name__}: .*: not a whole .{suffix} file"):
            load(path)


def test_no_code_of_a_file_is_run(tmp_path):
    """A pickle that would make a folder: numpy.load runs it if it is told to, load_npz does not."""
    made = tmp_path / "made"

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(made),)

    np.savez(tmp_path / "a.npz", a=np.array([Harmful()]))
    with pytest.raises(DataError, match="pickles are not loaded, they can run code"):
        load_npz(tmp_path / "a.npz")
    assert not made.exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as loaded:
        loaded["a"]
    assert made.exists()


def safetensors_bytes(header, content):
    return struct.pack("<Q", len(header)) + header + content


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}',
            "holds an array of dtype BF16, which NumPy lacks; save",
        ),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "not a whole .safetensors file"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}', "not a whole .safetensors file"),
        (b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', "not a whole .safetensors file"),
        (b'{"a":1}', "not a whole .safetensors file"),
    ],
)
def test_safetensors_that_hold_something_else(tmp_path, header, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header, b"1234"))
    with pytest.raises(DataError, match=f"load_safetensors: .*a.safetensors: {message}"):
        load_safetensors(path)


def test_two_safetensors_of_one_name(tmp_path):
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(b"{" + entry % (0, 4) + b"," + entry % (4, 8) + b"}", b"12345678"))
    with pytest.raises(DataError, match="load_safetensors: .*a.safetensors: "):
        load_safetensors(path)


# ------------------------------------------------------------------------------------------------ writing


def break_writing(monkeypatch, point):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, point, refuse)


@every_format
@pytest.mark.parametrize("point", ["open", "fsync", "chmod", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, suffix, monkeypatch, point):
    save, _ = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": np.ones(2)})
    before = path.read_bytes()
    with monkeypatch.context() as broken:
        break_writing(broken, point)
        with pytest.raises(
            DataError, match=f"{save.__name__}: .*a.{suffix}: cannot be written: No space left on device"
        ):
            save(path, {"a": np.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@every_format
def test_an_interrupted_write_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    save, _ = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": np.ones(2)})
    before = path.read_bytes()

    def interrupt(descriptor):
        assert len(os.listdir(tmp_path)) == 2, "the new file is beside the old one"
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(path, {"a": np.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@every_format
def test_the_new_file_is_on_the_disk_before_it_takes_the_name(tmp_path, suffix, monkeypatch):
    save, _ = FORMATS[suffix]
    path, order = tmp_path / f"a.{suffix}", []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        # The folder has no size of its own to look at; the file is complete when it is synced.
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def recorded_replace(source, target):
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(storage.os, "fsync", recorded_fsync)
    monkeypatch.setattr(storage.os, "replace", recorded_replace)
    save(path, {"a": np.ones(2)})
    assert order == [path.stat().st_size, "replace", "folder"]


@every_format
def test_a_system_that_cannot_sync_folders(tmp_path, suffix, monkeypatch):
    save, load = FORMATS[suffix]
    opened = os.open

    def refuse_folders(path, *arguments):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(storage.os, "open", refuse_folders)
    save(tmp_path / f"a.{suffix}", {"a": np.ones(2)})
    assert load(tmp_path / f"a.{suffix}")["a"].tolist() == [1.0, 1.0]


@every_format
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions(tmp_path, suffix, mode):
    save, _ = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    before = os.umask(0o027)
    try:
        save(path, {"a": np.ones(2)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, "a new file is made as open() makes it"
        path.chmod(mode)
        save(path, {"a": np.zeros(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode, "an old one keeps what it had"


@every_format
def test_a_write_protected_file_stays(tmp_path, suffix, monkeypatch):
    save, _ = FORMATS[suffix]
    path = tmp_path / f"a.{suffix}"
    save(path, {"a": np.ones(2)})
    before = path.read_bytes()
    # As root, everything may be written; the system's answer for others is put in its place.
    monkeypatch.setattr(storage.os, "access", lambda target, mode: (os.fspath(target), mode) != (str(path), os.W_OK))
    with pytest.raises(DataError, match="cannot be written: the file there is write-protected"):
        save(path, {"a": np.zeros(2)})
    assert path.read_bytes() == before


@every_format
def test_a_link_stays_a_link(tmp_path, suffix):
    save, load = FORMATS[suffix]
    (tmp_path / "store").mkdir()
    link, real = tmp_path / f"latest.{suffix}", tmp_path / "store" / f"run1.{suffix}"
    save(real, {"a": np.ones(2)})
    link.symlink_to(real)
    save(link, {"a": np.zeros(2)})
    assert link.is_symlink()
    assert load(real)["a"].tolist() == [0.0, 0.0]
    assert os.listdir(tmp_path / "store") == [real.name]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    """The real thing, once: a process that dies in the middle of writing."""
    path = tmp_path / "a.npz"
    save_npz(path, {"a": np.ones(2)})
    before = path.read_bytes()
    code = f"""
import os
import rnn_numpy.core.storage as storage
storage.os.fsync = lambda descriptor: os._exit(9)
storage.save_npz({str(path)!r}, {{"a": [0.0, 0.0]}})
"""
    done = ended([sys.executable, "-c", code], limit=120)
    assert done.returncode == 9
    assert path.read_bytes() == before
    assert load_npz(path)["a"].tolist() == [1.0, 1.0]
