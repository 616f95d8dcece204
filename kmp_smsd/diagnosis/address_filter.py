"""Whether the units of the roles may talk to their peers: IPAddressAllow= and IPAddressDeny= of systemd."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterFacts:
    """The lists of one unit, in networks such as 192.0.2.0/24."""

    unit: str
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


def judge_filter(facts: FilterFacts, peers: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Against `peers`: who the role of the unit talks to, each with its addresses. None known is another check's."""
    if not facts.denied:
        return [ok(f"{facts.unit} may talk to any address")]
    found = []
    for who, addresses in peers.items():
        blocked = [address for address in addresses if not _passes(facts, address)]
        if blocked:
            judgement = failure if len(blocked) == len(addresses) else warning
            role = facts.unit.removeprefix("kmp-smsd-").removesuffix(".service")
            found.append(
                judgement(
                    f"{facts.unit} may not talk to {', '.join(blocked)}, which is {who}",
                    f"make its drop-in anew with 'kmp-smsd hardening {role}', then\nsystemctl daemon-reload\n"
                    f"systemctl restart {facts.unit}",
                )
            )
    return found or [ok(f"{facts.unit} may talk to its peers")]


def _passes(facts: FilterFacts, address: str) -> bool:
    """As systemd.resource-control(5) says: what is allowed passes, of the rest what is not denied."""
    one = ipaddress.ip_address(address)
    return _is_in(one, facts.allowed) or not _is_in(one, facts.denied)


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[str]) -> bool:
    """Whether one of `networks` has it; an admin may have written 192.0.2.7/24."""
    return any(address in ipaddress.ip_network(network, strict=False) for network in networks)
