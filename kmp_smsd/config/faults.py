"""What is wrong with a configuration, told to the person who wrote it: file, line, option, sentence.

pydantic's own text is for developers and prints values, secrets among them; nothing here prints a value that may be
one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.locate import KeyPath
from kmp_smsd.config.options import field_at, model_at, models_at, table_depth
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.domain.shown import printable

SECRET_REMEDY = 'a secret is never written here: write {credential = "NAME"} or {file = "/PATH"}'
_CLOSE = 0.55  # as enquire_link is to enquire_after_s
_HUGE = "this number"  # Python refuses to write out thousands of digits
_SECRET_NAME = re.compile(r"pass|secret|credential|identity|private|master|token", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, with `line` 0 where it concerns the file as a whole."""

    file: str
    line: int
    section: str
    option: str
    sentence: str
    forbidden: bool = False  # the file may be right: we may not read it

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        section = f"[{self.section}] " if self.section else ""
        option = f"{self.option}: " if self.option else ""
        return printable(place + section + option + self.sentence)  # what it quotes may be anything


class ConfigFaults(Exception):
    """The configuration cannot be used. Exit 78 after telling all `faults`, 77 where a permission is missing."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.render())

    @property
    def forbidden(self) -> bool:
        """Whether something could not be read for want of a permission."""
        return any(fault.forbidden for fault in self.faults)

    def render(self) -> str:
        """One line per fault, and their number."""
        return "\n".join([*map(str, self.faults), f"{counted(len(self.faults), 'fault')}, nothing was changed"])


def may_be_secret(path: KeyPath) -> bool:
    """Whether a value at `path`, known to us or not, must not be shown."""
    return any(isinstance(part, str) and _SECRET_NAME.search(part) for part in path)


def place(root: type[BaseModel], data: Mapping[str, Any], path: KeyPath) -> tuple[str, str]:
    """The section and the option of `path` in `data`, as they are written."""
    unknown_section = len(path) == 1 and isinstance(data.get(str(path[0])), dict)
    depth = 1 if unknown_section else min(table_depth(root, path), len(path))
    return ".".join(map(_key, path[:depth])), _dotted(path[depth:])


def explain(root: type[BaseModel], data: Mapping[str, Any], error: ErrorDetails) -> tuple[KeyPath, str]:
    """Where in `data` an error of pydantic's is, and our sentence for it."""
    path = _path_in(root, data, error["loc"])
    if error["type"] == "union_tag_not_found":
        return (*path, "kind"), "is missing"
    if error["type"] == "union_tag_invalid":  # told of the whole table, since its options depend on it
        path, error = (*path, "kind"), {**error, "input": error["input"]["kind"]}
    return path, _sentence(root, data, path, error)


def _path_in(root: type[BaseModel], data: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """`loc` without what pydantic adds to it: the kind of a union's member, the mark that a key is meant."""
    path: list[str | int] = []
    of_kind = False
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if of_kind and part == data.get("kind"):  # once: an option may have the name, too
            of_kind = False
            continue
        if part in (data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list) else ()):
            data = data[part]
        elif not last or part == "[key]":
            continue
        path.append(part)
        of_kind = isinstance(data, Mapping) and len(models_at(root, tuple(path))) > 1
    return tuple(path)


def _sentence(root: type[BaseModel], data: Mapping[str, Any], path: KeyPath, error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown(root, data, path, value)
    if kind == "value_error":
        return str(context["error"])
    model = model_at(root, path)
    if model is SecretRef and not isinstance(value, dict):
        return SECRET_REMEDY
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "a section is expected" if len(path) <= table_depth(root, path) else "a table in { } is expected"
    hidden = may_be_secret(path[table_depth(root, path) :])
    shown = "this value" if hidden else _value(value)
    if kind in ("string_type", "path_type"):
        number = isinstance(value, int | float) and not isinstance(value, bool) and not hidden and shown != _HUGE
        return f'text needs quotes: "{shown}"' if number else "text in quotes is expected"
    if kind.startswith("float_") and isinstance(value, int) and not isinstance(value, bool):
        return "the number is too large"
    if kind.startswith(("int_", "float_", "finite_")):
        what = "a whole number" if kind.startswith("int_") else "a number"
        return f"{what} is expected" + (", without quotes" if isinstance(value, str) else f", {shown} is none")
    if kind.startswith("bool_"):
        return "write true or false, without quotes"
    if kind == "tuple_type":
        return "a list in [ ] is expected"
    if kind in ("too_short", "string_too_short"):
        return "is empty"
    if kind == "too_long":
        return f"{context['actual_length']} entries are too many: {context['max_length']} at most"
    if kind == "string_too_long":
        return f"{len(value)} characters are too many: {context['max_length']} at most"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{shown} is not {bounds(field_at(root, path), context)}"
    if kind in ("literal_error", "union_tag_invalid"):
        known = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags")))
        hint = did_you_mean(value, known, cutoff=_CLOSE) if isinstance(value, str) and not hidden else ""
        return f"{shown} is not one of {', '.join(known)}{hint}"
    if kind == "string_pattern_mismatch":
        return f"{shown} does not match {context['pattern']}"
    return "cannot be used as it is written"


def _unknown(root: type[BaseModel], data: Mapping[str, Any], path: KeyPath, value: Any) -> str:
    table: Any = data
    for part in path[:-1]:
        table = table[part]
    model = model_at(root, path[:-1], table.get("kind"))
    if model is SecretRef:
        return SECRET_REMEDY
    known = list(model.model_fields) if model else []
    what = "unknown section" if len(path) == 1 and isinstance(value, dict) else "unknown option"
    return what + did_you_mean(str(path[-1]), known, cutoff=_CLOSE)


def bounds(field: FieldInfo | None, found: Mapping[str, Any] | None = None) -> str:
    """All the bounds of an option in words, where pydantic's context names only the one that was `found` broken."""
    limits = dict(found or {})
    for entry in field.metadata if field else ():
        limits |= {name: getattr(entry, name) for name in ("ge", "gt", "le", "lt") if hasattr(entry, name)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        return f"{'more than' if 'gt' in limits else 'between'} {low}{', at most' if 'gt' in limits else ' and'} {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _value(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return _HUGE
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:36] + '..."'


def _key(part: str | int) -> str:
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _value(text)


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else ("." if text else "") + _key(part)
    return text
