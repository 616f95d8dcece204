"""Stores of kmp-receive for tests that are not about how one is made: that takes a process."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

RECEIVER = Path(__file__).resolve().parents[1] / "scripts" / "kmp-receive"


def new_store(path: Path) -> None:
    """Put an empty store at `path`: a copy of one that kmp-receive made, mode included."""
    shutil.copy(_made(), path)


@cache
def _made() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="kmp-smsd-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "keys.db"
    subprocess.run([sys.executable, RECEIVER, "--store", path, "init"], check=True)
    return path
