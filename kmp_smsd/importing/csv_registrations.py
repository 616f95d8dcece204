"""Registrations as CSV: mdn,app_id, one app of one MDN per line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from kmp_smsd.domain.identifiers import APP_ID_RULE, is_app_id
from kmp_smsd.importing.csv_table import CsvTable
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.lines import Lines
from kmp_smsd.importing.repeated import Repeated

COLUMNS: Final = ("mdn", "app_id")


def unserved_app(app_id: str) -> str:
    """What a person should know who registers for an app that may be misspelt, or whose platform comes later."""
    return f"no enabled platform has {app_id} among its apps: its keys wait until one has"


@dataclass(frozen=True, slots=True)
class RegistrationRow:
    """One good row; `mdn` is canonical."""

    line: int
    mdn: str
    app_id: str


def read_registrations(lines: Lines, faults: Faults, canonical: Callable[[str], str]) -> Iterator[RegistrationRow]:
    """The good rows of a registration file, one by one; what is wrong goes to `faults`.

    `canonical` makes an MDN of its text under the numbering plan, or raises ValueError with a sentence.
    """
    table = CsvTable(lines, faults, COLUMNS, COLUMNS)
    for line, (text, app_id) in table.rows():
        before = faults.count
        mdn = ""
        try:
            mdn = canonical(text)
        except ValueError as error:
            faults.add(line, str(error), "mdn")
        if not is_app_id(app_id):
            faults.add(line, APP_ID_RULE, "app_id")
        if faults.count == before:
            yield RegistrationRow(line, mdn, app_id)


def check_registrations(
    lines: Lines, faults: Faults, warnings: Faults, canonical: Callable[[str], str], served: Collection[str]
) -> int:
    """Read a whole registration file and collect everything that is wrong with it; the number of good rows.

    The same registration twice is a warning: adding it again changes nothing. So is an app that is not `served` by a
    platform, at the first line that has it.
    """
    rows = 0
    with Repeated() as registrations:
        for row in read_registrations(lines, faults, canonical):
            warnings.columns = faults.columns
            registrations.add(row.line, f"{row.mdn},{row.app_id}")
            rows += 1
            if row.app_id not in served:
                warnings.add_once(row.app_id, row.line, unserved_app(row.app_id), "app_id")
        for line, first in registrations.equal():
            warnings.add(line, f"the registration of line {first} again")
        for line, first in registrations.differing_in_case():
            warnings.add(line, f"the app ID of line {first} in another case; they are two different apps", "app_id")
    if not rows and not faults:
        faults.add(1, "there are no registrations in this file")
    return rows
