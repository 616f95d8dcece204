"""The channel of kind ``tls``, against kmp-receive behind stunnel, and against peers of the ssl module's."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kmp_smsd.channels import shown_keys
from kmp_smsd.channels.hiding import REPEATS_A_KEY
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.protocol import Bind, ChannelDown, TryLater, UnfitIdentity
from kmp_smsd.channels.shown_keys import fetch_server_keys
from kmp_smsd.channels.tls import negotiated
from kmp_smsd.channels.tls_connection import TlsConnection
from kmp_smsd.channels.tls_identity import client_context
from tests.channels.peer import TlsPlatform, make_binds
from tests.stunnel import new_certificate

STRANGER = "sha256//" + "A" * 43 + "="


@pytest.fixture
def platform(tls_platform: TlsPlatform) -> TlsPlatform:
    return tls_platform


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


def test_certificate_that_the_server_cannot_check_is_to_be_another(platform: TlsPlatform) -> None:
    certificate, private = new_certificate("kmp", curve=ec.SECP256K1())  # is none of TLS 1.3
    with pytest.raises(
        ChannelDown, match="takes no certificate with a key like ours: make one with a key of ecdsa secp256r1"
    ):
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
        (new_certificate("other")[0] + private, "first certificate is not that of its private key"),
        (certificate.rstrip() + private, "has to be a line of its own"),
    ):
        with pytest.raises(UnfitIdentity, match=f"the TLS identity.* {said}"):
            platform.open(identity=identity)


def test_private_key_may_stand_before_its_certificate(platform: TlsPlatform, binds: list[Bind]) -> None:
    certificate, private = platform.identity.split(b"-----BEGIN PRIVATE KEY-----")
    channel = platform.open(identity=b"-----BEGIN PRIVATE KEY-----" + private.rstrip() + b"\n" + certificate.rstrip())
    assert len(list(channel.deliver(binds))) == len(binds)


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


def say_goodbye(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"\x15\x03\x03\x00\x02\x01\x00")  # close_notify (RFC 8446, section 6.1)


def test_host_that_ends_the_connection_in_order_before_it_is_one_is_told(platform: TlsPlatform) -> None:
    said = r"no handshake of TLS 1\.3: the connection was closed"
    with listener(say_goodbye) as host, pytest.raises(ChannelDown, match=f"^{host}: {said}$"):
        platform.open(hosts=[host])


def reset(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_host_that_breaks_the_connection_before_it_is_one_of_tls_is_told(platform: TlsPlatform) -> None:
    with listener(reset) as host, pytest.raises(ChannelDown, match=f"^{host}: Connection reset by peer$"):
        platform.open(hosts=[host])


def test_certificate_that_cannot_be_read_is_told(platform: TlsPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"{platform.server.address}: its certificate is one that we cannot read"
    with monkeypatch.context() as patch:
        patch.setattr(TlsConnection, "certificate", b"\x30\x00")
        with pytest.raises(ChannelDown, match=f"^{told}$"):
            platform.open()

    def unsupported(_: bytes) -> None:
        raise UnsupportedAlgorithm("no kind of key that we know")

    monkeypatch.setattr(shown_keys, "load_der_public_key", unsupported)
    [shown] = fetch_server_keys([Host.parse(platform.server.address)])
    assert (shown.keys, shown.fault) == ((), told)


def test_host_without_tls_1_3_gets_nothing(platform: TlsPlatform) -> None:
    platform.server.options = ["sslVersionMax = TLSv1.2"]
    platform.server.restart()
    with pytest.raises(ChannelDown, match=r"no handshake of TLS 1\.3: protocol version"):
        platform.open()


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
