"""The kinds of channel."""

from __future__ import annotations

from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.channels.tls_options import TlsOptions

ChannelOptions = SshOptions | TlsOptions
