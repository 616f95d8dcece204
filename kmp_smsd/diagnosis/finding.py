"""What a check found: good or not, in a sentence, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; the value is what people and programs see."""

    OK = "ok"
    WARNING = "warning"  # works, but somebody should look
    FAILURE = "failure"  # does not work, or will not after the next start


_RANK = {Level.OK: 0, Level.WARNING: 1, Level.FAILURE: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing. `remedy` says what to do, one step a line; a good finding has none."""

    level: Level
    sentence: str
    remedy: str = ""


def ok(sentence: str) -> Finding:
    return Finding(Level.OK, sentence)


def warning(sentence: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, sentence, remedy)


def failure(sentence: str, remedy: str) -> Finding:
    return Finding(Level.FAILURE, sentence, remedy)


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of one check, in order. `skipped` says why there are none.

    `exit_code` is that of a failure here, by sysexits: what kind of thing is broken.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    exit_code: int = 1
    skipped: str = ""

    @property
    def level(self) -> Level:
        """That of the worst finding."""
        return max((one.level for one in self.findings), key=_RANK.__getitem__, default=Level.OK)


def count_of(reports: Iterable[Report]) -> dict[Level, int]:
    """How many findings there are of each level."""
    findings = [finding for report in reports for finding in report.findings]
    return {level: sum(one.level is level for one in findings) for level in Level}


def exit_code(reports: Sequence[Report]) -> int:
    """0 where all is good, 1 where something is to be looked at, else that of the first check that failed."""
    failed = next((report.exit_code for report in reports if report.level is Level.FAILURE), None)
    if failed is not None:
        return failed
    return int(any(report.level is Level.WARNING for report in reports))
