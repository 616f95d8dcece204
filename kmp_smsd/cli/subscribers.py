"""``kmp-smsd subscribers``: what is known of a number, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli.arguments import MDN, dry_run_option, json_option, yes_option
from kmp_smsd.cli.carefully import confirm
from kmp_smsd.cli.failures import TEMPORARY, Failed
from kmp_smsd.cli.output import delivery, platform, record
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.storage import Store
    from kmp_smsd.storage.erasing import Unconfirmed


@click.group()
def subscribers() -> None:
    """Show what is known of a number, and erase it."""


@subscribers.command()
@click.argument("mdn", type=MDN)
@json_option
@click.pass_obj
def show(settings: Settings, mdn: str, as_json: bool) -> None:
    """Show what is known of MDN."""
    with settings.store() as store:
        found = store.erasing.show(mdn)
    if found is None:
        raise Failed(f"nothing is known of {mdn}")
    if not as_json:
        found["bound"] = [f"{row['app_id']} to {row['key_id']}" for row in found["bound"]]
        found["unconfirmed"] = [f"{row['app_id']} {delivery(row)} at {platform(row)}" for row in found["unconfirmed"]]
    record(found, as_json=as_json)


@subscribers.command()
@click.argument("mdn", type=MDN)
@click.option("--now", "at_once", is_flag=True, help="Do not wait for platforms: they may keep what they hold.")
@dry_run_option
@yes_option
@click.pass_obj
def erase(settings: Settings, mdn: str, at_once: bool, dry_run: bool, yes: bool) -> None:
    """Erase MDN: its registrations, bindings, holds and waiting requests, and once its platforms have confirmed that
    they gave its keys up, the number itself.

    What became of its messages stays in the journal, without the number. Backups keep what they have. To erase again is
    harmless, and shows what is waited for.

    Exit status 0 says that nothing hangs on MDN any more; the number itself may still wait. Once it is gone,
    'subscribers show MDN' exits with 1.
    """
    with settings.store() as store:
        _check_decided(store, mdn)
        known = store.erasing.show(mdn)
        if known is None:
            click.echo(f"nothing is known of {mdn}: it was erased, or never heard of")
            if not dry_run:
                _clear_files(store, mdn)
            return
        question = _question(known, at_once=at_once)
        if dry_run:
            click.echo(question)
            return
        if known["erasing_at"] is None or at_once:
            confirm(question, yes=yes)
            _check_decided(store, mdn)  # the person took time
        erased = store.erasing.erase(mdn, now_ms(), at_once=at_once)
        if erased.blanked or not erased.known:
            click.echo(f"{mdn} is erased")
            for one in erased.unconfirmed:
                click.echo(
                    f"kmp-smsd: platform {one.platform} has not confirmed {one.app_id}: it may still hold the key, and"
                    " nobody can tell it any more",
                    err=True,
                )
            _clear_files(store, mdn)
            return
    for one in erased.unconfirmed:
        click.echo(f"{mdn} {one.app_id}: {_waits(settings, one)}")
    click.echo(
        "kmp-smsd: dispatch erases the number once nothing is left of this; --now does not wait for it", err=True
    )


def _clear_files(store: Store, mdn: str) -> None:
    """See that the number is in no file any more, and tell of those in which it is, or may be, still."""
    from kmp_smsd.storage.inbox import DAMAGED

    if not store.erasing.clear():
        click.echo(
            "kmp-smsd: the number may still be in the files of the database, because it is being read; dispatch clears"
            " these as soon as it can",
            err=True,
        )
    for file in store.inbox_files_with(mdn):
        goes = "remove it when nobody needs it" if file.suffix == DAMAGED else "intake removes it soon, if it runs"
        click.echo(f"kmp-smsd: the number is still in {file}: {goes}", err=True)


def _check_decided(store: Store, mdn: str) -> None:
    """Refuse where messages of the number are answered and not decided: they would bring it back."""
    if waiting := sum(message.mdn == mdn for message in store.waiting_in_inbox()):
        undecided = f"{mdn} has {counted(waiting, 'message')} that intake has not decided yet"
        raise Failed(f"{undecided}: see that it runs, and erase the number then", TEMPORARY)


def _question(known: dict[str, Any], *, at_once: bool) -> str:
    """What will go."""
    parts = [
        counted(len(known["registered"]), "registration"),
        counted(len(known["bound"]), "binding"),
        counted(known["holds"], "hold"),
        counted(known["waiting"], "waiting request"),
    ]
    when = "at once" if at_once else "once its platforms have confirmed that"
    return f"{known['mdn']} loses {', '.join(parts[:-1])} and {parts[-1]}; the number itself is erased {when}."


def _waits(settings: Settings, one: Unconfirmed) -> str:
    """What is to be done where a platform has not confirmed that it holds nothing any more."""
    from kmp_smsd.config.load import platform_section

    if platform_section(one.platform) in settings.config.disabled:
        return (
            f"the file of platform {one.platform} is disabled: enable it, then 'kmp-smsd reload'; where the platform is"
            f" gone for good, remove the file, then 'kmp-smsd platforms forget {one.platform}' gives it up"
        )
    if one.platform not in settings.config.platforms:
        return f"platform {one.platform} is in no file, 'kmp-smsd platforms forget {one.platform}' gives it up"
    if one.rejected:
        return f"rejected by {one.platform}, 'kmp-smsd outbox retry --platform {one.platform}' asks it again"
    return f"waits for platform {one.platform}"
