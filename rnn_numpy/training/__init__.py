"""Training: the loop, batches, checkpoints; clipping of gradients, and optimisers, acting on the flat vector."""

from rnn_numpy.training.batches import Batches, Draws, Windows
from rnn_numpy.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
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
from rnn_numpy.training.history import History
from rnn_numpy.training.like_length import LikeLength
from rnn_numpy.training.loop import Training, Update, evaluate, fit, train
from rnn_numpy.training.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from rnn_numpy.training.schedules import Cosine, Exponential, Linear, OneCycle, Plateau, Schedule, StepDecay
from rnn_numpy.training.stopping import Best, Patience

__all__ = [
    "SGD", "Adagrad", "Adam", "AdamW", "Batches", "Best", "Checkpoint", "ClipLedger", "ClipResult",
    "ClippedBackward", "Cosine", "Draws", "Exponential", "History", "LikeLength", "Linear", "OneCycle", "Optimizer",
    "Patience", "Plateau", "RMSprop", "Schedule", "StepDecay", "Training", "Update", "Windows", "backward_clipped",
    "clip_grad_adaptive", "clip_grad_norm", "clip_grad_norm_per_layer", "clip_grad_value", "evaluate", "fit",
    "lag_norms", "layer_of", "load_checkpoint", "save_checkpoint", "train",
]  # fmt: skip
