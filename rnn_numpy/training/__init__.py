"""Training: clipping of gradients and optimisers, both acting on the flat vector."""

from rnn_numpy.training.clipping import ClipResult, clip_grad_norm, clip_grad_value
from rnn_numpy.training.optimizers import SGD

__all__ = ["SGD", "ClipResult", "clip_grad_norm", "clip_grad_value"]
