"""Tests that mount disks of their own: without root they are skipped at home, and fail in CI."""

from __future__ import annotations

import os

import pytest


def require_root() -> None:
    """Call before the first mount of a test."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("CI must run this as root: it mounts disks")
        pytest.skip("mounting disks needs root")
