"""What is answered to a GET: an address, and what a role shows there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kmp_smsd.monitoring.exposition import expose
from kmp_smsd.monitoring.open_to_all import masked, open_to_all
from kmp_smsd.monitoring.page import CONTENT_SECURITY_POLICY, page

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Sight:
    """How a role sees itself at one moment. The reasons are sentences; no reason is a yes."""

    snapshot: Mapping[str, Any]
    not_alive: Sequence[str]
    not_ready: Sequence[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def _sentence(status: int, text: str, **headers: str) -> Answer:
    return Answer(text.encode() + b"\n", "text/plain; charset=utf-8", status, headers)


NOT_FOUND = _sentence(404, "Try / or /metrics, /status.json, /healthz, /readyz.")
NOT_ALLOWED = _sentence(405, "Nothing can be changed here: GET only.", Allow="GET, HEAD")
BROKEN = _sentence(500, "This cannot be shown; the log of the service says why.")


def answer(path: str, accept: str, look: Callable[[], Sight], now: int) -> Answer:
    """The answer to a GET of `path` with this Accept header, at `now` (Unix milliseconds)."""
    match path:
        case "/":
            sight = look()
            text = page(open_to_all(sight.snapshot), now, masked(sight.not_alive), masked(sight.not_ready))
            policy = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
            return Answer(text.encode("utf-8", "replace"), "text/html; charset=utf-8", headers=policy)
        case "/metrics":
            content_type, body = expose(look().snapshot, accept)
            return Answer(body, content_type)
        case "/status.json":
            return Answer(_json(open_to_all(look().snapshot)), _JSON)
        case "/healthz":
            return _judged("alive", look().not_alive)
        case "/readyz":
            return _judged("ready", look().not_ready)
    return NOT_FOUND


def _judged(word: str, against: Sequence[str]) -> Answer:
    body = _json({"v": 1, word: not against, "reasons": masked(against)})
    return Answer(body, _JSON, 503 if against else 200)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
