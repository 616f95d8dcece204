"""The command line (docs/cli.rst). Nothing is imported before the command that needs it."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of this process's arguments."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else somebody wants it ignored
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ^C while we are being imported ends us without a traceback
    from kmp_smsd.cli.carefully import interrupt
    from kmp_smsd.cli.failures import INTERRUPTED
    from kmp_smsd.cli.program import program

    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        program.main()
    except KeyboardInterrupt:  # another one, while the first was told
        raise SystemExit(INTERRUPTED) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is told: so does one from here on
