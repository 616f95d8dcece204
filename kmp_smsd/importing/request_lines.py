"""Requests of the carrier's business system: one JSON object a line (docs/business-system.rst).

No sentence quotes a line: it names subscribers, and results are kept by whoever reads them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from kmp_smsd.domain.identifiers import is_app_id
from kmp_smsd.importing.arriving_lines import MOST_OCTETS
from kmp_smsd.storage.requests import Add, Fault, Remove, Renumber, Request

ID_CHARACTERS_MAX: Final = 64
APPS_MAX: Final = 100  # in one request

_FIELDS: Final = {
    "add": ("id", "op", "mdn", "apps"),
    "remove": ("id", "op", "mdn", "apps", "all"),
    "renumber": ("id", "op", "mdn", "to"),
}

Canonical = Callable[[str], str]


class _Faulty(ValueError):
    """A sentence about the line."""


class _NamesSubscriber(_Faulty):
    """The ID is not even repeated to whoever sent it."""


def read_request(line: bytes | None, canonical: Canonical) -> Request:
    """What a line asks for. None stands for a line of more than MOST_OCTETS.

    `canonical` makes an MDN of its text under the numbering plan, or raises ValueError.
    """
    try:
        asked = _object(line)
    except _Faulty as fault:
        return Request(None, b"", Fault(str(fault)))
    try:
        id = _id(asked)
    except _Faulty as fault:
        return Request(None, b"", Fault(str(fault)))
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()
    try:
        return Request(id, digest, _wish(asked, id, canonical))
    except _NamesSubscriber as fault:
        return Request(None, b"", Fault(str(fault)))
    except _Faulty as fault:
        return Request(id, digest, Fault(str(fault)))


def _object(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise _Faulty(f"the line has more than {MOST_OCTETS:,} octets; is a line end missing?")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Faulty(f"octet {error.start + 1} is not UTF-8; write JSON in UTF-8") from None
    try:
        asked = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _Faulty(f"not JSON from character {error.colno} on; write one object in one line") from None
    except RecursionError:
        raise _Faulty("the line is nested too deeply; write one flat object") from None
    except _Faulty:
        raise
    except ValueError:  # a number of thousands of digits
        raise _Faulty("a number is too long; write numbers of subscribers in quotes") from None
    if not isinstance(asked, dict):
        raise _Faulty('not a JSON object; write {"id": ..., "op": ..., ...}')
    return asked


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Faulty("a field stands twice; write each once")
    return found


def _id(asked: dict[str, Any]) -> str:
    id = asked.get("id")
    if not isinstance(id, str) or not 1 <= len(id) <= ID_CHARACTERS_MAX or not (id.isascii() and id.isprintable()):
        raise _Faulty(f'"id" must be 1 to {ID_CHARACTERS_MAX} printable ASCII characters in quotes')
    return id


def _wish(asked: dict[str, Any], id: str, canonical: Canonical) -> Add | Remove | Renumber:
    op = asked.get("op")
    if not isinstance(op, str) or op not in _FIELDS:
        raise _Faulty('"op" must be "add", "remove" or "renumber"')
    for name in asked:
        if name not in _FIELDS[op]:
            near = difflib.get_close_matches(name[:100], _FIELDS[op], 1)
            hint = f'did you mean "{near[0]}"?' if near else f'the fields of "{op}" are {", ".join(_FIELDS[op])}'
            raise _Faulty(f"a field is unknown ({hint})")
    mdn = _mdn(asked, "mdn", id, canonical)
    match op:
        case "add":
            return Add(mdn, _apps(asked))
        case "renumber":
            return Renumber(mdn, _mdn(asked, "to", id, canonical))
    if "all" not in asked:
        return Remove(mdn, _apps(asked))
    if asked["all"] is not True or "apps" in asked:
        raise _Faulty('write either "apps" or "all": true')
    return Remove(mdn, None)


def _mdn(asked: dict[str, Any], name: str, id: str, canonical: Canonical) -> str:
    text = asked.get(name)
    if not isinstance(text, str):
        raise _Faulty(f'"{name}" must be a number of a subscriber in quotes, such as "+8613912345678"')
    try:
        mdn = canonical(text)
    except ValueError:
        raise _Faulty(
            f'"{name}" is no legal number of the numbering plan; correct it, or add its range to [numbering]'
        ) from None
    if len(mdn) >= 10 and mdn[3:] in id:  # however it is written; a country code has at most three digits
        raise _NamesSubscriber(f'"id" has the number of "{name}" in it; IDs are kept, take one that names nobody')
    return mdn


def _apps(asked: dict[str, Any]) -> tuple[str, ...]:
    apps = asked.get("apps")
    if not isinstance(apps, list) or not 1 <= len(apps) <= APPS_MAX:
        raise _Faulty(f'"apps" must be a list of 1 to {APPS_MAX} app IDs, such as ["meter"]')
    if not all(isinstance(app, str) and is_app_id(app) for app in apps):
        raise _Faulty("an app ID is 1 to 32 of A-Z a-z 0-9 . -, in quotes")
    return tuple(dict.fromkeys(apps))
