"""The open store: one connection, and every question and wish by its subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage.bindings import Bindings
from kmp_smsd.storage.checking import Checking
from kmp_smsd.storage.database import open_database
from kmp_smsd.storage.erasing import Erasing
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.explaining import Explaining
from kmp_smsd.storage.figures import Figures
from kmp_smsd.storage.holds import Holds
from kmp_smsd.storage.imports import Imports
from kmp_smsd.storage.inbox_files import files_with, unread_in, waiting_in
from kmp_smsd.storage.journal import Journal
from kmp_smsd.storage.keys import Keys
from kmp_smsd.storage.lock_waits import LockWait
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.outbox import Outbox
from kmp_smsd.storage.place import check_place
from kmp_smsd.storage.platforms import Platforms
from kmp_smsd.storage.received import Message, Place, Settled
from kmp_smsd.storage.renewing import Renewing
from kmp_smsd.storage.renumbering import Renumbering
from kmp_smsd.storage.replies import Replies
from kmp_smsd.storage.requests import Requests
from kmp_smsd.storage.retention import Retention
from kmp_smsd.storage.routes import Routes
from kmp_smsd.storage.schema import check_schema
from kmp_smsd.storage.settling import Settling
from kmp_smsd.storage.submissions import Submissions
from kmp_smsd.storage.subscribers import Registrations
from kmp_smsd.storage.trying import Trial, try_out
from kmp_smsd.storage.waiting import Waiting


class Store:
    """An open database. Belongs to one thread at a time; several stores may be open on one file."""

    def __init__(self, path: Path, policy: SyncPolicy, *, checkpoint_aside: bool = False) -> None:
        check_place(path)
        if not path.exists():
            raise StoreUnusable(
                f"no database at {path}: is its volume mounted? For a new one run 'kmp-smsd db migrate'"
            )
        with ExitStack() as opened:
            opened.enter_context(closing(SchemaLock(path, exclusive=False)))
            self._database = opened.enter_context(closing(open_database(path, checkpoint_aside=checkpoint_aside)))
            check_schema(self._database.connection, path)
            self._opened = opened.pop_all()
        self.bindings = Bindings(self._database)
        self.checking = Checking(self._database)
        self.erasing = Erasing(self._database)
        self.explaining = Explaining(self._database)
        self.figures = Figures(self._database)
        self.holds = Holds(self._database)
        self.imports = Imports(self._database)
        self.journal = Journal(self._database)
        self.keys = Keys(self._database)
        self.outbox = Outbox(self._database)
        self.renewing = Renewing(self._database)
        self.registrations = Registrations(self._database)
        self.renumbering = Renumbering(self._database)
        self.requests = Requests(self._database)
        self.platforms = Platforms(self._database)
        self.replies = Replies(self._database)
        self.retention = Retention(self._database)
        self.routes = Routes(self._database)
        self.submissions = Submissions(self._database)
        self.waiting = Waiting(self._database)
        self._policy = policy
        self._settling = Settling(self._database, policy, self.journal)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.imports.close()
        self._opened.close()

    def settle(self, messages: Sequence[Message], now: int, last: Place | None = None) -> list[Outcome | None]:
        """Decide and write a batch in one transaction; see Settling.settle. Raises StoreUnavailable."""
        return self._settling.settle(messages, now, last)

    def settled(self) -> Settled:
        """What of the inbox is settled, for certain. Raises StoreUnavailable."""
        return self._settling.settled()

    def waiting_in_inbox(self) -> list[Message]:
        """Messages that were answered and are not settled. Raises StoreUnavailable and StoreUnusable."""
        return waiting_in(self._database.path, self._settling.settled_as_seen)

    def unread_in_inbox(self) -> list[str]:
        """Names in the inbox of what is not read: damaged files, and what is none of ours. Raises StoreUnavailable."""
        return unread_in(self._database.path)

    def inbox_files_with(self, mdn: str) -> list[Path]:
        """The files of the inbox in which `mdn` stands, settled or not. Raises StoreUnavailable."""
        return files_with(self._database.path, mdn)

    def try_out(self, request: SyncRequest, now: int) -> Trial:
        """Say what `settle` would make of a request at `now`; writes nothing. Raises StoreUnavailable."""
        return try_out(self._database, self._policy, request, now)

    def settle_again(self, now: int) -> list[Outcome]:
        """Decide again what commands marked and what waits for keys that arrived; see Settling.settle_again.

        Where there was something, or `waiting.recalling` says so, there may be more.
        """
        self.waiting.recall()
        if self.waiting.recalling:  # first all is marked: what waits for one key is decided in the order of receipt
            return []
        return self._settling.settle_again(now)

    def set_policy(self, policy: SyncPolicy) -> None:
        """Decide by `policy` from the next batch on."""
        self._settling.set_policy(policy)

    @property
    def lock_wait(self) -> LockWait:
        """How this store waits for the write lock; of all that is here, what other threads may ask."""
        return self._database.lock_wait

    @property
    def identity(self) -> str:
        """Which files it has open, whatever lies at their paths by now; see `identity_of`."""
        return self._database.identity

    def data_version(self) -> int:
        """Changes whenever somebody else commits. Cheap: poll it."""
        return self._database.data_version()

    def finish_erasing(self, *, scan_every_s: float = 0.0, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Blank whom all platforms have let go, and clear the files after that; whether something is left.

        They cannot be cleared while somebody is reading. For `scan_every_s` and `stopping` see Scrubber.scrub.
        """
        left = self.erasing.finish()
        if self._database.rows("SELECT erase_log FROM store")[0][0]:
            return not self._database.scrubber.scrub(waits_s=(), scan_every_s=scan_every_s, stopping=stopping) or left
        return left

    def sealed_data_keys(self, data_key_ids: Sequence[str]) -> dict[str, bytes]:
        """The sealed form of data keys, by their IDs."""
        return dict(
            self._database.rows(
                "SELECT d.id, d.sealed FROM json_each(?) j CROSS JOIN data_keys d ON d.id = j.value",
                (json.dumps(list(data_key_ids)),),
            )
        )

    def master_key(self) -> str | None:
        """The fingerprint of the master key that this database's keys are sealed to; None before the first import."""
        fingerprint: str | None = self._database.rows("SELECT master_key FROM store")[0][0]
        return fingerprint


def open_store(path: Path, policy: SyncPolicy | None = None, *, checkpoint_aside: bool = False) -> Store:
    """Open the database at `path`; `checkpoint_aside` is for who writes most.

    Raises StoreUnusable where there is none, or one of another schema; StoreBusy while somebody replaces it;
    StoreUnavailable where it cannot be read.
    """
    try:
        return Store(path, policy or SyncPolicy(), checkpoint_aside=checkpoint_aside)
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error
