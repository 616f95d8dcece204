"""Chromium without a screen: what a person would see."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


def chromium(directory: Path, address: str, *options: str) -> tuple[str, str]:
    """What it printed and what it logged, with a profile in `directory`.

    Skips the test where there is no Chromium, but not in CI.
    """
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have chromium: scripts/install-peers")
        pytest.skip("no chromium on this machine: run scripts/install-peers")
    command = [program, *_OPTIONS, f"--user-data-dir={directory / 'profile'}", "--enable-logging=stderr", *options]
    run = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
    return run.stdout, run.stderr
