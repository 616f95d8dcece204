"""Files that tests copy instead of making them anew."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def kept_directory() -> Path:
    """A new directory, which is there until the tests end."""
    directory = Path(tempfile.mkdtemp(prefix="kmp-smsd-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
