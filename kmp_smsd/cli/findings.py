"""Findings for people, in colour on a terminal, and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from kmp_smsd.cli.progress import is_lively
from kmp_smsd.diagnosis.finding import Finding, Level, Report, count_of
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import printable

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
_INDENT = "  "


def show(report: Report) -> None:
    """One check and what it found, at once: the next may take long."""
    if report.skipped:
        click.echo(f"[skipped] {report.name}: {printable(report.skipped)}")
        return
    click.echo(f"{_mark(report.level)} {report.name}")
    for finding in report.findings:
        _show_finding(finding)


def show_count(reports: Sequence[Report]) -> None:
    """How many there are of each level."""
    counts = count_of(reports)
    failures, warnings = counted(counts[Level.FAILURE], "failure"), counted(counts[Level.WARNING], "warning")
    click.echo(f"{failures}, {warnings}, {counts[Level.OK]:,} ok")


def as_json(report: Report) -> str:
    """One line for each check; see docs/operations.rst."""
    return json.dumps(
        {
            "check": report.name,
            "level": None if report.skipped else report.level.value,
            "skipped": report.skipped or None,
            "findings": [
                {"level": one.level.value, "sentence": one.sentence, "remedy": one.remedy or None}
                for one in report.findings
            ],
        }
    )


def _show_finding(finding: Finding) -> None:
    lines = [printable(line) for line in finding.sentence.splitlines()]
    click.echo(f"{_INDENT}{_mark(finding.level)} {lines[0]}")
    for line in lines[1:]:
        click.echo(f"{_INDENT * 3}{line}")
    for line in finding.remedy.splitlines():
        click.echo(f"{_INDENT * 3}-> {printable(line)}")


def _mark(level: Level) -> str:
    mark = f"[{level.value}]"
    return click.style(mark, fg=_COLOURS[level]) if is_lively(sys.stdout) else mark
