"""What is wrong with a file: every fault is counted, the first ones are kept, and none quotes what the file holds."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

MOST_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or warning. Lines and columns count from 1; no column stands for the whole line."""

    file: str
    line: int
    sentence: str
    column: int | None = None
    column_name: str | None = None

    def __str__(self) -> str:
        where = "" if self.column is None else f'column {self.column} "{self.column_name}": '
        return f"{self.file}:{self.line}: {where}{self.sentence}"


@dataclass(slots=True)
class Faults:
    """The faults of one file in the order of finding. However many there are, at most MOST_KEPT are in memory."""

    file: str
    count: int = 0
    kept: list[Fault] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)
    """Where the file has its columns, from 1; known once the header is read."""
    _once: set[Hashable] = field(default_factory=set, init=False, repr=False)

    def add(self, line: int, sentence: str, column: str | None = None) -> None:
        """Count a fault, of the value in `column` or of the whole line, and keep it where there is room."""
        self.count += 1
        if len(self.kept) < MOST_KEPT:
            self.kept.append(Fault(self.file, line, sentence, self.columns.get(column or ""), column))

    def add_once(self, what: Hashable, line: int, sentence: str, column: str) -> None:
        """Add a fault of `what` unless there is one; of more things than are kept, each line counts."""
        if what not in self._once:
            if len(self._once) < MOST_KEPT:
                self._once.add(what)
            self.add(line, sentence, column)

    def add_all(self, others: Faults) -> None:
        """Count what was found in the same file by somebody else; of all, those of the first lines are kept."""
        self.count += others.count
        self.kept = sorted(self.kept + others.kept, key=_place)[:MOST_KEPT]

    def by_line(self) -> tuple[Fault, ...]:
        """The kept ones in the order of the file."""
        return tuple(sorted(self.kept, key=_place))

    def __bool__(self) -> bool:
        return self.count > 0


def _place(fault: Fault) -> tuple[int, int]:
    return fault.line, fault.column or 0
