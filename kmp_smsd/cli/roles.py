"""Where the running roles are, and asking them. Works with a configuration that is faulty, which is when it matters."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kmp_smsd.cli.failures import CONFIGURATION, Failed
from kmp_smsd.cli.settings import Settings
from kmp_smsd.control.client import ask
from kmp_smsd.control.protocol import ROLES, PathTooLong, socket_path

DEFAULT_DIRECTORY = "/run/kmp-smsd"
_HEADING = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_DIRECTORY = re.compile(r"""\s*["']?directory["']?\s*=\s*["']([^"']+)["']""")

role_option = click.option("--role", type=click.Choice(ROLES), help="Ask this role only.")


def control_directory(settings: Settings) -> Path:
    """``[control] directory``, even of a file that is faulty elsewhere. Raises Failed where a file named is none."""
    try:
        text = settings.path.read_text(encoding="utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if not settings.named:  # a role may run with another one
            return Path(DEFAULT_DIRECTORY)
        sentence = f"{settings.path}: {error.strerror}: name the configuration file with --config or KMP_SMSD_CONFIG"
        raise Failed(sentence, CONFIGURATION) from None
    try:
        found = tomllib.loads(text)["control"]["directory"]
    except tomllib.TOMLDecodeError:
        found = _as_it_seems(text)
    except (KeyError, TypeError):
        found = None
    return settings.path.parent / (found if isinstance(found, str) else DEFAULT_DIRECTORY)


def _as_it_seems(text: str) -> str | None:
    """The directory in a text that is no TOML."""
    section = ""
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line):
            section = heading[1].strip()
        elif section == "control" and (directory := _DIRECTORY.match(line)):
            return directory[1]
    return None


def sockets(settings: Settings, role: str | None) -> dict[str, Path]:
    """The socket of each role that is meant: the one named, or all."""
    directory = control_directory(settings)
    try:
        return {name: socket_path(directory, name) for name in ((role,) if role else ROLES)}
    except PathTooLong as error:
        raise Failed(str(error), CONFIGURATION) from None


def running(settings: Settings, role: str | None) -> dict[str, Path]:
    """The sockets of the roles that are meant and run on this machine; where none does, all that are meant."""
    meant = sockets(settings, role)
    return {name: path for name, path in meant.items() if path.is_socket()} or meant


def ask_role(path: Path, command: str, arguments: Mapping[str, Any], *, within_s: float = 10.0) -> dict[str, Any]:
    """Have a role do something, and tell people how far it is. Raises Refused."""

    def say(sentence: str) -> None:
        click.echo(f"{path.stem}: {sentence}", err=True)

    return ask(path, command, arguments, within_s=within_s, progress=say)


def listed(things: Sequence[str]) -> str:
    """``a, b`` or ``nothing``."""
    return ", ".join(things) or "nothing"
