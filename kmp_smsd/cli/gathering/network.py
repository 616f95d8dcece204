"""Whether peers are reached: names, connections, a bind, and an exchange of hellos."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.config.link import Link
from kmp_smsd.config.load import Config
from kmp_smsd.diagnosis.peers import BindFacts, HostFacts, ProbeFacts
from kmp_smsd.service.binds import BIND_COMMANDS, WRONG_MODE, session_settings
from kmp_smsd.smpp.constants import CommandId, name_of
from kmp_smsd.smpp.events import BindRefused, BindUnanswered, Bound, Closed, LinkDead, Messages
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import State

_READ_OCTETS = 65_536


def reach(host: Host, link: Link) -> HostFacts:
    """Look up the name of an SMSC's host and connect to it, as the link would; nothing is sent."""
    try:
        addresses = _addresses(host)
    except OSError as error:
        return HostFacts(host=str(host), lookup_fault=error.strerror or str(error))
    try:
        _connect(host, link).close()
    except OSError as error:
        return HostFacts(host=str(host), addresses=addresses, connect_fault=error.strerror or str(error))
    return HostFacts(host=str(host), addresses=addresses, connected=True)


def try_bind(host: Host, link: Link, password: str) -> BindFacts:
    """Bind as the link would, and unbind. A message that comes meanwhile is left with the SMSC."""
    facts = BindFacts(host=str(host), how="bind", fault="no bind was tried")
    for command_id in BIND_COMMANDS[link.bind]:
        facts = _bind(host, link, command_id, session_settings(link, password, command_id))
        if facts.status is not None and facts.status not in WRONG_MODE:
            break
    return facts


def _bind(host: Host, link: Link, command_id: CommandId, settings: SessionSettings) -> BindFacts:
    how = command_id.name.lower()

    def answered(status: int) -> BindFacts:
        return BindFacts(host=str(host), how=how, status=status, status_name=name_of(status))

    bound = False
    try:
        with _connect(host, link) as connection:
            for event in _session(connection, EsmeSession(settings), link):
                if isinstance(event, Bound):
                    bound = True
                elif isinstance(event, BindRefused):
                    return answered(event.command_status)
                elif isinstance(event, BindUnanswered | LinkDead):
                    fault = event.reason
                    return answered(0) if bound else BindFacts(host=str(host), how=how, fault=fault)
    except OSError as error:
        if not bound:
            return BindFacts(host=str(host), how=how, fault=error.strerror or str(error))
    return answered(0) if bound else BindFacts(host=str(host), how=how, fault="the SMSC closed the connection")


def _session(connection: socket.socket, session: EsmeSession, link: Link) -> Iterator[object]:
    """What happens on a connection from our bind to its end; we unbind as soon as we are bound."""
    session.connection_made(time.monotonic())
    connection.settimeout(0.5)
    while True:
        if data := session.data_to_send():
            connection.sendall(data)
        if session.state is State.CLOSED:
            return
        try:
            received = connection.recv(_READ_OCTETS)
        except TimeoutError:
            yield from session.check_timers(time.monotonic())
            continue
        if not received:
            return
        for event in session.receive_data(received, time.monotonic()):
            if isinstance(event, Bound):
                session.unbind(time.monotonic())
            elif isinstance(event, Messages):
                session.answer((message, link.temporary_status) for message in event.messages)
            yield event
            if isinstance(event, Closed):
                return


def _addresses(host: Host) -> tuple[str, ...]:
    """Those to which the link would connect. A name means IPv4 to Twisted's connectTCP, whatever else it has."""
    family = socket.AF_INET6 if ":" in host.name else socket.AF_INET
    found = socket.getaddrinfo(host.name, host.port, family=family, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _connect(host: Host, link: Link) -> socket.socket:
    address, *_ = _addresses(host)
    source = (link.local_address, 0) if link.local_address is not None else None
    return socket.create_connection((address, host.port), timeout=link.connect_timeout_s, source_address=source)


def probe_platform(config: Config, name: str, credentials: Callable[[SecretRef | None], bytes]) -> list[ProbeFacts]:
    """Connect to every host of a platform and exchange hellos, as `platforms test` does. No key is sent."""
    from kmp_smsd.channels.opening import probe

    try:
        findings = probe(config.platforms[name].channel, credentials, name)
    except ChannelDown as down:  # before any host was tried: the identity is none
        return [ProbeFacts(host="", fault=down)]
    return [
        ProbeFacts(
            host=str(one.host),
            fault=one.fault,
            receiver=one.hello.receiver if one.hello else "",
            fingerprint=one.fingerprint,
        )
        for one in findings
    ]


def certificate_ends_at(secret: bytes) -> int | None:
    """Until when our certificate in `secret` is valid, in Unix milliseconds; None where there is none."""
    from kmp_smsd.channels.tls_identity import load_identity

    try:
        return int(load_identity(secret).valid_until.timestamp() * 1000)
    except ChannelDown:
        return None
