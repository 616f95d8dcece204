"""What differs between two configurations, option by option, and what a reload does with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

from kmp_smsd.channels.kinds import ChannelOptions
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.link import Link
from kmp_smsd.config.load import PLATFORMS, Config, platform_section
from kmp_smsd.config.numbering import Numbering
from kmp_smsd.config.platform import Platform
from kmp_smsd.config.section import Reload

Model = TypeVar("Model", bound=BaseModel)

_NOT_WRITTEN = frozenset({"path", "policy", "disabled"})  # where the file is, and what is made of other sections


@dataclass(frozen=True, slots=True)
class Change:
    """One option that differs; `option` is empty where the whole section is `new` or `gone`.

    `role` is the one that uses it, empty where both do. What is gone may still be there, and `disabled`.
    """

    section: str  # "sync", "smsc.north", "platforms.d/metering.toml"
    option: str
    reload: Reload
    role: str = ""
    new: bool = False
    gone: bool = False
    disabled: bool = False

    def __str__(self) -> str:
        place = self.section if self.section.startswith(PLATFORMS) else f"[{self.section}]"
        gone = "disabled" if self.disabled else "gone"
        return f"{place} {'new' if self.new else gone if self.gone else self.option}".rstrip()


def changes(old: Config, new: Config) -> tuple[Change, ...]:
    """Every option in which `new` differs from `old`, in the order of the sections."""
    return tuple(
        replace(change, disabled=True) if change.gone and change.section in new.disabled else change
        for field in fields(Config)
        if field.name not in _NOT_WRITTEN
        for change in _of_section(field.name, getattr(old, field.name), getattr(new, field.name))
    )


def in_force(running: Config, new: Config) -> Config:
    """What of `new` can run without a restart; the rest is as in `running`, or left out where it was not there.

    So what differs between this and `new` needs a restart. Where no link of `new` could run, those of `running` go on.
    """
    values: dict[str, Any] = {}
    for field in fields(Config):
        old, fresh = getattr(running, field.name), getattr(new, field.name)
        if isinstance(fresh, BaseModel):
            values[field.name] = _kept(old, fresh)
        elif isinstance(fresh, Mapping):
            values[field.name] = MappingProxyType(
                {
                    name: _kept(old[name], member) if name in old else member
                    for name, member in fresh.items()
                    if name in old or _reload_of_new(member) is not Reload.RESTART
                }
            )
    if new.smsc and not values["smsc"]:
        values["smsc"] = running.smsc
    return replace(new, **values)


def reload_of(model: type[BaseModel], option: str = "") -> Reload:
    """What a reload does with a changed `option`, or with one of `model` that says nothing of its own."""
    extra = model.model_fields[option].json_schema_extra if option else None
    if isinstance(extra, dict) and "reload" in extra:
        return Reload(str(extra["reload"]))
    return getattr(model, "reload", Platform.reload)  # the options of a channel stand in the file of a platform


def role_of(model: type[BaseModel], option: str) -> str:
    """The role that alone uses `option`, or the empty text."""
    extra = model.model_fields[option].json_schema_extra
    if isinstance(extra, dict) and "role" in extra:
        return str(extra["role"])
    return str(getattr(model, "role", ""))


def _of_section(name: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(new, BaseModel):
        yield from _of_options(name, old, new)
    elif isinstance(new, Mapping):
        for member in sorted(old.keys() | new.keys()):
            yield from _of_member(_section(name, member), old.get(member), new.get(member))
    elif old != new:  # the numbering plan, made of several files
        yield Change(name, "", Numbering.reload, Numbering.role)


def _section(name: str, member: str) -> str:
    return platform_section(member) if name == "platforms" else f"{name.removesuffix('s')}.{member}"


def _of_member(section: str, old: BaseModel | None, new: BaseModel | None) -> Iterator[Change]:
    if old is not None and new is not None:
        for change in _of_options(section, old, new):
            yield replace(change, reload=Reload.RESTART) if _waits_whole(old, new) else change
    else:
        model: Any = type(old or new)
        reload = model.reload if new is None else _reload_of_new(new)
        yield Change(section, "", reload, model.role, new=old is None, gone=new is None)


def _reload_of_new(member: Any) -> Reload:
    """A service has the credentials that it was given at its start; a file may come later."""
    secret = member.password if isinstance(member, Link) else None
    if isinstance(member, Platform):
        secret = member.channel.identity
    reload: Reload = Reload.RESTART if _is_new_credential(None, secret) else member.reload
    return reload


def _waits_whole(old: BaseModel, new: BaseModel) -> bool:
    """A link that is to use another credential stays all as it was: its other options may belong to that password."""
    return isinstance(old, Link) and isinstance(new, Link) and _is_new_credential(old.password, new.password)


def _reload_of_kind(old: ChannelOptions, new: ChannelOptions) -> Reload:
    """What a reload does with a channel that is of another kind than it was: its options are all others."""
    return Reload.RESTART if _is_new_credential(old.identity, new.identity) else Platform.reload


def _is_new_credential(old: SecretRef | None, new: SecretRef | None) -> bool:
    return new is not None and new.credential is not None and new != old


def _kept(old: Model, new: Model) -> Model:
    """`new`, with those options of `old` that only a restart changes."""
    if _waits_whole(old, new):
        return old
    model, values = type(new), {}
    for option in model.model_fields:
        was, is_now = getattr(old, option), getattr(new, option)
        if option == "channel" and type(was) is type(is_now):
            values[option] = _kept(was, is_now)
        elif option == "channel":
            values[option] = was if _reload_of_kind(was, is_now) is Reload.RESTART else is_now
        elif was != is_now and reload_of(model, option) is Reload.RESTART:
            values[option] = was
    return new.model_copy(update=values)


def _of_options(section: str, old: BaseModel, new: BaseModel, role: str = "") -> Iterator[Change]:
    model = type(new)
    for option in model.model_fields:
        was, is_now = getattr(old, option), getattr(new, option)
        if was == is_now:
            continue
        if option == "channel" and type(was) is type(is_now):
            yield from _of_options(section, was, is_now, role_of(model, option))
        elif option == "channel":
            yield Change(section, "kind", _reload_of_kind(was, is_now), role_of(model, option))
        else:
            yield Change(section, option, reload_of(model, option), role or role_of(model, option))
