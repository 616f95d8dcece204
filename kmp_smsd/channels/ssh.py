"""To a command on an SSH host: TCP, host key, login. No login is tried before the host key is right."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import paramiko

from kmp_smsd.channels.cancel import Cancel, closing_at
from kmp_smsd.channels.hiding import presentable
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown, NotLetIn, UnfitIdentity, WrongKey
from kmp_smsd.channels.ssh_options import HostKey, SshOptions, fingerprint
from kmp_smsd.channels.ssh_stream import SshStream
from kmp_smsd.channels.tcp import connect

KEEPALIVE_S = 30

# paramiko logs a traceback for every host that refuses us. What fails is raised here, and told once.
PARAMIKO_LOG = "kmp_smsd.channels.paramiko"
logging.getLogger(PARAMIKO_LOG).setLevel(logging.CRITICAL)

_IDENTITY_KINDS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
# "ssh-rsa" names the key; SHA-1 signatures of it are not accepted (RFC 8332).
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


def load_identity(secret: bytes) -> paramiko.PKey:
    """The private key in `secret`, which is not encrypted. Raises UnfitIdentity."""
    for kind in _IDENTITY_KINDS:
        try:
            return kind.from_private_key(io.StringIO(secret.decode("ascii")))
        except paramiko.PasswordRequiredException:
            raise UnfitIdentity(
                "the SSH identity is encrypted; a daemon has nobody to ask for its passphrase"
            ) from None
        except Exception:  # paramiko's own, or in a damaged key its IndexError or AssertionError
            continue
    raise UnfitIdentity("the SSH identity is not a private key of type ed25519, ecdsa or rsa") from None


class NoSuchHostKey(WrongKey):
    """The host answers, but has no key of a type that was asked for."""


@contextmanager
def negotiated(
    host: Host, algorithms: Sequence[str], within_s: float, cancel: Cancel | None = None
) -> Iterator[paramiko.Transport]:
    """A transport whose key exchange with `host` is done, its host key not yet judged; closed after `within_s`.

    Leave the context once connected: the time limit and `cancel` end with it. Raises ChannelDown, then the transport
    is closed.
    """
    cancel = cancel or Cancel()
    deadline = time.monotonic() + within_s
    connection = connect(host, deadline, cancel)
    transport = paramiko.Transport(connection)
    transport.set_log_channel(PARAMIKO_LOG)
    try:
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = within_s
        transport.get_security_options().key_types = [
            signature for algorithm in algorithms for signature in _SIGNATURES.get(algorithm, (algorithm,))
        ]
        # Not every wait of paramiko takes a time limit, but all of them end when the transport is closed.
        with closing_at(deadline, transport.close), cancel.ends(connection):
            transport.start_client(timeout=within_s)
            # start_client() returns in silence when its time is over: without a host key the next line raises.
            transport.get_remote_server_key()
            yield transport
    except paramiko.IncompatiblePeer as error:
        transport.close()
        raise NoSuchHostKey(
            f"{host}: no common algorithm, or no host key of type {', '.join(algorithms)}: {presentable(str(error))}"
        ) from None
    except (paramiko.SSHException, OSError, EOFError, ChannelDown) as error:
        transport.close()
        if cancel.requested:
            raise ChannelDown(f"{host}: connecting was cancelled") from None
        if time.monotonic() >= deadline:  # whoever noticed it first, the timer or paramiko
            raise ChannelDown(f"{host}: not connected within {within_s:g} s") from None
        if isinstance(error, ChannelDown):
            raise
        raise ChannelDown(f"{host}: {presentable(str(error)) or 'the host closed the connection'}") from None
    except BaseException:  # an interrupt too: no connection may be left open
        transport.close()
        raise


def check_host_key(transport: paramiko.Transport, host: Host, pinned: Sequence[HostKey]) -> None:
    """Raises WrongKey where the host's key is none of `pinned`."""
    shown: bytes = transport.get_remote_server_key().asbytes()
    if all(shown != key.blob for key in pinned):
        raise WrongKey(
            f"{host}: the host key is not one of host_keys: it is {fingerprint(shown)}. "
            "Either the host was set up anew or somebody stands in between; nothing was sent"
        )


def log_in(transport: paramiko.Transport, host: Host, options: SshOptions, identity: paramiko.PKey) -> None:
    """Log in with `identity` and with nothing else: no agent, no password, no second factor. Raises NotLetIn."""
    try:
        further = transport.auth_publickey(options.user, identity)
    except paramiko.AuthenticationException:
        further = ["publickey"]
    if further:
        raise NotLetIn(
            f"{host}: refused our login as {options.user} with the key {fingerprint(identity.asbytes())} "
            f"({identity.get_name()}); it belongs into authorized_keys there"
        )
    transport.set_keepalive(KEEPALIVE_S)


@contextmanager
def connected(
    options: SshOptions, identity: paramiko.PKey, name: str, cancel: Cancel, host: Host
) -> Iterator[SshStream]:
    """The command of platform `name` on `host`, running; leave the context once it has answered, as with `negotiated`.

    Raises ChannelDown.
    """
    pinned = options.pinned_for(host)
    algorithms = tuple(dict.fromkeys(key.algorithm for key in pinned))
    with negotiated(host, algorithms, options.connect_within_s, cancel) as transport:
        check_host_key(transport, host, pinned)
        log_in(transport, host, options, identity)
        yield SshStream(name, host, transport, options.command, options.max_line_octets)
