"""``kmp-smsd status`` and ``kmp-smsd top``: how the running roles are."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from kmp_smsd.cli.failures import UNAVAILABLE, Failed
from kmp_smsd.cli.progress import is_lively
from kmp_smsd.cli.roles import role_option, sockets
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.cli.standard_output import check_heard
from kmp_smsd.cli.status_text import text
from kmp_smsd.control.client import RoleAway, ask
from kmp_smsd.control.protocol import Refused

WITHIN_S = 5.0
OK, WARNING, CRITICAL = 0, 1, 2  # as Nagios counts
HOME, TO_END = "\x1b[H", "\x1b[J"
MORE = "... 'kmp-smsd status' shows all"


@click.command()
@role_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per role and line.")
@click.option("--check", is_flag=True, help="One line for monitoring; exit code 0 good, 1 degraded, 2 down.")
@click.pass_obj
def status(settings: Settings, role: str | None, as_json: bool, check: bool) -> None:
    """Show how the roles that run here are: links, platforms, store and configuration.

    Never waits for the database. Exits 69 where no role answers.
    """
    if check and as_json:
        raise click.UsageError("--check prints one line for monitoring, and --json more: choose one of them")
    asked = _ask(sockets(settings, role))
    if check:
        code, line = judged(asked)
        click.echo(line)
        raise click.exceptions.Exit(code)
    answered = [found for found in asked.values() if not isinstance(found, Refused)]
    for found in asked.values():
        if isinstance(found, Refused) and answered:
            click.echo(f"kmp-smsd: {found}", err=True)
    if not answered:
        raise _none(asked)
    for found in answered:
        if as_json:
            click.echo(json.dumps(found))
    if not as_json:
        click.echo("\n".join(text(found, now_ms()) for found in answered), nl=False)


@click.command()
@role_option
@click.option("--every", "every_s", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, metavar="SECONDS")
@click.pass_obj
def top(settings: Settings, role: str | None, every_s: float) -> None:
    """Show the status live, until Ctrl-C; once, where standard output is no terminal."""
    meant = sockets(settings, role)
    if not is_lively(sys.stdout):
        asked = _ask(meant)
        if all(isinstance(found, Refused) for found in asked.values()):
            raise _none(asked)
        click.echo(_screen(asked), nl=False)
        return
    click.clear()
    with suppress(KeyboardInterrupt):
        while True:
            lines = fitting(_screen(_ask(meant)).split("\n"), *shutil.get_terminal_size())
            # Each line is wiped behind its end, and what is below the last: nothing flickers.
            click.echo(HOME + "\x1b[K\n".join(lines) + TO_END, nl=False)
            check_heard()
            time.sleep(every_s)


def judged(asked: Mapping[str, dict[str, Any] | Refused]) -> tuple[int, str]:
    """The exit code and the line for monitoring."""
    down, degraded = [], []
    for role, found in asked.items():
        if isinstance(found, Refused):
            down.append(str(found))
        else:
            down += [f"{role}: {reason}" for reason in found["not_ready"]]
            degraded += [f"{role}: {reason}" for reason in found["degraded"]]
    if down:
        return CRITICAL, f"CRITICAL: {'; '.join(down + degraded)}"
    if degraded:
        return WARNING, f"WARNING: {'; '.join(degraded)}"
    return OK, f"OK: {' and '.join(asked)}"


def _ask(paths: Mapping[str, Path]) -> dict[str, dict[str, Any] | Refused]:
    """What each role says of itself, or why it says nothing."""
    asked: dict[str, dict[str, Any] | Refused] = {}
    for role, path in paths.items():
        try:
            asked[role] = ask(path, "status", within_s=WITHIN_S)
        except Refused as refused:
            asked[role] = refused
    return asked


def _screen(asked: Mapping[str, dict[str, Any] | Refused]) -> str:
    now = now_ms()
    return "\n".join(f"{found}\n" if isinstance(found, Refused) else text(found, now) for found in asked.values())


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """As many of `lines` as a screen holds on which longer ones are wrapped: more would scroll it away."""
    shown: list[str] = []
    room = rows
    for number, line in enumerate(lines, 1):
        room -= max(1, math.ceil(len(line) / columns))
        if room < (number < len(lines)):  # a row for what tells of more
            return [*shown, MORE]
        shown.append(line)
    return shown


def _none(asked: Mapping[str, dict[str, Any] | Refused]) -> Failed:
    codes = [found.exit_code for found in asked.values() if isinstance(found, Refused)]
    away = all(isinstance(found, RoleAway) for found in asked.values())
    return Failed("; ".join(str(found) for found in asked.values()), UNAVAILABLE if away else codes[0])
