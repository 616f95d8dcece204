"""Who may import whom. Read off the source, so that an arrow inside a function counts as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kmp_smsd"

ROOMS = {
    "smpp": {"smpplib", "msgspec"},
    "domain": {"msgspec"},
    "vault": {"cryptography"},
    "storage": {"domain", "sqlite_utils", "pysqlite3", "msgspec"},
    "channels": {"domain", "vault", "pydantic", "paramiko", "cryptography"},
    "config": {"domain", "channels", "control", "pydantic", "pydantic_core"},
    "importing": {"domain", "vault", "storage"},
    "control": set(),
    "monitoring": {"domain", "prometheus_client"},
    "diagnosis": {"domain", "storage", "channels"},
    "simulator": {"smpp", "twisted", "paramiko", "cryptography"},
    "service": {
        *{"smpp", "domain", "vault", "storage", "channels", "config", "importing", "control", "monitoring"},
        "twisted",
    },
    "cli": {
        *{"smpp", "domain", "vault", "storage", "channels", "config", "importing", "simulator", "service", "control"},
        *{"diagnosis", "click", "tabulate", "twisted"},
    },
}
#: What lies beside the rooms.
TOP = {"__init__", "__main__"}


def imports(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """Every module that `source` imports, and whether it does so as soon as it is imported itself."""
    tree = ast.parse(source)
    late = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types(function)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in late
        elif isinstance(node, ast.ImportFrom):
            name = resolve_name("." * node.level + (node.module or ""), module) if node.level else str(node.module)
            for alias in node.names:
                yield f"{name}.{alias.name}", id(node) not in late


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def party(name: str) -> str:
    """What an import belongs to: a room, a foreign package, or '' for the standard library and the package's root."""
    parts = name.split(".")
    if parts[0] == "kmp_smsd":
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""
    return "" if parts[0] in sys.stdlib_module_names else parts[0]


def broken_arrows(room: str, source: str) -> set[str]:
    return {found for name, _ in imports(source, f"kmp_smsd.{room}") if (found := party(name))} - ROOMS[room] - {room}


def test_every_directory_is_a_room_that_is_known() -> None:
    assert {one.name for one in PACKAGE.iterdir() if one.is_dir() and one.name != "__pycache__"} == set(ROOMS)
    assert {one.stem for one in PACKAGE.glob("*.py")} == TOP


@pytest.mark.parametrize("room", ROOMS)
def test_no_arrow_between_rooms_is_broken(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    broken = {str(one.relative_to(PACKAGE)): found for one in files if (found := broken_arrows(room, one.read_text()))}
    assert broken == {}


def reactor_at_import(source: str) -> bool:
    """Whether the reactor is imported at module level: that installs one, before anybody could choose."""
    return any(
        at_once and (name + ".").startswith("twisted.internet.reactor.")
        for name, at_once in imports(source, "kmp_smsd")
    )


def test_nobody_imports_the_reactor_at_module_level() -> None:
    assert [str(one) for one in PACKAGE.rglob("*.py") if reactor_at_import(one.read_text())] == []


@pytest.mark.parametrize(
    "module",
    [
        "kmp_smsd.cli",
        "kmp_smsd.config",
        "kmp_smsd.config.load",
        "kmp_smsd.storage",
        "kmp_smsd.cli.status",
        "kmp_smsd.cli.steering",
    ],
)
def test_light_modules_import_neither_twisted_nor_paramiko(module: str) -> None:
    assert packages_behind(module) & {"twisted", "paramiko"} == set()


def test_intake_starts_without_paramiko() -> None:
    assert packages_behind("kmp_smsd.service.wiring") & {"twisted", "paramiko"} == {"twisted"}


def packages_behind(module: str) -> set[str]:
    """All that a process has imported once it has imported `module`."""
    script = (
        "import importlib, sys; importlib.import_module(sys.argv[1]);"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", script, module], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("room", "source", "broken"),
    [
        ("smpp", "import struct, smpplib.consts", set()),
        ("smpp", "def late():\n    from kmp_smsd.domain import payload", {"domain"}),
        ("domain", "from kmp_smsd.smpp.pdu import DeliverSm", {"smpp"}),
        ("domain", "from ..storage import Store", {"storage"}),
        ("domain", "import twisted.internet.defer", {"twisted"}),
        ("vault", "from kmp_smsd.domain.key import StagedKey", {"domain"}),
        ("storage", "import kmp_smsd.vault.data_key as key", {"vault"}),
        ("service", "from kmp_smsd import simulator", {"simulator"}),
        ("simulator", "from kmp_smsd.service.link import Link", {"service"}),
        ("cli", "from kmp_smsd.service import wiring", set()),
    ],
)
def test_broken_arrow_is_noticed(room: str, source: str, broken: set[str]) -> None:
    assert broken_arrows(room, source) == broken


@pytest.mark.parametrize(
    ("source", "noticed"),
    [
        ("from twisted.internet import reactor", True),
        ("import twisted.internet.reactor", True),
        ("from twisted.internet.reactor import callLater", True),
        ("class A:\n    from twisted.internet import reactor", True),
        ("def main():\n    from twisted.internet import reactor", False),
        ("from twisted.internet.interfaces import IReactorTime", False),
    ],
)
def test_reactor_at_module_level_is_noticed(source: str, noticed: bool) -> None:
    assert reactor_at_import(source) == noticed
