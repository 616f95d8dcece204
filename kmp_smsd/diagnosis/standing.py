"""How it stands with a number, and what to do now."""

from __future__ import annotations

from collections.abc import Iterator

from kmp_smsd.diagnosis import lacking
from kmp_smsd.diagnosis.number import Number, Row
from kmp_smsd.domain.counted import counted


def standing(number: Number) -> list[str]:
    """The present state, one sentence for each thing."""
    return list(_standing(number))


def advice(number: Number) -> list[str]:
    """What to do now, the most urgent first; never empty."""
    return list(dict.fromkeys(_advice(number))) or [_nothing_to_do(number)]


def _standing(number: Number) -> Iterator[str]:
    if number.known is None:
        yield "nothing is known of this number"
        return
    if number.known["erasing_at"] is not None:
        yield "the number is being erased"
    elif not number.registrations:
        yield "it has no registration"
    bound = {row["app_id"]: row for row in number.bound}
    for row in number.registrations:
        binding = bound.get(row["app_id"])
        if binding is None:
            yield f"{row['app_id']}: no key is bound"
        else:
            yield f"{row['app_id']}: key {binding['key_id']} (KCV {binding['kcv']}) is bound"
    for row in number.outbox:
        if row["platform"] or row["key_id"]:  # nothing is wanted at no platform
            yield f"{row['app_id']}: {_delivery(row)}"
    for row in number.waiting:
        yield f"a request with key {row['key_id']} waits, since it was {row['outcome']}"
    for row in number.holds:
        if row["state"] in ("open", "refused"):
            decision = "refused by a person" if row["state"] == "refused" else "waits for a person"
            yield f"hold {row['hold']}, key {row['key_id']} for {row['app_id']}, {decision}: {row['why']}"
    for row in number.replies:
        if row["state"] in ("waiting", "sending"):
            yield f"the reply for key {row['key_id']} is {row['state']}"


def _delivery(row: Row) -> str:
    what = f"key {row['key_id']}" if row["key_id"] else "the withdrawal"
    at = f"platform {row['platform']}"
    version = f"version {row['wanted_version']}"
    if row["wanted_version"] == row["confirmed_version"]:
        return (
            f"{at} has confirmed {what} ({version})" if row["key_id"] else f"{at} has confirmed that it holds nothing"
        )
    error = f": {row['error']}" if row["error"] else ""
    if row["wanted_version"] == row["rejected_version"]:
        return f"{at} rejected {what} ({version}){error}"
    if not row["platform"]:
        return f"{what} waits, since dispatch knows no platform for the app"
    tries = f" after {counted(row['attempts'], 'try', 'tries')}" if row["attempts"] else ""
    return f"{what} ({version}) is not confirmed by {at} yet{tries}{error}"


def _advice(number: Number) -> Iterator[str]:
    mdn = number.mdn
    if number.known is None:
        yield from _unknown(number)
        return
    if number.known["erasing_at"] is not None:
        yield f"nothing; what the erasure waits for is told by: kmp-smsd subscribers erase {mdn}"
        return
    if not number.is_legal:
        yield _outside_the_plan(number)
    if not number.registrations:
        bound_by_itself = "; what waits is decided again by itself then" if number.waiting else ""
        yield f"if it should be served: kmp-smsd registrations add {mdn} APP{bound_by_itself}"
    for row in number.holds:
        yield from _hold(number, row)
    for row in number.waiting:
        yield from lacking.waiting(number, row)
    for row in number.outbox:
        yield from _undelivered(number, row)
    yield from _last_message(number)


def _unknown(number: Number) -> Iterator[str]:
    if not number.is_legal:
        yield _outside_the_plan(number)
        return
    yield (
        f"if it should be served: kmp-smsd registrations add {number.mdn} APP"
        " (it was never registered and no message of it was kept, or it has been erased)"
    )
    yield (
        "if its terminal did send: see with 'kmp-smsd doctor' whether its SMSC is reached, and whether that writes"
        " numbers in another form"
    )


def _outside_the_plan(number: Number) -> str:
    return (
        f"+{number.mdn} is no number of the numbering plan, so its messages end as invalid_mdn and are only counted:"
        " add its range to [numbering]; 'kmp-smsd doctor' shows which ranges are refused"
    )


def _hold(number: Number, row: Row) -> Iterator[str]:
    hold, key, app = row["hold"], row["key_id"], row["app_id"]
    if row["deciding"]:
        yield f"hold {hold} is approved and intake has not decided it yet: is intake running?"
    elif row["state"] == "open":
        yield (
            f"decide hold {hold}: 'kmp-smsd holds approve {hold}' {_what_approval_does(number, row)};"
            f" 'kmp-smsd holds refuse {hold}' refuses it"
        )
    elif lacking.stands(number, row):  # a refusal
        refused = f"key {key} is refused for {app} since a person refused hold {hold}, until"
        if row["key_bound_at_app"] is None and row["here_bound_key_id"] is None:  # only late
            yield f"{refused} late_hours have passed since it was replaced here"
        else:
            yield f"{refused} what stood in its way ends; to admit it, withdraw that: 'kmp-smsd bindings withdraw'"


def _what_approval_does(number: Number, row: Row) -> str:
    """It binds no key that cannot be bound, and ends no binding that is not in the evidence: then it is held again."""
    key, app = row["key_id"], row["app_id"]
    ends, new = [], []
    at = number.keys[key]
    if at["state"] == "suspended":
        return f"binds nothing while key {key} is suspended: 'kmp-smsd keys resume {key}' before"
    if at["valid_until"] is not None and at["valid_until"] <= number.now:
        return f"binds nothing, since key {key} is no longer valid ('kmp-smsd keys show {key}')"
    if at["valid_from"] is not None and number.now < at["valid_from"]:
        return f"binds nothing until key {key} is valid ('kmp-smsd keys show {key}')"
    if at["bound_mdn"] is not None:
        place = f"{at['bound_mdn']} for {at['bound_app']}"
        if (at["bound_mdn"], at["bound_app"], at["bound_at"]) == (
            row["key_bound_at_mdn"],
            row["key_bound_at_app"],
            row["key_bound_since"],
        ):
            ends.append(f"its binding to {place}")
        else:
            new.append(f"key {key} is bound to {place} now")
    for one in number.bound:
        if one["app_id"] == app and one["key_id"] != key:
            if (one["key_id"], one["bound_at"]) == (row["here_bound_key_id"], row["here_bound_since"]):
                ends.append(f"the binding of key {one['key_id']} here")
            else:
                new.append(f"key {one['key_id']} is bound here now")
    if new:
        return f"has it held again with new evidence, since {' and '.join(new)}: approve it once more after that"
    return f"binds key {key} for {app}{' and ends ' if ends else ''}{' and '.join(ends)}"


def _undelivered(number: Number, row: Row) -> Iterator[str]:
    if row["wanted_version"] == row["confirmed_version"]:
        return
    name, app = row["platform"], row["app_id"]
    routed = number.routes.get(app)
    if name and name not in number.configured:
        yield (
            f"platform {name} has no enabled file in platforms.d: put it back or enable it, then 'kmp-smsd reload';"
            f" where it is gone for good: 'kmp-smsd platforms forget {name}'"
        )
    elif row["key_id"] and routed is None:
        yield f"name the app {app} in a file of platforms.d, then 'kmp-smsd reload'"
    elif row["key_id"] and routed != name:
        yield (
            f"the file of platform {routed} names the app {app}, and dispatch has not read it: 'kmp-smsd reload', or"
            " start it"
        )
    elif row["wanted_version"] == row["rejected_version"]:
        yield (
            f"ask the administrator of {name} why it rejected this"
            f"{': ' + row['error'] if row['error'] else ''}; then kmp-smsd outbox retry --mdn {number.mdn}"
        )
    elif number.keys.get(row["key_id"], {}).get("state") == "suspended":
        yield f"key {row['key_id']} is suspended and is not delivered: kmp-smsd keys resume {row['key_id']}"
    elif row["error"] and not number.platforms.get(name, {}).get("last_error"):
        yield (
            f"it is not at platform {name} because of this: {row['error']}; once that is mended, it is delivered by"
            f" itself, at once with 'kmp-smsd outbox retry --platform {name}'"
        )
    elif number.platforms.get(name, {}).get("last_error"):
        yield (
            f"platform {name} does not take it: 'kmp-smsd platforms test {name}' tells why; once it works, it is"
            f" delivered by itself, at once with 'kmp-smsd outbox retry --platform {name}'"
        )
    else:
        yield f"platform {name} has not been tried yet: is dispatch running, and not paused? 'kmp-smsd status' tells"


def _last_message(number: Number) -> Iterator[str]:
    if number.journal:
        yield from lacking.last_message(number)
    elif number.registrations and not number.bindings and not number.holds and not number.waiting:
        told = "no message of it is in the journal" if number.searched.whole else "no message of it was found"
        yield f"{told}: {lacking.SEND_AGAIN}, and see with 'kmp-smsd doctor' whether its SMSC is reached"


def _nothing_to_do(number: Number) -> str:
    if number.bound:
        return "nothing: what is bound is at its platform"
    return "nothing: it is registered, and its terminal's next message is bound"
