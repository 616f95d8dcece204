"""The public keys that a host shows, for an administrator to compare and to pin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmp_smsd.channels import ssh, tls
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.ssh_options import HOST_KEY_ALGORITHMS, HostKey, fingerprint
from kmp_smsd.channels.tls_identity import client_context
from kmp_smsd.channels.tls_options import ServerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKey:
    """One key: its type, its fingerprint, and what pins it."""

    algorithm: str
    fingerprint: str
    pin: HostKey | ServerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKeys:
    """The keys of one host, or the reason why there are none."""

    host: Host
    keys: tuple[ShownKey, ...] = ()
    fault: str = ""


def fetch_host_keys(hosts: Sequence[Host], within_s: float = 10.0) -> list[ShownKeys]:
    """Ask each host for its SSH keys of each type, as ssh-keyscan does: no login is tried. `within_s` bounds a try."""
    return [_fetch_host_keys(host, within_s) for host in hosts]


def fetch_server_keys(hosts: Sequence[Host], within_s: float = 10.0) -> list[ShownKeys]:
    """Ask each host for the key of its TLS certificate; ours is not shown. `within_s` bounds each try."""
    return [_fetch_server_key(host, within_s) for host in hosts]


def _fetch_host_keys(host: Host, within_s: float) -> ShownKeys:
    keys = []
    for algorithm in HOST_KEY_ALGORITHMS:
        try:
            with ssh.negotiated(host, (algorithm,), within_s) as transport:
                blob = transport.get_remote_server_key().asbytes()
                transport.close()
        except ssh.NoSuchHostKey:
            continue
        except ChannelDown as down:
            return ShownKeys(host=host, fault=str(down))
        pin = HostKey(host, algorithm, blob)
        keys.append(ShownKey(algorithm=algorithm, fingerprint=fingerprint(blob), pin=pin))
    if not keys:
        known = ", ".join(HOST_KEY_ALGORITHMS)
        return ShownKeys(host=host, fault=f"{host}: no common algorithm, or no host key of type {known}")
    return ShownKeys(host=host, keys=tuple(keys))


def _fetch_server_key(host: Host, within_s: float) -> ShownKeys:
    try:
        with tls.negotiated(host, client_context(), within_s) as (connection, public_key):
            connection.close()
            pin = ServerKey.of(public_key, host)
            algorithm = _algorithm(public_key)
    except ChannelDown as down:
        return ShownKeys(host=host, fault=str(down))
    return ShownKeys(host=host, keys=(ShownKey(algorithm=algorithm, fingerprint=pin.fingerprint, pin=pin),))


def _algorithm(public_key: bytes) -> str:
    match load_der_public_key(public_key):
        case ec.EllipticCurvePublicKey() as key:
            return f"ecdsa {key.curve.name}"
        case rsa.RSAPublicKey() as key:
            return f"rsa {key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "ed25519"
        case ed448.Ed448PublicKey():
            return "ed448"
    raise UnsupportedAlgorithm("a certificate of TLS has a key that signs")
