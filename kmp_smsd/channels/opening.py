"""Connecting to a platform, by whichever kind of channel it is reached."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from kmp_smsd import __version__
from kmp_smsd.channels import ssh, tls, wire
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.kinds import ChannelOptions
from kmp_smsd.channels.line_channel import Clock, LineChannel
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.stream import Stream
from kmp_smsd.channels.tls_identity import load_identity
from kmp_smsd.channels.tls_options import TlsOptions

log = logging.getLogger(__name__)

# Reads the secret of a reference, or, of None, the common SSH identity of this KMP.
Credentials = Callable[[SecretRef | None], bytes]
# Connects to a host, within `connect_within_s`; the context is left once it has answered.
_Connect = Callable[[Host], AbstractContextManager[Stream]]


def open_channel(
    options: ChannelOptions, credentials: Credentials, name: str, cancel: Cancel, clock: Clock, sent: deque[bytes]
) -> LineChannel:
    """Connect to the first of the platform's hosts that lets us; raises ChannelDown with the reason of each.

    `name` is the platform's, for the log. `sent` has the keys that it was sent last, on any connection, and is given
    those of this one: a receiver that broke over a key may tell of it when it begins anew. Blocks for
    `connect_within_s` per host at most, and until `cancel`.
    """
    connect = _connect(options, credentials, name, cancel)
    reasons = []
    for host in options.hosts:
        if cancel.requested:
            raise ChannelDown("connecting was cancelled")
        try:
            with connect(host) as stream:
                peer = _greet(stream, options, sent)
            return LineChannel(stream, peer, options, clock, sent)
        except ChannelDown as down:
            told = {"event": "platform_unreached", "platform": name, "reason": str(down)}
            log.info("platform %s is not reached: %s", name, down, extra=told)
            reasons.append(str(down))
    raise ChannelDown("; ".join(reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What `probe` found at one host: the receiver's hello, or the reason why there is none."""

    host: Host
    took_s: float
    fingerprint: str = ""
    hello: wire.Hello | None = None
    fault: ChannelDown | None = None


def probe(options: ChannelOptions, credentials: Credentials, name: str) -> list[Finding]:
    """Connect to every host, exchange hellos, hang up. No key is sent."""
    connect = _connect(options, credentials, name, Cancel())
    findings = []
    for host in options.hosts:
        began = time.monotonic()
        try:
            with connect(host) as stream:
                hello = _greet(stream, options, ())
        except ChannelDown as down:
            findings.append(Finding(host=host, took_s=time.monotonic() - began, fault=down))
            continue
        stream.close()
        took_s = time.monotonic() - began
        findings.append(Finding(host=host, took_s=took_s, fingerprint=stream.fingerprint, hello=hello))
    return findings


def _connect(options: ChannelOptions, credentials: Credentials, name: str, cancel: Cancel) -> _Connect:
    """How the hosts are connected to. Raises UnfitIdentity."""
    secret = credentials(options.identity)
    if isinstance(options, TlsOptions):
        return partial(tls.connected, options, load_identity(secret), cancel)
    return partial(ssh.connected, options, ssh.load_identity(secret), name, cancel)


def _greet(stream: Stream, options: ChannelOptions, keys: Collection[bytes]) -> wire.Hello:
    """Exchange hellos; that of the far side, in which `keys` are not to be seen. Raises ChannelDown."""
    within_s = options.connect_within_s
    stream.send(wire.encode_hello(f"kmp-smsd {__version__}", options.window), within_s, keys)
    lines = stream.receive(within_s, keys)
    try:
        hello = wire.parse_hello(lines[0], keys)
    except wire.WireError as error:
        raise stream.down(str(error), keys) from None
    if len(lines) > 1:
        raise stream.down(f"more than a hello: {wire.excerpt(lines[1], keys)}", keys)
    return hello
