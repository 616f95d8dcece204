"""The back ends that the contract is held to: the tests in contract/ know of a back end what stands here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.storage import (
    Store,
    checking,
    erasing,
    figures,
    imports,
    journal,
    open_store,
    outbox,
    renewing,
    replies,
    requests,
    restoring,
    rows,
    submissions,
    subscribers,
    waiting,
)
from kmp_smsd.storage.backup import backup
from tests.storage.fresh import new_database


class Sqlite:
    """Databases by name, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, policy: SyncPolicy | None = None, *, name: str = "kmp") -> Store:
        """Open a store on a database, which is created when it is first named."""
        path = self.directory / f"{name}.db"
        if not path.exists():
            new_database(path)
        return open_store(path, policy)

    def back_up(self, copy: str, *, name: str = "kmp") -> None:
        """Save a database, which may be open, as `copy`."""
        backup(self.directory / f"{name}.db", self.directory / f"{copy}.backup")

    def restore(self, copy: str, now: int, *, name: str = "kmp") -> None:
        """Make a database, which nobody has open, what was saved as `copy`."""
        restoring.restore(self.directory / f"{name}.db", self.directory / f"{copy}.backup", now)

    @staticmethod
    @contextmanager
    def small_steps() -> Iterator[None]:
        """What is done in steps of hundreds of rows, or thousands, is done in steps of two."""
        with ExitStack() as small:
            for module in (imports, replies, rows, submissions, subscribers, waiting):
                small.enter_context(mock.patch.object(module, "STEP_ROWS", 2))
            for module in (outbox, renewing):
                small.enter_context(mock.patch.object(module, "STEP_ROWS", 4))  # two, where each may lead to two wants
            for module, name in (
                (checking, "READ_ROWS"),
                (figures, "READ_ROWS"),
                (erasing, "SWEEP_ROWS"),
                (erasing, "BLANK_ROWS"),
                (journal, "JOURNAL_STEP"),
                (requests, "BATCH_ROWS"),
            ):
                small.enter_context(mock.patch.object(module, name, 2))
            yield


BACK_ENDS = {"sqlite": Sqlite}
