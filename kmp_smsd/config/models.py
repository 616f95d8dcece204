"""kmp-smsd.toml as a whole. Check, example files and the page of options are all made from these models."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.gateway import Gateway
from kmp_smsd.config.link import Link
from kmp_smsd.config.monitoring import Monitoring
from kmp_smsd.config.numbering import Numbering
from kmp_smsd.config.section import NAME, NAME_IN_WORDS, ConfPath, Section, written_as
from kmp_smsd.config.sync import Sync
from kmp_smsd.control.protocol import ROLES, socket_path
from kmp_smsd.domain.policy import OnConflict, SyncPolicy

LinkName = Annotated[str, written_as(NAME, f"a link's name as {NAME_IN_WORDS}")]
GatewayName = Annotated[str, written_as(NAME, f"a gateway's name as {NAME_IN_WORDS}")]


class Storage(Section):
    """Where the daemon keeps what it knows."""

    path: ConfPath = Field(
        default=Path("/var/lib/kmp-smsd/kmp-smsd.db"),
        description="The database file. It is made by `kmp-smsd db migrate` only, and its directory must not be on a "
        "network file system.",
    )
    journal_days: int = Field(
        default=400,
        ge=0,
        le=36_500,
        description="Days for which the journal keeps an entry. 0: for ever. What is older goes in small steps while "
        "intake runs.",
        json_schema_extra={"role": "intake"},
    )
    tallies_days: int = Field(
        default=800,
        ge=0,
        le=36_500,
        description="Days for which the hourly counts of messages are kept. 0: for ever.",
        json_schema_extra={"role": "intake"},
    )
    ended_bindings_days: int = Field(
        default=400,
        ge=0,
        le=36_500,
        description="Days for which a binding is kept after its end; longer where something still needs it, and never "
        "less than `late_hours` and `remember_days` together (docs/storage.rst). 0: for ever.",
        json_schema_extra={"role": "intake"},
    )


class Secrets(Section):
    """Where the keys of the daemon itself are found. No secret stands in this file."""

    public_key: ConfPath = Field(
        description="File with the public half of the master key, made by `kmp-smsd master-key create`; owned by root, "
        "so that a stolen intake cannot replace it.",
        json_schema_extra={"role": "intake"},
    )
    master_key: SecretRef | None = Field(
        default=None,
        description="The private half of the master key; dispatch alone reads it.",
        json_schema_extra={"role": "dispatch"},
    )
    ssh_identity: SecretRef | None = Field(
        default=None,
        json_schema_extra={"role": "dispatch"},
        description="The private SSH key with which we log in at every platform whose file names no other; dispatch "
        "alone reads it.",
    )


def _has_room_for_sockets(directory: Path) -> Path:
    """Of every role, whichever run here: the commands ask all of them."""
    for role in ROLES:
        socket_path(directory, role)
    return directory


class Control(Section):
    """How a running role is asked and told: by `kmp-smsd status`, `reload` and their like, on this machine only."""

    directory: Annotated[ConfPath, AfterValidator(_has_room_for_sockets)] = Field(
        default=Path("/run/kmp-smsd"),
        description="The directory of the sockets intake.sock and dispatch.sock. Whoever may write to them controls "
        "the daemon: it belongs to root and the group of the operators, and no others have a way in.",
    )


class MainFile(Section):
    """kmp-smsd.toml."""

    storage: Storage = Field(default_factory=Storage)
    secrets: Secrets
    numbering: Numbering
    sync: Sync = Field(default_factory=Sync)
    control: Control = Field(default_factory=Control)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    smsc: dict[LinkName, Link] = Field(default={})
    gateway: dict[GatewayName, Gateway] = Field(default={})

    @field_validator("smsc", "gateway", mode="before")
    @classmethod
    def _each_has_a_name(cls, sections: Any, info: ValidationInfo) -> Any:
        if isinstance(sections, dict) and not all(isinstance(section, dict) for section in sections.values()):
            raise ValueError(f"options stand under a name: write [{info.field_name}.NAME] above them")
        return sections

    @property
    def policy(self) -> SyncPolicy:
        """The options that `decide` needs."""
        sync = self.sync
        return SyncPolicy(
            on_sim_change=OnConflict(sync.on_sim_change),
            on_terminal_change=OnConflict(sync.on_terminal_change),
            on_late=OnConflict(sync.on_late),
            late_hours=sync.late_hours,
            reply_expire_s=sync.reply_expire_s,
            mdn_replies_a_day=sync.mdn_replies_a_day,
            gateways=MappingProxyType({name: gateway.policy(sync) for name, gateway in self.gateway.items()}),
        )
