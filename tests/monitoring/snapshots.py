"""Two roles on a bad day: something of every colour."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

NOW = 1_795_819_200_000  # Unix ms
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000


def _role(role: str) -> dict[str, Any]:
    return {
        "v": 1,
        "role": role,
        "pid": 4711,
        "version": "0.1.0",
        "started_at": NOW - 3 * DAY - 4 * HOUR,
        "state": "running",
        "configuration": {
            "path": "/etc/kmp-smsd/kmp-smsd.toml",
            "loaded_at": NOW - 2 * DAY,
            "differs": False,
            "differences": [],
            "faulty": False,
            "last_reload_at": NOW - 2 * DAY,
            "last_reload_ok": True,
            "last_reload_error": None,
            "refusal_stands": False,
            "needs_restart": [],
        },
        "store": {
            "path": "/var/lib/kmp-smsd/kmp-smsd.db",
            "schema": 6,
            "octets": 1_288_490_188,
            "log_octets": 4_194_304,
            "journal_head": 48_213_377,
            "read_at": NOW - 2 * SECOND,
            "last_write_at": NOW - 400,
            "last_write_s": 0.0031,
            "stuck_s": 0.0,
            "silent_s": 1.6,
            "waits_for_others": False,
            "lock_holder": None,
            "error": None,
        },
        "reactor_lag_s": 0.0004,
        "log_levels": {},
        "not_ready": [],
        "degraded": [],
    }


def _link(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "word": "bound as transceiver",
        "bound": True,
        "paused": False,
        "since": NOW - 3 * DAY,
        "peer": "192.0.2.17:2775",
        "last_received_at": NOW - 2 * SECOND,
        "last_sent_at": NOW - 2 * SECOND,
        "last_message_at": NOW - 2 * SECOND,
        "enquire_rtt_s": 0.0123,
        "binds": 1,
        "bind_failures": {},
        "reconnects": 0,
        "messages": 1_048_213,
        "answers": {"ESME_ROK (0x00)": 1_048_017, "ESME_RX_R_APPN (0x66)": 196},
        "rates": {"1m": 41.2, "5m": 38.7, "15m": 40.1},
        "in_flight": 12,
        "in_flight_max": 10_000,
        "throttled": 0,
        "bad_pdus": 0,
        "last_error": "",
        "last_error_at": None,
        "next_try_at": None,
        **changes,
    }


def _platform(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "word": "idle",
        "paused": False,
        "since": NOW - 20 * MINUTE,
        "apps": ["meter"],
        "due": 0,
        "due_more": False,
        "oldest_due_at": None,
        "rejected": 0,
        "rejected_more": False,
        "confirmed": 20_417,
        "rejections": 0,
        "postponed": 0,
        "failures": 3,
        "rates": {"1m": 12.5, "5m": 11.0, "15m": 9.75},
        "push_s": {"count": 20_417, "sum": 812.4},
        "last_success_at": NOW - 3 * SECOND,
        "last_error": None,
        "last_error_at": None,
        "next_try_at": None,
        "certificate_left_s": None,
        **changes,
    }


_INTAKE: dict[str, Any] = {
    **_role("intake"),
    "links": [
        _link("north-a"),
        _link(
            "north-b",
            word="bound as receiver",
            peer="[2001:db8::1234:5678]:2775",
            since=NOW - 7 * MINUTE,
            reconnects=14,
            binds=15,
            bind_failures={"ESME_RALYBND (0x05)": 3, "ESME_RBINDFAIL (0x0D)": 2, "0x00000402": 1, "0x00000403": 1},
            in_flight=7_412,
            throttled=9_312,
            bad_pdus=2,
            answers={"ESME_ROK (0x00)": 1_000_000, "ESME_RX_T_APPN (0x64)": 9_312, "ESME_RX_R_APPN (0x66)": 41},
            last_error="the SMSC closed the connection",
            last_error_at=NOW - 8 * MINUTE,
        ),
        _link("west", word="binding", bound=False, since=NOW - 3 * SECOND, enquire_rtt_s=None, in_flight=0),
        _link("lab", word="stopped", bound=False, paused=True, since=NOW - 5 * HOUR, in_flight=0),
        _link(
            "south",
            word="waiting to reconnect",
            bound=False,
            peer="",
            since=NOW - 41 * MINUTE,
            last_received_at=None,
            last_sent_at=None,
            last_message_at=None,
            enquire_rtt_s=None,
            binds=0,
            bind_failures={"ESME_RINVPASWD (0x0E)": 9, "unanswered": 1},
            reconnects=9,
            messages=0,
            answers={},
            rates={"1m": 0.0, "5m": 0.0, "15m": 0.0},
            in_flight=0,
            last_error="the SMSC refuses our bind: ESME_RINVPASWD (0x0E)",
            last_error_at=NOW - MINUTE,
            next_try_at=NOW + 20 * SECOND,
        ),
    ],
    "unsettled": 37,
    "outcomes": {"bound": 731_022, "already_bound": 311_409, "not_registered": 4_117, "held": 12, "malformed": 196},
}
_DISPATCH: dict[str, Any] = {
    **_role("dispatch"),
    "platforms": [
        _platform(
            "metering", word="delivering", due=214, oldest_due_at=NOW - 4 * SECOND, apps=["meter", "meter-backup"]
        ),
        _platform("payment", apps=["pay"], certificate_left_s=200 * 86_400.0),
        _platform(
            "tracking",
            word="waiting",
            apps=["track", "track-eu", "fleet", "fleet-eu"],
            due=100_000,
            due_more=True,
            oldest_due_at=NOW - 26 * HOUR,
            failures=812,
            last_success_at=NOW - 26 * HOUR,
            last_error="keys-a.example:22: connection refused; keys-b.example:22: the host key is not the pinned one",
            last_error_at=NOW - 48 * SECOND,
            next_try_at=NOW + 72 * SECOND,
        ),
        _platform(
            "vending",
            word="held back after rejections",
            apps=["vend"],
            due=40,
            oldest_due_at=NOW - 2 * HOUR,
            rejected=20,
            rejections=21,
            postponed=5,
            last_error="rejected: no subscriber 8613912345678",
            last_error_at=NOW - 6 * MINUTE,
            next_try_at=NOW + 4 * MINUTE,
        ),
        _platform("parking", word="paused", paused=True, due=17, oldest_due_at=NOW - HOUR, apps=["park"]),
        _platform(
            "old-vendor", word="draining", apps=["legacy"], confirmed=0, failures=0, last_success_at=None,
            push_s={"count": 0, "sum": 0.0}, rates={"1m": 0.0, "5m": 0.0, "15m": 0.0},
        ),
    ],
}  # fmt: skip


def intake(**changes: Any) -> dict[str, Any]:
    """An intake of five links: bound, bound but busy, binding, paused, refused."""
    return {**deepcopy(_INTAKE), **changes}


def dispatch(**changes: Any) -> dict[str, Any]:
    """A dispatch of six platforms, one in each state."""
    return {**deepcopy(_DISPATCH), **changes}
