"""The ids that every vocabulary of sequences begins with.

PAD fills up what is shorter than its batch, BOS is the first input of a decoder, EOS the last of its targets. They
differ: were PAD and EOS one id, a loss that leaves out PAD would leave out EOS, and no model would learn to stop.
"""

from __future__ import annotations

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("PAD", "BOS", "EOS")  # by their ids; the first symbol of a vocabulary's own has id 3
