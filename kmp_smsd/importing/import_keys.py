"""One import of a vendor's key file: everything in it goes live at once, or nothing does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.importing.csv_keys import KeyRow, read_keys
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.key_text import KeyEncoding
from kmp_smsd.importing.lines import Lines, Progress
from kmp_smsd.storage.errors import StoreError
from kmp_smsd.storage.rows import STEP_ROWS
from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.master_key import PublicKey

log = logging.getLogger(__name__)

_VENDOR: Final = re.compile(r"[A-Za-z0-9._-]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
_EXISTS: Final = "exists already; key IDs are unique over all vendors, and an import never replaces a key"


class ImportRefused(ValueError):
    """Nothing was read and nothing changed; the sentence says what to do."""


class ImportStore(Protocol):
    """Where keys are staged: out of sight until their import is published."""

    def begin(self, *, vendor: str, file_name: str, data_key_id: str, sealed: bytes, fingerprint: str, now: int) -> int:
        """Begin an import at `now`, Unix milliseconds, and remove abandoned ones; its number.

        Raises NotPossible where `fingerprint` is not that of the database's master key, and StoreBusy while another
        import is under way.
        """

    def stage(self, import_id: int, rows: Sequence[StagedKey]) -> list[str]:
        """Store at most STEP_ROWS keys, not live; the key IDs that other imports have, whose keys are left out."""

    def publish(self, import_id: int, digest: str, now: int) -> None:
        """Make all keys of the import live at once, from `now` on; `digest` is that of their file."""

    def is_live(self, import_id: int) -> bool:
        """Whether its keys exist."""

    def discard(self, import_id: int) -> None:
        """Remove the import and what was staged for it. Raises StoreError: then the next import does that."""


@dataclass(frozen=True, slots=True)
class Report:
    """How an import ended."""

    file: str
    digest: str
    keys: int
    faults: Faults
    warnings: Faults
    import_id: int | None
    """The number of the import that went live; None for a dry run and where there are faults."""


def import_keys(
    store: ImportStore,
    path: Path,
    vendor: str,
    public_key: PublicKey,
    *,
    clock: Callable[[], int],
    plaintext: bool,
    dry_run: bool = False,
    encoding: KeyEncoding | None = None,
    served: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a key file, wrap its keys with a new data key and stage them; where all of it is right, publish them.

    Any fault, a key ID that exists included, leaves nothing behind, and so does a dry run; what cannot be deleted goes
    with the next import. After the first fault of the file itself nothing more is staged, but the rest of it is
    checked. `clock` gives Unix milliseconds: between the begin and the end of a large file lie minutes. Keys that are
    reserved for an app which is not among those `served` are told as a warning, where these are known. `progress` is
    told the octets read and to read.

    Raises ImportRefused, OSError, and what the store raises.
    """
    if not plaintext:
        raise ImportRefused("the keys in a CSV file are in clear; say --plaintext if the file may be read like that")
    if not _VENDOR.fullmatch(vendor):
        raise ImportRefused("a vendor's name is 1 to 64 of A-Z a-z 0-9 space . - _, without a space at either end")
    try:
        lines = Lines(path, progress=progress)
    except ValueError as error:
        raise ImportRefused(str(error)) from None
    began = clock()
    staging = _Staging(store, vendor, path.name, public_key, began, clock)
    with lines:
        faults, warnings = Faults(lines.name), Faults(lines.name)
        doubts = _Doubts(warnings, served, began)
        keys = conflicts = 0
        try:
            for step in _steps(read_keys(lines, faults, warnings, encoding)):
                keys += len(step)
                doubts.look_at(step)
                if faults.count == conflicts:
                    conflicts += staging.stage(step, faults)
            if not faults and lines.changed():
                faults.add(1, "the file changed while it was read; import it again")
        except BaseException:  # an interrupt too: nothing of it may stay
            with suppress(Exception), _told():  # the first error is what people must see
                staging.discard()
            raise
        import_id = None
        if faults or dry_run:
            with _told():  # what is wrong with the file, or that nothing is, is what people must see
                staging.discard()
        else:
            import_id = staging.publish(lines.digest)
    return Report(lines.name, lines.digest, keys, faults, warnings, import_id)


class _Staging:
    """An import in the store. It begins with its first keys: a file that is wrong at its head never gets there."""

    def __init__(
        self,
        store: ImportStore,
        vendor: str,
        file_name: str,
        public_key: PublicKey,
        began: int,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._vendor = vendor
        self._file_name = file_name
        self._public_key = public_key
        self._began, self._clock = began, clock
        self._data_key = DataKey.new()
        self._import_id: int | None = None

    def stage(self, rows: Sequence[KeyRow], faults: Faults) -> int:
        """Wrap and stage `rows`; key IDs that exist are faults, which are counted."""
        if self._import_id is None:
            self._import_id = self._store.begin(
                vendor=self._vendor,
                file_name=self._file_name,
                data_key_id=self._data_key.id,
                sealed=self._public_key.seal(self._data_key),
                fingerprint=self._public_key.fingerprint,
                now=self._began,
            )
        existing = set(self._store.stage(self._import_id, [_wrapped(self._data_key, row) for row in rows]))
        conflicts = [row for row in rows if row.key_id in existing]
        for row in conflicts:
            faults.add(row.line, f"key ID {row.key_id} {_EXISTS}", "key_id")
        return len(conflicts)

    def publish(self, digest: str) -> int:
        """Make it live; its number. Not discarded where this fails: it may be live. If not, the next one removes it."""
        assert self._import_id is not None  # a file without keys has a fault
        try:
            self._store.publish(self._import_id, digest, self._clock())
        except KeyboardInterrupt:  # which came after the commit, maybe
            if not self._store.is_live(self._import_id):
                with suppress(Exception), _told():
                    self.discard()
                raise
        return self._import_id

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._import_id is not None:
            self._store.discard(self._import_id)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except StoreError as error:  # nobody sees what stays
        log.warning(
            "what was staged stays, and goes with the next import: %s",
            error,
            extra={"event": "staged_stays", "reason": str(error)},
        )


def _steps(rows: Iterator[KeyRow]) -> Iterator[list[KeyRow]]:
    while step := list(islice(rows, STEP_ROWS)):
        yield step


class _Doubts:
    """Warnings of what is good and may be mistyped all the same, at the first line that has it: imports stand."""

    def __init__(self, warnings: Faults, served: Collection[str] | None, now: int) -> None:
        self._warnings = warnings
        self._served = served
        self._now = now

    def look_at(self, rows: Sequence[KeyRow]) -> None:
        for row in rows:
            if row.valid_until is not None and row.valid_until <= self._now:
                over = "this is over already: keys with it cannot be bound any more"
                self._warnings.add_once(row.valid_until, row.line, over, "valid_until")
            if row.app_id is not None and self._served is not None and row.app_id not in self._served:
                unserved = (
                    f"no enabled platform has {row.app_id} among its apps, and what a key is reserved for stays so"
                )
                self._warnings.add_once(row.app_id, row.line, unserved, "app_id")


def _wrapped(data_key: DataKey, row: KeyRow) -> StagedKey:
    nonce, ciphertext = data_key.wrap(row.key, row.key_id, row.algorithm, row.app_id)
    return StagedKey(
        row.key_id,
        row.serial,
        row.app_id,
        row.algorithm,
        row.kcv,
        nonce,
        ciphertext,
        row.valid_from,
        row.valid_until,
    )
