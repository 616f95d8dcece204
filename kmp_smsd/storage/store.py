"""The open store: one connection, and every question and wish by its subject."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.bindings import Bindings
from kmp_smsd.storage.database import open_database
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.holds import Holds
from kmp_smsd.storage.imports import Imports
from kmp_smsd.storage.keys import Keys
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.maintenance import check_place, check_schema
from kmp_smsd.storage.outbox import Outbox
from kmp_smsd.storage.routes import Routes
from kmp_smsd.storage.settling import Settling
from kmp_smsd.storage.subscribers import Registrations

# How many entries one statement looks through.
JOURNAL_STEP = 100_000


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
        self._settling = Settling(self._database, policy)
        self.bindings = Bindings(self._database)
        self.holds = Holds(self._database)
        self.imports = Imports(self._database)
        self.keys = Keys(self._database)
        self.outbox = Outbox(self._database)
        self.registrations = Registrations(self._database)
        self.routes = Routes(self._database)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.imports.close()
        self._opened.close()

    def settle(self, messages: Sequence[SyncRequest | Unfit], now: int) -> list[Outcome]:
        """Decide and write a batch in one transaction; see Settling.settle. Raises StoreUnavailable."""
        return self._settling.settle(messages, now)

    def approved(self) -> list[SyncRequest]:
        """The requests of approved holds, to be settled again."""
        return self._settling.approved()

    def data_version(self) -> int:
        """Changes whenever somebody else commits. Cheap: poll it."""
        return self._database.data_version()

    def finish_erasing(self) -> None:
        """Empty the write-ahead log where an erasure could not because somebody was reading."""
        if self._database.rows("SELECT erase_log FROM store")[0][0]:
            self._database.erase_log(waits_s=())

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

    def tallies(self, *, since_hour: int = 0) -> list[dict[str, Any]]:
        """Counted messages per outcome and link since an hour (hours since 1970, UTC)."""
        return self._database.records(
            ("link", "outcome", "count"),
            "SELECT link, outcome, sum(count) FROM tallies WHERE hour >= ? GROUP BY link, outcome ORDER BY 1, 2",
            (since_hour,),
        )

    def journal(self, *, mdn: str | None = None, before: int | None = None, limit: int) -> list[dict[str, Any]]:
        """Journal entries, the newest first, of those with a number below `before`.

        The journal has no index by subscriber: it would have intake write a fifth more for each binding. The entries of
        one MDN are looked for from the end backwards, in steps, so that a long search holds up no checkpoint.
        """
        columns = ("entry", "at", "mdn", "outcome", "link", "key_id", "app_id", "why", "hold")
        ((first, last),) = self._database.rows(
            "SELECT ifnull((SELECT min(id) FROM journal), 0), ifnull((SELECT max(id) FROM journal), 0)"
        )
        end = last + 1 if before is None else before
        entries: list[dict[str, Any]] = []
        while end > first and len(entries) < limit:
            begin = end - JOURNAL_STEP
            entries += self._database.records(
                columns,
                """SELECT j.id, j.at, s.mdn, j.outcome, j.link, j.key_id, j.app, j.why, j.hold
                       FROM journal j CROSS JOIN subscribers s ON s.number = j.subscriber
                       WHERE j.id >= ? AND j.id < ?
                         AND (? IS NULL OR j.subscriber = (SELECT number FROM subscribers WHERE mdn = ?))
                       ORDER BY j.id DESC LIMIT ?""",
                (begin, end, mdn, mdn, limit - len(entries)),
            )
            end = begin
        return entries


def open_store(path: Path, policy: SyncPolicy | None = None, *, checkpoint_aside: bool = False) -> Store:
    """Open the database at `path`; `checkpoint_aside` is for the one who writes most and must not wait.

    Raises StoreUnusable where there is none, or one of another schema; StoreBusy while somebody replaces it;
    StoreUnavailable where it cannot be read.
    """
    try:
        return Store(path, policy or SyncPolicy(), checkpoint_aside=checkpoint_aside)
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error
