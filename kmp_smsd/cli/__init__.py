"""The command line (docs/cli.rst). Nothing is imported before the command that needs it."""

from __future__ import annotations

from typing import NoReturn

from kmp_smsd.cli.program import program


def main() -> NoReturn:
    """Run the command of this process's arguments."""
    program.main()
