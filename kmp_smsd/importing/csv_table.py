"""A CSV file (RFC 4180) with a header: UTF-8, commas, one row per line, the columns in any order.

A byte order mark, CR LF, a missing last line end, empty lines, quotes and spaces around values are all right, but no
space behind a closing quote. No sentence quotes the file: with a header missing or columns swapped, any value may be a
key.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.importing.faults import Faults
from kmp_smsd.importing.lines import MOST_OCTETS

_BOM = b"\xef\xbb\xbf"
_NOT_TEXT = {
    b"\xff\xfe": "this file is in UTF-16; save it as CSV in UTF-8",
    b"\xfe\xff": "this file is in UTF-16; save it as CSV in UTF-8",
    b"PK\x03\x04": "this is a spreadsheet or a ZIP archive; save the table as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "this is a spreadsheet; save the table as CSV in UTF-8",
    b"\x1f\x8b": "this file is compressed; unpack it first",
}


class CsvTable:
    """The rows of a CSV file. `columns` are the columns that it may have, `required` those that it must have."""

    def __init__(
        self, lines: Iterable[tuple[int, bytes | None]], faults: Faults, columns: Sequence[str], required: Sequence[str]
    ) -> None:
        self._lines = iter(lines)
        self._faults = faults
        self._columns = tuple(columns)
        self._required = tuple(required)

    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Line numbers and values in the order of `columns`, "" for a column that the file does not have.

        Lines with faults are left out; without a good header there are no rows at all.
        """
        if not self._read_header():
            return
        position = self._faults.columns
        width = len(position)
        # The position of what is absent is behind the last value, where each row gets an empty one.
        pick = itemgetter(*(position.get(name, width + 1) - 1 for name in self._columns))
        for number, line in self._lines:
            if line == b"":
                continue
            values = self._split(number, line)
            if values is None:
                continue
            if len(values) != width:
                self._faults.add(
                    number, f"{counted(len(values), 'value')}, but the header names {counted(width, 'column')}"
                )
                continue
            values.append("")
            yield number, pick(values)

    def _read_header(self) -> bool:
        number, line = next(self._lines, (1, b""))
        if line is not None:
            line = line.removeprefix(_BOM)
            for magic, sentence in _NOT_TEXT.items():
                if line.startswith(magic):
                    self._faults.add(number, sentence)
                    return False
        if line == b"":
            self._faults.add(number, f"the first line is empty; it must name the columns, {self._usual()}")
            return False
        names = self._split(number, line)
        if names is None:
            return False
        faults_before = self._faults.count
        if set(names).isdisjoint(self._columns):
            self._faults.add(number, f"the first line does not name the columns, {self._usual()}{self._hint(names)}")
            return False
        found: dict[str, int] = {}
        for position, name in enumerate(names, start=1):
            if name in found:
                self._faults.add(number, f'columns {found[name]} and {position} are both "{name}"; remove one')
            elif name in self._columns:
                found[name] = position
            else:
                hint = did_you_mean(name, self._columns) or f" (the columns are {', '.join(self._columns)})"
                self._faults.add(number, f"column {position} has an unknown name{hint}")
        for name in self._required:
            if name not in found:
                self._faults.add(number, f'there is no column "{name}"')
        self._faults.columns = found
        return self._faults.count == faults_before

    def _usual(self) -> str:
        optional = [f"[,{name}]" for name in self._columns if name not in self._required]
        return ",".join(self._required) + "".join(optional)

    def _hint(self, names: list[str]) -> str:
        for character, word in ((";", "semicolons"), ("\t", "tabs")):
            if len(names) == 1 and character in names[0]:
                return f" (separated by commas, not by {word})"
        return "" if {name.lower() for name in names}.isdisjoint(self._columns) else " (in lower case)"

    def _split(self, number: int, line: bytes | None) -> list[str] | None:
        """The values of a line without the spaces around them; None for a line with a fault."""
        if line is None:
            self._faults.add(number, f"the line has more than {MOST_OCTETS:,} octets; is a line end missing?")
            return None
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._faults.add(number, f"octet {error.start + 1} is not UTF-8; save the file as CSV in UTF-8")
            return None
        if not text.isprintable() and not text.replace("\t", " ").isprintable():
            position = next(i for i, one in enumerate(text, start=1) if not one.isprintable() and one != "\t")
            self._faults.add(number, f"character {position} is not printable; is this a text file?")
            return None
        if '"' not in text:
            return [value.strip() for value in text.split(",")]
        try:
            (values,) = csv.reader([text], strict=True, skipinitialspace=True)
        except csv.Error:
            self._faults.add(
                number,
                'the quotes are wrong: write "..." around the whole value, no space behind, and "" for a quote in it',
            )
            return None
        return [value.strip() for value in values]
