"""What models have in common that write ids: how targets are read, and how the next id is asked for.

A target is y_1 ... y_L EOS, and anything behind; the decoder reads BOS y_1 ... y_L, and the loss counts the first
`target_lengths` positions, EOS among them. (A mask made of `target != PAD` would hide EOS where the two are one id: the
model would never learn to stop.)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import AttentionDecoder, DecoderState
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.linear import Linear
from rnn_numpy.layers.losses import cross_entropy_loss
from rnn_numpy.models.decoding import log_probabilities
from rnn_numpy.models.model import Model, counted

Array = NDArray[Any]
Ids = NDArray[np.int64]

# What a model hands to the loss by itself.
OWN = ("logits", "targets", "mask")


class Writer(Model):
    """Base of models that write ids: an embedding of these, a decoder that attends, and a readout."""

    target: Embedding
    decoder: AttentionDecoder
    readout: Linear
    loss_options: dict[str, Any]

    def set_loss_options(self, options: Mapping[str, Any] | None) -> None:
        """Keep options of `cross_entropy_loss`, which must know them."""
        known = [name for name in inspect.signature(cross_entropy_loss).parameters if name not in OWN]
        self.loss_options = dict(options or {})
        for name in self.loss_options:
            arguments.one_of(type(self).__name__, "loss_options", name, known)

    def next(self, ids: ArrayLike, state: DecoderState) -> tuple[NDArray[np.float64], DecoderState]:
        """Read an id in each row, (R,); return log p of the next one, (R, V), and the state then.

        In float64, whatever the model's dtype; PAD and BOS have -inf.
        """
        output, after = self.decoder.step(self.target(ids), state)
        return log_probabilities(self.readout(output)), after

    def counted(self, target: ArrayLike, lengths: ArrayLike) -> float:
        """Return what the mean loss of such targets divides by."""
        mask = np.arange(len(np.asarray(target)))[:, None] < np.asarray(lengths)
        return counted(target, mask, self.loss_options)

    def checked_target(self, where: str, target: ArrayLike, lengths: ArrayLike, batch: int) -> tuple[Array, Array]:
        """Check a target; return it with PAD behind its EOS, and which positions count."""
        ids = arguments.as_array(where, "target", target)
        if ids.ndim != 2 or ids.shape[1] != batch or not len(ids):
            raise ShapeError(f"{where}: target must have shape (T, N) = (T, {batch}) with T >= 1; got {ids.shape}")
        counts = checked_lengths(where, "target_lengths", lengths, ids.shape)
        mask = np.arange(len(ids))[:, None] < counts
        ids = checked_ids(where, "target", ids, mask, self.target.num_embeddings)
        last = ids[counts - 1, np.arange(batch)]
        if (last != EOS).any():
            n = int(np.argmax(last != EOS))
            raise OptionError(
                f"{where}: target must end with EOS = {EOS} at its length, or the model never learns to stop; target "
                f"{n} ends with {int(last[n])} at position {int(counts[n]) - 1}"
            )
        inside = mask.copy()
        inside[counts - 1, np.arange(batch)] = False
        wrong = inside & (ids <= EOS)  # PAD = 0, BOS = 1, EOS = 2
        if wrong.any():
            t, n = np.argwhere(wrong)[0]
            raise OptionError(
                f"{where}: target must hold symbols and one EOS at its end; target {n} has {int(ids[t, n])} at "
                f"position {t} of {int(counts[n])} (PAD = {PAD}, BOS = {BOS}, EOS = {EOS})"
            )
        return ids, mask


def shifted(target: Array) -> Ids:
    """Return what a decoder reads to write `target`, (T, N): BOS and all but the last, PAD in place of EOS."""
    inputs = np.empty(target.shape, np.int64)
    inputs[0] = BOS
    inputs[1:] = np.where(target[:-1] == EOS, PAD, target[:-1])
    return inputs


def checked_ids(where: str, name: str, ids: Array, exists: Array, vocabulary: int) -> Array:
    """Check the ids that exist; return them with PAD in all other places."""
    if ids.dtype.kind not in "iu":
        raise DTypeError(f"{where}: {name} must hold integers, ids; got dtype {ids.dtype}")
    wrong = exists & ((ids < 0) | (ids >= vocabulary))
    if wrong.any():
        t, n = np.argwhere(wrong)[0]
        raise OptionError(
            f"{where}: {name} must hold ids in [0, V) = [0, {vocabulary}); got {ids[t, n]} at position {t} of sequence "
            f"{n}"
        )
    return np.where(exists, ids, PAD)


def checked_lengths(where: str, name: str, lengths: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return lengths of sequences in (T, N) as an int array, (N,)."""
    counts = arguments.as_array(where, name, lengths)
    arguments.shaped(where, name, counts, "(N,)", shape[1:])
    if counts.dtype.kind not in "iu" and counts.size:
        raise DTypeError(f"{where}: {name} must be integers; got dtype {counts.dtype}")
    if not ((counts >= 1) & (counts <= shape[0])).all():
        n = int(np.argmax((counts < 1) | (counts > shape[0])))
        raise OptionError(f"{where}: {name} must be in [1, {shape[0]}]; got {int(counts[n])} for sequence {n}")
    return counts.astype(np.intp)
