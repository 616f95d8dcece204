"""What every command gets: the configuration and the store, each opened when it is needed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmp_smsd.config.load import Config
    from kmp_smsd.storage import Store

DEFAULT_CONFIG = Path("/etc/kmp-smsd/kmp-smsd.toml")


@dataclass
class Settings:
    """The global options."""

    path: Path = DEFAULT_CONFIG
    named: bool = False  # the path, by whoever runs this
    debug: bool = False

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigFaults."""
        from kmp_smsd.config.load import load

        return load(self.path)

    @property
    def served_apps(self) -> set[str]:
        """The apps that enabled platforms have. Raises ConfigFaults."""
        return {app_id for platform in self.config.platforms.values() for app_id in platform.apps}

    def store(self) -> Store:
        """Open the database of the configuration, for a `with` statement. Raises StoreError and ConfigFaults."""
        from kmp_smsd.storage import open_store

        return open_store(self.config.storage.path, self.config.policy)


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
