"""Whether SMSCs and platforms are reached."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from kmp_smsd.channels.protocol import ChannelDown, NotLetIn, UnfitIdentity, WrongKey
from kmp_smsd.diagnosis.finding import Finding, Level, failure, ok, warning
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.validity import RENEW_WITHIN_S, validity


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host of a peer, HOST:PORT. A step that was not taken has neither result nor fault."""

    host: str
    addresses: tuple[str, ...] = ()
    lookup_fault: str = ""
    connected: bool = False
    connect_fault: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine: then a tunnel answers in the SMSC's place."""
        return bool(self.addresses) and all(ipaddress.ip_address(one).is_loopback for one in self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindFacts:
    """A bind that was tried: `status` is the SMSC's answer (0: bound), None with a `fault` where it gave none."""

    host: str
    how: str  # such as bind_transceiver
    status: int | None = None
    status_name: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """What came of a connection to a platform's host, hellos included; `fault` is None where all is good."""

    host: str
    fault: ChannelDown | None = None
    receiver: str = ""
    fingerprint: str = ""


_HERE = "is the SMSC up, or the tunnel that listens in its place, and does that reach it? journalctl -u 'stunnel@*'"

ALREADY_BOUND, WRONG_PASSWORD, WRONG_SYSTEM_ID, BIND_FAILED = 0x05, 0x0E, 0x0F, 0x0D

_BIND_REMEDIES = {
    WRONG_PASSWORD: "compare [smsc.{name}] password with what the SMSC's operator issued, then: {renewal}",
    WRONG_SYSTEM_ID: "compare [smsc.{name}] system_id with what the SMSC's operator issued, then: kmp-smsd reload",
    BIND_FAILED: "ask the SMSC's operator: account, our address, and which kinds of bind it allows (option bind)",
}


def judge_smsc(hosts: Sequence[HostFacts]) -> list[Finding]:
    """A link works as long as one of its hosts does; what it carries is in clear."""
    found = [_judge_host(host) for host in hosts]
    if any(host.connected for host in hosts):
        found = [_softened(one) for one in found]
    public = sorted({address for host in hosts for address in host.addresses if is_public(address)})
    if public:
        found.append(
            warning(
                f"the SMSC's address is public ({', '.join(public)}) and SMPP is in clear: passwords, numbers and key"
                " IDs can be read and forged on the way",
                "reach it through a VPN or stunnel: conf/stunnel-smsc.conf, docs/security.rst",
            )
        )
    return found


def judge_bind(name: str, bind: BindFacts, *, by_credential: bool, is_here: bool = False) -> Finding:
    """The answer to a real bind of the link `name`, whose password comes `by_credential`, or from a file.

    `is_here`: the host is this machine.
    """
    if bind.status == 0:
        return ok(f"{bind.host}: {bind.how} was accepted, and unbound again")
    if bind.status == ALREADY_BOUND:
        return warning(
            f"{bind.host}: {bind.how} was refused, since we are bound already",
            "nothing, if intake runs: this SMSC allows one bind, and it is taken",
        )
    if bind.status is None:
        asked = "ask the SMSC's operator what it saw of this bind"
        return failure(f"{bind.host}: {bind.how}: {bind.fault}", f"{_HERE}\n{asked}" if is_here else asked)
    remedy = _BIND_REMEDIES.get(bind.status, "ask the SMSC's operator what this status means there")
    renewal = "restart intake" if by_credential else "kmp-smsd reload"
    return failure(
        f"{bind.host}: {bind.how} was refused with {bind.status_name}", remedy.format(name=name, renewal=renewal)
    )


def judge_receipt(last_success_at: int | None, now: int) -> Finding:
    """The last receipt, by which the platform proved that it holds a key; times in Unix milliseconds.

    None is asked for here: that would take a key, and leave a record at the platform for a number that has none.
    """
    if last_success_at is None:
        return ok("it has confirmed nothing yet")
    return ok(f"its last receipt came {counted(max(0, now - last_success_at) // 60_000, 'minute')} ago")


def judge_platform(name: str, probes: Sequence[ProbeFacts]) -> list[Finding]:
    """A platform works as long as one of its hosts does."""
    found = [_judge_probe(name, probe) for probe in probes]
    if any(probe.fault is None for probe in probes):
        found = [_softened(one) for one in found]
    return found


def judge_certificate(ends_at: int, now: int, *, by_credential: bool) -> Finding:
    """Our own certificate, by which a platform knows us; times in Unix milliseconds. Theirs is pinned, however old.

    What dispatch has as a credential is the same until its restart; a file it reads at each connection.
    """
    left_s = (ends_at - now) / 1000
    sentence = f"our certificate there {validity(left_s)}"
    if left_s >= RENEW_WITHIN_S:
        return ok(sentence)
    remedy = (
        "make another for the same key, under another name: docs/configuration.rst, Platforms\n"
        "have the platform's administrator let it in beside the old one\n"
        "put it into the file of [channel] identity"
    )
    if by_credential:
        remedy += ", and restart dispatch"
    return warning(sentence, remedy) if left_s > 0 else failure(sentence, remedy)


def is_public(address: str) -> bool:
    """Whether the address is one of the Internet: neither private nor of this machine."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def _judge_host(host: HostFacts) -> Finding:
    if host.lookup_fault:
        return failure(
            f"{host.host}: its name is not resolved: {host.lookup_fault}",
            "mend the name server (/etc/resolv.conf), or write the address; a name must have one of IPv4",
        )
    if host.connect_fault:
        return failure(
            f"{host.host}: no connection: {host.connect_fault}",
            _HERE
            if host.is_here
            else "is the SMSC up, and does a firewall or the unit's IPAddressAllow= let us through?",
        )
    if host.is_here:
        return ok(f"{host.host}: connected, on this machine: only a bind (--bind) tells whether to the SMSC")
    return ok(f"{host.host}: connected")


def _judge_probe(name: str, probe: ProbeFacts) -> Finding:
    if probe.fault is None:
        return ok(f"{probe.host}: {probe.receiver} answers, its key is {probe.fingerprint}")
    return failure(str(probe.fault), _probe_remedy(name, probe.fault))


def _probe_remedy(name: str, fault: ChannelDown) -> str:
    match fault:
        case WrongKey():
            return (
                "ask the platform's administrator for the fingerprint of its key, compare it with\n"
                f"kmp-smsd platforms trust {name}\n"
                "and pin the new key only where they are the same"
            )
        case NotLetIn():
            return (
                "have the platform's administrator let us in: over SSH our public key belongs into authorized_keys of\n"
                "that user, over TLS the certificate of [channel] identity, or a newer one, into what the server trusts"
            )
        case UnfitIdentity():
            return (
                "give [channel] identity, or [secrets] ssh_identity, an unencrypted key:\n"
                "for SSH Ed25519, ECDSA or RSA, for TLS in PEM with our certificate in the same file"
            )
    return f"is the host up, does a firewall let us through, and is kmp-receive there? kmp-smsd platforms test {name}"


def _softened(finding: Finding) -> Finding:
    """A fault of one of several hosts: the others do its work."""
    return warning(finding.sentence, finding.remedy) if finding.level is Level.FAILURE else finding
