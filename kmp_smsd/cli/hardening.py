"""``kmp-smsd hardening``: the addresses that a role needs, as a drop-in that lets it talk to no other."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.failures import UNAVAILABLE
from kmp_smsd.cli.settings import Settings
from kmp_smsd.control.protocol import ROLES

if TYPE_CHECKING:
    from kmp_smsd.config.load import Config

RESOLVER = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody whom a role talks to: who it is, and the name or address in the configuration."""

    who: str
    host: str


@click.command()
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def hardening(settings: Settings, role: str) -> None:
    """Print a drop-in for the unit of a role: it may talk to the configured peers and to no other address.

    Names are resolved now: make it anew when they lead elsewhere, or when peers are added. What could not be resolved
    is told, left out, and makes the exit code 69.
    """
    text, unresolved = drop_in(role, peers_of(settings.config, role), resolve)
    click.echo(text, nl=False)
    for peer in unresolved:
        click.echo(f"kmp-smsd: {peer.who}: {peer.host} could not be resolved, and is left out", err=True)
    if unresolved:
        raise click.exceptions.Exit(UNAVAILABLE)


def drop_in(role: str, peers: Sequence[Peer], resolve: Callable[[str], Sequence[str]]) -> tuple[str, tuple[Peer, ...]]:
    """The drop-in, and those of `peers` for whose host `resolve` knows no address."""
    found = {peer: resolve(peer.host) for peer in dict.fromkeys(peers)}
    return "".join(f"{line}\n" for line in _lines(role, found)), tuple(peer for peer in found if not found[peer])


def _lines(role: str, found: dict[Peer, Sequence[str]]) -> Iterator[str]:
    unit = f"kmp-smsd-{role}.service"
    yield f"# /etc/systemd/system/{unit}.d/10-peers.conf, made by 'kmp-smsd hardening {role}'."
    yield f"# In force after 'systemctl daemon-reload' and 'systemctl restart {unit}'."
    yield "[Service]"
    yield "IPAddressDeny=any"
    yield "IPAddressAllow=localhost"
    for peer, addresses in found.items():
        yield f"# {peer.who}: {peer.host}" + ("" if addresses else " (could not be resolved)")
        if addresses:
            yield f"IPAddressAllow={' '.join(addresses)}"


def peers_of(config: Config, role: str) -> list[Peer]:
    """Everybody whom a role must reach, the name servers included where one of them has a name."""
    if role == "intake":
        peers = [Peer(f"SMSC {name}", host.name) for name, link in config.smsc.items() for host in link.hosts]
    else:
        platforms = config.platforms.items()
        peers = [Peer(f"platform {name}", host.name) for name, one in platforms for host in one.channel.hosts]
    if any(_address(peer.host) is None for peer in peers):
        peers += [Peer("name server", host) for host in name_servers(_resolver())]
    return peers


def resolve(host: str) -> Sequence[str]:
    """All addresses of a name, or an address itself; none where the name servers know none, or do not answer."""
    if (address := _address(host)) is not None:
        return [address]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(entry[4][0]).partition("%")[0] for entry in found})


def name_servers(text: str) -> list[str]:
    """Those of a resolv.conf(5)."""
    words = (line.split() for line in text.splitlines())
    return [line[1].partition("%")[0] for line in words if len(line) > 1 and line[0] == "nameserver"]


def _resolver() -> str:
    try:
        return RESOLVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # without it the resolver asks this machine


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
