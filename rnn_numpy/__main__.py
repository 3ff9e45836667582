"""`python -m rnn_numpy`: the same as the command `rnn-numpy`."""

import sys

from rnn_numpy.cli import main

if __name__ == "__main__":
    sys.exit(main())
