"""How a program of contenders ends: measure, print the table and the verdicts, write the file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import versions
from benchmarks.measure import UnequalResultsError, machine, source_digest
from benchmarks.worker import WorkerError


def reported(
    run: Callable[[], tuple[Sequence[Any], Any]],
    judged: Callable[[Any], Sequence[Mapping[str, Any]]],
    table: Callable[[Any], str],
    fields: Mapping[str, str],
    options: Mapping[str, Any],
    path: Path | None,
) -> int:
    """Return the exit code: 1 for unequal results, a worker that fails, or a source that changed meanwhile.

    `run` returns measurements and the contenders' environments; with `path`, `fields` says what the keys of a
    measurement mean, `options` what was asked for.
    """
    began, state = time.perf_counter(), source_digest()
    try:
        measurements, environments = run()
    except (UnequalResultsError, versions.SourceError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run", file=sys.stderr)
        return 1
    targets = judged(measurements)
    print(table(measurements))
    for row in targets:
        print(f"{'met' if row['met'] else 'missed':7}{row['target']}: {row['value']:.2f}")
    if path is not None:
        document = {
            "options": options,
            "machine": machine(),
            "contenders": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "targets": targets,
            "fields": fields,
            "measurements": [m.to_json() for m in measurements],
        }
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return 0
