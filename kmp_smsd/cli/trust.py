"""``kmp-smsd platforms trust``: the keys that a platform's hosts show, to be pinned by a person."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.arguments import json_option
from kmp_smsd.cli.failures import CONFIGURATION, UNAVAILABLE, Failed
from kmp_smsd.cli.output import Columns, Row, listing
from kmp_smsd.cli.settings import Settings
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.domain.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmp_smsd.channels.host import Host
    from kmp_smsd.channels.options import Pin
    from kmp_smsd.channels.shown_keys import ShownKeys


def _in_the_file(row: Row) -> str:
    return "-" if row["pinned"] is None else "yes" if row["pinned"] else "no"


COLUMNS: Columns = {
    "host": "host",
    "key": "algorithm",
    "fingerprint": "fingerprint",
    "in the file": _in_the_file,
    "error": "error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How the keys of a kind of channel are asked for, read, and written into its file."""

    option: str
    read_host: Callable[[object], Host]
    read_pin: Callable[[object], Pin]
    fetch: Callable[[Sequence[Host]], list[ShownKeys]]


@click.command()
@click.argument("name", shell_complete=completing.platforms)
@json_option
@click.pass_obj
def trust(settings: Settings, name: str, as_json: bool) -> None:
    """Show the keys of a platform's hosts and the line that pins them in its file. Nothing is written.

    Compare the fingerprints with those that the platform's administrator reads out before you pin them. Only `hosts`
    need to be in the file, and `kind` where it is not "ssh". Exits 69 where a host does not answer.
    """
    path, channel = _channel_in_file(settings, name)
    kind = _kind(path, channel)
    hosts, pinned = _hosts(path, channel, kind), _pins(channel, kind)
    rows: list[dict[str, Any]] = []
    lines = []
    for answer in kind.fetch(hosts):
        common = {"host": str(answer.host), "error": answer.fault or None}
        if answer.fault:
            rows.append({**common, "algorithm": None, "fingerprint": None, "pin": None, "pinned": None})
        for key in answer.keys:
            text = key.pin.text()
            known = any(pin.is_for(answer.host) and replace(pin, host=answer.host) == key.pin for pin in pinned)
            rows.append(
                {
                    **common,
                    "algorithm": key.algorithm,
                    "fingerprint": key.fingerprint,
                    "pin": text,
                    "pinned": known,
                }
            )
            lines.append(text)
    listing([rows], COLUMNS, as_json=as_json, nothing="no hosts")
    if lines and not as_json:
        click.echo(f"\nkmp-smsd: once the fingerprints are compared, put this into [channel] of {path}:", err=True)
        click.echo(f"{kind.option} = [\n" + "".join(f'    "{line}",\n' for line in lines) + "]")
    if any(row["error"] for row in rows):
        raise click.exceptions.Exit(UNAVAILABLE)


def _kind(path: Path, channel: dict[str, Any]) -> _Kind:
    from kmp_smsd.channels.host import Host
    from kmp_smsd.channels.shown_keys import fetch_host_keys, fetch_server_keys
    from kmp_smsd.channels.ssh_options import HostKey, ssh_host
    from kmp_smsd.channels.tls_options import ServerKey

    kinds = {
        "ssh": _Kind(option="host_keys", read_host=ssh_host, read_pin=HostKey.parse, fetch=fetch_host_keys),
        "tls": _Kind(option="server_keys", read_host=Host.parse, read_pin=ServerKey.parse, fetch=fetch_server_keys),
    }
    written = channel.get("kind", "ssh")
    if written not in list(kinds):
        raise Failed(f"{path}: [channel] kind is not one of {', '.join(kinds)}", CONFIGURATION)
    return kinds[written]


def _channel_in_file(settings: Settings, name: str) -> tuple[Path, dict[str, Any]]:
    """[channel] of a platform's file, which need not be good otherwise: keys are missing yet."""
    from kmp_smsd.config.load import PLATFORMS
    from kmp_smsd.config.platform import is_platform_name

    directory = settings.path.parent / PLATFORMS
    path = directory / f"{name}.toml"
    if not is_platform_name(name) or not path.is_file():
        raise _unknown_file(name, directory)
    try:
        channel = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("channel")
    except ValueError:
        raise Failed(f"{path} is not in TOML: 'kmp-smsd check-config' tells where", CONFIGURATION) from None
    return path, channel if isinstance(channel, dict) else {}


def _hosts(path: Path, channel: dict[str, Any], kind: _Kind) -> list[Host]:
    written = channel.get("hosts")
    if not isinstance(written, list) or not written:
        raise Failed(f'{path}: hosts = ["HOST:PORT"] is needed in [channel], a list in [ ]', CONFIGURATION)
    try:
        return [kind.read_host(text) for text in written]
    except ValueError as error:
        raise Failed(f"{path}: [channel] hosts: {error}", CONFIGURATION) from None


def _pins(channel: dict[str, Any], kind: _Kind) -> list[Any]:
    written = channel.get(kind.option)
    pinned = []
    for text in written if isinstance(written, list) else ():
        with suppress(ValueError):  # check-config tells what is wrong with it
            pinned.append(kind.read_pin(text))
    return pinned


def _unknown_file(name: str, directory: Path) -> Failed:
    hint = did_you_mean(name, (path.stem for path in directory.glob("*.toml")))
    return Failed(f"no {directory}/{shown(name)}.toml{hint or ': write it first, with hosts in [channel]'}")
