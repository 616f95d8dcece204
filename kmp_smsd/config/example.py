"""The commented example files in conf/, made from the models.

``python -m kmp_smsd.config.example conf`` writes them anew.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.channels.tls_options import TlsOptions
from kmp_smsd.config.faults import bounds
from kmp_smsd.config.gateway import Gateway
from kmp_smsd.config.generating import only_argument
from kmp_smsd.config.link import Link
from kmp_smsd.config.models import Control, Secrets, Storage
from kmp_smsd.config.monitoring import Monitoring
from kmp_smsd.config.numbering import Numbering
from kmp_smsd.config.platform import Platform
from kmp_smsd.config.sync import Sync

#: The sections of kmp-smsd.toml as its example has them, and their models.
MAIN_SECTIONS: Mapping[str, type[BaseModel]] = {
    "storage": Storage,
    "secrets": Secrets,
    "numbering": Numbering,
    "sync": Sync,
    "control": Control,
    "monitoring": Monitoring,
    "smsc.north": Link,
    "gateway.data": Gateway,
}
#: Those of a platform's file, of which it has one kind of channel; the first one's stand before every section.
PLATFORM_SECTIONS: Mapping[str, type[BaseModel]] = {
    "platform": Platform,
    "channel.ssh": SshOptions,
    "channel.tls": TlsOptions,
}
#: The examples of platforms' files in conf/platforms.d, and their sections.
PLATFORM_FILES: Mapping[str, tuple[str, ...]] = {
    "example.toml": ("platform", "channel.ssh"),
    "example-tls.toml": ("platform", "channel.tls"),
}

_WIDTH = 110
_HEXADECIMAL = {"interface_version", "temporary_status", "never_status"}  # as SMPP writes them

# What everybody has to replace.
_LIVE: Mapping[str, Mapping[str, Any]] = {
    "secrets": {
        "public_key": "master-key.pub",
        "master_key": {"credential": "master-key"},
        "ssh_identity": {"credential": "ssh-identity"},
    },
    "numbering": {"country_code": "86", "include": ["numbering/cn.toml"]},
    "smsc.north": {
        "hosts": ["smsc-a.example:2775", "smsc-b.example:2775"],
        "system_id": "kmp",
        "password": {"credential": "smsc_north"},
    },
    "platform": {"enabled": False, "apps": ["meter", "meter-backup"]},
    "channel.ssh": {
        "kind": "ssh",
        "hosts": ["keys-a.example", "keys-b.example:2222"],
        "user": "kmp",
        # The key of nobody: 32 octets of zero.
        "host_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43],
    },
    "channel.tls": {
        "kind": "tls",
        "hosts": ["keys-a.example:4443", "keys-b.example:4443"],
        "server_keys": ["sha256//" + "A" * 43 + "="],  # likewise
        "identity": {"credential": "tls_metering"},
    },
}
# Sections that an installation may well be without.
_OPTIONAL = {"gateway.data"}
# How an option is written that has no default.
_SHOWN: Mapping[str, Mapping[str, Any]] = {
    "numbering": {"ranges": [{"prefix": "8613", "digits": 13, "name": "mobile"}]},
    "sync": {"short_codes": ["10690001"]},
    "monitoring": {"intake": "127.0.0.1:9775", "dispatch": "127.0.0.1:9776"},
    "smsc.north": {
        "local_address": "192.0.2.10",
        "system_type": "VMA",
        "address_range": "10690001",
        "data_coding": {"0": "ucs2"},
        "destination_port": 5000,
        "accepted_network_types": [1],
        "accepted_bearer_types": [1],
    },
    "channel.ssh": {"identity": {"credential": "ssh_metering"}},
    "gateway.data": {"on_sim_change": "moved", "on_terminal_change": "held", "on_late": "held", "late_hours": 72},
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a section, for people: as `value` is written in TOML, and `live` where the example needs it.

    `default` is written so as well, and empty where there is none.
    """

    name: str
    value: str
    default: str
    live: bool
    about: str


def options(model: type[BaseModel], section: str) -> Iterator[Option]:
    """Each option of `model`, in its order; tables of their own are left out."""
    live, shown = _LIVE.get(section, {}), _SHOWN.get(section, {})
    for name, field in model.model_fields.items():
        if name == "channel":
            continue
        value = live.get(name, shown.get(name, field.default))
        default = "" if field.is_required() else _toml(name, field.default)
        yield Option(name, _toml(name, value), default, name in live, _about(name, field))


def table(section: str) -> str:
    """The name of a section in a file: those of a channel differ by its kind alone."""
    return "channel" if section.startswith("channel.") else section


def main_file() -> str:
    """conf/kmp-smsd.toml."""
    return _file(
        "kmp-smsd: the daemon and its links. `kmp-smsd check-config` tells what is wrong with it. An option that is "
        "commented out shows its default, or how it is written. Relative paths start at this file. Secrets are never "
        'written here: {credential = "NAME"} is a credential of the systemd unit, {file = "/PATH"} a file. '
        "Platforms have files of their own, in platforms.d.",
        MAIN_SECTIONS,
    )


def platform_file(name: str) -> str:
    """conf/platforms.d/`name`."""
    return _file(
        "One platform: copy this file to NAME.toml, where NAME is the platform's, and say what it gets and how it is "
        "reached. `kmp-smsd check-config` tells what is wrong with it.",
        {section: PLATFORM_SECTIONS[section] for section in PLATFORM_FILES[name]},
    )


def _file(about: str, sections: Mapping[str, type[BaseModel]]) -> str:
    text = _comment(about)
    for section, model in sections.items():
        text += "\n"
        if section != "platform":
            text += _comment(_first_paragraph(model)) + ("#" if section in _OPTIONAL else "") + f"[{table(section)}]\n"
        for option in options(model, section):
            text += _comment(option.about) + ("" if option.live else "#") + f"{option.name} = {option.value}\n"
    return text


def _about(name: str, field: FieldInfo) -> str:
    about = str(field.description)
    if name not in _HEXADECIMAL and (limits := bounds(field)):
        about += f" {limits[:1].upper()}{limits[1:]}."
    if not field.is_required() and field.default in (None, "", (), {}) and "Default" not in about:
        about += " Default: none."
    return about


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join(str(model.__doc__).split("\n\n")[0].split())


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _toml(name: str, value: Any) -> str:
    if name in _HEXADECIMAL:
        return f"0x{value:02X}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml('', member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml("", member) for member in value) + "]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    return json.dumps(value)


if __name__ == "__main__":
    conf = only_argument("python -m kmp_smsd.config.example DIRECTORY, such as conf")
    (conf / "kmp-smsd.toml").write_text(main_file())
    for name in PLATFORM_FILES:
        (conf / "platforms.d" / name).write_text(platform_file(name))
