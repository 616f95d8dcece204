"""Every event of the log has a name, and docs/logs.rst tells of each one: read off the source and the page."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest

from kmp_smsd.service.log_levels import SUBSYSTEMS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kmp_smsd"
PAGE = ROOT / "docs" / "logs.rst"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "simulator" not in path.parts)  # which is none of the daemon

LEVELS = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "failure": "critical",
}
#: What a line in JSON and an entry in the journal have of their own.
TAKEN = {"at", "level", "message", "role", "logger", "traceback", *vars(logging.makeLogRecord({}))}
#: Has no logger of its own: what it says is said by that of whoever asks it to.
BY_ANOTHERS_LOGGER = "kmp_smsd.service.faults"
#: A number before what is counted.
MANY = re.compile(r"\{(count|minutes|pdus|untold)\b[^}]*\} (\w+ )?\w{2,}s\b")
#: Always says 20.
HELD_BACK = "platform {platform}: held back after {count} rejections in a row, one try each 10 minutes"


@dataclass(frozen=True)
class Said:
    """One place in the source where something is logged."""

    event: str
    level: str
    fields: frozenset[str]


def said_in(tree: ast.Module) -> Iterator[Said]:
    for function in scopes(tree):
        named = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in calls_of(function):
            assert isinstance(node.func, ast.Attribute)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            extra = keywords.get("extra")
            if isinstance(extra, ast.Name):
                extra = named[extra.id]
            if isinstance(extra, ast.Dict):
                keys = [key.value for key in extra.keys if isinstance(key, ast.Constant)]
                keywords = dict(zip(keys, extra.values, strict=True))
            name = keywords.pop("event", None)
            assert isinstance(name, ast.Constant), f"line {node.lineno}: no event"
            yield Said(name.value, LEVELS[node.func.attr], frozenset(map(str, set(keywords) - {"failure"})))


def scopes(tree: ast.AST) -> list[ast.AST]:
    return [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]


def calls_of(function: ast.AST) -> Iterator[ast.Call]:
    """What is said in `function` itself, not in the functions within it."""
    stack = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Call) and says(node.func):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += ast.iter_child_nodes(node)


def says(node: ast.AST) -> bool:
    """Whether it is ``log.info`` or its like; of a logger that is called log, as all of ours are."""
    if not isinstance(node, ast.Attribute) or node.attr not in LEVELS:
        return False
    return "log" in (getattr(node.value, "id", None), getattr(node.value, "attr", None))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def events() -> dict[str, tuple[str, set[str]]]:
    """Level and fields of each event; one that is said in several places has the fields of all."""
    found: dict[str, tuple[str, set[str]]] = {}
    for path in SOURCES:
        for said in said_in(tree_of(path)):
            level, fields = found.setdefault(said.event, (said.level, set()))
            assert level == said.level, f"{said.event} is said at two levels"
            fields |= said.fields
    return found


@cache
def rows() -> list[list[docutils.nodes.entry]]:
    document = docutils.core.publish_doctree(PAGE.read_text(encoding="utf-8"))
    for table in document.findall(docutils.nodes.tgroup):
        head, body = (next(iter(table.findall(kind))) for kind in (docutils.nodes.thead, docutils.nodes.tbody))
        titles = [entry.astext() for entry in head.findall(docutils.nodes.entry)]
        if titles == ["event", "level", "fields", "means", "cure"]:
            return [list(row.findall(docutils.nodes.entry)) for row in body.findall(docutils.nodes.row)]
    pytest.fail("logs.rst has no table of events")


def test_the_page_tells_of_every_event_and_no_other() -> None:
    told = {
        event.astext(): (level.astext(), {literal.astext() for literal in fields.findall(docutils.nodes.literal)})
        for event, level, fields, _, _ in rows()
    }
    assert told == events()


def test_the_page_says_of_each_event_what_it_means_and_what_to_do() -> None:
    assert [event.astext() for event, _, _, means, cure in rows() if not (means.astext() and cure.astext())] == []
    names = [event.astext() for event, *_ in rows()]
    assert names == sorted(names)


def test_fields_have_no_name_that_is_taken() -> None:
    assert {name for _, fields in events().values() for name in fields} & TAKEN == set()


def test_nothing_is_logged_but_by_a_call_that_the_page_is_held_to() -> None:
    for path in SOURCES:
        tree = tree_of(path)
        methods = [node for node in ast.walk(tree) if says(node)]
        assert len(methods) == sum(len(list(calls_of(scope))) for scope in scopes(tree)), path


def test_no_text_has_many_of_what_may_be_one() -> None:
    """The fields are numbers, so a text cannot say ``1 message`` and ``2 messages``: it says ``messages: 1``."""
    for path in SOURCES:
        for node in (call for scope in scopes(tree_of(path)) for call in calls_of(scope)):
            text = node.args[0]
            if isinstance(text, ast.Constant) and str(text.value) != HELD_BACK:
                assert not MANY.search(str(text.value)), f"{path}:{node.lineno}"


def test_each_module_that_logs_belongs_to_one_subsystem() -> None:
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if any(said_in(tree_of(path))) and name != BY_ANOTHERS_LOGGER:
            owners = [
                subsystem
                for subsystem, loggers in SUBSYSTEMS.items()
                if subsystem != "all" and any(f"{name}.".startswith(f"{logger}.") for logger in loggers)
            ]
            assert len(owners) == 1, f"{name} belongs to {owners}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("log.info('a', event='e', link='l')", Said("e", "info", frozenset({"link"}))),
        ("def f():\n    self.log.failure('a', failure, event='e')", Said("e", "critical", frozenset())),
        (
            "def f():\n    t = {'event': 'e', 'x': 1}\n    log.warning('%s', 1, extra=t)",
            Said("e", "warning", frozenset("x")),
        ),
    ],
)
def test_events_are_read_off_the_source(source: str, said: Said) -> None:
    assert list(said_in(ast.parse(source))) == [said]


def test_a_call_without_an_event_is_noticed() -> None:
    with pytest.raises(AssertionError, match="line 1: no event"):
        list(said_in(ast.parse("log.info('something happened')")))
