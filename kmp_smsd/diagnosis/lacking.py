"""What a number's requests still lack: those that wait, and the last message where nothing of it waits."""

from __future__ import annotations

from collections.abc import Iterator

from kmp_smsd.diagnosis.meanings import meaning
from kmp_smsd.diagnosis.number import Number, Row
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage.waking import AT_ONCE

SEND_AGAIN = "let the terminal send again (restart it)"

_BOUND = (Outcome.BOUND, Outcome.MOVED, Outcome.ALREADY_BOUND)


def waiting(number: Number, row: Row) -> Iterator[str]:
    """What a request that waits does; it is decided again by itself once it is there."""
    key, outcome = row["key_id"], Outcome(row["outcome"])
    lacks = None
    if row["again_at"] == AT_ONCE:
        pass
    elif outcome is Outcome.UNKNOWN_KEY:
        lacks = _no_key(number, key, waits=True)
    elif outcome is Outcome.KEY_NOT_USABLE:
        lacks = _unusable(number, key, waits=True)
    elif not number.registrations:
        return  # to register it comes first
    elif outcome is Outcome.APP_NOT_REGISTERED:
        lacks = _no_app(number, key, row["app_id"], waits=True)
    elif outcome is Outcome.APP_REQUIRED:
        lacks = meaning(outcome, "").remedy
    yield lacks or f"the request with key {key} is to be decided again: is intake running?"


def last_message(number: Number) -> Iterator[str]:
    """What helps where the newest message would fail again, and nothing else of the number says so."""
    row = max(number.journal, key=lambda one: one["entry"])
    key, outcome = row["key_id"], Outcome(row["outcome"])
    said = f"its last message was {outcome.value}"
    if key is None:  # it was no sync request
        if remedy := meaning(outcome, "").remedy:
            yield f"{said}: {remedy}"
    elif any(one["key_id"] == key for one in number.waiting) or _is_bound(number, row):
        return
    elif lacks := _no_key(number, key, waits=False) or _unusable(number, key, waits=False):
        yield lacks
    elif outcome in _BOUND:
        at = number.keys[key]
        if at["bound_mdn"] is not None:
            moved = f"key {key} has moved to {at['bound_mdn']} for {at['bound_app']}"
            yield f"nothing, unless its terminal is to come back: {moved}"
    elif outcome in (Outcome.HELD, Outcome.REFUSED) and any(
        hold["key_id"] == key and stands(number, hold) for hold in number.holds
    ):
        return
    elif outcome is Outcome.HELD and row["hold"] is None and all(hold["key_id"] != key for hold in number.holds):
        yield (
            f"its last message was only journalled as held: so many holds of key {key} wait for a person that no"
            " further one is opened; decide those ('kmp-smsd holds list'), then let the terminal send again"
        )
    else:
        yield (_of_outcome(number, row, outcome, said) or f"{said}, and nothing waits for what it lacked: {SEND_AGAIN}")


def stands(number: Number, hold: Row) -> bool:
    """Whether a hold waits for a person, or her refusal still counts: until a binding that she saw has ended."""
    if hold["state"] != "refused":
        return bool(hold["state"] == "open")
    at = number.keys.get(hold["key_id"], {})
    elsewhere = hold["key_bound_at_mdn"], hold["key_bound_at_app"], hold["key_bound_since"]
    if elsewhere != (None, None, None) and elsewhere != (at.get("bound_mdn"), at.get("bound_app"), at.get("bound_at")):
        return False
    here = hold["here_bound_key_id"], hold["app_id"], hold["here_bound_since"]
    return here[0] is None or any((one["key_id"], one["app_id"], one["bound_at"]) == here for one in number.bound)


def _is_bound(number: Number, row: Row) -> bool:
    """Whether the very binding that the message asked for stands, as after a renumbering."""
    named = row["app_id"] or _named(row)
    return any(one["key_id"] == row["key_id"] and named in (None, one["app_id"]) for one in number.bound)


def _of_outcome(number: Number, row: Row, outcome: Outcome, said: str) -> str | None:
    """What is missing beside a key that can be used; None where it is there by now."""
    if outcome is Outcome.APP_NOT_REGISTERED:
        return _no_app(number, row["key_id"], _named(row), waits=False, at=row["at"])
    if outcome is Outcome.APP_REQUIRED:
        if len(number.registrations) > 1:
            return f"{said}: {meaning(outcome, '').remedy}"
        return f"{said}: {SEND_AGAIN}, best with its app: K1:KEY-ID:APP"
    return _refused(number, row, said) if outcome is Outcome.REFUSED else None


def _no_key(number: Number, key: str, *, waits: bool) -> str | None:
    if key in number.keys:
        return None
    then = ": it is bound by itself then" if waits else f", then {SEND_AGAIN}"
    return (
        f"import the key {key} ('kmp-smsd keys import'){then}; if no vendor has it, the terminal sends a wrong key ID"
    )


def _unusable(number: Number, key: str, *, waits: bool) -> str | None:
    """Why a key cannot be bound at this moment, and what helps; None where it can."""
    found = number.keys.get(key, {"state": "gone", "valid_from": None, "valid_until": None})
    state = found["state"]
    if state == "suspended":
        then = " binds it by itself" if waits else f", then {SEND_AGAIN}"
        return f"key {key} is suspended: 'kmp-smsd keys resume {key}'{then}"
    if state != "live":
        return f"key {key} is {state} for good: the terminal needs another key"
    if found["valid_until"] is not None and found["valid_until"] <= number.now:
        return f"key {key} is no longer valid ('kmp-smsd keys show {key}'): the terminal needs another key"
    if found["valid_from"] is not None and number.now < found["valid_from"]:
        then = "its request is decided again by itself" if waits else SEND_AGAIN
        return f"key {key} is not valid yet ('kmp-smsd keys show {key}'): once it is, {then}"
    return None


def _no_app(number: Number, key: str, named: str | None, *, waits: bool, at: int | None = None) -> str | None:
    """Which registration is missing. `named` is the app that the message names, None where that is not known."""
    reserved = number.keys.get(key, {}).get("app_id")
    registered = {row["app_id"]: row["registered_at"] for row in number.registrations}
    # Where the journal does not blame the named app, it was the reserved one that was left out; and where that was
    # registered by then, the message had ruled it out.
    ruled_out = named is None and at is not None and registered.get(reserved, at + 1) <= at
    if reserved is not None and (ruled_out or named not in (None, reserved)):
        return (
            f"key {key} is reserved for {reserved}, and the message names another app: the terminal must name"
            f" {reserved} or none, or needs another key"
        )
    app = named or reserved
    if app is None or app in registered:
        return None
    whose = "the terminal means" if named else f"key {key} is reserved for"
    then = "its request is decided again by itself then" if waits else f"then {SEND_AGAIN}"
    return f"register the app that {whose}: kmp-smsd registrations add {number.mdn} {app}; {then}"


def _named(row: Row) -> str | None:
    """The app that a message named which ended as app_not_registered, where that was missing (see `decide`)."""
    reason, _, app = (row["why"] or "").rpartition(", ")
    return app if reason.endswith("the app named in the message") else None


def _refused(number: Number, row: Row, said: str) -> str | None:
    """By the options on conflicts and late messages; None where nothing is in its way any more."""
    key, app, why = row["key_id"], row["app_id"], row["why"] or ""
    if "superseded here not long ago" in why:
        return (
            f"{said}, since key {key} was replaced here: until late_hours have passed since then, its messages"
            f" count as late; {SEND_AGAIN} after that; {_decided_by_a_person(number, row, 'on_late')}"
        )
    at = number.keys[key]
    in_the_way = []
    if at["bound_mdn"] is not None:
        what = f"key {key} is bound to {at['bound_mdn']} for {at['bound_app']}"
        in_the_way.append((what, f"{at['bound_mdn']} {at['bound_app']}", "on_sim_change"))
    for one in number.bound:
        if one["app_id"] == app:
            what = f"key {one['key_id']} is bound here for {app}"
            in_the_way.append((what, f"{number.mdn} {app}", "on_terminal_change"))
    if not in_the_way:
        return None
    if "older than the binding that stands" in why:
        return f"{said}, since it is older than the binding that stands: {SEND_AGAIN} if it is still in use"
    whats, places, options = zip(*in_the_way, strict=True)
    withdrawn = " and ".join(f"'kmp-smsd bindings withdraw {place}'" for place in places)
    return (
        f"{said}, since {' and '.join(whats)}: if that is to end, {withdrawn}, then {SEND_AGAIN};"
        f" {_decided_by_a_person(number, row, *options)}"
    )


def _decided_by_a_person(number: Number, row: Row, *options: str) -> str:
    section = f"[gateway.{row['link']}]" if row["link"] in number.gateways else "[sync]"
    return f"to have a person decide such, set {section} {' and '.join(options)} to held, then 'kmp-smsd reload'"
