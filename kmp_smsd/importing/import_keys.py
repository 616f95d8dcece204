"""One import of a vendor's key file: everything in it goes live at once, or nothing does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from kmp_smsd.importing.child_process import told_by_child
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.key_file import Part, Position, SomeKeys, WholeFile, read_key_file
from kmp_smsd.importing.key_text import KeyEncoding
from kmp_smsd.importing.lines import Lines, Progress
from kmp_smsd.importing.repeated import Repeated
from kmp_smsd.storage.errors import StoreError
from kmp_smsd.storage.imports import Imports
from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.master_key import PublicKey

log = logging.getLogger(__name__)

_VENDOR: Final = re.compile(r"[A-Za-z0-9._-]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
_EXISTS: Final = "exists already; key IDs are unique over all vendors, and an import never replaces a key"


class ImportRefused(ValueError):
    """Nothing was read and nothing changed; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Report:
    """How an import ended."""

    keys: int
    faults: Faults
    warnings: Faults
    import_id: int | None
    """The number of the import that went live; None for a dry run and where there are faults."""


def import_keys(
    store: Imports,
    path: Path,
    vendor: str,
    public_key: PublicKey,
    *,
    clock: Callable[[], int],
    plaintext: bool,
    served: Collection[str],
    dry_run: bool = False,
    encoding: KeyEncoding | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a key file, wrap its keys with a new data key and stage them; where all of it is right, publish them.

    Any fault, a key ID that exists included, leaves nothing behind, and so does a dry run; what cannot be deleted goes
    with the next import. After the first fault of the file itself nothing more is staged, but the rest of it is
    checked. `clock` gives Unix milliseconds: between the begin and the end of a large file lie minutes. Keys that are
    reserved for an app which is not among those `served` are told as a warning. `progress` is told the octets read and
    to read.

    Raises ImportRefused, OSError, and what the store raises.
    """
    if not plaintext:
        raise ImportRefused("the keys in a CSV file are in clear; say --plaintext if the file may be read like that")
    if not _VENDOR.fullmatch(vendor):
        raise ImportRefused("a vendor's name is 1 to 64 of A-Z a-z 0-9 space . - _, without a space at either end")
    try:
        lines = Lines(path)
    except ValueError as error:
        raise ImportRefused(str(error)) from None
    began, data_key = clock(), DataKey.new()
    begin = partial(
        store.begin,
        vendor=vendor,
        file_name=path.name,
        data_key_id=data_key.id,
        sealed=public_key.seal(data_key),
        fingerprint=public_key.fingerprint,
        now=began,
    )
    staging = _Staging(store, begin, Faults(lines.name))
    with lines:
        try:
            # What reads keys in clear writes no database, and goes on while one is written.
            with told_by_child(partial(read_key_file, lines, data_key, encoding, served, began)) as parts:
                whole = _staged(parts, staging, progress)
            faults = whole.faults
            faults.add_all(staging.conflicts)
            if not faults and lines.changed(whole.digest):
                faults.add(1, "the file changed while it was read; import it again")
        except BaseException:  # an interrupt too: nothing of it may stay
            with suppress(Exception):  # the first error is what people must see
                staging.discard()
            raise
        import_id = None
        if faults or dry_run:
            staging.discard()
        else:
            import_id = staging.publish(whole.digest, clock())
    return Report(whole.keys, faults, whole.warnings, import_id)


def _staged(parts: Iterator[Part], staging: _Staging, progress: Progress | None) -> WholeFile:
    """Stage the keys of a file as they are read; what there is to be known of all of it."""
    with Repeated() as key_ids:
        for part in parts:
            match part:
                case SomeKeys():
                    for line, key_id in zip(part.lines, part.key_ids, strict=True):
                        key_ids.add(line, key_id)
                    staging.stage(part)
                case Position():
                    if progress:
                        progress(part.done, part.total)
                case WholeFile():
                    _tell_repeated(key_ids, part)
                    return part
    raise AssertionError("whoever reads a file tells of the whole of it, or raises")


def _tell_repeated(key_ids: Repeated, whole: WholeFile) -> None:
    """Key IDs that the file has twice are faults, those that differ only in case are warnings."""
    for line, first in key_ids.equal():
        whole.faults.add(line, f"the key ID of line {first} again; each key has its own", "key_id")
    for line, first in key_ids.differing_in_case():
        whole.warnings.add(line, f"the key ID of line {first} in another case; they are two different keys", "key_id")


class _Staging:
    """An import in the store. It begins with its first keys: a file that is wrong at its head never gets there."""

    def __init__(self, store: Imports, begin: Callable[[], int], conflicts: Faults) -> None:
        self._store = store
        self._begin = begin
        self._import_id: int | None = None
        self.conflicts = conflicts
        """Key IDs that exist."""

    def stage(self, some: SomeKeys) -> None:
        """Stage wrapped keys, where there are any."""
        if not some.fields:
            return
        if self._import_id is None:
            self._import_id = self._begin()
        self.conflicts.columns = some.columns
        keys = some.keys
        if not (existing := set(self._store.stage(self._import_id, keys))):
            return
        for line, key in zip(some.lines, keys, strict=True):
            if key.key_id in existing:
                self.conflicts.add(line, f"key ID {key.key_id} {_EXISTS}", "key_id")

    def publish(self, digest: str, now: int) -> int:
        """Make it live; its number. Not discarded where this fails: it may be live. If not, the next one removes it."""
        assert self._import_id is not None  # a file without keys has a fault
        try:
            self._store.publish(self._import_id, digest, now)
        except KeyboardInterrupt:  # which came after the commit, maybe
            if not self._store.is_live(self._import_id):
                with suppress(Exception):
                    self.discard()
                raise
        return self._import_id

    def discard(self) -> None:
        """Leave nothing behind; where the store cannot remove it, say so and go on, since nobody sees what stays."""
        if self._import_id is None:
            return
        try:
            self._store.discard(self._import_id)
        except StoreError as error:
            log.warning(
                "what was staged stays, and goes with the next import: %s",
                error,
                extra={"event": "staged_stays", "reason": str(error)},
            )
