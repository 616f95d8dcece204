"""The command line of the modules that write what is made from the models and commands: examples, pages, scripts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def only_argument(usage: str) -> Path:
    """Where to write; without it, `usage` is told and the program ends with 64."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write(f"usage: {usage}\n")
        raise SystemExit(os.EX_USAGE)
    return Path(sys.argv[1])
