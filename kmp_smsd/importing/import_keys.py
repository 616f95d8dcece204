"""One import of a vendor's key file: everything in it goes live at once, or nothing does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.importing.csv_keys import KeyRow, check_keys, read_keys
from kmp_smsd.importing.faults import Fault, Faults
from kmp_smsd.importing.key_text import KeyEncoding
from kmp_smsd.importing.lines import Lines, Progress
from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.master_key import PublicKey

STEP_ROWS: Final = 5000
_VENDOR: Final = re.compile(r"[A-Za-z0-9._-]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
_EXISTS: Final = "exists"


class ImportRefused(ValueError):
    """Nothing was read and nothing changed; the sentence says what to do."""


class ImportStore(Protocol):
    """Where keys are staged: out of sight until their import is published."""

    def begin(
        self, *, vendor: str, file_name: str, digest: str, data_key_id: str, sealed: bytes, fingerprint: str, now: int
    ) -> int:
        """Begin an import at `now`, Unix milliseconds, and remove abandoned ones; its number.

        Raises ValueError where `fingerprint` is not that of the database's master key.
        """

    def stage(self, import_id: int, rows: Sequence[StagedKey]) -> list[tuple[str, str]]:
        """Store at most STEP_ROWS keys, not live; the key IDs that cannot be, each with "exists" or another reason."""

    def publish(self, import_id: int, now: int) -> None:
        """Make all keys of the import live at once, from `now` on."""

    def discard(self, import_id: int) -> None:
        """Remove the import and what was staged for it."""


@dataclass(frozen=True, slots=True)
class Report:
    """How an import ended. Of faults and warnings it has the first ones, in the order of the file, and counts all."""

    file: str
    digest: str
    keys: int
    faults: tuple[Fault, ...]
    fault_count: int
    warnings: tuple[Fault, ...]
    warning_count: int
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
    progress: Progress | None = None,
) -> Report:
    """Check a key file, wrap its keys with a new data key, stage them and publish them.

    The file is read twice: first all of it is checked without touching the store, then it is staged. Any fault, a key
    ID that exists included, leaves nothing behind, and so does a dry run. `clock` gives Unix milliseconds: between the
    begin and the end of a large file lie minutes. `progress` is told the octets read and to read, both passes together.
    Raises ImportRefused, OSError, and what the store raises.
    """
    if not plaintext:
        raise ImportRefused("the keys in a CSV file are in clear; say --plaintext if the file may be read like that")
    if not _VENDOR.fullmatch(vendor):
        raise ImportRefused("a vendor's name is 1 to 64 of A-Z a-z 0-9 space . - _, without a space at either end")
    try:
        lines = Lines(path, passes=2, progress=progress)
    except ValueError as error:
        raise ImportRefused(str(error)) from None
    with lines:
        faults, warnings = Faults(lines.name), Faults(lines.name)
        keys = check_keys(lines, faults, warnings, encoding)
        digest = lines.digest
        import_id = None
        if not faults:
            import_id = _stage(store, lines, vendor, path.name, public_key, faults, encoding, clock())
            if not faults and not dry_run:
                # Not discarded where this fails: it may be live. If it is not, the next import removes it.
                store.publish(import_id, clock())
            else:
                store.discard(import_id)
                import_id = None
    return Report(
        lines.name, digest, keys, faults.by_line(), faults.count, warnings.by_line(), warnings.count, import_id
    )


def _stage(
    store: ImportStore,
    lines: Lines,
    vendor: str,
    file_name: str,
    public_key: PublicKey,
    faults: Faults,
    encoding: KeyEncoding | None,
    now: int,
) -> int:
    """Stage the file that was checked; the number of the import. Conflicts go to `faults`."""
    digest = lines.digest
    data_key = DataKey.new()
    import_id = store.begin(
        vendor=vendor,
        file_name=file_name,
        digest=digest,
        data_key_id=data_key.id,
        sealed=public_key.seal(data_key),
        fingerprint=public_key.fingerprint,
        now=now,
    )
    try:
        changed = Faults(lines.name)
        for step in _steps(read_keys(lines, changed, encoding)):
            refused = store.stage(import_id, [_wrapped(data_key, row) for row in step])
            if refused:
                line_of = {row.key_id: row.line for row in step}
                for key_id, reason in refused:
                    faults.add(line_of[key_id], f"key ID {key_id} {_sentence(reason)}", "key_id")
        if lines.digest != digest:
            faults.add(1, "the file changed while it was read; import it again")
    except BaseException:  # an interrupt too: nothing of it may stay
        with suppress(Exception):  # the first error is what people must see; the next import removes the rest
            store.discard(import_id)
        raise
    return import_id


def _steps(rows: Iterator[KeyRow]) -> Iterator[list[KeyRow]]:
    while step := list(islice(rows, STEP_ROWS)):
        yield step


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


def _sentence(reason: str) -> str:
    if reason == _EXISTS:
        return "exists already; key IDs are unique over all vendors, and an import never replaces a key"
    return f"cannot be imported: {reason}"
