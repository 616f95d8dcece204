"""The channel of kind ``tls``, against kmp-receive behind stunnel, and against peers of the ssl module's."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import KEYS_KEPT, REPEATS_A_KEY
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel, probe
from kmp_smsd.channels.protocol import Bind, ChannelDown, Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.channels.shown_keys import fetch_server_keys
from kmp_smsd.channels.tls import negotiated
from kmp_smsd.channels.tls_identity import client_context
from kmp_smsd.channels.tls_options import TlsOptions
from tests.channels.peer import HOSTILE, NOW_S, VERSION, Held, held_in, make_binds
from tests.sshd import receiver_command
from tests.stunnel import StunnelServer, new_certificate

STRANGER = "sha256//" + "A" * 43 + "="


class TlsPlatform:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "keys.db"
        certificate, private = new_certificate("kmp")
        self.identity = certificate + private
        self.server = StunnelServer(directory / "stunnel", receiver_command(self.store), certificate)
        self.second = StunnelServer(directory / "stunnel-2", receiver_command(self.store), certificate)
        self.channels: list[LineChannel] = []

    def options(self, **changes: Any) -> TlsOptions:
        plain = {
            "kind": "tls",
            "hosts": [self.server.address],
            "server_keys": [self.server.server_key],
            "identity": {"credential": "tls_metering"},
        }
        return TlsOptions.model_validate(plain | changes)

    def open(self, identity: bytes | None = None, cancel: Cancel | None = None, **changes: Any) -> LineChannel:
        channel = open_channel(
            self.options(**changes),
            lambda _reference: identity or self.identity,
            "metering",
            cancel or Cancel(),
            lambda: NOW_S,
            deque(maxlen=KEYS_KEPT),
        )
        self.channels.append(channel)
        return channel

    def misbehave(self, *behaviour: str) -> None:
        """From now on the hostile receiver answers; the second server stays honest."""
        self.server.command([sys.executable, str(HOSTILE), *behaviour])
        self.server.restart()

    def held(self) -> Held:
        return held_in(self.store)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[TlsPlatform]:
    platform = TlsPlatform(tmp_path)
    platform.server.start()
    yield platform
    for channel in platform.channels:
        channel.close()
    platform.server.stop()
    platform.second.stop()


# --- delivering -------------------------------------------------------------------------------------------------------


def test_key_is_held_by_the_platform_once_it_is_confirmed(platform: TlsPlatform, binds: list[Bind]) -> None:
    results = list(platform.open().deliver(binds))
    assert results == [Confirmed(bind) for bind in binds]
    assert platform.held() == {(bind.mdn, bind.app_id): (VERSION, bind.key) for bind in binds}


def test_thousands_go_through_and_one_connection_serves_batch_after_batch(platform: TlsPlatform) -> None:
    channel = platform.open()
    for version in range(VERSION, VERSION + 3):
        results = list(channel.deliver(make_binds(5000, version)))
        assert [type(result) for result in results] == [Confirmed] * 5000
    assert {version for version, _ in platform.held().values()} == {VERSION + 2}
    withdrawn = Withdraw(mdn="8613900000000", app_id="meter", version=VERSION + 3)
    assert list(channel.deliver([withdrawn])) == [Confirmed(withdrawn)]
    assert platform.held()["8613900000000", "meter"] == (VERSION + 3, None)
    assert list(channel.deliver([])) == []


# --- a peer that is not what it should be -----------------------------------------------------------------------------


def test_host_with_another_key_gets_nothing(platform: TlsPlatform) -> None:
    heard: list[bytes] = []
    with (
        tls_listener(platform, lambda connection: heard.append(connection.recv(65_536))) as host,
        pytest.raises(ChannelDown, match="server key is not one of server_keys: it is sha256//") as caught,
    ):
        platform.open(hosts=[host], server_keys=[STRANGER])
    assert heard == [b""]
    assert platform.server.server_key in str(caught.value)


def test_host_that_shows_the_right_certificate_and_has_another_private_key_gets_nothing(platform: TlsPlatform) -> None:
    pem = platform.server.directory / "server.pem"
    right = pem.read_bytes()
    certificate, *_ = right.partition(b"-----BEGIN PRIVATE KEY-----")
    _, another = new_certificate("keys.example")

    def point(private: bytes) -> bytes:
        key = load_pem_private_key(private, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    # OpenSSL takes the public half from beside the private one, and does not ask whether they belong together.
    forged = ssl.PEM_cert_to_DER_cert(another.decode().replace("PRIVATE KEY", "CERTIFICATE"))
    assert point(another) in forged
    forged = forged.replace(point(another), point(right))
    pem.write_bytes(certificate + ssl.DER_cert_to_PEM_cert(forged).replace("CERTIFICATE", "PRIVATE KEY").encode())
    platform.server.restart()
    with pytest.raises(ChannelDown, match=r"no handshake of TLS 1\.3: bad signature"):
        platform.open()


def test_certificate_of_a_version_that_is_none_is_judged_by_its_key(platform: TlsPlatform, binds: list[Bind]) -> None:
    """OpenSSL takes it, and anybody in between can show it."""
    pem = platform.server.directory / "server.pem"
    certificate, private = pem.read_text().split("-----BEGIN PRIVATE KEY-----")
    version = bytes.fromhex("a003020102")
    odd = ssl.PEM_cert_to_DER_cert(certificate.strip()).replace(version, version[:-1] + b"\x05", 1)
    pem.write_text(ssl.DER_cert_to_PEM_cert(odd) + "-----BEGIN PRIVATE KEY-----" + private)
    platform.server.restart()
    with pytest.raises(ChannelDown, match="server key is not one of server_keys"):
        platform.open(server_keys=[STRANGER])
    assert len(list(platform.open().deliver(binds))) == len(binds)


def test_key_pinned_to_one_host_does_not_open_another(platform: TlsPlatform) -> None:
    platform.second.start()
    pinned = [
        f"{platform.server.address} {platform.second.server_key}",
        f"{platform.second.address} {platform.server.server_key}",
    ]
    with pytest.raises(ChannelDown, match="server key is not one of server_keys"):
        platform.open(hosts=[platform.server.address, platform.second.address], server_keys=pinned)


@pytest.mark.parametrize(("days", "alert"), [(365, "unknown ca"), (-1, "certificate expired")])
def test_refused_certificate_is_told_with_the_key_to_let_in(platform: TlsPlatform, days: int, alert: str) -> None:
    certificate, private = new_certificate("another", days)
    if days < 0:
        (platform.server.directory / "client.pem").write_bytes(certificate)
        platform.server.restart()
    with pytest.raises(ChannelDown, match=rf"refused our certificate \({alert}\), whose key is sha256//\S{{43}}="):
        platform.open(identity=certificate + private)


def encrypted(private: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    key = load_pem_private_key(private, password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def test_identity_that_is_none_is_a_sentence_and_no_connection(platform: TlsPlatform) -> None:
    certificate, private = new_certificate("kmp")
    for identity, said in (
        (b"\n", "has no certificate"),
        (private, "has no certificate"),
        (certificate, "has no private key"),
        (certificate + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "has no private key"),
        (certificate + encrypted(private), "is encrypted"),
        (new_certificate("other")[0] + private, "cannot be used: key values mismatch"),
    ):
        with pytest.raises(ChannelDown, match=f"the TLS identity.* {said}"):
            platform.open(identity=identity)


def test_private_key_may_stand_before_its_certificate(platform: TlsPlatform, binds: list[Bind]) -> None:
    certificate, private = platform.identity.split(b"-----BEGIN PRIVATE KEY-----")
    channel = platform.open(identity=b"-----BEGIN PRIVATE KEY-----" + private.rstrip() + b"\n" + certificate.rstrip())
    assert len(list(channel.deliver(binds))) == len(binds)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("version", "another version"),
        ("greeting", r"not JSON: Welcome to Debian GNU/Linux 12!"),
        ("silent", r"not connected within 0\.5 s"),
    ],
)
def test_receiver_without_our_hello_is_refused(platform: TlsPlatform, behaviour: str, said: str) -> None:
    platform.misbehave(behaviour)
    with pytest.raises(ChannelDown, match=said):
        platform.open(connect_within_s=20.0 if behaviour != "silent" else 0.5)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("rubbish", r"not JSON: \.\.\. fault\.\.\.|not JSON: \.\.\."),
        ("endless", "a line of more than 65536 octets"),
        ("exit", "the receiver ended|the connection broke"),
        ("twice", "answered an id that was never asked or has its answer"),
        ("hang", "no answer for 0.3 s"),
        ("dribble", "no answer for 0.3 s"),
    ],
)
def test_receiver_that_breaks_the_stream_is_dropped_and_confirms_nothing(
    platform: TlsPlatform, binds: list[Bind], behaviour: str, said: str
) -> None:
    platform.misbehave(behaviour)
    channel = platform.open(answer_within_s=0.3 if behaviour in ("hang", "dribble") else 20.0)
    results = []
    with pytest.raises(ChannelDown, match=said):
        results += channel.deliver(binds)
    assert not any(isinstance(result, Confirmed) for result in results)
    with pytest.raises(ChannelDown):
        list(channel.deliver(binds))
    platform.second.start()
    honest = platform.open(hosts=[platform.second.address], server_keys=[platform.second.server_key])
    assert list(honest.deliver(binds)) == [Confirmed(bind) for bind in binds]


def test_key_that_a_receiver_quotes_is_in_no_error_and_no_log(
    platform: TlsPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bind = dataclasses.replace(make_binds(1)[0], key=bytes.fromhex("5ec2e7ca11ab1e0ddba11c0ffee00d1e"))
    platform.misbehave("quote-line", "hex")
    with pytest.raises(ChannelDown) as caught:
        list(platform.open().deliver([bind]))
    assert REPEATS_A_KEY in str(caught.value)
    assert bind.key.hex() not in str(caught.value) + caplog.text
    platform.misbehave("quote-reason", "hex")
    [result] = platform.open().deliver([bind])
    assert isinstance(result, TryLater)
    assert bind.key.hex() not in result.reason + caplog.text


def test_receipt_that_proves_nothing_is_an_alarm_and_no_confirmation(platform: TlsPlatform) -> None:
    platform.misbehave("answer", '{"status":"stored","receipt":"zsK3lg-CzMhj3PeymwM_Gg"}')
    [result] = platform.open().deliver(make_binds(1))
    assert isinstance(result, Rejected)
    assert result.alarm


# --- hosts that go away -----------------------------------------------------------------------------------------------


def test_second_host_is_used_when_the_first_is_down(platform: TlsPlatform, binds: list[Bind]) -> None:
    platform.second.start()
    platform.server.stop()
    channel = platform.open(
        hosts=[platform.server.address, platform.second.address],
        server_keys=[platform.server.server_key, platform.second.server_key],
    )
    assert str(channel.host) == platform.second.address
    assert len(list(channel.deliver(binds))) == len(binds) == len(platform.held())


def test_host_killed_in_mid_delivery_loses_nothing_and_confirms_only_what_is_held(platform: TlsPlatform) -> None:
    binds = make_binds(3000)
    confirmed = confirmed_until_down(platform.open(), binds, 1000, platform.server.stop)
    assert 1000 <= len(confirmed) < 3000
    platform.server.start()
    for after in (700, 900):
        confirmed += confirmed_until_down(platform.open(), binds, after, platform.server.kill_receivers)
    held = platform.held()
    assert all(held[bind.mdn, bind.app_id] == (VERSION, bind.key) for bind in confirmed)
    assert list(platform.open().deliver(binds)) == [Confirmed(bind) for bind in binds]
    assert len(platform.held()) == 3000


def confirmed_until_down(channel: LineChannel, binds: list[Bind], after: int, kill: Callable[[], object]) -> list[Bind]:
    """What was confirmed until the channel broke; `kill` was called after so many results."""
    confirmed: list[Bind] = []
    try:
        for result in channel.deliver(binds):
            assert isinstance(result, Confirmed)
            assert isinstance(result.delivery, Bind)
            confirmed.append(result.delivery)
            if len(confirmed) == after:
                kill()
    except ChannelDown:
        return confirmed
    pytest.fail("the channel outlived what it was connected to")


def test_connection_closed_while_idle_is_noticed_at_the_next_delivery(platform: TlsPlatform, binds: list[Bind]) -> None:
    channel = platform.open()
    list(channel.deliver(binds))
    platform.server.restart()
    with pytest.raises(ChannelDown, match=r"the connection broke|the receiver ended"):
        list(channel.deliver(binds))
    assert len(list(platform.open().deliver(binds))) == len(binds)


def test_close_from_another_thread_ends_a_delivery(platform: TlsPlatform, binds: list[Bind]) -> None:
    asked, ended = threading.Event(), threading.Event()

    def answer(connection: ssl.SSLSocket) -> None:
        say_hello(connection)
        connection.recv(65_536)
        asked.set()
        until_closed(connection)

    with tls_listener(platform, answer) as host:
        channel = platform.open(hosts=[host], answer_within_s=60.0)

        def deliver() -> None:
            with pytest.raises(ChannelDown, match="closed by us"):
                list(channel.deliver(binds))
            ended.set()

        thread = threading.Thread(target=deliver)
        thread.start()
        assert asked.wait(20)
        channel.close()
        channel.close()
        assert ended.wait(10)
        thread.join()


def test_caller_that_stops_early_leaves_no_answers_for_the_next_batch(platform: TlsPlatform, binds: list[Bind]) -> None:
    channel = platform.open()
    results = channel.deliver(binds)
    next(iter(results))
    results.close()  # type: ignore[attr-defined]  # a generator, which is closed where a loop over it ends
    with pytest.raises(ChannelDown, match="closed by us"):
        list(channel.deliver(binds))


# --- connecting -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a host that does `answer` with its first connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextlib.contextmanager
def tls_listener(platform: TlsPlatform, answer: Callable[[ssl.SSLSocket], object]) -> Iterator[str]:
    """The address of a host that shows the platform's key, and does `answer` after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(platform.server.directory / "server.pem")
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secured:
            answer(secured)

    with listener(serve) as host:
        yield host


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def say_hello(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b'{"v":1,"type":"hello","receiver":"r","window":100,"max_line":65536}\n')


def greet(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    until_closed(connection)


def hang_up(_connection: socket.socket) -> None:
    """What is left is closed."""


def test_host_that_accepts_and_then_says_nothing_is_given_up(platform: TlsPlatform) -> None:
    with listener(until_closed) as host:
        began = time.monotonic()
        with pytest.raises(ChannelDown, match=rf"{host}: not connected within 0\.3 s"):
            platform.open(hosts=[host], connect_within_s=0.3)
        assert time.monotonic() - began < 5


def test_time_to_connect_goes_on_after_the_handshake(platform: TlsPlatform) -> None:
    """It ends with the receiver's hello: whoever waits for that has no time of his own."""
    with tls_listener(platform, until_closed) as host:
        began = time.monotonic()
        with (
            pytest.raises(ChannelDown, match=rf"{host}: not connected within 0\.3 s"),
            negotiated(Host.parse(host), client_context(), 0.3) as (connection, _),
        ):
            connection.receive(began + 20)
        assert time.monotonic() - began < 10


def test_host_that_speaks_no_tls_says_so(platform: TlsPlatform) -> None:
    with listener(greet) as host, pytest.raises(ChannelDown, match=rf"{host}: no handshake of TLS 1\.3: wrong version"):
        platform.open(hosts=[host])


def test_host_that_hangs_up_at_once_is_told(platform: TlsPlatform) -> None:
    told = "unexpected eof|Connection reset by peer"  # by whether our hello had come
    with listener(hang_up) as host, pytest.raises(ChannelDown, match=f"{host}: .*({told})"):
        platform.open(hosts=[host])


def test_host_without_tls_1_3_gets_nothing(platform: TlsPlatform) -> None:
    platform.server.options = ["sslVersionMax = TLSv1.2"]
    platform.server.restart()
    with pytest.raises(ChannelDown, match=r"no handshake of TLS 1\.3: protocol version"):
        platform.open()


def test_cancelled_connecting_ends_at_once_and_tries_no_further_host(platform: TlsPlatform) -> None:
    cancel = Cancel()

    def request(connection: socket.socket) -> None:
        connection.recv(1)
        cancel.request()
        until_closed(connection)

    with listener(request) as host:
        began = time.monotonic()
        with pytest.raises(ChannelDown, match="cancelled"):
            platform.open(hosts=[host, platform.server.address], connect_within_s=60, cancel=cancel)
        assert time.monotonic() - began < 5
    assert platform.channels == []


def test_connection_is_ended_in_order(platform: TlsPlatform) -> None:
    """Else the far side could not tell it from one that somebody cut (RFC 8446, section 6.1)."""
    ended: list[bytes | str] = []

    def answer(connection: ssl.SSLSocket) -> None:
        say_hello(connection)
        try:
            ended.append(connection.recv(65_536))
        except OSError as error:
            ended.append(str(error))

    with tls_listener(platform, answer) as host:
        platform.open(hosts=[host]).close()
    assert ended == [b""]


def test_probe_tells_of_every_host_and_sends_no_key(platform: TlsPlatform) -> None:
    platform.second.start()
    options = platform.options(hosts=[platform.second.address, platform.server.address])
    bad, good = probe(options, lambda _reference: platform.identity, "metering", time.time)
    assert "server key" in bad.fault
    assert good.hello is not None
    assert good.fingerprint == platform.server.server_key
    assert platform.held() == {}


def test_shown_key_can_be_pinned_as_it_is(platform: TlsPlatform) -> None:
    [shown] = fetch_server_keys([Host.parse(platform.server.address)])
    [key] = shown.keys
    assert (key.algorithm, key.fingerprint) == ("ecdsa secp256r1", platform.server.server_key)
    assert key.pin.text() == f"{platform.server.address} {platform.server.server_key}"
    assert isinstance(platform.open(server_keys=[key.pin.text()]), LineChannel)


def test_fingerprint_is_what_openssl_makes_of_the_certificate(platform: TlsPlatform) -> None:
    """As docs/platform-protocol.rst has the platform's administrator do it."""
    command = (
        f"openssl x509 -in {platform.server.directory}/server.pem -noout -pubkey | openssl pkey -pubin -outform der"
        " | openssl dgst -sha256 -binary | base64"
    )
    made = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.strip()
    assert platform.server.server_key == f"sha256//{made}"


def test_host_that_is_down_shows_its_fault_instead_of_its_key(platform: TlsPlatform) -> None:
    platform.server.stop()
    [shown] = fetch_server_keys([Host.parse(platform.server.address)])
    assert shown.keys == ()
    assert "Connection refused" in shown.fault


def test_no_descriptor_stays_open(platform: TlsPlatform, binds: list[Bind]) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    list(platform.open().deliver(binds))
    platform.channels.pop().close()
    before = descriptors()
    for _ in range(3):
        platform.open().close()
        platform.channels.pop()
        with pytest.raises(ChannelDown):
            platform.open(server_keys=[STRANGER])
        with listener(greet) as host, pytest.raises(ChannelDown):
            platform.open(hosts=[host])
    assert descriptors() == before


def test_nothing_is_sent_in_clear_by_a_connection_that_is_closed(platform: TlsPlatform, binds: list[Bind]) -> None:
    """As a socket of the ssl module would: what stands on the wire is all records of TLS, to the last octet."""
    seen = bytearray()

    def relay(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", platform.server.port)) as far:
            back = threading.Thread(target=_copy, args=(far, connection, None))
            back.start()
            _copy(connection, far, seen)
            back.join()

    with listener(relay) as host:
        channel = platform.open(hosts=[host])
        results = channel.deliver(binds * 100)
        next(iter(results))
        closing = threading.Thread(target=channel.close)
        closing.start()
        with pytest.raises(ChannelDown):
            for _ in results:
                pass
        closing.join()
        with pytest.raises(ChannelDown):
            list(channel.deliver(binds))
    assert b"8613900000000" not in seen
    while seen:
        kind, version, octets = seen[0], seen[1:3], int.from_bytes(seen[3:5], "big")
        assert kind in (20, 21, 22, 23)  # RFC 8446, section 5.1
        assert version in (b"\x03\x01", b"\x03\x03")
        del seen[: 5 + octets]


def _copy(source: socket.socket, target: socket.socket, seen: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while octets := source.recv(65_536):
            if seen is not None:
                seen += octets
            target.sendall(octets)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
