"""``kmp-smsd reload``, ``drain``, ``pause``, ``resume`` and ``log-level``: telling a running role what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.failures import Failed
from kmp_smsd.cli.roles import ask_role, listed, role_option, running
from kmp_smsd.cli.settings import Settings
from kmp_smsd.control.protocol import ROLE_OF, Refused
from kmp_smsd.service.log_levels import LEVELS, SUBSYSTEMS

SETTLED_WITHIN_S = 120.0  # more than any unbind_timeout_s
UNSEEN = "; credentials are those of the start"  # else who changed one and nothing else believes that nothing differs

_kind = click.argument("kind", type=click.Choice(list(ROLE_OF)))
_name = click.argument("name", shell_complete=completing.links_or_platforms)


@click.command()
@role_option
@click.option("--wait", is_flag=True, help="Wait until links and platforms that change have drained.")
@click.pass_obj
def reload(settings: Settings, role: str | None, wait: bool) -> None:
    """Put the configuration files in force, as far as that goes without a restart.

    Links and platforms that did not change keep their connections. Says what was applied and what needs a restart.
    Passwords in files are read again. A changed credential or master key needs a restart, and no reload sees it; an
    identity in a file is read at each connection.

    Where anything is wrong, all of it is told, nothing is changed, and the exit code is 78 (77 for a secret). Asks
    every role that runs here.
    """
    done: set[str] = set()  # in one process with one before
    for _, result in _each(settings, role, "reload", {"wait": wait}, done, within_s=SETTLED_WITHIN_S):
        done.update(result["roles"])
        roles = " and ".join(result["roles"])
        unseen = "" if result["applied"] or result["needs_restart"] else UNSEEN
        click.echo(f"{roles}: applied: {listed(result['applied'])}{unseen}")
        if result["needs_restart"]:
            click.echo(f"{roles}: needs restart: {listed(result['needs_restart'])}")


@click.command()
@role_option
@click.pass_obj
def drain(settings: Settings, role: str | None) -> None:
    """Take and deliver nothing new, until `kmp-smsd resume` or a restart.

    Messages get the temporary status while what is in flight ends; then links unbind, and connections to platforms are
    closed. The process goes on. Returns when all is at rest, which takes some seconds; the exit code is 75 where
    messages are left that cannot be settled now.
    """
    for name, result in _each(settings, role, "drain", within_s=SETTLED_WITHIN_S):
        click.echo(f"{name}: {result['state']}")


@click.command()
@_kind
@_name
@click.pass_obj
def pause(settings: Settings, kind: str, name: str) -> None:
    """Let a link or a platform rest: `pause smsc NAME` or `pause platform NAME`.

    Until `kmp-smsd resume`, or a restart, which knows of no pauses. A link unbinds in good order, and its SMSC keeps
    the messages; what is due at a platform stays due.
    """
    _tell(settings, "pause", kind, name)
    click.echo(f"{kind} {name}: paused")


@click.command()
@click.argument("kind", type=click.Choice(list(ROLE_OF)), required=False)
@click.argument("name", required=False, shell_complete=completing.links_or_platforms)
@role_option
@click.pass_obj
def resume(settings: Settings, kind: str | None, name: str | None, role: str | None) -> None:
    """End a pause or a drain: `resume smsc NAME`, `resume platform NAME`, or `resume` alone for a drain."""
    if kind is not None:
        if name is None:
            raise click.UsageError(f"which {kind}? Write kmp-smsd resume {kind} NAME")
        state = _tell(settings, "resume", kind, name)
        click.echo(f"{kind} {name}: {'resumes when the drain ends' if state == 'draining' else 'resumed'}")
        return
    for one, result in _each(settings, role, "resume"):
        click.echo(f"{one}: {result['state']}")


@click.command("log-level")
@click.argument("subsystem", type=click.Choice(list(SUBSYSTEMS)))
@click.argument("level", type=click.Choice(LEVELS))
@role_option
@click.pass_obj
def log_level(settings: Settings, subsystem: str, level: str, role: str | None) -> None:
    """Have a part of the daemon say more or less, until the next reload or restart."""
    for name, _ in _each(settings, role, "log-level", {"subsystem": subsystem, "level": level}):
        click.echo(f"{name}: {subsystem} at {level}, until the next reload")


def _each(
    settings: Settings,
    role: str | None,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    done: Collection[str] = (),
    *,
    within_s: float = 10.0,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What came of `command` in every role that runs, but for those that are `done` by then.

    One that refuses, or that a killed process left nothing but its socket of, keeps no other from doing it. In the end
    Failed tells of them all.
    """
    refusals: list[Refused] = []
    for name, path in running(settings, role).items():
        if name in done:
            continue
        try:
            result = ask_role(path, command, arguments or {}, within_s=within_s)
        except Refused as refused:
            refusals.append(refused)
            continue
        yield name, result
    if refusals:
        sentences = dict.fromkeys(map(str, refusals))  # both roles read the same files
        raise Failed("\n".join(sentences), refusals[0].exit_code)


def _tell(settings: Settings, command: str, kind: str, name: str) -> str | None:
    """Tell the role that it concerns; the state of that role."""
    ((_, result),) = _each(settings, ROLE_OF[kind], command, {"kind": kind, "name": name})
    return result.get("state")
