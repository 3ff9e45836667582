"""Training: clipping of gradients, what it did, and optimisers, all acting on the flat vector."""

from rnn_numpy.training.clipped_bptt import ClippedBackward, backward_clipped
from rnn_numpy.training.clipping import (
    ClipLedger,
    ClipResult,
    clip_grad_adaptive,
    clip_grad_norm,
    clip_grad_norm_per_layer,
    clip_grad_value,
    lag_norms,
    layer_of,
)
from rnn_numpy.training.optimizers import SGD, Adam

__all__ = [
    "SGD", "Adam", "ClipLedger", "ClipResult", "ClippedBackward", "backward_clipped", "clip_grad_adaptive",
    "clip_grad_norm", "clip_grad_norm_per_layer", "clip_grad_value", "lag_norms", "layer_of",
]  # fmt: skip
