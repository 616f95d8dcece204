"""Rows for people and rows for programs. Listings go out page by page, so that their length does not matter."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import click

from kmp_smsd.cli.standard_output import check_heard
from kmp_smsd.domain.shown import NO_PLATFORM, printable

PAGE = 1000

Row = Mapping[str, Any]
# Header -> the row's field, or what makes a text of the row.
Columns = Mapping[str, str | Callable[[Row], str]]

_FLAGS = frozenset({"deciding"})  # SQLite has no booleans
_TIMES = frozenset({"at", "valid_from", "valid_until", "key_bound_since", "here_bound_since"})


def pages(fetch: Callable[..., list[dict[str, Any]]], *place: str) -> Iterator[Sequence[Row]]:
    """All pages of a listing: `fetch` returns at most `limit` rows `after` the one with these values in `place`."""
    rows = fetch(limit=PAGE)
    while rows:
        yield rows
        rows = fetch(after=itemgetter(*place)(rows[-1]), limit=PAGE) if len(rows) == PAGE else []


def listing(pages: Iterable[Sequence[Row]], columns: Columns, *, as_json: bool, nothing: str) -> None:
    """Print a table, or the rows in JSON. `nothing` is told to people where there are no rows."""
    widths = [0] * len(columns)
    first = True
    for page in pages:
        if as_json:
            sys.stdout.write("".join(_json(row) for row in page))
            check_heard()
            continue
        cells = [[_cell(row, column) for column in columns.values()] for row in page]
        table = _table(list(columns), cells, widths)
        # The headers count in the width of every page, but stand on the first one only.
        sys.stdout.write(table if first else table.partition("\n")[2])
        check_heard()
        first = False
    if first and not as_json:
        click.echo(f"kmp-smsd: {nothing}", err=True)


def record(row: Row, *, as_json: bool) -> None:
    """Print one thing with all its fields."""
    if as_json:
        sys.stdout.write(_json(row))
    else:
        cells = [[name.replace("_", " "), _cell(row, name)] for name in row]
        sys.stdout.write(_table([], cells, [0, 0]))


def local_time(milliseconds: int | None) -> str:
    """ISO 8601 in this machine's zone, to the second."""
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")


def delivery(row: Row) -> str:
    """What became of what is wanted at the platform."""
    wanted = row["wanted_version"]
    if wanted is None:
        return "-"
    if wanted == row["confirmed_version"]:
        return "confirmed"
    return "rejected" if wanted == row["rejected_version"] else "waiting"


def due(row: Row) -> str:
    """How much is due at a platform, with a plus where more was not counted."""
    return f"{row['due']:,}{'+' if row['due_more'] else ''}"


def rejected(row: Row) -> str:
    """How much a platform rejected, likewise."""
    return f"{row['rejected']:,}{'+' if row['rejected_more'] else ''}"


def platform(row: Row) -> str:
    """The platform's name; deliveries whose app is in no platform's file wait without one."""
    return "-" if row["platform"] is None else row["platform"] or NO_PLATFORM


def _json(row: Row) -> str:
    return json.dumps({name: bool(value) if name in _FLAGS else value for name, value in row.items()}) + "\n"


def _cell(row: Row, column: str | Callable[[Row], str]) -> str:
    if callable(column):
        return printable(column(row))
    value = row[column]
    if value is None or value in ("", []):
        return "-"
    if column in _FLAGS:
        return "yes" if value else "no"
    if column in _TIMES or column.endswith("_at"):
        return local_time(value)
    return printable(", ".join(value) if isinstance(value, list) else str(value))


def _table(headers: list[str], cells: list[list[str]], widths: list[int]) -> str:
    """A table as wide as those before it; `widths` is kept up to date."""
    from tabulate import tabulate

    for column in range(len(widths)):
        widths[column] = max(widths[column], *(len(row[column]) for row in cells))
        cells[0][column] = cells[0][column].ljust(widths[column])
    lines = tabulate(cells, headers, tablefmt="plain", disable_numparse=True, preserve_whitespace=True)
    return "".join(f"{line.rstrip()}\n" for line in lines.splitlines())
