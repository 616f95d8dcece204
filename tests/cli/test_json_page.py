"""docs/json.rst names every field of every listing, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from msgspec.structs import replace

from kmp_smsd.cli.program import program
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import Unfit
from kmp_smsd.simulator.openssh import new_identity
from tests.cli.site import FIRST, dead_port
from tests.storage.stock import NOW, sync

ROOT = Path(__file__).resolve().parents[2]
IN_OPERATIONS = {"status", "doctor", "db check", "explain"}
ARGUMENTS = {
    "keys show": ("K1",),
    "subscribers show": (FIRST,),
    "bindings show": (FIRST,),
    "outbox list": ("--all",),
    "journal counts": ("--hours", "1000000"),
    "journal senders": ("--hours", "1000000"),
    "platforms test": ("metering",),
    "platforms trust": ("metering",),
    "simulate": (FIRST, "K1:K2"),
}


def told() -> dict[str, set[str]]:
    """The fields of each command's listing, as the page has them."""
    text = (ROOT / "docs" / "json.rst").read_text(encoding="utf-8")
    found = {}
    sections = re.split(r"^(``.*``)\n==+\n", text, flags=re.MULTILINE)[1:]
    for title, section in zip(sections[::2], sections[1::2], strict=True):
        cells = [line[:38] for line in section.splitlines() if line.startswith("``")]
        fields = {field for cell in cells for field in re.findall(r"``(\w+)``", cell)}
        found.update(dict.fromkeys(re.findall(r"``(.*?)``", title), fields))
    return found


def with_json(command: click.Command, path: str = "") -> set[str]:
    if not isinstance(command, click.Group):
        return {path.strip()} if any("--json" in parameter.opts for parameter in command.params) else set()
    context = click.Context(command)
    parts = {part: command.get_command(context, part) for part in command.list_commands(context)}
    return {name for part, below in parts.items() if below for name in with_json(below, f"{path} {part}")}


def test_page_has_every_command_that_lists():
    assert set(told()) | IN_OPERATIONS == with_json(program)


@pytest.fixture
def full(site):
    """A site that has something to show in each listing."""
    with dead_port() as port:
        site.platform("metering", f"127.0.0.1:{port}")
        site.write("ssh-identity", new_identity()[0].decode()).chmod(0o600)
        site.link(port)
        site.ready("K1", "K2")
        with site.store() as store:
            store.routes.set({"meter": "metering"})
            reply_to = ReplyTo(1, 1, FIRST, 0, 1, "10690001")
            store.settle([replace(sync(FIRST, "K1"), reply_to=reply_to)], NOW)
            store.settle([sync(FIRST, "K2"), sync(FIRST, "K3")], NOW + 1)  # held, and waits for its key
            store.settle([Unfit(outcome=Outcome.INVALID_MDN, sender="99999/15", received_at=NOW, link="north")], NOW)
        yield site


@pytest.mark.parametrize("name", sorted(told()))
def test_page_tells_the_fields_of_a_listing(full, name):
    said = full.run(*name.split(), *ARGUMENTS.get(name, ()), "--json").stdout
    rows = [json.loads(line) for line in said.splitlines()]
    assert rows
    assert {frozenset(row) for row in rows} == {frozenset(told()[name])}
