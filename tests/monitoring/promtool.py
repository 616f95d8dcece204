"""promtool, Prometheus' own judge of metrics and rules, from Debian's package prometheus."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def promtool(*words: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """The exit status, and what it said. Skips the test where promtool is not installed, but not in CI."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: scripts/install-peers")
        pytest.skip("needs promtool: scripts/install-peers")
    run = subprocess.run([program, *map(str, words)], input=stdin, capture_output=True, check=False, timeout=60)
    return run.returncode, (run.stdout + run.stderr).decode()
