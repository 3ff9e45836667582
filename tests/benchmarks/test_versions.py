"""The programs that hold the package against version 0.2.0 work, and see what differs.

The tests have no repository to take 0.2.0 from: the working tree stands for it, or a copy in which something is wrong.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import configurations, house, same_as_0_2_0, versions
from benchmarks.cases import Case
from benchmarks.configurations import CELLS, KINDS, LAYERS, Configuration, derivatives, draw, results
from benchmarks.measure import Measurement
from benchmarks.same_as_0_2_0 import VALUES, Allowed, Difference
from benchmarks.worker import ROOT, WorkerError

DRAWN = [draw(number, 0) for number in range(300)]

PLANTED = """
def _changed(backward):
    def changed(self, *args, **kwargs):
        result = backward(self, *args, **kwargs)
        gradient = result.grads["weight_hh_l0"]
        if gradient.dtype == "float64":
            gradient.flat[0] += CHANGE * abs(gradient).max()
        return result
    return changed

def _raises(self, *args, **kwargs):
    raise RuntimeError("planted")

GRU.backward = _changed(GRU.backward)
PeepholeLSTM.forward = _raises
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree in which GRU has a gradient with a wrong entry, and PeepholeLSTM does not run."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "rnn_numpy", folder / "rnn_numpy", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "rnn_numpy" / "__init__.py").open("a") as file:
        file.write(PLANTED.replace("CHANGE", "1e-9"))
    return folder


# ---------------------------------------------------------------------------------------------------------- drawing


def test_what_is_drawn_follows_from_its_numbers() -> None:
    assert DRAWN[:30] == [draw(number, 0) for number in range(30)]
    assert all(one != draw(one.number, 1) for one in DRAWN)
    for one in DRAWN:
        assert Configuration.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_what_is_drawn_covers_all_options() -> None:
    kinds = Counter(one.kind for one in DRAWN)
    assert [kinds[kind] for kind in LAYERS] == [30] * 9
    assert [kinds[kind] for kind in CELLS] == [6] * 5
    assert set(kinds) == set(KINDS)
    for kind in LAYERS:
        own = [one for one in DRAWN if one.kind == kind]
        assert {one.dtype for one in own} == {"float32", "float64", "complex128"}
        assert {one.form for one in own} == {"padded", "packed", "unbatched"}
        assert {one.memory for one in own} == {"C", "F", "strided"}
        options = {name for one in own for name in one.options}
        expected = {"num_layers", "dropout", "bias", "batch_first", "bidirectional", "recurrent_dropout", "zoneout"}
        assert options >= expected
        for name in ("h_0", "doutput", "dh_n", "training"):
            assert {getattr(one, name) for one in own} == {False, True}
        lengths = [one.lengths for one in own if one.lengths is not None]
        assert {given == sorted(given, reverse=True) for given in lengths} == {False, True}
        assert max(one.size[3] for one in own) >= 256
        gates = KINDS[kind].gates
        widths = [np.dtype(one.dtype).itemsize * gates * one.size[0] * one.size[1] * one.size[3] for one in own]
        assert sum(width > configurations.BLOCK_BYTES for width in widths) >= 2
        assert min(one.size[0] for one in own) == min(one.size[1] for one in own) == 1


def test_a_description_says_what_is_special() -> None:
    one = Configuration(7, 0, "LSTM", (4, 2, 3, 5), "float64", {"bias": False}, [4, 1], "packed", False, scale=20.0)
    assert str(one) == ("7: LSTM, float64, T=4 N=2 D=3 H=5, bias=False, lengths [4, 1], packed, no h_0, x of scale 20")


def small(count: int) -> list[Configuration]:
    """Real configurations that take no time, of each kind."""
    own = [one for one in DRAWN if one.dtype != "complex128" and np.prod(one.size) < 3000]
    return [one for kind in KINDS for one in [one for one in own if one.kind == kind][:count]]


@pytest.mark.parametrize("one", small(3), ids=lambda one: f"{one.kind} {one.number}")
def test_gradients_are_the_complex_steps(one: Configuration) -> None:
    found = results(one)
    gradients = {
        name.removeprefix("backward/").removesuffix("/data"): array
        for name, array in found.items()
        if name.startswith("backward/") and array.dtype == one.dtype
    }
    assert len(gradients) >= 4 + (len(KINDS[one.kind].states) - 1) - 2 * (one.options.get("bias") is False)
    entries = {name: [0, array.size // 2, array.size - 1] for name, array in gradients.items()}
    exact = derivatives(one, entries)
    for name, array in gradients.items():
        largest = np.abs(array).max() or 1.0
        error = np.abs(array.reshape(-1)[entries[name]] - exact[name]).max() / largest
        assert error < (1e-3 if one.dtype == "float32" else 1e-11), name


def test_names_of_results() -> None:
    one = Configuration(0, 0, "LSTM", (3, 2, 2, 2), "float64", {"num_layers": 2, "dropout": 0.5, "zoneout": 0.1})
    found = results(one)
    assert {name.partition("/")[0] for name in found} == {
        "weights", "inference", "forward", "masks", "trace", "repeated", "backward", "traced backward", "added", "step",
        "halted", "steps", "jvp",
    }  # fmt: skip
    for name in (
        "forward/c_n",
        "masks/dropout/0",
        "masks/zoneout/l1/c",
        "trace/l1/f",
        "trace/l0/W_hh",
        "traced backward/l0/da_f",
        "backward/dc_0",
        "steps/grads/weight_hh_l1",
        "jvp/vc_n",
    ):
        assert name in found
    assert "trace/l0/dh" not in found
    assert np.isnan(found["halted/l0/dh"]).any()
    np.testing.assert_array_equal(found["steps/visited"][:, 2], [2, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(found["repeated/output"], found["forward/output"])


# --------------------------------------------------------------------------------------------------------- comparing


def bits(value: float) -> int:
    """The bits of a number as an integer: its place among the positive ones."""
    return int(np.array(value).view(np.uint64))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ([1.0, 4.0], [np.nextafter(1.0, 2.0), 4.0], (1, 1, 2**-54)),
        ([-1.0, 4.0], [np.nextafter(-1.0, 0.0), 4.0], (1, 1, 2**-55)),
        ([5e-324, 1.0], [-5e-324, 1.0], (1, 3, 1e-323)),
        ([0.0, 0.0], [0.0, -0.0], (1, 1, 0.0)),
        ([0.0, 0.0], [0.0, 1e-300], (1, bits(1e-300), np.inf)),
        ([1.0, np.nan], [2.0, np.nan], (1, 2**52, 1.0)),
        ([1.0, 2.0], [1.0, np.nan], (1, None, np.inf)),
        ([np.finfo(float).max, 1.0], [np.inf, 1.0], (1, 1, np.inf)),
        ([1e308, 1.0], [-1e308, 1.0], (1, 2 * bits(1e308) + 1, 2.0)),
        ([1 + 2j, 4 + 4j], [1 + 2j, 4 + np.nextafter(4, 5) * 1j], (1, 1, 2**-52)),
    ],
)
def test_sizes_of_differences(old: list[Any], new: list[Any], found: tuple[int, int | None, float]) -> None:
    entries, ulps, share = same_as_0_2_0.measured(np.array(old), np.array(new))
    assert entries == found[0]
    assert share == found[2]
    assert ulps == found[1]


def test_sizes_of_differences_in_single_precision_and_of_integers() -> None:
    old = np.array([1.0, 2.0], np.float32)
    assert same_as_0_2_0.measured(old, np.nextafter(old, np.float32(9))) == (2, 1, 2.0**-23)
    assert same_as_0_2_0.measured(np.array([1, 2]), np.array([1, 3])) == (1, None, np.inf)


def test_facts_tell_every_bit() -> None:
    one = DRAWN[0]
    zero, negative = ({"a": np.array([value, 1.0])} for value in (0.0, -0.0))
    assert same_as_0_2_0.differing(one, same_as_0_2_0.facts(zero), same_as_0_2_0.facts(negative)) == ([], ["a"])
    by_rows = {"a": np.arange(6.0).reshape(2, 3)}
    by_columns = {"a": np.asfortranarray(by_rows["a"])}
    assert same_as_0_2_0.differing(one, same_as_0_2_0.facts(by_rows), same_as_0_2_0.facts(by_columns)) == ([], [])


def test_facts_tell_what_is_there() -> None:
    one, array = DRAWN[0], np.ones((2, 3))
    old = {"gone": array, "dtype": array, "shape": array, "first": array, "second": array}
    new = {
        "second": array,
        "dtype": array.astype(np.float32),
        "shape": array.T,
        "first": array,
        "new": array,
    }
    found, changed = same_as_0_2_0.differing(one, *map(same_as_0_2_0.facts, (old, new)))
    assert changed == []
    assert [(difference.array, difference.what) for difference in found] == [
        ("gone", "only in 0.2.0"),
        ("new", "only in the working tree"),
        ("dtype", "order of arrays"),
        ("dtype", "dtype float32, not float64"),
        ("shape", "shape [3, 2], not [2, 3]"),
    ]


def test_what_is_allowed() -> None:
    allowed = Allowed("LSTM*", "*grads/bias_*", VALUES, 1e-15, "summed in another order")
    inside = Difference(0, "LSTM projected", "added/grads/bias_ih_l0", VALUES, 1, 4, 2, 1e-15)
    assert allowed.covers(inside)
    for change in ({"kind": "GRU"}, {"array": "backward/dx"}, {"share": 2e-15}, {"what": "only in 0.2.0"}):
        assert not allowed.covers(Difference(**{**vars(inside), **change}))
    gone = Allowed("*", "trace/*/a", "only in *", 0.0, "not kept any more")
    assert gone.covers(Difference(0, "GRU", "trace/l0/a", "only in 0.2.0"))


def test_what_dx_of_long_sequences_hides_nothing_else() -> None:
    """Of which arrays a difference of the last digit has a reason."""
    long = replace(draw(267, 0), lengths=None)
    assert long.blocks > 1
    assert not long.gaps
    assert long.options["num_layers"] == 2

    def meant(array: str, configuration: Any = long, share: float = 1e-7, dtype: str = "float32") -> bool:
        one = Difference(
            configuration.number, configuration.kind, array, VALUES, 1, 4, 2, share, dtype=dtype,
            long=configuration.blocks > 1, below=same_as_0_2_0._below(configuration, array),
            gaps=configuration.gaps,
        )  # fmt: skip
        return one.reason is not None

    for array in ("backward/dx", "added/dx/data", "traced backward/l0/da", "steps/grads/weight_ih_l0", "backward/dc_0"):
        assert meant(array)
        assert not meant(array, share=1e-5)
        assert not meant(array, dtype="float64")
        assert not meant(array, replace(long, size=(12, *long.size[1:]), lengths=None))
    single = replace(long, options=long.options | {"num_layers": 1})
    assert meant("backward/dx", single)
    for array in ("traced backward/l1/da", "steps/grads/weight_ih_l1", "traced backward/l1_reverse/dh"):
        assert not meant(array)
    for array in ("backward/grads/weight_ih_l0", "backward/dh_0", "traced backward/l0/da"):
        assert not meant(array, single)
    for array in ("output", "trace/l0/a", "forward/h_n", "weights/weight_ih_l0"):
        assert not meant(array)
    sequences, single = replace(single, lengths=[3] * single.size[1]), replace(single, size=(9, 1, 2, 3))
    for gaps in (sequences, single):
        assert meant("backward/grads/weight_hh_l0", gaps)
        assert not meant("backward/grads/weight_hh_l0", gaps, share=1e-5)
        assert not meant("backward/grads/bias_ih_l0", gaps)


def run_same(arguments: Sequence[str], path: Path) -> tuple[int, dict[str, Any]]:
    """Run the program with the working tree as 0.2.0; return the exit code and what it wrote."""
    code = same_as_0_2_0.main(["--old", str(ROOT), *arguments, "--json", str(path)])
    return code, json.loads(path.read_text())


def test_the_working_tree_is_the_same_as_itself(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    code, document = run_same(["--configurations", "20"], tmp_path / "same.json")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[-1] == "all equal, bit for bit"
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines if line.startswith("all ")] == ["all", "all"]
    assert document["differences"] == []
    assert len(document["configurations"]) == 20
    assert sum(total["configurations"] for total in document["totals"].values()) == 20
    assert sum(total["arrays"] for total in document["totals"].values()) > 2000
    assert {side["source"] for side in document["sides"].values()} == {str(ROOT)}


def test_a_planted_difference_is_told(planted, tmp_path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(versions, "ROOT", planted)
    numbers = [one.number for one in DRAWN[:40] if one.kind in ("GRU after", "PeepholeLSTM", "LSTM")]
    chosen = [str(number) for number in numbers]
    code, document = run_same(["--only", *chosen], tmp_path / "planted.json")
    printed = capsys.readouterr().out
    assert code == 1
    assert max(map(len, printed.splitlines())) <= 100
    own = [draw(number, 0) for number in numbers]
    double = [one.number for one in own if one.kind == "GRU after" and one.dtype == "float64"]
    assert double
    found = document["differences"]
    assert {one["number"] for one in found if one["what"] == VALUES} == set(double)
    assert {one["array"] for one in found if one["what"] == VALUES} == {
        "backward/grads/weight_hh_l0",
        "added/grads/weight_hh_l0",
    }
    for one in found:
        assert one["reason"] is None
        if one["what"] == VALUES:
            assert one["entries"] == 1
            assert one["ulps"] > 1
        if one["array"].startswith("backward/"):
            old, new = one["errors"]
            assert old < 1e-12
            assert new == pytest.approx(1e-9, rel=1e-3)
            assert one["share"] == pytest.approx(1e-9, rel=1e-3)
    raised = {one["number"] for one in found if one["what"] == "raised RuntimeError: planted"}
    assert raised == {one.number for one in own if one.kind == "PeepholeLSTM"}
    assert f"NOT the same as 0.2.0: {len(found)} arrays differ without a reason" in printed
    assert f"error larger in {len(double)}, smaller in 0 of {len(double)};" in printed
    reasons = Allowed("GRU*", "*/weight_hh_l0", VALUES, 1e-8, "planted"), Allowed("*", "-", "raised *", 0.0, "planted")
    monkeypatch.setattr(same_as_0_2_0, "ALLOWED", reasons)
    code, document = run_same(["--only", *chosen], tmp_path / "allowed.json")
    assert code == 0
    assert {one["reason"] for one in document["differences"]} == {"planted"}
    assert capsys.readouterr().out.splitlines()[-1] == "equal, but for what has its reason"


def test_what_0_2_0_itself_cannot_run_is_an_error(planted, capsys) -> None:  # type: ignore[no-untyped-def]
    number = next(one.number for one in DRAWN if one.kind == "PeepholeLSTM")
    assert same_as_0_2_0.main(["--old", str(planted), "--only", str(number)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: 0.2.0 cannot run configuration {number}: PeepholeLSTM, ")
    assert printed.endswith("RuntimeError: planted\n")


# --------------------------------------------------------------------------------------------------- the source tree


def test_0_2_0_comes_out_of_an_archive(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(ROOT / "rnn_numpy" / "__init__.py", "rnn_numpy/__init__.py")
    monkeypatch.setattr(versions, "archive", packed.getvalue)
    with versions.sources(None, itself=False) as trees:
        old = trees[versions.OLD]
        assert (old / "rnn_numpy" / "__init__.py").read_bytes() == (ROOT / "rnn_numpy" / "__init__.py").read_bytes()
        assert trees["rnn_numpy"] == ROOT
    assert not old.exists()
    with versions.sources(None, itself=True) as trees:
        assert trees["rnn_numpy"] == trees[versions.OLD]


@pytest.mark.parametrize("program", [same_as_0_2_0.main, house.main])
def test_a_missing_0_2_0_says_what_to_do(program, tmp_path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert program(["--old", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: --old: {tmp_path} has no rnn_numpy/__init__.py. 0.2.0 is commit 90c78f5 of this repository. A shallow "
        "clone gets it by: git fetch --unshallow. Where there is no git, or no repository, unpack the source of that "
        "version and name the folder that has rnn_numpy/ in it: --old FOLDER\n"
    )
    monkeypatch.setattr(versions, "ROOT", tmp_path)  # no repository
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert program([]) == 1
    assert "unpack the source of that version" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert program([]) == 1
    assert capsys.readouterr().err.startswith("error: git cannot be run (")


def test_another_package_than_that_of_the_tree_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WorkerError, match=r"should have rnn_numpy from .*; got that of "):
        versions.start({versions.OLD: tmp_path}, "benchmarks.house").__enter__()


def test_a_version_has_its_own_modules_alone() -> None:
    finder = versions.OwnModules()
    assert finder.find_spec("json", None) is None
    found = finder.find_spec("rnn_numpy.errors", [str(ROOT / "rnn_numpy")])
    assert found is not None
    assert found.origin == str(ROOT / "rnn_numpy" / "errors.py")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'rnn_numpy\.errors'"):
        finder.find_spec("rnn_numpy.errors", [str(ROOT / "benchmarks")])


@pytest.mark.parametrize("program", [same_as_0_2_0.main, house.main])
def test_a_missing_folder_is_told_at_once(program, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as stop:
        program(["--json", str(tmp_path / "none" / "out.json")])
    assert stop.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_version_that_is_another_is_noted() -> None:
    new = {"rnn_numpy": "0.3.0", "numpy": "2", "python": "3", "source": "here"}
    assert versions.sides({"0.2.0": {**new, "rnn_numpy": "0.2.0"}, "rnn_numpy": new}, itself=False) == (
        "0.2.0 against the working tree, 0.3.0; NumPy 2, Python 3"
    )
    assert versions.sides({"0.2.0": new, "rnn_numpy": new}, itself=True).splitlines()[1] == (
        "note: here, which stands for 0.2.0, holds version 0.3.0"
    )


# ------------------------------------------------------------------------------------------------------------- house


def test_calls_before_the_first_formula() -> None:
    found = {name: house.counted(trip) for name, trip in house.trips("LSTM").items()}
    assert list(found) == ["LSTM()", "LSTM.forward", "LSTM.backward", "LSTM.backward_steps"]
    for calls in found.values():
        assert calls["before"] is not None
        # After the first formula come four more, and what stands around them.
        assert 0 < calls["before"] <= calls["all"] - house.CALLS_SIZE[0]
    again = {name: house.counted(trip) for name, trip in house.trips("LSTM").items()}
    assert again["LSTM.forward"] == found["LSTM.forward"]
    assert house.counted(lambda: np.ones(3).sum()) == {"before": None, "all": 0}


def made_up(old: Sequence[float], now: Sequence[float], foreign: float = 0.0) -> Measurement:
    """A measurement of one step a round, of so many milliseconds."""
    times = {"0.2.0": [[round(value * 1e6)] for value in old], "rnn_numpy": [[round(value * 1e6)] for value in now]}
    cores = {name: [0.5] * len(blocks) for name, blocks in times.items()}
    case = Case("lstm", (5, 1, 8, 8), "float64")
    return Measurement(case, 1, {"0.2.0": {"dx": 0.0}}, {"0.2.0": []}, times, [foreign] * len(old), cores)


def test_times_are_cpu_times_over_those_of_0_2_0() -> None:
    point = made_up([4.0, 8.0, 4.0], [2.0, 4.0, 3.0])
    assert house.over_old(point).median == 0.5
    assert house.milliseconds(point) == (2.0, 1.5)
    point.cores["rnn_numpy"][:] = [1.0, 1.0, 1.0]
    assert house.over_old(point).median == 1.0


def test_rounds_of_several_processes_are_pooled() -> None:
    both = house.pooled([made_up([4.0, 8.0], [2.0, 4.0]), made_up([4.0], [8.0], foreign=1.0)])
    assert both.times["rnn_numpy"] == [[2000000], [4000000], [8000000]]
    assert both.foreign == [0.0, 0.0, 1.0]
    assert house.over_old(both).median == 0.5


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([made_up([1.0], [0.7])], "met"),
        ([made_up([1.0], [0.7], foreign=1.0)], "met"),
        ([made_up([1.0], [0.71])], "missed"),
        ([made_up([1.0], [0.6]), made_up([1.0], [0.8])], "missed"),
        ([made_up([1.0] * 4, [0.6, 0.6, 0.9, 0.9], foreign=1.0)], "open"),
        ([made_up([1.0] * 4, [0.9, 0.9, 0.9, 0.9], foreign=1.0)], "missed"),
    ],
)
def test_verdicts(points: list[Measurement], expected: str) -> None:
    assert house.judged("small", "time", 0.7, points).verdict == expected


def test_a_verdict_in_words() -> None:
    assert str(house.verdict("calls", "calls of f", 118, 45)) == "missed  calls of f, at most 45: 118"
    assert str(house.verdict("small", "time of f", 0.65432, 0.7)) == "met     time of f, at most 0.7: 0.6543"


def test_house_with_all_its_parts(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "house.json"
    arguments = ["--old", str(ROOT), "--smoke", "--cells", "gru", "--modes", "training", "--sizes", "4,2,3,5"]
    assert house.main([*arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines[lines.index("targets:") + 1 :]) == 4 + 6 + 1 + 1
    document = json.loads(path.read_text())
    for row in document["calls"]:
        assert row["0.2.0"] == row["now"]
    assert {row["part"]: row["target"] for row in document["targets"]}.keys() == {"calls", "small", "import", "grid"}
    assert len(document["small"]) == 6
    assert [point["case"]["dtype"] for point in document["grid"]] == ["float32", "float64"]
    for point in [*document["small"], *document["grid"]]:
        assert set(point["largest_relative_difference"]["0.2.0"].values()) == {0.0}
        assert set(point["times_ns"]) == {"0.2.0", "rnn_numpy"}
        assert point["now_over_old"]["median"] > 0
    assert document["import"]["modules"]["0.2.0"] == document["import"]["modules"]["rnn_numpy"] > 10
    assert document["options"]["parts"] == ["calls", "small", "import", "grid"]


def test_only_the_parts_asked_for(capsys) -> None:  # type: ignore[no-untyped-def]
    assert house.main(["--old", str(ROOT), "--parts", "import", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "import rnn_numpy, CPU time" in printed
    assert "gradcheck(RNN)" not in printed
    assert "milliseconds" not in printed


def test_times_of_unequal_results_are_refused(planted, capsys) -> None:  # type: ignore[no-untyped-def]
    arguments = ["--old", str(planted), "--smoke", "--parts", "grid", "--cells", "gru", "--modes", "training"]
    assert house.main([*arguments, "--dtypes", "float64", "--sizes", "4,2,3,5"]) == 1
    assert "dweight_hh_l0 differs by 1.00e-09 of its largest entry" in capsys.readouterr().err
