"""What pages of docs say in numbers is what is found, and the files and functions that they name are there."""

import ast
import json
import re
from pathlib import Path

import numpy as np

from rnn_numpy import LSTM, cli
from rnn_numpy.report.tables import span

ROOT = Path(__file__).parents[2]


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_tables_of_the_main_job(tmp_path, capsys):
    shown = re.findall(r"^```text\n(.*?)^```$", page("does-it-vanish"), re.MULTILINE | re.DOTALL)
    assert [text.split()[0] for text in shown] == ["Before", "Reach:"]
    figure = tmp_path / "gradflow.png"
    assert cli.main(["gradflow", "--train-steps", "0", "--out", str(figure)]) == 0
    printed = capsys.readouterr().out
    for text in shown:
        assert text in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_it_says_about_gates(tmp_path):
    said = re.search(
        r"`--forget-bias (\d)` opens it to about ([\d.]+), and at gain 1 the LSTM's reach before training goes from "
        r"([\d–]+) to ([\d–]+) steps",
        " ".join(page("does-it-vanish").split()),
    )
    assert said
    bias, gate, *reaches = said.groups()
    found = []
    for options in ([], ["--forget-bias", bias]):
        numbers, figure = tmp_path / "n.json", tmp_path / "f.png"
        quick = ["--cells", "lstm", "--gain", "1", "--train-steps", "0", "--json", str(numbers), "--out", str(figure)]
        assert cli.main(["gradflow", *quick, *options]) == 0
        found.append([network["before"] for network in json.loads(numbers.read_text())["networks"]])
        numbers.unlink()
    assert [len(draws) for draws in found] == [4, 4]
    assert [span([flow["lag_of_a_hundredth"] for flow in draws], str) for draws in found] == reaches
    assert {f"{flow['mean_gates']['f']:.1f}" for flow in found[1]} == {gate}
    assert {f"{flow['mean_gates']['f']:.1f}" for flow in found[0]} == {"0.5"}


def test_what_it_says_about_the_gain_of_torchs_draw():
    said = re.search(r"torch's own draw is a gain of about ([\d.]+)\.", page("does-it-vanish"))
    blocks_of_gates = LSTM(1, 64, rng=0).params["weight_hh_l0"].reshape(4, 64, 64)
    assert f"{abs(np.linalg.eigvals(blocks_of_gates)).max(axis=1).mean():.1f}" == said.group(1)


def test_equations_stand_where_the_table_says():
    rows = [
        line
        for line in page("the-lecture-in-code").splitlines()
        if line.startswith("|") and "`rnn_numpy/" in line.split("|")[-2]
    ]
    assert len(rows) >= 8
    for row in rows:
        file, *names = re.findall(r"`([^`]+)`", row.split("|")[-2])
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(names) <= defined, f"{file} does not define {set(names) - defined}"


def test_what_is_said_of_other_checkers_is_what_was_measured():
    totals = json.loads((ROOT / "benchmarks" / "results" / "gradcheck_zoo.json").read_text(encoding="utf-8"))["totals"]
    said = page("check-a-gradient").partition("Of the zoo's ")[2][:400]
    numbers = [int(number) for number in re.findall(r"\b(\d\d)\b", said)]
    caught = [totals[name].get("caught", 0) for name in ("ours", "torch", "jax", "autograd", "plain")]
    assert numbers[:2] == [sum(totals["ours"].values()), caught[0]]
    assert numbers[2:6] == caught[1:]
    assert totals["fast"] == totals["torch"]
