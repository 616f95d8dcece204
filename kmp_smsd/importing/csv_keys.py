"""A vendor's keys as CSV: key_id,key[,serial][,app_id][,algorithm][,kcv][,valid_from][,valid_until]

The columns may be in any order. The algorithm is aes where none is said. A key is valid from the first moment of
valid_from to the last one of valid_until; both are days or moments in UTC. A KCV is checked where it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from kmp_smsd.domain.identifiers import APP_ID_RULE, KEY_ID_RULE, is_app_id, is_key_id
from kmp_smsd.importing.csv_table import CsvTable
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.instant import beginning_ms, end_ms
from kmp_smsd.importing.key_text import KeyEncoding, KeyText
from kmp_smsd.importing.lines import Lines
from kmp_smsd.vault.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, UnfitKey, kcv

COLUMNS: Final = ("key_id", "key", "serial", "app_id", "algorithm", "kcv", "valid_from", "valid_until")
REQUIRED: Final = ("key_id", "key")
MOST_SERIAL_CHARACTERS: Final = 64


class KeyRow(NamedTuple):
    """One good row. `key` is in clear; wrap it and let go of it."""

    line: int
    key_id: str
    key: bytes
    serial: str | None
    app_id: str | None
    algorithm: str
    kcv: str
    valid_from: int | None  # Unix milliseconds, as in StagedKey
    valid_until: int | None

    def __repr__(self) -> str:
        return f"<KeyRow {self.line} {self.key_id} {self.kcv}>"


def read_keys(lines: Lines, faults: Faults, encoding: KeyEncoding | None = None) -> Iterator[KeyRow]:
    """The good rows of a key file, one by one; behind the last one everything that is wrong with a row is known.

    A key ID may be there twice. `encoding` is how the keys are written; KeyText tells how it is found where it is None.
    """
    rows = 0
    table = CsvTable(lines, faults, COLUMNS, REQUIRED)
    key_text = KeyText(encoding)
    for line, values in table.rows():
        key_id, text, serial, app_id, algorithm, given_kcv, valid_from, valid_until = values
        before = faults.count
        if not is_key_id(key_id):
            faults.add(line, KEY_ID_RULE, "key_id")
        if len(serial) > MOST_SERIAL_CHARACTERS or not serial.isprintable():
            faults.add(line, f"a serial number has at most {MOST_SERIAL_CHARACTERS} printable characters", "serial")
        if app_id and not is_app_id(app_id):
            faults.add(line, f"{APP_ID_RULE}, or empty for no reservation", "app_id")
        starts = _moment(faults, line, "valid_from", valid_from) if valid_from else None
        ends = _moment(faults, line, "valid_until", valid_until) if valid_until else None
        if starts is not None and ends is not None and starts >= ends:
            faults.add(line, "this is before valid_from", "valid_until")
        algorithm = algorithm or DEFAULT_ALGORITHM
        key, check = _key(faults, line, key_text, text, algorithm)
        if given_kcv and check and given_kcv.upper() != check:
            faults.add(line, f"the key on this line has KCV {check}; ask the vendor which of the two is right", "kcv")
        if faults.count == before:
            rows += 1
            yield KeyRow(line, key_id, key, serial or None, app_id or None, algorithm, check, starts, ends)
    if not rows and not faults:
        faults.add(1, "there are no keys in this file")


def _moment(faults: Faults, line: int, column: str, text: str) -> int | None:
    try:
        return beginning_ms(text) if column == "valid_from" else end_ms(text)
    except ValueError as error:
        faults.add(line, str(error), column)
        return None


def _key(faults: Faults, line: int, key_text: KeyText, text: str, algorithm: str) -> tuple[bytes, str]:
    """The key and its KCV; both empty where there is a fault."""
    if not text:
        faults.add(line, "the key is missing", "key")
        return b"", ""
    try:
        key = key_text.octets(text)
    except ValueError as error:
        faults.add(line, str(error), "key")
        return b"", ""
    try:
        return key, kcv(algorithm, key)
    except UnfitKey as error:
        faults.add(line, str(error), "key" if algorithm in ALGORITHMS else "algorithm")
        return b"", ""
