"""`doctor --bind` against an SMSC: bound and unbound, refused, and no message taken from it."""

from __future__ import annotations

import socket

import pytest

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.cli.gathering.network import reach, try_bind
from kmp_smsd.config.link import Link
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.simulator.smsc import SmscSettings
from tests.cli.site import until


def link(smsc: SmscServer, **options: object) -> Link:
    password = SecretRef(credential="unused")
    hosts = (f"127.0.0.1:{smsc.port}",)
    return Link.model_validate({"hosts": hosts, "system_id": "esme", "password": password, **options})


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, "bind_transceiver"),
        ({"bind": "receiver"}, "bind_receiver"),
        ({"bind": "pair"}, "bind_receiver"),
        ({"bind": "transceiver"}, "bind_transceiver"),
    ],
)
def test_it_binds_as_the_link_would_and_unbinds(options, how):
    with SmscServer() as smsc:
        one = link(smsc, **options)
        found = try_bind(one.hosts[0], one, "secret")
        assert (found.status, found.how) == (0, how)
        until(lambda: smsc.bound == 0)
        assert (smsc.counts.binds, smsc.counts.lost) == (1, 0)


def test_smsc_that_takes_no_transceivers_is_bound_as_a_receiver():
    with SmscServer(SmscSettings(takes_transceivers=False)) as smsc:
        one = link(smsc)
        found = try_bind(one.hosts[0], one, "secret")
        assert (found.status, found.how) == (0, "bind_receiver")


def test_wrong_password_is_tried_once_and_told():
    with SmscServer() as smsc:
        one = link(smsc)
        found = try_bind(one.hosts[0], one, "wrong")
        assert (found.status, found.status_name) == (0x0E, "ESME_RINVPASWD (0x0E)")
        assert smsc.counts.binds_refused == 1


def test_messages_that_come_meanwhile_are_left_with_the_smsc():
    with SmscServer() as smsc:
        one = link(smsc)
        answers = [smsc.send("8613800000001", "K1:K") for _ in range(20)]
        assert try_bind(one.hosts[0], one, "secret").status == 0
        until(lambda: smsc.bound == 0)
        assert not any(answer.done() for answer in answers)
        assert smsc.waiting == 20
        assert smsc.counts.accepted == 0


def test_connection_alone_sends_nothing():
    with SmscServer() as smsc:
        one = link(smsc)
        found = reach(one.hosts[0], one)
        assert (found.connected, found.addresses) == (True, ("127.0.0.1",))
        assert smsc.counts.binds == smsc.counts.binds_refused == 0


def test_name_without_an_ipv4_address_is_not_called_reached(monkeypatch: pytest.MonkeyPatch):
    """As Twisted, which the link uses, looks names up."""

    def looked_up(_name, port, family=0, **_kind):
        if family == socket.AF_INET:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with SmscServer() as smsc:
        one = link(smsc)
        found = reach(Host("smsc.example", one.hosts[0].port), one)
    assert (found.connected, found.lookup_fault) == (False, "No address associated with hostname")


def test_name_that_does_not_exist_is_told_from_a_host_that_is_down():
    with SmscServer() as smsc:
        one = link(smsc)
    assert reach(Host("no-such.invalid", 1), one).lookup_fault
    assert reach(one.hosts[0], one).connect_fault == "Connection refused"
    assert try_bind(one.hosts[0], one, "secret").fault == "Connection refused"
