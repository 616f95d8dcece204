from __future__ import annotations

import pytest

from kmp_smsd.config.load import ConfigFaults, load

MAIN = """\
[secrets]
public_key = "master-key.pub"
master_key = {credential = "master-key"}
ssh_identity = {credential = "ssh-identity"}
[numbering]
country_code = "86"
ranges = [{prefix = "8613", digits = 13, name = "mobile"}]
[smsc.north]
hosts = ["smsc.example:2775"]
system_id = "kmp"
password = {credential = "smsc-north"}
"""

PLATFORM = f"""\
apps = ["meter"]
[channel]
kind = "ssh"
hosts = ["keys.example"]
user = "kmp"
host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{"A" * 43}"]
"""

TLS_PLATFORM = f"""\
apps = ["meter"]
[channel]
kind = "tls"
hosts = ["keys.example:4443"]
server_keys = ["sha256//{"A" * 43}="]
identity = {{file = "/etc/tls-own"}}
"""


class Files:
    """A configuration directory, and what is said about it."""

    def __init__(self, directory):
        self.directory = directory
        self.write("kmp-smsd.toml", MAIN)

    def write(self, name, text):
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o640)
        path.parent.chmod(0o750)
        return path

    def append(self, text):
        """Put options behind those of the link."""
        return self.write("kmp-smsd.toml", MAIN + text)

    def load(self):
        return load(self.directory / "kmp-smsd.toml")

    def told(self):
        """The faults; none where the configuration is good."""
        try:
            self.load()
        except ConfigFaults as faults:
            return faults.faults
        return ()

    def faults(self):
        with pytest.raises(ConfigFaults) as raised:
            self.load()
        text = raised.value.render().replace(f"{self.directory}/", "")
        assert text == str(raised.value).replace(f"{self.directory}/", "")
        *faults, count = text.split("\n")
        assert count == f"{len(faults)} fault{'' if len(faults) == 1 else 's'}, nothing was changed"
        return faults
