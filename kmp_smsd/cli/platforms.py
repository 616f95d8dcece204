"""``kmp-smsd platforms``: who receives keys, and whether they can be reached."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.arguments import SECONDS, FilePath, dry_run_option, json_option, yes_option
from kmp_smsd.cli.carefully import confirm
from kmp_smsd.cli.failures import NO_PERMISSION, UNAVAILABLE, Failed
from kmp_smsd.cli.output import Columns, Row, due, listing, platform, rejected
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.cli.trust import trust
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.domain.shown import NO_PLATFORM, shown

if TYPE_CHECKING:
    from kmp_smsd.channels.options import SecretRef
    from kmp_smsd.storage import Store

POLL_S = 0.05


def _state(row: Row) -> str:
    if not row["configured"]:
        if row["forgotten_at"] is not None:
            return "to be forgotten"
        return "disabled" if row["disabled"] else "in no file"
    if row["held_back"]:
        return "held back"
    return "failing" if row["last_error"] else "good" if row["last_success_at"] else "new"


COLUMNS: Columns = {
    "platform": platform,
    "state": _state,
    "apps": "apps",
    "due": due,
    "oldest": "oldest_due_at",
    "rejected": rejected,
    "last success": "last_success_at",
    "next try": "next_try_at",
    "last error": "last_error",
}

TESTED: Columns = {
    "host": "host",
    "result": lambda row: "good" if row["ok"] else "failed",
    "receiver": "receiver",
    "window": "window",
    "key": "fingerprint",
    "seconds": lambda row: f"{row['took_s']:.2f}",
    "error": "error",
}


@click.group()
def platforms() -> None:
    """Show, test, trust and forget platforms, and deliver all to one again."""


platforms.add_command(trust)


@platforms.command("list")
@click.option("--count-all", is_flag=True, help="Count all that is due or rejected, however long that takes.")
@json_option
@click.pass_obj
def list_(settings: Settings, count_all: bool, as_json: bool) -> None:
    """List platforms: what waits for each, what it rejected, and what happened there last; 100,000 are counted of each.

    It is read from the database; whether a person has paused one is known to dispatch alone: `kmp-smsd status`.
    """
    from kmp_smsd.config.load import PLATFORMS, platform_section
    from kmp_smsd.storage.figures import COUNTED_MAX

    config = settings.config
    with settings.store() as store:
        listed = store.platforms.listing(at_most=sys.maxsize if count_all else COUNTED_MAX)
    seen = {row["platform"]: row for row in listed}
    if "" in seen and not seen[""]["due"]:
        del seen[""]  # nothing waits for a platform that is in no file yet
    new = {
        "due": 0, "due_more": False, "oldest_due_at": None, "rejected": 0, "rejected_more": False,
        "last_success_at": None, "last_error": None, "last_error_at": None, "next_try_at": None,
        "held_back": False, "forgotten_at": None,
    }  # fmt: skip
    rows = []
    for name in sorted(seen.keys() | config.platforms.keys()):
        row = {
            "platform": name, "apps": [], **new, **seen.get(name, {}),
            "configured": name in config.platforms, "disabled": platform_section(name) in config.disabled,
        }  # fmt: skip
        if name in config.platforms:
            row["apps"] = list(config.platforms[name].apps)
        rows.append(row)
    nothing = f"no platform is enabled in {config.path.parent / PLATFORMS}"
    listing([rows] if rows else [], COLUMNS, as_json=as_json, nothing=nothing)


@platforms.command()
@click.argument("name", shell_complete=completing.platforms)
@click.option(
    "--identity",
    type=FilePath(exists=True, dir_okay=False, path_type=Path),
    help="Our identity, where the daemon's cannot be read here: a private key, over TLS with its certificate.",
)
@json_option
@click.pass_obj
def test(settings: Settings, name: str, identity: Path | None, as_json: bool) -> None:
    """Connect to every host of a platform and exchange hellos. No key is sent. Exits 69 where one host fails.

    Where our identity there is a credential, the file that the unit loads is read: root alone can.
    """
    from kmp_smsd.channels.opening import probe
    from kmp_smsd.channels.protocol import ChannelDown
    from kmp_smsd.cli.gathering.secrets import here, unless_root
    from kmp_smsd.config.load import platform_section
    from kmp_smsd.config.secrets import SECRET_OCTETS_MAX, SecretUnavailable, platform_identity, read_secret
    from kmp_smsd.vault.own_process import make_undumpable

    make_undumpable()
    config = settings.config
    if (section := platform_section(name)) in config.disabled:
        raise Failed(f"{config.path.parent / section}: set enabled = true first; it gets no key before a reload")
    if name not in config.platforms:
        raise _unknown("no enabled platform", name, config.platforms.keys())

    def credentials(own: SecretRef | None) -> bytes:
        if identity is not None:
            with open(identity, "rb") as file:
                return file.read(SECRET_OCTETS_MAX)
        found = platform_identity(own, config.secrets)
        try:
            return read_secret(here(found))
        except SecretUnavailable as error:
            if found.credential is None:
                raise
            as_root = unless_root("run this as root, or ")
            raise SecretUnavailable(f"{error}; {as_root}name it with --identity") from None

    try:
        findings = probe(config.platforms[name].channel, credentials, name)
    except ChannelDown as down:  # before any host was tried: the identity is none
        raise Failed(str(down), NO_PERMISSION) from None
    rows = [
        {
            "host": str(one.host),
            "ok": one.hello is not None,
            "receiver": one.hello.receiver if one.hello else None,
            "window": one.hello.window if one.hello else None,
            "fingerprint": one.fingerprint or None,
            "took_s": round(one.took_s, 3),
            "error": None if one.fault is None else str(one.fault),
        }
        for one in findings
    ]
    listing([rows], TESTED, as_json=as_json, nothing="no hosts")
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(UNAVAILABLE)


@platforms.command()
@click.argument("name", shell_complete=completing.platforms)
@dry_run_option
@yes_option
@click.pass_obj
def resync(settings: Settings, name: str, dry_run: bool, yes: bool) -> None:
    """Deliver everything to a platform again, at new versions: it was restored, or lost what it held."""
    with settings.store() as store:
        check_name(settings, store, name)
        rows = store.outbox.count(name)
        question = f"{counted(rows, 'row')} of {name} will be delivered again."
        if dry_run:
            click.echo(question)
            return
        confirm(question, yes=yes)
        wanted = store.renewing.want_again(now_ms(), platform=name)
    click.echo(f"{counted(wanted, 'row')} of {name}: wanted again")


@platforms.command()
@click.argument("name", shell_complete=completing.platforms)
@dry_run_option
@yes_option
@click.option("--wait", "wait_s", type=SECONDS, default=10.0, show_default=True, metavar="SECONDS",
              help="How long to wait for dispatch to do it.")  # fmt: skip
@click.pass_obj
def forget(settings: Settings, name: str, dry_run: bool, yes: bool, wait_s: float) -> None:
    """Drop what is kept of a platform that is gone: nobody tells it any more to give up what it holds.

    Keys that are still wanted there wait until another platform's file has their apps. Dispatch does it, if it runs
    without a file of that name. Exits 69 where it has not in time; the wish is kept then.
    """
    from kmp_smsd.config.load import PLATFORMS

    path = settings.path.parent / PLATFORMS / f"{name}.toml"
    with settings.store() as store:
        check_name(settings, store, name)
        if path.exists():
            raise Failed(f"{path} still names it: let `apps = []` there until all is confirmed, then remove the file")
        wanted, unconfirmed = store.outbox.count_held(name)
        waits = f"{counted(wanted, 'key wanted there waits', 'keys wanted there wait')} for another platform"
        question = f"{name} will be forgotten: {waits}, {counted(unconfirmed, 'withdrawal')} will never reach it."
        if dry_run:
            click.echo(question)
            return
        confirm(question, yes=yes)
        store.platforms.wish_forgotten(name, now_ms())
        if not _await_forgotten(store, name, wait_s):
            raise Failed(
                f"dispatch has not forgotten {name} within {wait_s:g} s; the wish is kept. It goes through the whole"
                " outbox, which may take longer. Where the file was removed since dispatch last read them: 'kmp-smsd"
                " reload'",
                UNAVAILABLE,
            )
    click.echo(f"{name} is forgotten")


def _await_forgotten(store: Store, name: str, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while store.platforms.is_to_be_forgotten(name):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def check_name(settings: Settings, store: Store, name: str) -> None:
    """Fail where no file and no row of the database knows the platform `name`."""
    if name == NO_PLATFORM:
        raise Failed(f"'{name}' is no platform: no file names the apps of what waits there, see 'kmp-smsd outbox list'")
    known = (settings.config.platforms.keys() | set(store.platforms.names())) - {""}
    if name not in known:
        raise _unknown("nothing is known of platform", name, known)


def _unknown(what: str, name: str, known: Collection[str]) -> Failed:
    return Failed(f"{what} '{shown(name)}'{did_you_mean(name, known)}: see 'kmp-smsd platforms list'")
