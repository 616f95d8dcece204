"""SQLite held to the contract of every store."""

from __future__ import annotations

from tests.storage.contract.settling import *  # noqa: F403
