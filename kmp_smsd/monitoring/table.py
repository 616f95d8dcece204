"""Tables of the status page: a row for each link or platform, in the colour of its state; on a phone each is a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.monitoring.ages import ago, since
from kmp_smsd.monitoring.amounts import count, rate
from kmp_smsd.monitoring.markup import NOTHING, Child, Markup, element, text
from kmp_smsd.monitoring.tones import Tone

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and what a row has there at a time."""

    title: str
    cell: Callable[[Row, int], Child]
    room: str = ""  # on a phone: a third of a line, "half" of one, or "wide", a whole one


def table(title: str, rows: Sequence[Row], columns: Sequence[Column], tone: Callable[[Row], Tone], now: int) -> Markup:
    """All rows under their title, or that there are none."""
    head = element("thead", element("tr", *(element("th", column.title, scope="col") for column in columns)))
    body = element("tbody", *(_row(row, columns, tone(row), now) for row in rows))
    nothing = element("p", "none is configured") if not rows else None
    return text(
        element("h2", title, " ", element("small", len(rows))),
        nothing or element("div", element("table", head, body), class_="frame rows"),
    )


def _row(row: Row, columns: Sequence[Column], tone: Tone, now: int) -> Markup:
    first, *others = columns
    cells = (_cell(column, column.cell(row, now)) for column in others)
    return element("tr", element("td", first.cell(row, now)), *cells, class_=tone)


def _cell(column: Column, content: Child) -> Markup:
    classes = " ".join(filter(None, (column.room, "empty" if content == NOTHING else "")))
    return element("td", content, data_label=column.title, class_=classes or None)


def name_and_state(row: Row, now: int) -> Markup:
    """The first column: the row's name, its state in words, and for how long."""
    for_how_long = element("small", f"for {since(row['since'], now)}")
    return text(element("b", row["name"]), element("span", row["word"], class_="state"), for_how_long)


def rates(row: Row) -> Markup:
    """Per second, in 1, 5 and 15 minutes."""
    return element("small", " · ".join(rate(row["rates"][span]) for span in ("1m", "5m", "15m")), " /s")


def last_error(row: Row, now: int) -> Child:
    """What went wrong last, and when."""
    if not row["last_error"]:
        return NOTHING
    return text(row["last_error"], element("small", ago(row["last_error_at"], now)))


def alarming(number: int) -> Child:
    """A number that is red where it is not 0."""
    return element("span", count(number), class_="alarming") if number else count(number)
