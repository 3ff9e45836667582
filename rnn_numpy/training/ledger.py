"""What clipping did over a training run: how often it engaged, how strongly, what made the gradient long.

A limit that engages at every update is no safety net but a step size of its own, unseen; one that turns the gradient
changes what is minimised. A ledger shows both.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rnn_numpy.errors import DTypeError
from rnn_numpy.training.clipping import ClipResult


class ClipLedger:
    """A record of all clippings of a training run.

    Attributes
    ----------
    results : list of ClipResult
        One for each update, in order.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import Parameters, clip_grad_norm
    >>> ledger = ClipLedger()
    >>> for size in (0.5, 2.0, np.nan):
    ...     grads = Parameters({"w": (1,)}, np.float64, np.array([size]))
    ...     result = ledger.record(clip_grad_norm(grads, 1.0, on_nonfinite="skip"))
    >>> ledger
    ClipLedger
      updates              3
      skipped              1   33.3 %   not finite: w 1
      engaged              1   50.0 %   of those with a finite gradient
      mean factor     0.7500
      mean cosine     1.0000
      largest norm  2.00e+00
      dominant             w 2
    """

    def __init__(self) -> None:
        self.results: list[ClipResult] = []

    def record(self, result: ClipResult) -> ClipResult:
        """Keep the result of a clipping, and return it.

        Raises
        ------
        DTypeError
            It is none.
        """
        if not isinstance(result, ClipResult):
            raise DTypeError(f"ClipLedger.record: result must be a ClipResult; got {type(result).__name__}")
        self.results.append(result)
        return result

    def __len__(self) -> int:
        return len(self.results)

    @property
    def skipped(self) -> int:
        """Updates that were left out, their gradient not being finite."""
        return sum(result.skipped for result in self.results)

    @property
    def finite(self) -> list[ClipResult]:
        """The results of the updates that were not left out: what shares and means are of."""
        return [result for result in self.results if not result.skipped]

    @property
    def engaged(self) -> int:
        """Updates at which clipping changed a finite gradient."""
        return sum(result.engaged for result in self.finite)

    @property
    def engaged_share(self) -> float | None:
        """Their share of the updates with a finite gradient; None where there is none."""
        return _mean([float(result.engaged) for result in self.finite])

    @property
    def mean_factor(self) -> float | None:
        """Mean of norm after / norm before over the updates with a finite gradient."""
        return _mean([result.factor for result in self.finite])

    @property
    def mean_cosine(self) -> float | None:
        """Mean cosine of the gradient before and after, over the updates with a finite gradient."""
        return _mean([result.cosine for result in self.finite])

    @property
    def largest_norm(self) -> float | None:
        """The largest norm before clipping; infinite where that was too large for a float."""
        return max((result.norm for result in self.finite), default=None)

    @property
    def dominant(self) -> Counter[str]:
        """How often each parameter had the longest gradient, of the updates with a finite one."""
        return Counter(result.dominant for result in self.finite if result.dominant is not None)

    @property
    def not_finite(self) -> Counter[str]:
        """How often each parameter was the first whose gradient was not finite."""
        return Counter(result.dominant for result in self.results if result.skipped and result.dominant is not None)

    @property
    def lags(self) -> Counter[int]:
        """How often each lag added most to dL/dW_hh, where traces were handed to the clipping."""
        return Counter(result.lag for result in self.finite if result.lag is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain Python objects that strict JSON can hold; what is not finite as None."""
        largest = self.largest_norm
        return {
            "updates": len(self),
            "skipped": self.skipped,
            "engaged": self.engaged,
            "engaged_share": self.engaged_share,
            "mean_factor": self.mean_factor,
            "mean_cosine": self.mean_cosine,
            "largest_norm": largest if largest is not None and math.isfinite(largest) else None,
            "dominant": dict(self.dominant.most_common()),
            "not_finite": dict(self.not_finite.most_common()),
            "lags": {str(lag): count for lag, count in self.lags.most_common()},
        }

    def __repr__(self) -> str:
        if not self.results:
            return "ClipLedger: no updates yet"
        lines = ["ClipLedger", f"  updates       {len(self):>8}"]
        bad = f"   not finite: {_counted(self.not_finite)}" if self.skipped else ""
        lines.append(f"  skipped       {self.skipped:>8}   {100 * self.skipped / len(self):4.1f} %{bad}")
        if self.finite:
            share, factor, cosine = self.engaged_share or 0.0, self.mean_factor or 0.0, self.mean_cosine or 0.0
            lines += [
                f"  engaged       {self.engaged:>8}   {100 * share:4.1f} %   of those with a finite gradient",
                f"  mean factor   {factor:>8.4f}",
                f"  mean cosine   {cosine:>8.4f}",
                f"  largest norm  {self.largest_norm:>8.2e}",
            ]
        if self.dominant:
            lines.append(f"  dominant      {_counted(self.dominant)}")
        if self.lags:
            lines.append(f"  lag           {_counted(self.lags)}")
        return "\n".join(lines)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _counted(counts: Counter[Any], most: int = 4) -> str:
    """Name the most frequent ones with their counts."""
    named = [f"{name} {count}" for name, count in counts.most_common(most)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(most))
    return ", ".join([*named, f"others {rest}"] if rest else named)
