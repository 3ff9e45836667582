"""Time a beam search of 5, ours and a loop over torch's cells: `python -m benchmarks.beam_search`.

N sentences, each T tokens long, since EOS is ruled out before: the same work on all sides. The decoder attends to a
memory of S = 20 rows, in the orders of `benchmarks.attention`; encoders have run before. All keep the weights of
attention, have scores in float64, and return the best sentence. Ours takes each sentence by itself, to the last digit
what it is alone; "together" all of them at once; torch one after the other. README.md, beside this file, says how to
read the table.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.attention import ORDERS, Decoded, S
from benchmarks.attention import Ours as Decoder
from benchmarks.attention import Torch as TorchDecoder
from benchmarks.cases import DTYPES, Case
from benchmarks.contenders import OURS, TORCH
from benchmarks.measure import FIELDS, Measurement, measure
from benchmarks.program import reported
from benchmarks.tables import progress
from benchmarks.train_step import PATIENCE, positive, seconds_of, threads_of
from benchmarks.worker import Server, Worker
from benchmarks.worker import main as worker_main

Array = NDArray[Any]

BEAM, V, BOS, EOS = 5, 42, 1, 2
TOGETHER = "together"
CELLS = ("gru", "lstm")
# (T, N, D, H)
SIZES, SMOKE_SIZES = ((20, 8, 64, 64), (20, 32, 128, 128)), ((4, 2, 5, 5),)
ROUNDS = 15
TARGET = 3.0  # torch's time over ours


class Words(Decoded):
    """The arrays of a case, and of what stands around its decoder: an embedding and a readout of V tokens."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        _, _, inputs, H = case.size
        rng = np.random.default_rng(case.seed + 1)
        self.embedding = rng.standard_normal((V, inputs)).astype(case.dtype)
        self.readout = rng.standard_normal((V, H)).astype(case.dtype)


def named(sentences: Sequence[Sequence[int]], scores: Sequence[float]) -> dict[str, Array]:
    """Return what has been found, as arrays to be compared."""
    return {"tokens": np.array(sentences, float), "scores": np.array(scores)}


class Written:
    """A decoder's state, as `TokenState`."""

    def __init__(self, state: Any) -> None:
        self.state, self.alpha = state, state.alpha

    def take(self, rows: Array) -> Written:
        """Return some rows."""
        return Written(self.state.take(rows))

    @property
    def width(self) -> int:
        """The columns of alpha."""
        return int(self.state.width)

    @classmethod
    def joined(cls, states: Sequence[Written]) -> Written:
        """Return the rows of several as one."""
        return cls(type(states[0].state).joined([written.state for written in states]))


class Ours(Decoder):
    """`beam_search` on an `AttentionDecoder`."""

    def start(self) -> None:
        """Make the decoder; the memories are given, as encoders would have made them."""
        from rnn_numpy import Linear
        from rnn_numpy.layers import Embedding
        from rnn_numpy.models import beam_search
        from rnn_numpy.models.decoding import log_probabilities

        super().start()
        _, _, D, H = self.case.size
        words, dtype = Words(self.case), self.case.dtype
        self.embedding, self.readout = Embedding(V, D, dtype=dtype), Linear(H, V, bias=False, dtype=dtype)
        self.embedding.params["weight"][...], self.readout.params["weight"][...] = words.embedding, words.readout
        self.search, self.log_p = beam_search, log_probabilities

    def next(self, ids: Array, state: Written) -> tuple[Array, Written]:
        """Read tokens; return log p of the next ones."""
        output, after = self.decoder.step(self.embedding(ids), state.state)
        return self.log_p(self.readout(output)), Written(after)

    def together(self, sentences: int) -> int:
        """Return how many sentences share a call."""
        return 1

    def run(self) -> dict[str, Any]:
        """Search for all sentences."""
        steppers: dict[Any, Any] = {}
        memory, (T, N, *_) = self.given.memory, self.case.size
        states = (Written(self.decoder.begin(memory[:, n : n + 1], steppers=steppers)) for n in range(N))
        found = self.search(Model(states, self.next), beam=BEAM, max_length=T, min_length=T, together=self.together(N))
        return named([best.tokens for best, *_ in found], [best.score for best, *_ in found])


class Together(Ours):
    """The same, all sentences in one call of the decoder."""

    def together(self, sentences: int) -> int:
        """Return how many sentences share a call."""
        return sentences


class Model:
    """What `beam_search` asks for."""

    def __init__(self, states: Any, following: Callable[..., Any]) -> None:
        self.states, self.next = states, following

    def start(self) -> Any:
        """Return the states of all sentences."""
        return self.states


class Torch(TorchDecoder):
    """A loop over torch's cells, without gradients; candidates by topk."""

    def start(self) -> None:
        """Make tensors, and the weights that are there once."""
        super().start()
        torch, mode, words = self.torch, self.case.mode, Words(self.case)
        self.embedding, self.readout = torch.from_numpy(words.embedding), torch.from_numpy(words.readout)
        weight = self.p["rnn.weight_ih_l0"]
        if mode != "after":
            added = self.p["rnn.weight_ch_l0" if mode == "before" else "rnn.weight_if_l0"]
            weight = torch.cat([weight, added], dim=1).detach()
        self.own = weight, self.p["rnn.weight_hh_l0"], self.p["rnn.bias_ih_l0"], self.p["rnn.bias_hh_l0"]
        self.combine = {"feeding": "rnn.weight_c_l0", "after": "combine.weight"}.get(mode)

    def next(self, ids: Any, states: list[Any], keys: Any, values: Any) -> tuple[Any, list[Any], Any]:
        """Read tokens; return log p of the next ones, the states h, c and attn, and the weights of attention."""
        torch, p, mode, (h, c, attn) = self.torch, self.p, self.case.mode, states
        x, alpha = self.embedding[ids], None
        if mode == "before":
            score = torch.tanh(keys + (h @ p["rnn.weight_query_l0"].T)[:, None]) @ p["rnn.v_l0"]
            alpha = torch.softmax(score, dim=1)
            x = torch.cat([x, torch.bmm(alpha[:, None], values)[:, 0]], dim=1)
        elif mode == "feeding":
            x = torch.cat([x, attn], dim=1)
        if self.case.cell == "gru":
            h = torch.gru_cell(x, h, *self.own)
        else:
            h, c = torch.lstm_cell(x, (h, c), *self.own)
        output = h
        if self.combine is not None:
            alpha = torch.softmax(torch.bmm(keys, h[:, :, None])[:, :, 0], dim=1)
            context = torch.bmm(alpha[:, None], values)[:, 0]
            output = attn = torch.tanh(torch.cat([context, h], dim=1) @ p[self.combine].T)
        log_p = torch.log_softmax((output @ self.readout.T).double(), dim=1)
        log_p[:, :EOS] = -float("inf")
        return log_p, [h, c, attn], alpha

    def sentence(self, values: Any, keys: Any) -> tuple[list[int], float]:
        """Search for one sentence, of values and keys (1, S, H)."""
        torch, T = self.torch, self.case.size[0]
        ids, S_ = torch.tensor([BOS]), torch.zeros(1, dtype=torch.float64)
        zeros = torch.zeros(1, self.case.size[3], dtype=values.dtype)
        states, finished = [zeros, zeros, zeros], []
        tokens, alphas = torch.zeros((1, 0), dtype=torch.long), torch.zeros((1, 0, S), dtype=values.dtype)
        for n in range(1, T + 1):
            rows = len(ids)
            log_p, states, alpha = self.next(ids, states, keys.expand(rows, -1, -1), values.expand(rows, -1, -1))
            alphas = torch.cat([alphas, alpha[:, None]], dim=1)
            total = S_[:, None] + log_p
            if n < T:
                total[:, EOS] = -float("inf")
            best, candidates = total.view(-1).topk(min(2 * BEAM, total.numel()))
            parents, ids = candidates // V, candidates % V
            ends = ids == EOS
            for rank in torch.nonzero(ends[:BEAM]).flatten().tolist():
                parent = parents[rank]
                finished.append((float(best[rank]), [*tokens[parent].tolist(), EOS], alphas[parent]))
            kept = torch.nonzero(~ends).flatten()[:BEAM]
            S_, parents, ids = best[kept], parents[kept], ids[kept]
            if finished and max(score for score, _, _ in finished) >= float(S_[0]):
                break
            states = [state[parents] for state in states[: 3 if self.case.mode == "feeding" else 2]]
            states += [zeros] * (3 - len(states))
            tokens, alphas = torch.cat([tokens[parents], ids[:, None]], dim=1), alphas[parents]
        if finished:
            score, found, _ = max(finished, key=lambda end: end[0])
            return found, score
        return tokens[0].tolist(), float(S_[0])

    def run(self) -> dict[str, Any]:
        """Search for all sentences."""
        torch, p, mode = self.torch, self.p, self.case.mode
        with torch.inference_mode():
            values = self.memory.transpose(0, 1).contiguous()
            if mode == "before":
                keys = values @ p["keys.weight_memory"].T + p["keys.bias"]
            else:
                keys = values @ p["keys.weight_a" if mode == "feeding" else "attention.weight_a"].T
            found = [self.sentence(values[n : n + 1], keys[n : n + 1]) for n in range(self.case.size[1])]
        return named([tokens for tokens, _ in found], [score for _, score in found])


CONTENDERS: dict[str, Callable[[], Any]] = {OURS: Ours, TOGETHER: Together, TORCH: Torch}


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    return Server(CONTENDERS[name]())


def run(
    cases: Sequence[Case], threads: Sequence[int], rounds: int, patience: float
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measure all cases with each number of threads; return also what the contenders say of themselves."""
    measurements: list[Measurement] = []
    environments: dict[str, Any] = {}
    with progress(len(cases) * len(threads)) as report, contextlib.ExitStack() as stack:
        for count in threads:
            workers = {name: stack.enter_context(Worker(name, count, "benchmarks.beam_search")) for name in CONTENDERS}
            environments[str(count)] = {name: worker.environment for name, worker in workers.items()}
            for case in cases:
                report(len(measurements), f"{case}, threads {count}")
                measurements.append(measure(workers, case, count, rounds, patience))
    return measurements, environments


def ratios(m: Measurement) -> dict[str, float]:
    """Return torch's time over each of ours."""
    return {OURS: m.ratio(TORCH).median, TOGETHER: summary.ratio(m.used(TORCH), m.used(TOGETHER)).median}


def judged(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return the target with its value at each point, and whether it is met."""
    return [
        {"target": f"{m.case}: {TORCH} over {name} at least {TARGET}", "value": value, "met": value >= TARGET}
        for m in measurements
        if m.threads == 1 and m.case.size in SIZES
        for name, value in ratios(m).items()
    ]


def table(measurements: Sequence[Measurement]) -> str:
    """Return the table: a line for each cell, order, size, dtype, number of threads; times of a step of a sentence."""
    lines = [
        f"{'cell':5} {'order':8} {'T,N,D,H':13} {'dtype':8} {'thr':>3} {'ours us':>8} {'together':>8} {'torch us':>8}"
        f" {'/ ours':>7} {'/ tog.':>7}"
    ]
    for m in measurements:
        line = f"{m.case.cell:5} {m.case.mode:8} {','.join(map(str, m.case.size)):13} {m.case.dtype:8} {m.threads:3d}"
        steps = m.case.size[0] * m.case.size[1]
        line += "".join(f" {summary.typical(m.used(name)) / 1e3 / steps:8.0f}" for name in CONTENDERS)
        line += "".join(f" {value:7.2f}" for value in ratios(m).values())
        lines.append(line + (" ~" if m.noisy else ""))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.beam_search", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS), help="default: all")
    made.add_argument("--threads", nargs="+", type=threads_of, metavar="K|all", default=[1], help="default: 1")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: both")
    made.add_argument("--repeats", type=positive, help=f"rounds, each a block of searches of both; default {ROUNDS}")
    made.add_argument("--patience", type=seconds_of, default=PATIENCE, metavar="S", help="seconds to wait for quiet")
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="a small size, one round: does it all work?")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a worker that fails."""
    options = parser().parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    rounds, patience = (1, 0.0) if options.smoke else (options.repeats or ROUNDS, options.patience)
    cases = [
        Case(cell, size, dtype, mode=order)
        for order in dict.fromkeys(options.orders)
        for cell in dict.fromkeys(options.cells)
        for size in (SMOKE_SIZES if options.smoke else SIZES)
        for dtype in dict.fromkeys(options.dtypes)
    ]
    threads = list(dict.fromkeys(options.threads))
    asked = {"sizes": SIZES, "memory": S, "beam": BEAM, "repeats": rounds, "patience": patience}
    return reported(lambda: run(cases, threads, rounds, patience), judged, table, FIELDS, asked, options.json)


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in CONTENDERS:
        sys.exit(worker_main(make=new_server))
    sys.exit(main())
