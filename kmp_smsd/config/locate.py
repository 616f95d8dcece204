"""Where in a TOML file each key stands. tomllib decides what a file means but keeps no positions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]  # as in ("smsc", "north", "hosts", 0): names of keys, positions in arrays

# Every string and comment is one token, so that nothing inside them is taken for structure. TOML 1.0.
_TOKEN = re.compile(
    r"""(?P<skip> [ \t]+ | \#[^\n]* )
      | (?P<text> \"{3} (?:[^\\]|\\.)*? \"{3,5} | '{3} .*? '{3,5} | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' )
      | (?P<mark> [\[\]{}=,.\n] )
      | (?P<bare> [^ \t\n\[\]{}=,.\#"']+ )""",
    re.VERBOSE | re.DOTALL,
)


def locate(text: str) -> dict[KeyPath, int]:
    """Map the path of every table, key and array element in `text` to its line, the first being 1.

    `text` must be TOML that tomllib accepts. A table that only the names of its members imply stands where the first
    of them does.
    """
    return _Locator().run(text.replace("\r\n", "\n"))


@dataclass(slots=True)
class _Open:
    """An array or an inline table whose closing bracket has not come yet."""

    path: KeyPath
    is_array: bool
    index: int = -1  # of an array's latest element


class _Locator:
    """Reads statements one token at a time, with a stack of its own: deep nesting must not exhaust Python's."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.array_tables: dict[KeyPath, int] = {}  # path -> index of the latest [[element]]
        self.table: KeyPath = ()
        self.keys: list[str] = []  # of the dotted key being read
        self.value: KeyPath = ()
        self.open: list[_Open] = []
        self.read: Callable[[str, int], None] = self.statement

    def run(self, text: str) -> dict[KeyPath, int]:
        for token, line in _tokens(text):
            self.read(token, line)
        return self.lines

    def statement(self, token: str, line: int) -> None:
        if token == "[":
            self.read = self.header_start
        elif token != "\n":
            self.read = self.key
            self.key(token, line)

    def header_start(self, token: str, line: int) -> None:
        self.read = self.array_header if token == "[" else self.header
        if token != "[":
            self.header(token, line)

    def header(self, token: str, line: int) -> None:
        if token == "]":
            self.table = self.enter(self.keys, line)
            self.keys = []
            self.read = self.rest
        else:
            self.keys += _name(token)

    def array_header(self, token: str, line: int) -> None:
        if token == "]":
            *parents, last = self.keys
            path = (*self.enter(parents, line), last)
            self.lines.setdefault(path, line)
            self.array_tables[path] = self.array_tables.get(path, -1) + 1
            self.table = (*path, self.array_tables[path])
            self.lines[self.table] = line
            self.keys = []
            self.read = self.rest
        else:
            self.keys += _name(token)

    def enter(self, keys: list[str], line: int) -> KeyPath:
        """The table that a header names: each array of tables on the way stands for its latest element."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            self.lines.setdefault(path, line)
            if path in self.array_tables:
                path = (*path, self.array_tables[path])
        return path

    def key(self, token: str, line: int) -> None:
        if token == "}":  # of an empty inline table
            self.close()
        elif token != "=":
            self.keys += _name(token)
        else:
            path = self.open[-1].path if self.open else self.table
            for key in self.keys:
                path = (*path, key)
                self.lines.setdefault(path, line)
            self.keys = []
            self.value = path
            self.read = self.value_start

    def value_start(self, token: str, _line: int) -> None:
        """The first token of a value, of which there may be more: ``1.5`` is three."""
        self.read = self.rest
        if token == "[":
            self.open.append(_Open(self.value, is_array=True))
            self.read = self.element
        elif token == "{":
            self.open.append(_Open(self.value, is_array=False))
            self.read = self.key

    def element(self, token: str, line: int) -> None:
        if token == "]":
            self.close()
        elif token != "\n":
            array = self.open[-1]
            array.index += 1
            self.value = (*array.path, array.index)
            self.lines[self.value] = line
            self.value_start(token, line)

    def rest(self, token: str, _line: int) -> None:
        """What follows the beginning of a value, or a header."""
        if not self.open:
            if token == "\n":
                self.read = self.statement
        elif token == ",":
            self.read = self.element if self.open[-1].is_array else self.key
        elif token in ("]", "}"):
            self.close()

    def close(self) -> None:
        self.open.pop()
        self.read = self.rest


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup != "skip":
            yield token, line
        line += token.count("\n")


def _name(token: str) -> list[str]:
    """The key that a token writes: none for the dot between two of them."""
    if token == ".":
        return []
    if token[0] in "\"'":
        return list(tomllib.loads(f"{token} = 0"))
    return [token]
