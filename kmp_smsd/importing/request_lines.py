"""Requests of the carrier's business system: one JSON object a line (docs/business-system.rst).

No sentence quotes a line: it names subscribers, and results are kept by whoever reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from kmp_smsd.domain.identifiers import APP_ID_RULE, is_app_id
from kmp_smsd.domain.numbering import NumberingPlan
from kmp_smsd.importing.json_lines import Canonical, LineFault, check_fields, read_id, read_mdn, read_object
from kmp_smsd.storage.requests import Add, Fault, Remove, Renumber, Request

APPS_MAX: Final = 100  # in one request

_FIELDS: Final = {
    "add": ("id", "op", "mdn", "apps"),
    "remove": ("id", "op", "mdn", "apps", "all"),
    "renumber": ("id", "op", "mdn", "to"),
}


class _NamesSubscriber(LineFault):
    """The ID is not even repeated to whoever sent it."""


def read_request(line: bytes | None, plan: NumberingPlan) -> Request:
    """What a line asks for under the numbering plan. None stands for a line that is too long."""
    try:
        asked = read_object(line)
        id = read_id(asked)
    except LineFault as fault:
        return Request(None, b"", Fault(str(fault)))
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()
    try:
        return Request(id, digest, _wish(asked, id, plan))
    except _NamesSubscriber as fault:
        return Request(None, b"", Fault(str(fault)))
    except LineFault as fault:
        return Request(id, digest, Fault(str(fault)))


def _wish(asked: dict[str, Any], id: str, plan: NumberingPlan) -> Add | Remove | Renumber:
    op = asked.get("op")
    if not isinstance(op, str) or op not in _FIELDS:
        raise LineFault('"op" must be "add", "remove" or "renumber"')
    check_fields(asked, _FIELDS[op], f'"{op}"')
    mdn = _mdn(asked, "mdn", id, plan.parse if op == "add" else plan.parse_known)
    match op:
        case "add":
            return Add(mdn, _apps(asked))
        case "renumber":
            return Renumber(mdn, _mdn(asked, "to", id, plan.parse))
    if "all" not in asked:
        return Remove(mdn, _apps(asked))
    if asked["all"] is not True or "apps" in asked:
        raise LineFault('write either "apps" or "all": true')
    return Remove(mdn, None)


def _mdn(asked: dict[str, Any], name: str, id: str, canonical: Canonical) -> str:
    mdn = read_mdn(asked, name, canonical)
    digits = re.sub("[^0-9]", "", id)  # however a number in it is written
    if len(mdn) >= 10 and mdn[3:] in digits:  # a country code has at most three digits
        raise _NamesSubscriber(f'"id" has the number of "{name}" in it; IDs are kept, take one that names nobody')
    return mdn


def _apps(asked: dict[str, Any]) -> tuple[str, ...]:
    apps = asked.get("apps")
    if not isinstance(apps, list) or not 1 <= len(apps) <= APPS_MAX:
        raise LineFault(f'"apps" must be a list of 1 to {APPS_MAX} app IDs, such as ["meter"]')
    if not all(isinstance(app, str) and is_app_id(app) for app in apps):
        raise LineFault(f"{APP_ID_RULE}, in quotes")
    return tuple(dict.fromkeys(apps))
