"""``kmp-smsd simulate``: one message through the rules, by the same road as a real one, with nothing written."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli.arguments import json_option
from kmp_smsd.cli.failures import CONFIGURATION, Failed
from kmp_smsd.cli.output import record
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.shown import shown

if TYPE_CHECKING:
    from kmp_smsd.config.link import Link
    from kmp_smsd.domain.request import SyncRequest, Unfit
    from kmp_smsd.smpp.pdu import Message
    from kmp_smsd.storage.trying import Trial

OCTET = click.IntRange(0, 255)


class InstantType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """A time as ISO 8601, without a zone in this machine's; Unix milliseconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(f"'{shown(value)}': write a time as 2026-01-31T12:00:00", param, ctx)


@click.command()
@click.argument("mdn")
@click.argument("payload")
@click.option("--link", "link_name", metavar="NAME", help="The link that it comes by; needed where there are several.")
@click.option("--received-at", type=InstantType(), help="When it was received. Default: now.")
@click.option("--to", "destination", metavar="ADDRESS", help="Its destination. Default: the first of our short codes.")
@click.option("--ton", type=OCTET, default=1, show_default=True, help="Type of number of MDN.")
@click.option("--npi", type=OCTET, default=1, show_default=True, help="Numbering plan indicator of MDN.")
@click.option("--data-coding", type=OCTET, default=0, show_default=True, help="The data_coding of the text.")
@click.option("--hex", "is_hex", is_flag=True, help="PAYLOAD is the octets in hexadecimal.")
@json_option
@click.pass_obj
def simulate(
    settings: Settings,
    mdn: str,
    payload: str,
    link_name: str | None,
    received_at: int | None,
    destination: str | None,
    ton: int,
    npi: int,
    data_coding: int,
    is_hex: bool,
    as_json: bool,
) -> None:
    """Show what would become of a message with the text PAYLOAD from MDN, as its SMSC writes that. Nothing is written.

    It is read and decided as intake does it, on what the database says now. Limits of the rate are not applied. It is
    no promise: what comes before the real message may change everything.
    """
    from kmp_smsd.domain.request import Unfit
    from kmp_smsd.service.reading import Reader

    config = settings.config
    name, link = _link(settings, link_name)
    to = destination if destination is not None else next(iter(config.sync.short_codes), "")
    message = _message(mdn, _octets(payload, is_hex), to, (ton, npi), data_coding, link)
    now = now_ms()
    read = Reader(name, link, config.sync, config.numbering).read(message, now if received_at is None else received_at)
    trial = None
    if not isinstance(read, Unfit):
        with settings.store() as store:
            trial = store.try_out(read, now)
    told = _told(read, trial, link)
    if as_json:
        click.echo(json.dumps(told))
        return
    record(_for_people(told), as_json=False)
    click.echo("kmp-smsd: nothing was written", err=True)


def _link(settings: Settings, name: str | None) -> tuple[str, Link]:
    links = settings.config.smsc
    if not links:
        raise Failed(f"{settings.path}: no [smsc.NAME] section is enabled", CONFIGURATION)
    known = ", ".join(sorted(links))
    if name is None:
        if len(links) > 1:
            raise click.UsageError(f"say by which link it comes: --link with one of {known}")
        return next(iter(links.items()))
    if name not in links:
        raise Failed(f"no link '{shown(name)}' in {settings.path} (there: {known})", CONFIGURATION)
    return name, links[name]


def _octets(payload: str, is_hex: bool) -> bytes:
    try:
        return bytes.fromhex(payload) if is_hex else payload.encode("latin-1")
    except ValueError:
        what = "is not hexadecimal" if is_hex else "has characters that Latin-1 has not: give the octets with --hex"
        raise click.UsageError(f"PAYLOAD {what}") from None


def _message(source_addr: str, octets: bytes, to: str, kind: tuple[int, int], data_coding: int, link: Link) -> Message:
    """The deliver_sm of a terminal; to the application port of the link, where it has one."""
    from kmp_smsd.service.reading import accepted_origins
    from kmp_smsd.smpp.constants import CommandId, Tag
    from kmp_smsd.smpp.pdu import Message

    port = link.destination_port
    tlvs = [(tag, bytes(values[:1])) for tag, values in accepted_origins(link).items()]
    if port is not None:
        tlvs.append((int(Tag.DESTINATION_PORT), port.to_bytes(2, "big")))
    return Message(CommandId.DELIVER_SM, 1, *kind, source_addr, 0, 1, to, 0, data_coding, octets, tuple(tlvs))


def _told(read: SyncRequest | Unfit, trial: Trial | None, link: Link) -> dict[str, Any]:
    from kmp_smsd.diagnosis.meanings import meaning
    from kmp_smsd.domain.outcome import NEVER_AGAIN, Outcome
    from kmp_smsd.domain.reply import earns_reply
    from kmp_smsd.domain.request import SyncRequest
    from kmp_smsd.smpp.constants import CommandStatus, name_of

    decision = trial.decision if trial else None
    # Without a decision what was read is Unfit, which mypy cannot see.
    outcome, why = (decision.outcome, decision.why) if decision else (read.outcome, read.why)  # type: ignore[union-attr]
    status = link.never_status if outcome in NEVER_AGAIN else CommandStatus.ESME_ROK
    binds = outcome in (Outcome.BOUND, Outcome.MOVED)
    return {
        "outcome": outcome.value,
        "row": meaning(outcome, why).row,
        "means": meaning(outcome, why).sentence,
        "why": why or None,
        "answer": int(status),
        "answer_name": name_of(status),
        "mdn": read.mdn,
        "key_id": read.key_id if isinstance(read, SyncRequest) else None,
        "app_id": decision.app_id if decision else None,
        "binds": binds,
        "platform": trial.platform if trial and (binds or trial.offers_again) else None,
        "ends": [{"key_id": one.key_id, "mdn": one.mdn, "app_id": one.app_id} for one in trial.ends] if trial else [],
        "opens_hold": trial.opens_hold if trial else False,
        "hold": trial.hold if trial else None,
        "waits": trial.waits if trial else False,
        "offers_again": trial.offers_again if trial else False,
        "replies": isinstance(read, SyncRequest) and read.reply_to is not None and earns_reply(outcome),
    }


def _for_people(told: dict[str, Any]) -> dict[str, Any]:
    then = []
    if told["binds"]:
        then.append(f"key {told['key_id']} is bound to {told['mdn']} for {told['app_id']}")
        then.append(
            f"platform {told['platform']} gets it" if told["platform"] else "it waits for a platform of the app"
        )
    if told["offers_again"]:
        then.append(f"platform {told['platform']} is offered again what it rejected")
    then += [f"the binding of key {one['key_id']} to {one['mdn']} for {one['app_id']} ends" for one in told["ends"]]
    if told["opens_hold"]:
        then.append("a hold is opened, which a person must decide")
    if told["hold"] is not None:
        then.append(f"hold {told['hold']} is refreshed, which a person must decide")
    if told["outcome"] == "held" and told["hold"] is None and not told["opens_hold"]:
        then.append("it is only journalled: so many holds of this key wait for a person that no further one is opened")
    if told["waits"]:
        then.append("it waits, and is decided again when something changes")
    if told["replies"]:
        then.append("the terminal is told so once the platform has confirmed it")
    return {
        "outcome": f"{told['outcome']} (row {told['row']}): {told['means']}",
        "why": told["why"],
        "the_SMSC_gets": told["answer_name"],
        "number": told["mdn"],
        "key": told["key_id"],
        "app": told["app_id"],
        "then": "; ".join(then) or "nothing changes",
    }
