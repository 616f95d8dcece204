"""The drop-in that `hardening` prints."""

from __future__ import annotations

import socket

import pytest

from kmp_smsd.cli import hardening
from kmp_smsd.cli.hardening import Peer, drop_in, name_servers
from tests.cli.site import HOST_KEY

KNOWN = {
    "smsc-a.example": ["192.0.2.10", "2001:db8::10"],
    "keys-a.example": ["198.51.100.1"],
}


@pytest.fixture
def resolver(monkeypatch, tmp_path):
    """Names resolve as KNOWN says; the name server is 192.0.2.53."""

    def getaddrinfo(host, *_args, **_options):
        if host not in KNOWN:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in KNOWN[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (tmp_path / "resolv.conf").write_text("search example\nnameserver 192.0.2.53\n")
    monkeypatch.setattr(hardening, "RESOLVER", tmp_path / "resolv.conf")


def addresses(text):
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith("IPAddressAllow=")]


def with_hosts(site, *hosts):
    site.link(2775)
    text = site.config.read_text(encoding="utf-8")
    quoted = ", ".join(f'"{host}"' for host in hosts)
    site.write("kmp-smsd.toml", text.replace('hosts = ["127.0.0.1:2775"]', f"hosts = [{quoted}]"))


@pytest.mark.usefixtures("resolver")
def test_intake_may_reach_its_smscs_and_the_name_servers_and_no_platform(site):
    with_hosts(site, "smsc-a.example:2775", "203.0.113.9:2775")
    text = site.ok("hardening", "intake")
    assert "[Service]\nIPAddressDeny=any\n" in text
    assert addresses(text) == ["localhost", "192.0.2.10 2001:db8::10", "203.0.113.9", "192.0.2.53"]


@pytest.mark.usefixtures("resolver")
def test_dispatch_may_reach_its_platforms_and_no_smsc(site):
    with_hosts(site, "smsc-a.example:2775")
    site.platform("metering", "keys-a.example")
    assert addresses(site.ok("hardening", "dispatch")) == ["localhost", "198.51.100.1", "192.0.2.53"]


@pytest.mark.usefixtures("resolver")
def test_addresses_need_no_name_server(site):
    with_hosts(site, "[2001:db8::1]:2775")
    assert addresses(site.ok("hardening", "intake")) == ["localhost", "2001:db8::1"]


@pytest.mark.usefixtures("resolver")
def test_name_that_nobody_knows_is_told_and_left_out(site):
    with_hosts(site, "smsc-a.example:2775", "smsc-b.example:2775")
    done = site.run("hardening", "intake")
    assert done.exit_code == 69
    assert done.stderr == "kmp-smsd: SMSC lab: smsc-b.example could not be resolved, and is left out\n"
    assert addresses(done.stdout) == ["localhost", "192.0.2.10 2001:db8::10", "192.0.2.53"]
    assert "# SMSC lab: smsc-b.example (could not be resolved)\n" in done.stdout


@pytest.mark.usefixtures("resolver")
def test_switched_off_peers_are_not_reached(site):
    path = site.platform("metering", "keys-a.example", HOST_KEY)
    site.write(f"platforms.d/{path.name}", "enabled = false\n" + path.read_text(encoding="utf-8"))
    assert addresses(site.ok("hardening", "dispatch")) == ["localhost"]


def test_every_peer_stands_there_once():
    peers = [Peer("SMSC north", "192.0.2.1"), Peer("SMSC north", "192.0.2.1")]
    text, unresolved = drop_in("intake", peers, lambda host: [host])
    assert (text.count("192.0.2.1\n"), unresolved) == (2, ())  # the comment and the line


def test_name_servers_are_those_of_resolv_conf():
    text = "# nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions edns0\nnameserver fe80::1%eth0\nnameserver\n"
    assert name_servers(text) == ["192.0.2.2", "fe80::1"]
