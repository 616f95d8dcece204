"""``kmp-smsd trace``: the PDUs of a link, in the log of intake."""

from __future__ import annotations

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.roles import ask_role, running
from kmp_smsd.cli.settings import Settings
from kmp_smsd.control.protocol import TRACE_MINUTES_MAX


@click.command()
@click.argument("link", shell_complete=completing.links)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"]))
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, max=TRACE_MINUTES_MAX, min_open=True),
    default=10.0,
    show_default=True,
    help="How long, at most a day; a reload ends it sooner.",
)
@click.pass_obj
def trace(settings: Settings, link: str, switch: str, minutes: float) -> None:
    """Log each PDU of a link for some minutes, or no longer.

    They are decoded, and dumped in hex. Passwords and texts are hidden in both, addresses are masked. Of a busy link
    some are left out: at most 50 a second are logged.
    """
    for path in running(settings, "intake").values():
        ask_role(path, "trace", {"name": link, "minutes": minutes if switch == "on" else 0})
    if switch == "on":
        time = "1 minute" if minutes == 1 else f"{minutes:g} minutes"
        click.echo(f"{link}: traced for {time}, or until the next reload: journalctl KMP_EVENT=pdu_traced")
    else:
        click.echo(f"{link}: no longer traced")
