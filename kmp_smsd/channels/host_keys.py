"""The public keys that a host shows, for an administrator to compare and to pin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.ssh import NoSuchHostKey, negotiated
from kmp_smsd.channels.ssh_options import HOST_KEY_ALGORITHMS, HostKey, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKeys:
    """The keys of one host, or the reason why there are none."""

    host: Host
    keys: tuple[HostKey, ...] = ()
    fault: str = ""

    def describe(self) -> list[tuple[str, str, str]]:
        """Of each key: its type, its fingerprint (``SHA256:...``), and the text for ``host_keys``."""
        return [(key.algorithm, fingerprint(key.blob), key.text()) for key in self.keys]


def fetch_host_keys(hosts: Sequence[Host], within_s: float = 10.0) -> list[ShownKeys]:
    """Ask each host for its key of each type, as ssh-keyscan does: no login is tried. `within_s` bounds each try."""
    return [_fetch(host, within_s) for host in hosts]


def _fetch(host: Host, within_s: float) -> ShownKeys:
    keys = []
    for algorithm in HOST_KEY_ALGORITHMS:
        try:
            with negotiated(host, (algorithm,), within_s) as transport:
                blob = transport.get_remote_server_key().asbytes()
                transport.close()
        except NoSuchHostKey:
            continue
        except ChannelDown as down:
            return ShownKeys(host=host, fault=str(down))
        keys.append(HostKey(host, algorithm, blob))
    if not keys:
        known = ", ".join(HOST_KEY_ALGORITHMS)
        return ShownKeys(host=host, fault=f"{host}: no common algorithm, or no host key of type {known}")
    return ShownKeys(host=host, keys=tuple(keys))
