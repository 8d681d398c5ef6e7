"""What all programs in launch/ share: how they start and how they end."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from jdance.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Runs `main` after absl has read the flags.

    Exit status: 0 done; 1 bad input, with one line on stderr and no traceback. Words on the command
    line that are no flags are bad input, too: a forgotten "--" must not go unnoticed.
    """

    def wrapped(argv: list[str]) -> None:
        # JAX and orbax report every move they make; --verbosity=0 brings that back.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: options start with --")
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(wrapped)
