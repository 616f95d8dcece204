"""``kmp-smsd holds``: requests that wait for a person. Commands write the wish, intake decides."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli.arguments import NUMBER, PERSON, SECONDS, json_option
from kmp_smsd.cli.carefully import each
from kmp_smsd.cli.failures import UNAVAILABLE
from kmp_smsd.cli.output import Columns, Row, listing, local_time, pages
from kmp_smsd.cli.settings import Settings, now_ms

if TYPE_CHECKING:
    from kmp_smsd.storage import Store

POLL_S = 0.05


def _elsewhere(row: Row) -> str:
    if row["key_bound_since"] is None:
        return "-"
    since = local_time(row["key_bound_since"])
    return f"{row['key_bound_at_mdn'] or '(an erased number)'} {row['key_bound_at_app']} since {since}"


def _occupant(row: Row) -> str:
    if row["here_bound_key_id"] is None:
        return "-"
    return f"{row['here_bound_key_id']} since {local_time(row['here_bound_since'])}"


def _state(row: Row) -> str:
    if row["state"] != "open":
        return str(row["state"])
    if row["deciding"]:
        return "approved, not decided yet"
    return f"open, last {row['last_outcome']}" if row["last_outcome"] else "open"


COLUMNS: Columns = {
    "hold": "hold",
    "state": _state,
    "MDN": "mdn",
    "app": "app_id",
    "key": "key_id",
    "KCV": "kcv",
    "why": "why",
    "key is bound at": _elsewhere,
    "bound here": _occupant,
    "last message": "received_at",
    "repeats": "repeats",
    "by": "by",
}


def _whoever_asks() -> str:
    try:
        return os.environ.get("SUDO_USER") or os.environ.get("USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


_by = click.option(
    "--by", type=PERSON, default=_whoever_asks, show_default="$SUDO_USER or $USER", help="Who decides this."
)
_holds = click.argument("numbers", metavar="HOLD...", type=NUMBER, nargs=-1, required=True)


@click.group()
def holds() -> None:
    """Decide the requests that wait for a person."""


@holds.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are settled.")
@json_option
@click.pass_obj
def list_(settings: Settings, everything: bool, as_json: bool) -> None:
    """List open holds with their evidence, the oldest first."""
    with settings.store() as store:
        listing(
            pages(partial(store.holds.listing, everything=everything), "hold"),
            COLUMNS,
            as_json=as_json,
            nothing="no open holds",
        )


@holds.command()
@_holds
@_by
@click.option("--wait", "wait_s", type=SECONDS, default=10.0, show_default=True, metavar="SECONDS",
              help="How long to wait for intake's decision.")  # fmt: skip
@click.pass_obj
def approve(settings: Settings, numbers: tuple[int, ...], by: str, wait_s: float) -> None:
    """Have held requests decided again, this time so that they may move bindings.

    Exits 1 where a request is not bound even so, and 69 where intake has not decided in time; the wish is kept then.
    """
    with settings.store() as store:
        wished: list[int] = []

        def one(number: int) -> None:
            store.holds.approve(number, by)
            wished.append(number)

        refused: click.exceptions.Exit | None = None
        try:
            each(numbers, one)
        except click.exceptions.Exit as spoilt:
            refused = spoilt
        stood: list[bool] = []
        undecided = _await_decisions(store, wished, wait_s, lambda hold: stood.append(_tell(hold)))
    if undecided:
        which = f"hold {undecided[0]}" if len(undecided) == 1 else f"holds {', '.join(map(str, undecided))}"
        click.echo(
            f"kmp-smsd: intake has not decided {which} within {wait_s:g} s; the wish is kept, and is decided as soon"
            " as intake runs ('kmp-smsd holds list' shows it)",
            err=True,
        )
        raise click.exceptions.Exit(UNAVAILABLE)
    if refused is not None or not all(stood):
        raise click.exceptions.Exit(1)


@holds.command()
@_holds
@_by
@click.pass_obj
def refuse(settings: Settings, numbers: tuple[int, ...], by: str) -> None:
    """Refuse held requests. The same key, MDN and app are refused until a binding in the evidence ends."""
    with settings.store() as store:

        def one(number: int) -> None:
            store.holds.refuse(number, by, now_ms())
            click.echo(f"hold {number}: refused")

        each(numbers, one)


def _await_decisions(
    store: Store, wished: list[int], wait_s: float, tell: Callable[[dict[str, Any]], None]
) -> list[int]:
    """Tell each decision as it comes; the holds that had none in time."""
    deadline = time.monotonic() + wait_s
    waiting = wished
    seen: int | None = None
    while True:
        late = time.monotonic() >= deadline
        version = store.data_version()
        if version != seen or late:
            seen, still = version, []
            for number in waiting:
                hold = store.holds.get(number)
                if hold is None or hold["deciding"]:
                    still.append(number)
                else:
                    tell(hold)
            waiting = still
        if not waiting or late:
            return waiting
        time.sleep(POLL_S)


def _tell(hold: dict[str, Any]) -> bool:
    """Say what came of an approval; whether the request was bound."""
    number, outcome = hold["hold"], hold["last_outcome"]
    if hold["state"] == "approved":
        click.echo(f"hold {number}: {outcome}: key {hold['key_id']} is bound to {hold['mdn']} {hold['app_id']}")
        return True
    if hold["state"] == "open" and outcome in ("held", None):  # None: a message came first that had new evidence
        click.echo(
            f"hold {number}: held: nothing was bound, since another binding came in its way meanwhile: see 'kmp-smsd"
            " holds list', then approve it again"
        )
    elif hold["state"] == "open":
        click.echo(f"hold {number}: {outcome}: nothing was bound, the hold stays open")
    else:
        click.echo(f"hold {number}: {outcome or hold['state']}: nothing was bound, the hold is {hold['state']}")
    return False
