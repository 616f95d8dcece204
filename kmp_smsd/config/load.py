"""Read all files of a configuration and tell all that is wrong with any of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from kmp_smsd.config.faults import ConfigFaults, Fault, explain, place
from kmp_smsd.config.gateway import Gateway
from kmp_smsd.config.link import Link
from kmp_smsd.config.locate import KeyPath
from kmp_smsd.config.models import Control, MainFile, Secrets, Storage
from kmp_smsd.config.monitoring import Monitoring
from kmp_smsd.config.numbering import NumberingFile, Range
from kmp_smsd.config.options import kinds_at
from kmp_smsd.config.platform import Platform, is_platform_name
from kmp_smsd.config.secrets import open_without_waiting
from kmp_smsd.config.section import NAME_IN_WORDS
from kmp_smsd.config.sync import Sync
from kmp_smsd.config.syntax import Syntax, read_toml
from kmp_smsd.domain.numbering import NumberingPlan
from kmp_smsd.domain.policy import SyncPolicy

FILE_OCTETS_MAX = 1_048_576
PLATFORMS = "platforms.d"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. What is not enabled has been checked but is not in it: `disabled` are its sections."""

    path: Path
    storage: Storage
    secrets: Secrets
    numbering: NumberingPlan
    sync: Sync
    policy: SyncPolicy
    control: Control
    monitoring: Monitoring
    smsc: Mapping[str, Link]
    gateways: Mapping[str, Gateway]
    platforms: Mapping[str, Platform]
    disabled: frozenset[str]  # "smsc.north", "platforms.d/metering.toml"


def load(path: str | os.PathLike[str], platforms: str | os.PathLike[str] | None = None) -> Config:
    """Read the file at `path`, the numbering files it includes, and each ``*.toml`` in the directory `platforms`.

    `platforms` is ``platforms.d`` beside `path` unless given. Raises ConfigFaults with every fault of every file. No
    secret is read.
    """
    main_path = Path(path)
    directory = main_path.parent / PLATFORMS if platforms is None else Path(platforms)
    faults: list[Fault] = []
    main = _File.read(main_path, MainFile, faults)
    ranges = _ranges(main, faults)
    files = _platform_files(directory, faults)
    _one_name_per_road(main, faults)
    _one_file_per_app(files.values(), faults)
    _every_platform_can_log_in(main, files.values(), faults)
    if faults or main.value is None:
        files_in_order = list(dict.fromkeys(fault.file for fault in faults))
        raise ConfigFaults(sorted(faults, key=lambda fault: (files_in_order.index(fault.file), fault.line)))
    config = main.value
    return Config(
        path=main_path,
        storage=config.storage,
        secrets=config.secrets,
        numbering=NumberingPlan(config.numbering.country_code, tuple(entry.number_range for entry in ranges)),
        sync=config.sync,
        policy=config.policy,
        control=config.control,
        monitoring=config.monitoring,
        smsc=MappingProxyType({name: link for name, link in config.smsc.items() if link.enabled}),
        gateways=MappingProxyType(config.gateway),
        platforms=MappingProxyType(
            {name: file.value for name, file in files.items() if file.value is not None and file.value.enabled}
        ),
        disabled=frozenset(
            [f"smsc.{name}" for name, link in config.smsc.items() if not link.enabled]
            + [platform_section(name) for name, file in files.items() if file.value and not file.value.enabled]
        ),
    )


def platform_section(name: str) -> str:
    """What a platform's file is called where sections are told."""
    return f"{PLATFORMS}/{name}.toml"


@dataclass(slots=True)
class _File(Generic[Model]):
    """One file while it is being checked: as much of it as could be understood."""

    path: Path
    model: type[Model]
    syntax: Syntax
    value: Model | None = None

    @classmethod
    def read(cls, path: Path, model: type[Model], faults: list[Fault]) -> _File[Model]:
        file = cls(path, model, _syntax(path, faults))
        faults += [Fault(str(path), *fault) for fault in file.syntax.faults]
        if file.syntax.data is not None:
            file.validate(file.syntax.data, faults)
        return file

    def validate(self, data: dict[str, Any], faults: list[Fault]) -> None:
        try:
            self.value = self._validated(data)
        except ValidationError as errors:
            for at, sentence in self._explained(data, errors):
                if self.syntax.lines.get(at) not in self.syntax.repaired:
                    faults.append(self.fault(at, sentence))

    def _validated(self, data: dict[str, Any]) -> Model:
        return self.model.model_validate(data, context={"directory": self.path.parent})

    def _explained(self, data: dict[str, Any], errors: ValidationError) -> Iterator[tuple[KeyPath, str]]:
        for error in errors.errors(include_url=False):
            at, sentence = explain(self.model, data, error)
            # pydantic calls a list empty where each of its entries is faulty.
            if error["type"] != "too_short" or not error["input"]:
                yield at, sentence
            if error["type"].startswith("union_tag_"):
                yield from self._of_any_kind(data, str(at[0]))

    def _of_any_kind(self, data: dict[str, Any], section: str) -> list[tuple[KeyPath, str]]:
        """What else is wrong with a section of no known kind, whatever it should be: what is wrong with each kind."""
        of_kinds: list[list[tuple[KeyPath, str]]] = []
        for kind in kinds_at(self.model, (section,)):
            supposed = {**data, section: {**data[section], "kind": kind}}
            try:
                self._validated(supposed)
                of_kinds.append([])
            except ValidationError as errors:
                of_kinds.append([fault for fault in self._explained(supposed, errors) if fault[0][0] == section])
        return [fault for fault in of_kinds[0] if all(fault in others for others in of_kinds)]

    def fault(self, at: KeyPath, sentence: str) -> Fault:
        """A fault at a key, or, where that is missing, at the table it should be in."""
        line = next((self.syntax.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.syntax.lines), 0)
        return Fault(str(self.path), line, *place(self.model, self.syntax.data or {}, at), sentence)

    def get(self, *keys: str) -> Any:
        """A value as the file has it, even where others in it are faulty; None where there is none."""
        value: Any = self.syntax.data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def texts(self, *keys: str) -> list[tuple[KeyPath, str]]:
        """The texts of a list, each with its key path."""
        value = self.get(*keys)
        entries = enumerate(value) if isinstance(value, list) else ()
        return [((*keys, number), entry) for number, entry in entries if isinstance(entry, str)]


def _syntax(path: Path, faults: list[Fault]) -> Syntax:
    try:
        with open(path, "rb", opener=open_without_waiting) as file:  # what is opened is what is judged
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise _Unreadable("is not a file")
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                faults.append(Fault(str(path), 0, "", "", f"others can write it: chmod go-w {path}"))
            octets = file.read(FILE_OCTETS_MAX + 1)
        if len(octets) > FILE_OCTETS_MAX:
            raise _Unreadable(f"is longer than {FILE_OCTETS_MAX} octets: this is no configuration file")
        return read_toml(octets.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        faults.append(_unreadable(path, error))
        return Syntax()


class _Unreadable(ValueError):
    """The text says why."""


def _unreadable(path: Path, error: OSError | ValueError) -> Fault:
    return Fault(str(path), 0, "", "", _why_unreadable(error), forbidden=isinstance(error, PermissionError))


def _why_unreadable(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not text in UTF-8: octet {error.start} cannot be read"
    if isinstance(error, _Unreadable):
        return str(error)
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a file"
    if isinstance(error, PermissionError):
        return (
            "permission denied: run this as root, or as a member of the service's group;"
            " a role needs owners and modes as 'systemd-tmpfiles --create kmp-smsd.conf' sets them"
        )
    return f"cannot be read: {error.strerror if isinstance(error, OSError) else 'no such file'}"


def _ranges(main: _File[MainFile], faults: list[Fault]) -> list[Range]:
    """The ranges of the main file and of the files it includes; a prefix may be given once in all of them."""
    sources: list[tuple[_File[Any], KeyPath]] = [(main, ("numbering", "ranges"))]
    seen: set[Path] = set()
    for at, name in main.texts("numbering", "include"):
        path = main.path.parent / name
        if path in seen:
            faults.append(main.fault(at, "is given twice"))
        elif name and "\0" not in name:  # else it can be no path, and has its fault
            sources.append((_File.read(path, NumberingFile, faults), ("ranges",)))
        seen.add(path)
    ranges: list[Range] = []
    first: dict[str, str] = {}
    for file, at in sources:
        entries = () if file.value is None else file.value.ranges if file is not main else file.value.numbering.ranges
        for number, entry in enumerate(entries):
            fault = file.fault((*at, number, "prefix"), f"{entry.prefix} has been given at ")
            if entry.prefix in first:
                faults.append(replace(fault, sentence=fault.sentence + first[entry.prefix]))
            first.setdefault(entry.prefix, f"{fault.file}:{fault.line}")
            ranges.append(entry)
    if isinstance(main.get("numbering"), dict) and not seen and not main.get("numbering", "ranges"):
        faults.append(main.fault(("numbering",), "no range is given, so every message would be refused: see include"))
    return ranges


def _platform_files(directory: Path, faults: list[Fault]) -> dict[str, _File[Platform]]:
    """The platforms' files by name. A directory that is not there has none."""
    try:
        if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            faults.append(Fault(str(directory), 0, "", "", f"others can write in it: chmod go-w {directory}"))
        # What editors and packages leave behind ends otherwise, or begins with a dot.
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and path.name[0] != ".")
    except FileNotFoundError:
        return {}
    except OSError as error:
        faults.append(_unreadable(directory, error))
        return {}
    for path in paths:
        if not is_platform_name(path.stem):
            faults.append(Fault(str(path), 0, "", "", f"the file's name is the platform's: {NAME_IN_WORDS}"))
    return {path.stem: _File.read(path, Platform, faults) for path in paths}


def _one_name_per_road(main: _File[MainFile], faults: list[Fault]) -> None:
    links, gateways = main.get("smsc"), main.get("gateway")
    for name in gateways if isinstance(gateways, dict) and isinstance(links, dict) else ():
        if name in links:
            faults.append(main.fault(("gateway", name), "has a link's name: the journal could not tell them apart"))


def _one_file_per_app(files: Iterable[_File[Platform]], faults: list[Fault]) -> None:
    first: dict[str, str] = {}
    for file in files:
        if file.get("enabled") is False:
            continue
        for at, app in file.texts("apps"):
            fault = file.fault(at, f'"{app}" goes to one platform only, and ')
            if app in first:
                faults.append(replace(fault, sentence=f"{fault.sentence}{first[app]} has it already"))
            first.setdefault(app, f"{fault.file}:{fault.line}")


def _every_platform_can_log_in(main: _File[MainFile], files: Iterable[_File[Platform]], faults: list[Fault]) -> None:
    if main.syntax.data is None or main.get("secrets", "ssh_identity") is not None:
        return
    for file in files:
        if file.get("enabled") is False or file.get("channel", "kind") != "ssh":
            continue
        if file.get("channel", "identity") is None:
            sentence = f"is missing, and {main.path} has no [secrets] ssh_identity for all platforms"
            faults.append(file.fault(("channel", "identity"), sentence))
