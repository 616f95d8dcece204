"""A vendor's key file, read, checked and wrapped: of what is told of it here, no key is in clear."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.importing.csv_keys import KeyRow, read_keys
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.key_text import KeyEncoding
from kmp_smsd.importing.lines import Lines
from kmp_smsd.storage.rows import STEP_ROWS, in_steps
from kmp_smsd.vault.data_key import DataKey


class SomeKeys(NamedTuple):
    """Keys in the order of the file, at most STEP_ROWS, and the lines that they are on; `columns` as in Faults.

    Each is a plain tuple of the fields of StagedKey: that is sent to another process in a quarter of the time. Behind
    the first fault of the file there are none, but all key IDs.
    """

    lines: Sequence[int]
    key_ids: Sequence[str]
    fields: Sequence[tuple[Any, ...]]
    columns: dict[str, int]

    @property
    def keys(self) -> list[StagedKey]:
        return [StagedKey._make(one) for one in self.fields]


class Position(NamedTuple):
    """How much of the file is read, in octets."""

    done: int
    total: int


class WholeFile(NamedTuple):
    """All of it is read."""

    digest: str
    keys: int
    faults: Faults
    warnings: Faults


Part = SomeKeys | Position | WholeFile


def read_key_file(
    lines: Lines,
    data_key: DataKey,
    encoding: KeyEncoding | None,
    served: Collection[str],
    now: int,
    tell: Callable[[Part], None],
) -> None:
    """Tell the wrapped keys of a file, how far it is read now and then, and WholeFile at last.

    Behind the first fault no key is told, but each key ID, and the rest of the file is checked. A key whose time is
    over `now`, Unix milliseconds, or that is reserved for an app which is not among those `served`, is a warning.
    """
    faults, warnings = Faults(lines.name), Faults(lines.name)
    lines.progress = lambda done, total: tell(Position(done, total))
    keys = 0
    for rows in in_steps(read_keys(lines, faults, encoding), STEP_ROWS):
        keys += len(rows)
        warnings.columns = faults.columns
        _tell_doubts(rows, warnings, served, now)
        _tell_shared_keys(rows, warnings)
        wrapped = [] if faults else [_wrapped(data_key, row) for row in rows]
        tell(SomeKeys([row.line for row in rows], [row.key_id for row in rows], wrapped, faults.columns))
    tell(WholeFile(lines.digest, keys, faults, warnings))


def _tell_doubts(rows: Sequence[KeyRow], warnings: Faults, served: Collection[str], now: int) -> None:
    """Warn of what is good and may be mistyped all the same, at the first line that has it: imports stand."""
    for row in rows:
        if row.valid_until is not None and row.valid_until <= now:
            over = "this is over already: keys with it cannot be bound any more"
            warnings.add_once(row.valid_until, row.line, over, "valid_until")
        if row.app_id is not None and row.app_id not in served:
            unserved = f"no enabled platform has {row.app_id} among its apps, and what a key is reserved for stays so"
            warnings.add_once(row.app_id, row.line, unserved, "app_id")


def _tell_shared_keys(rows: Sequence[KeyRow], warnings: Faults) -> None:
    """Warn of one key under several IDs, as of a template: among `rows` only, no key is remembered for longer."""
    if len({row.key for row in rows}) == len(rows):
        return
    first: dict[bytes, int] = {}
    for row in rows:
        line = first.setdefault(row.key, row.line)
        if line != row.line:
            shared = f"the key of line {line} under another ID: who has one terminal has both"
            warnings.add_once(("key", line), row.line, shared, "key")


def _wrapped(data_key: DataKey, row: KeyRow) -> tuple[Any, ...]:
    return (
        row.key_id,
        row.serial,
        row.app_id,
        row.algorithm,
        row.kcv,
        *data_key.wrap(row.key, row.key_id, row.algorithm, row.app_id),
        row.valid_from,
        row.valid_until,
    )
