"""The kinds of channel."""

from __future__ import annotations

from kmp_smsd.channels.ssh_options import SshOptions

ChannelOptions = SshOptions
