"""[monitoring]: who may look at a role."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kmp_smsd.config.changes import changes
from kmp_smsd.config.monitoring import LoopbackPort, Monitoring, SocketFile
from kmp_smsd.config.section import Reload

WRITTEN = 'write "127.0.0.1:PORT", "[::1]:PORT" or "unix:/PATH"'


def monitoring(files, **options):
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return files.append(f"[monitoring]\n{lines}")


def test_nobody_listens_unless_asked_to(files):
    assert files.load().monitoring == Monitoring(intake=None, dispatch=None)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("127.0.0.1:9775", LoopbackPort("127.0.0.1", 9775)),
        ("127.9.0.1:1", LoopbackPort("127.9.0.1", 1)),
        ("[::1]:9775", LoopbackPort("::1", 9775)),
        ("unix:/run/kmp-smsd/intake-http.sock", SocketFile(Path("/run/kmp-smsd/intake-http.sock"))),
    ],
)
def test_a_port_of_this_machine_or_a_socket_is_taken(files, written, read):
    monitoring(files, intake=f'"{written}"')
    assert files.load().monitoring.intake == read
    assert str(read) == written


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (
            '"0.0.0.0:9775"',
            f"0.0.0.0 is open to the network, and there is no login: {WRITTEN}, "
            "and put a proxy with a login before it where others shall read it",
        ),
        (
            '"[2001:db8::1]:9775"',
            f"2001:db8::1 is open to the network, and there is no login: {WRITTEN}, "
            "and put a proxy with a login before it where others shall read it",
        ),
        ('"localhost:9775"', f'"localhost" is a name, which may lead anywhere: {WRITTEN}'),
        ('"127.0.0.1:0"', "port 0 is not between 1 and 65535"),
        ('"127.0.0.1"', WRITTEN),
        ('":9775"', WRITTEN),
        ("9775", WRITTEN),
        ('"unix:run/x.sock"', 'write a socket as "unix:/PATH", from the root on'),
        ('"unix:/run/"', 'write a socket as "unix:/PATH", from the root on'),
        (f'"unix:/{"x" * 107}"', "a socket's path has 107 octets at most"),
    ],
)
def test_what_the_network_could_reach_is_refused_with_a_sentence(files, written, sentence):
    monitoring(files, dispatch=written)
    assert files.faults() == [f"kmp-smsd.toml:{files_line(files, 'dispatch')}: [monitoring] dispatch: {sentence}"]


def files_line(files, option):
    lines = (files.directory / "kmp-smsd.toml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(option))


def test_the_longest_path_of_a_socket_is_taken(files):
    monitoring(files, dispatch=f'"unix:/{"x" * 106}"')
    assert files.load().monitoring.dispatch == SocketFile(Path("/" + "x" * 106))


@pytest.mark.parametrize("address", ["127.0.0.1:9775", "unix:/run/x.sock"])
def test_two_roles_cannot_have_one_address(files, address):
    monitoring(files, intake=f'"{address}"', dispatch=f'"{address}"')
    assert [fault.partition("dispatch: ")[2] for fault in files.faults()] == [
        "intake listens there already, and each role answers for itself"
    ]


def test_change_needs_a_restart_of_the_role_that_listens_there(files):
    before = files.load()
    monitoring(files, dispatch='"127.0.0.1:9776"')
    (change,) = changes(before, files.load())
    assert (str(change), change.reload, change.role) == ("[monitoring] dispatch", Reload.RESTART, "dispatch")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_no_address_but_loopback_is_ever_taken(address, port):
    written = str(LoopbackPort(str(address), port))
    try:
        assert Monitoring(intake=written).intake == LoopbackPort(str(address), port)
        assert address.is_loopback
    except ValidationError:
        assert not address.is_loopback
