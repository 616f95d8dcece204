"""Writing configuration files in TOML: a value in JSON is one in TOML, tables aside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_INLINE = frozenset({"password", "master_key", "ssh_identity", "identity", "data_coding"})  # tables in { }


def write_toml(path: Path, content: Mapping[str, Any]) -> None:
    """Put `content` into the file `path`, which is never there in part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in _lines(content, ())), encoding="utf-8")
    os.chmod(partial, 0o644)
    os.replace(partial, path)


def _lines(content: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    tables: dict[str, Mapping[str, Any]] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and key not in _INLINE:
            tables[key] = value
        else:
            yield f"{json.dumps(key)} = {_value(value)}"
    for key, table in tables.items():
        yield f"\n[{'.'.join((*path, key))}]"
        yield from _lines(table, (*path, key))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)
