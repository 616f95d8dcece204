"""What documents and sentences tell people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kmp_smsd.cli.program import program

ROOT = Path(__file__).resolve().parents[2]
QUOTED = re.compile(r"(?:`|(?<!printf )'|\$ )kmp-smsd ([a-z][^`'\n]*)")
TEXTS = [
    path
    for pattern in ("README.rst", "docs/*.rst", "conf/**/*.toml", "kmp_smsd/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]


def typed() -> list[tuple[str, str]]:
    return [(path.name, match[1]) for path in TEXTS for match in QUOTED.finditer(path.read_text(encoding="utf-8"))]


def test_there_is_something_to_look_at():
    assert len(typed()) > 50


@pytest.mark.parametrize(("where", "line"), sorted(set(typed())))
def test_what_people_are_told_to_type_exists(where, line):
    words = line.split()
    command = program.get_command(None, words[0])
    assert command is not None, f"{where}: {line}"
    if isinstance(command, click.Group) and len(words) > 1:
        command = command.commands.get(words[1])
        assert command is not None, f"{where}: {line}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}
