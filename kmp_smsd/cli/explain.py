"""``kmp-smsd explain``: what happened to a number's messages, why, and what to do now."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli.arguments import MDN, json_option
from kmp_smsd.cli.output import PAGE, local_time
from kmp_smsd.cli.progress import progress
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import printable

if TYPE_CHECKING:
    from kmp_smsd.diagnosis.number import Number
    from kmp_smsd.storage import Store

ENTRIES_MAX = 5_000_000  # of the journal, unless --all is said: a second or two
STORY_MAX = 1_000  # entries after which no older ones are looked for, unless --all is said


@click.command()
@click.argument("mdn", type=MDN)
@click.option("--all", "everything", is_flag=True, help="Look through the whole journal, however long it is.")
@json_option
@click.pass_obj
def explain(settings: Settings, mdn: str, everything: bool, as_json: bool) -> None:
    """Explain what happened to the messages of a number and why, how it stands, and what to do now.

    The journal is looked through from its end: its last 5,000,000 entries, fewer where 1,000 of the number are found,
    or all of it with --all.
    """
    from kmp_smsd.diagnosis.standing import advice, standing
    from kmp_smsd.diagnosis.story import tell

    with settings.store() as store:
        number = _gather(settings, store, mdn, None if everything else ENTRIES_MAX)
    story, stands, now = tell(number), standing(number), advice(number)
    if as_json:
        told = {
            "mdn": mdn,
            "known": number.known is not None,
            "story": [asdict(event) for event in story],
            "standing": stands,
            "advice": now,
            "journal": {**asdict(number.searched), "whole": number.searched.whole},
        }
        click.echo(json.dumps(told))
        return
    if story:
        click.echo("What happened")
        for event in story:
            click.echo(f"  {local_time(event.at)}  {printable(event.sentence)}")
        click.echo()
    click.echo("How it stands")
    for sentence in stands:
        click.echo(f"  {printable(sentence)}")
    click.echo("\nWhat to do now")
    for place, sentence in enumerate(now, 1):
        click.echo(f"  {place}. {printable(sentence)}")
    _tell_how_far(number)


def _gather(settings: Settings, store: Store, mdn: str, entries_max: int | None) -> Number:
    from kmp_smsd.diagnosis.number import Number, Searched

    config, now = settings.config, now_ms()
    legal = not config.numbering.is_foreign(mdn)
    known = store.erasing.show(mdn)
    if known is None:
        return Number(mdn=mdn, now=now, is_legal=legal)
    subscriber = known["subscriber"]
    journal, searched = _search(store, subscriber, entries_max)
    bindings, waiting = store.bindings.of(mdn), store.waiting.listing(mdn=mdn, limit=PAGE)
    outbox = store.outbox.listing(mdn=mdn, everything=True, limit=PAGE)
    held = {*store.explaining.standing_holds(subscriber), *(row["hold"] for row in journal if row["hold"] is not None)}
    holds = [found for hold in sorted(held) if (found := store.holds.get(hold))]
    key_ids = {row["key_id"] for row in (*journal, *bindings, *waiting, *outbox, *holds) if row["key_id"]}
    return Number(
        mdn=mdn,
        now=now,
        is_legal=legal,
        known=known,
        registrations=store.registrations.listing(mdn=mdn, limit=PAGE),
        bindings=bindings,
        outbox=outbox,
        waiting=waiting,
        holds=holds,
        replies=store.explaining.replies(subscriber),
        journal=journal,
        keys=store.explaining.keys(sorted(key_ids)),
        platforms={name: asdict(store.platforms.state(name)) for name in {row["platform"] for row in outbox} - {""}},
        configured=frozenset(config.platforms),
        routes={app: name for name, one in config.platforms.items() for app in one.apps},
        gateways=frozenset(config.gateways),
        searched=Searched(**searched),
    )


def _search(store: Store, subscriber: int, entries_max: int | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The newest entries, and how far they were looked for."""
    found: list[dict[str, Any]] = []
    searched: dict[str, Any] = {}
    with progress("Looking through the journal") as told:
        for step in store.explaining.journal_back(subscriber):
            found += step.found
            searched = {"entries": step.entries, "total": step.total, "since": step.since}
            if told is not None:
                told(step.entries, min(step.total, entries_max or step.total))
            if entries_max is not None and (len(found) >= STORY_MAX or step.entries >= entries_max):
                break
    return found, searched


def _tell_how_far(number: Number) -> None:
    searched = number.searched
    if searched.whole:
        return
    rest = searched.total - searched.entries
    click.echo(
        f"kmp-smsd: the last {searched.entries:,} entries of the journal were looked through, back to"
        f" {local_time(searched.since)}; {counted(rest, 'older one was', 'older ones were')} not: --all looks at all",
        err=True,
    )
