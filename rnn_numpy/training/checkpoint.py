"""Checkpoints: soon."""

from __future__ import annotations

import os
from typing import Any


def save_checkpoint(path: str | os.PathLike[str], training: Any, **extra: Any) -> None:
    """Save."""
    raise NotImplementedError
