from __future__ import annotations

import base64
import dataclasses
import io
import logging
import re
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from kmp_smsd.channels import shown_keys
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import REPEATS_A_KEY
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel
from kmp_smsd.channels.protocol import ChannelDown, Confirmed, TryLater, UnfitIdentity
from kmp_smsd.channels.shown_keys import fetch_host_keys
from kmp_smsd.channels.ssh import load_identity, negotiated
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.simulator.openssh import OpensshServer, new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from tests.channels.peer import KEY, NOW_S, WORDY, SshPlatform, make_binds, secret_bind
from tests.channels.spellings import SPELLINGS
from tests.channels.test_hiding import is_legible
from tests.channels.test_tls_channel import listener, until_closed
from tests.sshd import receiver_command

STRANGER = new_identity()[1]


@pytest.fixture
def platform(ssh_platform: SshPlatform) -> SshPlatform:
    return ssh_platform


@pytest.fixture
def second(platform: SshPlatform) -> OpensshServer:
    """A second door to the platform's store, with a host key of its own."""
    platform.second.start()
    return platform.second


# --- a peer that is not what it should be -----------------------------------------------------------------------------


def test_host_with_another_key_gets_no_login_and_no_key(platform: SshPlatform) -> None:
    with pytest.raises(ChannelDown, match="host key is not one of host_keys") as caught:
        platform.open(host_keys=[STRANGER])
    assert "SHA256:" in str(caught.value)
    assert platform.server.wait_for_log("Connection closed by", "Connection reset by")
    assert "kex: algorithm" in platform.server.log
    assert "userauth-request" not in platform.server.log
    # And the same log tells of a login where there is one.
    platform.open()
    assert platform.server.wait_for_log("userauth-request")
    assert platform.held() == {}


def test_host_without_a_key_of_the_pinned_type_gets_no_login(platform: SshPlatform) -> None:
    point = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA"
    with pytest.raises(ChannelDown, match="no host key of type ecdsa-sha2-nistp256"):
        platform.open(host_keys=[point + "=" * (-len(point.split()[1]) % 4)])
    assert "userauth-request" not in platform.server.log


def test_key_pinned_to_one_host_does_not_open_another(platform: SshPlatform, second: OpensshServer) -> None:
    pinned = [f"{platform.server.address} {second.host_key}", f"{second.address} {platform.server.host_key}"]
    with pytest.raises(ChannelDown, match="host key is not one of host_keys"):
        platform.open(hosts=[platform.server.address, second.address], host_keys=pinned)


def test_refused_login_says_which_key_to_authorize(platform: SshPlatform) -> None:
    with pytest.raises(ChannelDown, match=r"refused our login as .* SHA256:\S+ \(ssh-ed25519\)"):
        platform.open(identity=new_identity()[0])


def damaged(place: int) -> bytes:
    """An identity with another bit in its public half, which stands there three times."""
    private, public = new_identity()
    head, *body, tail = private.splitlines()
    raw, half = bytearray(base64.b64decode(b"".join(body))), base64.b64decode(public.split()[1])[-32:]
    raw[[found.start() for found in re.finditer(re.escape(half), raw)][place]] ^= 1
    return b"\n".join([head, base64.b64encode(raw), tail])


@pytest.mark.parametrize(
    "identity",
    [
        b"",
        b"\xff\xfe",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        *map(damaged, range(3)),
    ],
)
def test_unreadable_identity_is_a_sentence_and_no_connection(platform: SshPlatform, identity: bytes) -> None:
    with pytest.raises(UnfitIdentity, match="the SSH identity"):
        platform.open(identity=identity or b"\n")
    assert "Connection from" not in platform.server.log


def test_identity_that_is_encrypted_is_told_from_one_that_is_none() -> None:
    secret = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(UnfitIdentity, match="the SSH identity is encrypted; a daemon has nobody to ask"):
        load_identity(secret)


def ending_after(said: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)  # what comes is read all the same: else it would be a reset
        until_closed(connection)

    return answer


@pytest.mark.parametrize(
    ("banner", "said"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "Error reading SSH protocol banner"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "the host closed the connection"),
    ],
)
def test_host_with_which_no_connection_comes_about_is_told_once(
    platform: SshPlatform, caplog: pytest.LogCaptureFixture, banner: bytes, said: str
) -> None:
    with listener(ending_after(banner)) as host, pytest.raises(ChannelDown, match=f"^{host}: {said}"):
        platform.open(hosts=[host])
    assert not [record for record in caplog.records if record.name.startswith("paramiko")]


def test_connection_is_kept_alive_once_we_are_let_in(platform: SshPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []
    monkeypatch.setattr(paramiko.Transport, "set_keepalive", lambda _, every_s: kept.append(every_s))
    platform.open()
    assert kept == [30]


def test_missing_command_is_named_with_its_exit_status(platform: SshPlatform) -> None:
    platform.server.command("/nowhere/kmp-receive")
    with pytest.raises(ChannelDown, match=r"exit status 127 .*/nowhere/kmp-receive: (No such file|not found)"):
        platform.open()


@pytest.mark.parametrize(
    ("behaviour", "spelling"),
    [
        ("quote-line", "hex"), ("quote-line", "repr"), ("quote-line", "raw"), ("quote-line", "base64"),
        ("quote-error", "hex"), ("quote-error", "repr"), ("quote-error", "raw"), ("quote-error", "0x"),
        ("quote-octets", "hex"), ("quote-octets", "hexdump"), ("quote-octets", "decimal"),
        ("quote-reason", "percent"), ("quote-reason", "octal escapes"), ("quote-reason", "json escapes"),
    ],
)  # fmt: skip
def test_key_that_a_receiver_quotes_is_in_no_error_and_no_log(
    platform: SshPlatform, behaviour: str, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave(behaviour, spelling)
    caplog.set_level(logging.DEBUG)
    if behaviour == "quote-reason":
        [result] = platform.open().deliver([secret_bind()])
        assert isinstance(result, TryLater)
        told = result.reason
    else:
        with pytest.raises(ChannelDown) as caught:
            list(platform.open().deliver([secret_bind()]))
        told = str(caught.value) + repr(caught.getrepr(chain=True))
    everything = told + caplog.text
    assert "bad key" in everything or REPEATS_A_KEY in everything
    # What is said of one octet after the other may stand in several lines.
    said = "".join(re.findall(r"says: (.*)", caplog.text))
    assert not is_legible(KEY, SPELLINGS[spelling](KEY), said)
    assert not is_legible(KEY, SPELLINGS[spelling](KEY), told)


def test_key_that_is_quoted_long_after_its_answer_is_hidden(
    platform: SshPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    """As by what says something only once it has much to say. A small window does not make that any sooner."""
    platform.misbehave("quote-late", "5")
    caplog.set_level(logging.INFO)
    channel = platform.open(window=1)
    bind = dataclasses.replace(secret_bind(), key=WORDY)
    assert list(channel.deliver([bind])) == [TryLater(bind, "busy")]
    with pytest.raises(ChannelDown) as caught:
        list(channel.deliver(make_binds(5)))
    assert f"says: {REPEATS_A_KEY}" in caplog.text
    assert REPEATS_A_KEY in str(caught.value)
    assert "PtkJuwkTOA" not in caplog.text + str(caught.value)


def test_key_over_which_a_receiver_broke_is_hidden_when_it_begins_anew(
    platform: SshPlatform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("quote-later", str(tmp_path / "kept"))
    caplog.set_level(logging.INFO)
    with pytest.raises(ChannelDown):
        list(platform.open().deliver([dataclasses.replace(secret_bind(), key=WORDY)]))
    channel = platform.open()
    assert channel.peer.receiver == REPEATS_A_KEY
    with pytest.raises(ChannelDown) as caught:
        list(channel.deliver([secret_bind()]))
    assert f"says: {REPEATS_A_KEY}" in caplog.text
    assert "PtkJuwkTOA" not in caplog.text + str(caught.value)


def test_octet_of_a_key_in_each_line_is_hidden_from_the_fourth_on(
    platform: SshPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("quote-error", "hex, lines")
    caplog.set_level(logging.INFO)
    with pytest.raises(ChannelDown):
        list(platform.open().deliver([secret_bind()]))
    shown = re.findall(r"says: (?:bad key )?([0-9a-f]{2})$", caplog.text, re.MULTILINE)
    assert len(shown) < 4


@pytest.mark.parametrize("behaviour", ["exit", "unended"])
def test_last_words_of_a_receiver_are_told_with_its_exit_status(platform: SshPlatform, behaviour: str) -> None:
    platform.misbehave(behaviour)
    with pytest.raises(ChannelDown, match=r"exit status 3 \(it said: no space left on device\)"):
        list(platform.open().deliver([secret_bind()]))


def test_host_that_shows_another_key_on_a_live_connection_gets_nothing_more(tmp_path: Path) -> None:
    """As RFC 4253 allows, and paramiko: only a simulated host does it."""
    identity, public = new_identity()
    store = tmp_path / "keys.db"
    server = SimulatedPlatform(receiver_command(store), public)
    server.start()
    try:
        options = SshOptions(kind="ssh", hosts=(server.address,), user=server.user, host_keys=(server.host_key,))
        channel = open_channel(options, lambda _reference: identity, "metering", Cancel(), lambda: NOW_S, deque())
        first, second = make_binds(2)
        assert list(channel.deliver([first])) == [Confirmed(first)]
        [transport] = server._connections
        other = paramiko.Ed25519Key.from_private_key(io.StringIO(new_identity()[0].decode()))
        transport.add_server_key(other)
        transport.renegotiate_keys()
        with pytest.raises(ChannelDown, match="host key changed"):
            list(channel.deliver([second]))
        listed = subprocess.run([*receiver_command(store), "list", "--json"], check=True, capture_output=True)
        assert len(listed.stdout.splitlines()) == 1
    finally:
        server.stop()


def test_standard_error_that_never_ends_stops_no_delivery_and_fills_no_log(
    platform: SshPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.misbehave("noise")
    caplog.set_level(logging.INFO)
    assert len(list(platform.open().deliver(make_binds(200)))) == 200
    assert 0 < caplog.text.count("a line of standard error") <= 100


# --- hosts that go away -----------------------------------------------------------------------------------------------


def test_mute_host_is_given_up_in_the_same_words_where_paramiko_notices_first(
    platform: SshPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Timer, "start", lambda _: None)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(ChannelDown, match=r"not connected within 0\.3 s"),
    ):
        platform.open(hosts=[f"127.0.0.1:{mute.getsockname()[1]}"], connect_within_s=0.3)


def test_interrupt_goes_on_as_one_and_leaves_no_connection(platform: SshPlatform) -> None:
    host = Host.parse(platform.server.address)
    with pytest.raises(KeyboardInterrupt), negotiated(host, ("ssh-ed25519",), 20) as transport:
        raise KeyboardInterrupt
    assert not transport.is_active()


# --- what an administrator asks ---------------------------------------------------------------------------------------


def test_shown_host_keys_can_be_pinned_as_they_are(platform: SshPlatform) -> None:
    [shown] = fetch_host_keys([Host.parse(platform.server.address)])
    [key] = shown.keys
    assert (key.algorithm, key.fingerprint[:7]) == ("ssh-ed25519", "SHA256:")
    assert platform.server.host_key in key.pin.text()
    assert "userauth-request" not in platform.server.log
    assert isinstance(platform.open(host_keys=[key.pin.text()]), LineChannel)


def test_host_that_is_down_shows_its_fault_instead_of_keys(platform: SshPlatform) -> None:
    platform.server.stop()
    [shown] = fetch_host_keys([Host.parse(platform.server.address)])
    assert shown.keys == ()
    assert "Connection refused" in shown.fault


def test_host_without_a_key_of_a_type_that_can_be_pinned_says_so(
    platform: SshPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_keys, "HOST_KEY_ALGORITHMS", ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"))
    host = Host.parse(platform.server.address)
    [shown] = fetch_host_keys([host])
    assert shown.keys == ()
    assert (
        shown.fault == f"{host}: no common algorithm, or no host key of type ecdsa-sha2-nistp384, ecdsa-sha2-nistp521"
    )
