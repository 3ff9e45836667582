"""`python -m rnn_numpy`: the same as the command `rnn-numpy`, which starts here."""

import sys


def main() -> int:
    """Import the command and run it; Ctrl-C while imports are under way ends it without a traceback.

    Returns
    -------
    int
        Exit code, of `rnn_numpy.cli.main`.
    """
    try:
        from rnn_numpy import cli

        return cli.main()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("rnn-numpy: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
