"""The whole road of a key on this machine: SMSC, terminals, daemon, platforms; each step as it happens."""

from __future__ import annotations

import secrets
import shlex
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from kmp_smsd.cli.standard_output import check_heard
from kmp_smsd.simulator.lab import SHORT_CODE, Lab
from kmp_smsd.smpp.constants import DELIVERY_RECEIPT, name_of

OTHERS_SHORT_CODE = "10699999"
RECEIPT = "id:0000000001 sub:001 dlvrd:001 submit date:2611231200 done date:2611231200 stat:DELIVRD err:000 text:K1"

PLATFORMS = {"metering": ("meter",), "fleet": ("tracker", "alarm")}

# key ID, serial of its terminal, app that it is reserved for
KEYS = (
    ("ACME-0001", "T1", ""),
    ("ACME-0002", "T2", ""),
    ("ACME-0003", "T3", ""),
    ("ACME-0004", "T4", "tracker"),
    ("ACME-0005A", "T5", ""),
    ("ACME-0005B", "T5", ""),
    ("ACME-0006", "T6", ""),
    ("ACME-0007", "T7", "alarm"),
    ("ACME-0008", "T8", ""),
)

REGISTRATIONS = (
    ("8613800000001", "meter"),
    ("8613800000002", "meter"),
    ("8613800000004", "tracker"),
    ("8613800000005", "tracker"),
    ("8613800000005", "alarm"),
    ("8613800000006", "meter"),
    ("8613800000008", "meter"),
)


@dataclass(frozen=True, slots=True)
class Sms:
    """One SMS of the demo and the outcome that docs/rules.rst gives it."""

    story: str
    source_addr: str
    text: str
    outcome: str
    fields: dict[str, Any] = field(default_factory=dict)


FIRST = (
    Sms("a meter powers on", "8613800000001", "K1:ACME-0001", "bound"),
    Sms("it lost our answer and repeats", "8613800000001", "K1:ACME-0001", "already_bound"),
    Sms("a second meter", "8613800000002", "K1:ACME-0002", "bound"),
    Sms("a tracker, key reserved for its app", "8613800000004", "K1:ACME-0004", "bound"),
    Sms("two apps, the message names none", "8613800000005", "K1:ACME-0005A", "app_required"),
    Sms("two keys, one for each app", "8613800000005", "K1:ACME-0005A:tracker", "bound"),
    Sms("the second of them", "8613800000005", "K1:ACME-0005B:alarm", "bound"),
    Sms("nobody registered this number", "8613800000009", "K1:ACME-0003", "not_registered"),
    Sms("no vendor imported this key", "8613800000008", "K1:NOBODYS-1", "unknown_key"),
    Sms("a suspended key", "8613800000006", "K1:ACME-0006", "key_not_usable"),
    Sms("reserved for an app not registered", "8613800000006", "K1:ACME-0007", "app_not_registered"),
    Sms("not a sync payload", "8613800000001", "hello, who is there?", "malformed"),
    Sms(
        "an alphanumeric sender", "MyBank", "K1:ACME-0003", "invalid_mdn", {"source_addr_ton": 5, "source_addr_npi": 0}
    ),
    Sms(
        "for another short code", "8613800000001", "K1:ACME-0001", "not_for_us", {"destination_addr": OTHERS_SHORT_CODE}
    ),
    Sms("a delivery receipt", "8613800000001", RECEIPT, "receipt", {"esm_class": DELIVERY_RECEIPT}),
    Sms("the SIM of meter 1 in another terminal", "8613800000001", "K1:ACME-0008", "held"),
    Sms("meter 2 with another SIM", "8613800000008", "K1:ACME-0002", "held"),
)

AFTER_REFUSAL = Sms("refused by a person, it tries again", "8613800000008", "K1:ACME-0002", "refused")


class Disagreement(Exception):
    """What was shown is not what the rules or the other side say."""


def demo(directory: Path | None = None) -> bool:
    """Run the demo; files go to a temporary directory unless `directory` is given. Whether both sides agreed."""
    with tempfile.TemporaryDirectory(prefix="kmp-smsd-demo-") as temporary:
        lab = Lab((directory or Path(temporary)).resolve(), PLATFORMS, sync={"mdn_per_minute": 600.0})
        try:
            with lab:
                _play(lab)
        except (Disagreement, RuntimeError, TimeoutError) as error:
            click.secho(f"\nThe demo failed: {error}", fg="red", err=True)
            for role in lab.roles:
                click.echo("".join(role.said[-40:]), err=True)
            return False
    return True


def _play(lab: Lab) -> None:
    server = "the machine's OpenSSH server" if lab.openssh else "an SSH server of the simulator"
    click.echo(f"An SMSC listens on 127.0.0.1:{lab.smsc.port}; behind {server} stand {len(PLATFORMS)} platforms:")
    for name, platform in lab.platforms.items():
        click.echo(f"  {name} at {platform.server.address} for {', '.join(platform.apps)}")

    _title("A vendor imports the keys of its terminals")
    keys = lab.directory / "acme.csv"
    lines = ["key_id,key,serial,app_id"]
    lines += [f"{key_id},{secrets.token_hex(16)},{serial},{app}" for key_id, serial, app in KEYS]
    keys.write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys.chmod(0o600)
    _run(lab, "keys", "import", str(keys), "--vendor", "Acme", "--plaintext", "--dry-run")
    _run(lab, "keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    keys.unlink()
    _run(lab, "keys", "suspend", "ACME-0006", "--reason", "recalled")

    _title("Users register their numbers and apps")
    registered: dict[str, list[str]] = {}
    for mdn, app in REGISTRATIONS:
        registered.setdefault(mdn, []).append(app)
    for mdn, apps in registered.items():
        _run(lab, "registrations", "add", mdn, *apps)

    _title("The daemon starts, the terminals power on")
    daemon = lab.start_role("run")
    told = [_send(lab, sms) for sms in FIRST]
    click.echo(
        tabulate(told, headers=("what happens", "from", "says", "the SMSC is told", "outcome"), tablefmt="plain")
    )

    _title("A person looks at what was held")
    _run(lab, "holds", "list")
    first, second = (str(row["hold"]) for row in lab.listing("holds", "list"))
    _run(lab, "holds", "approve", first, "--by", "demo")
    _run(lab, "holds", "refuse", second, "--by", "demo")
    click.echo(tabulate([_send(lab, AFTER_REFUSAL)], tablefmt="plain"))
    if not _counted(lab)["moved"]:
        raise Disagreement("no message was moved")

    _title("A registration ends: the platform must let go")
    _run(lab, "registrations", "remove", "8613800000004", "tracker")

    _title("In the end, platform and daemon must agree")
    lab.wait_for(lab.nothing_due, "every delivery to be confirmed")
    _compare(lab)
    if daemon.stop() != 0:
        raise Disagreement("the daemon did not stop in good order")
    click.secho("\nThe platforms hold exactly what is bound, at the wanted versions.", fg="green")


def _title(text: str) -> None:
    click.secho(f"\n== {text}", bold=True)
    check_heard()


def _run(lab: Lab, *words: str) -> None:
    click.secho(f"$ kmp-smsd {shlex.join(words)}", fg="cyan")
    done = lab.command(*words)
    click.echo((done.stdout + done.stderr).rstrip())


def _send(lab: Lab, sms: Sms) -> tuple[str, str, str, str, str]:
    """Send one SMS and tell what the SMSC heard and what the daemon counted; both must be what the rules say."""
    before = _counted(lab)
    status = lab.smsc.send(sms.source_addr, sms.text, **{"destination_addr": SHORT_CODE, **sms.fields}).result(30)
    lab.wait_for(lambda: _counted(lab) != before, "the message to be settled")
    outcomes = list((_counted(lab) - before).elements())
    if outcomes != [sms.outcome]:
        raise Disagreement(f"{sms.story}: the rules say {sms.outcome}, the daemon counted {outcomes}")
    shown = sms.text if len(sms.text) < 24 else sms.text[:21] + "..."
    return sms.story, sms.source_addr, shown, name_of(status), sms.outcome


def _counted(lab: Lab) -> Counter[str]:
    from kmp_smsd.storage import open_store

    with open_store(lab.database) as store:
        return Counter({row["outcome"]: row["count"] for row in store.journal.tallies()})


def _compare(lab: Lab) -> None:
    """Show what each side says, and raise Disagreement where they differ."""
    ours = {
        (row["platform"], row["mdn"], row["app_id"]): (row["key_id"], row["kcv"], row["wanted_version"])
        for row in lab.listing("bindings", "list")
    }
    theirs = {
        (platform.name, row["mdn"], row["app_id"]): (row["key_id"], row["kcv"], row["version"])
        for platform in lab.platforms.values()
        for row in platform.holds()
    }
    table = []
    for place in sorted(ours | theirs):
        bound, held = ours.get(place), theirs.get(place)
        agree = "yes" if bound == held else "NO"
        table.append((*place, *(bound or ("-",) * 3), *(held or ("-",) * 3), agree))
    headers = ("platform", "MDN", "app", "bound key", "KCV", "version", "held key", "KCV", "version", "agree")
    click.echo(tabulate(table, headers=headers, tablefmt="plain", disable_numparse=True))
    if ours != theirs:
        raise Disagreement("platform and daemon differ")
