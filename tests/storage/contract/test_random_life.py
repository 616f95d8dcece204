"""A store's life at random, beside a model of dictionaries that was written from docs/rules.rst, not from the code."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.reply import ReplyResult, ReplyState, ReplyTo
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow, Postpone, Reject
from kmp_smsd.storage.replying import REDELIVERED_MS
from kmp_smsd.storage.requests import Add, Remove, Renumber, Request
from tests.storage.back_ends import BACK_ENDS, Sqlite
from tests.storage.stock import HOUR, NOW, import_keys, open_holds, register, routes_of, staged, sync
from tests.storage.stock import bound as bound_in
from tests.storage.stock import outbox as outbox_of

MDNS = ("8613900000001", "8613900000002", "8613900000003")
KEYS = ("k1", "k2", "k3", "reserved", "s1", "s2")
APPS = ("meter", "tracker")
PLATFORMS = ("one", "two")

names = itertools.count()
mdns, keys, apps = st.sampled_from(MDNS), st.sampled_from(KEYS), st.sampled_from(APPS)
ages = st.sampled_from([0, 0, 0, 1, HOUR, 80 * HOUR])
reports = st.tuples(mdns, keys, st.none() | apps, ages, st.booleans())  # the last: its link replies
DAY = 24 * HOUR
REPLIES_A_DAY, REPLY_EXPIRES_S = 3, 7_200


def way_back(mdn: str) -> ReplyTo:
    return ReplyTo(1, 1, mdn, 0, 1, "10690001")


class Model:
    """What ought to be: (key, MDN, app) triples and what became of them."""

    def __init__(self, policy: SyncPolicy) -> None:
        self.policy = policy
        self.submissions: dict[int, dict[str, Any]] = {}  # by number, those that intake has not decided yet
        self.answers: dict[int, tuple[str, str]] = {}  # MDN and outcome of those that nobody has asked for yet
        self.keys: dict[str, dict[str, Any]] = {}
        self.registered: set[tuple[str, str]] = set()
        self.bound: dict[str, dict[str, Any]] = {}  # by key
        self.superseded: dict[tuple[str, str, str], int] = {}
        self.holds: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.waiting: dict[tuple[str, str], dict[str, Any]] = {}  # by MDN and key
        self.arrived: set[str] = set()  # keys of imports that intake has not looked at yet
        self.remembered: list[tuple[Request, dict[str, Any]]] = []  # of the business system, with their results
        self.erasing: set[str] = set()
        self.forgotten: set[str] = set()  # platforms that no app was routed to since
        self.counts: Counter[str] = Counter()
        self.bindings = 0
        self.replies: dict[tuple[str, str], dict[str, Any]] = {}  # by MDN and app, those that wait
        # MDN, time, app and key of those that left, and were not certainly not taken
        self.sent: list[tuple[str, int, str, str]] = []

    def message(
        self,
        key: str,
        mdn: str,
        named: str | None,
        received_at: int,
        now: int,
        *,
        approval: bool = False,
        waited: bool = False,
        reply: bool = False,
        link: str = "north",
    ) -> str:
        outcome, triple = self._row_5_to_10(key, mdn, named)
        if outcome is None:
            assert triple is not None
            outcome = self._row_11_to_13(
                triple, received_at, now, approval and self.holds.get(triple, {}).get("approved"), link
            )
        something_misses = outcome in ("unknown_key", "key_not_usable", "app_not_registered", "app_required") or (
            outcome == "not_registered" and key in self.keys and mdn not in self.erasing
        )
        if not something_misses:
            self.waiting.pop((mdn, key), None)
        elif not approval and received_at >= self.waiting.get((mdn, key), {"received_at": 0})["received_at"]:
            self.waiting[mdn, key] = {
                "named": named, "received_at": received_at, "for": outcome, "marked": False, "reply": reply,
                "link": link,
            }  # fmt: skip
        if outcome == "held":
            assert triple is not None
            self.holds[triple].update(reply=reply, link=link)
        if reply and outcome in ("bound", "moved", "already_bound"):
            app = self.bound[key]["app"]
            if outcome != "already_bound" or not self.was_told(mdn, app, key, now):
                self.want_reply(mdn, app, key, now)
        if not (waited and something_misses):
            self.counts[outcome] += 1
        return outcome

    def want_reply(self, mdn: str, app: str, key: str, now: int) -> None:
        others = sum(1 for number, other in self.replies if number == mdn and other != app)
        if others + sum(1 for number, at, *_ in self.sent if number == mdn and at > now - DAY) < REPLIES_A_DAY:
            self.replies[mdn, app] = {"key": key, "expires_at": now + REPLY_EXPIRES_S * 1000}

    def was_told(self, mdn: str, app: str, key: str, now: int) -> bool:
        """Just now: the SMSC may send the same message once more."""
        return any(one[0] == mdn and one[1] > now - REDELIVERED_MS and one[2:] == (app, key) for one in self.sent)

    def expire_replies(self, now: int) -> None:
        for place in [place for place, one in self.replies.items() if one["expires_at"] <= now]:
            del self.replies[place]

    def wake_or_forget(self, mdn: str) -> None:
        """Who gets a number that nobody is registered with may be somebody else."""
        if any(number == mdn for number, _ in self.registered):
            self.wake(mdn=mdn)
        else:
            self.waiting = {place: one for place, one in self.waiting.items() if place[0] != mdn}
            self.give_up_submissions(mdn)

    def give_up_submissions(self, mdn: str) -> None:
        """What was handed in under a number that is given up is answered, and never decided."""
        for number in [number for number, one in self.submissions.items() if one["mdn"] == mdn]:
            del self.submissions[number]
            self.answers[number] = mdn, "not_registered"

    def wake(self, *, mdn: str | None = None, key: str | None = None) -> None:
        for (number, reported), one in self.waiting.items():
            if number == mdn or reported == key:
                one["marked"] = True

    def marked(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What intake is to decide again, in its order."""
        for (_, key), one in self.waiting.items():
            if self.arrived and one["for"] == "unknown_key" and key in self.keys:
                one["marked"] = True
        self.arrived.clear()
        found = [(mdn, key, one) for (mdn, key), one in self.waiting.items() if one["marked"]]
        return sorted(found, key=lambda one: one[2]["received_at"])

    def _row_5_to_10(self, key: str, mdn: str, named: str | None) -> tuple[str | None, Any]:
        candidates = {app for number, app in self.registered if number == mdn}
        if not candidates:
            return "not_registered", None
        if key not in self.keys:
            return "unknown_key", None
        known, stands = self.keys[key], self.bound.get(key)
        if known["state"] != "live":
            return "key_not_usable", None
        here = stands is not None and stands["mdn"] == mdn
        if named is not None:
            candidates &= {named}
        if known["app"] is not None:
            candidates &= {known["app"]}
        if named is None and here:
            candidates &= {stands["app"]}  # type: ignore[index]
        if not candidates:
            return "app_not_registered", None
        terminal = [
            one
            for one in self.keys.values()
            if one["serial"] is not None and one["serial"] == known["serial"] and one["state"] in ("live", "suspended")
        ]
        if len(candidates) > 1 or (named is None and known["app"] is None and not here and len(terminal) > 1):
            return "app_required", None
        (app,) = candidates
        if here and stands["app"] == app:  # type: ignore[index]
            return "already_bound", None
        return None, (key, mdn, app)

    def _row_11_to_13(self, triple: tuple[str, str, str], received_at: int, now: int, approved: bool, link: str) -> str:
        key, mdn, app = triple
        policy = self.policy.gateways.get(link, self.policy)
        elsewhere = self.bound.get(key)
        occupant = next((one for one in self.bound.values() if (one["mdn"], one["app"]) == (mdn, app)), None)
        in_the_way = [one for one in (elsewhere, occupant) if one is not None]
        asked: list[OnConflict] = []
        gone = self.superseded.get(triple)
        if approved and {one["number"] for one in in_the_way} <= self.holds[triple]["evidence"]:
            pass
        elif (gone is not None and received_at < gone + policy.late_hours * HOUR) or any(
            one["received_at"] > received_at for one in in_the_way
        ):
            asked = [policy.on_late]
        else:
            asked += [policy.on_sim_change] if elsewhere else []
            asked += [policy.on_terminal_change] if occupant else []
        hold = self.holds.get(triple)
        if asked and hold is not None and hold["state"] == "refused" and hold["evidence"] <= self._standing():
            return "refused"
        for verdict in (OnConflict.REFUSED, OnConflict.HELD):
            if verdict in asked:
                if verdict is OnConflict.HELD:
                    evidence = {one["number"] for one in in_the_way}
                    kept = hold is not None and hold["state"] == "open" and hold["approved"]
                    kept = kept and hold is not None and hold["evidence"] == evidence
                    self.holds[triple] = {"state": "open", "approved": kept, "evidence": evidence}
                return str(verdict)
        for one in in_the_way:
            self.superseded[one["key"], one["mdn"], one["app"]] = now
            self.bound.pop(one["key"], None)
        self.bindings += 1
        self.bound[key] = {"key": key, "mdn": mdn, "app": app, "received_at": received_at, "number": self.bindings}
        self.holds.pop(triple, None)
        return "moved" if in_the_way else "bound"

    def _standing(self) -> set[int]:
        return {one["number"] for one in self.bound.values()}

    def end(self, *, key: str | None = None, place: tuple[str, str] | None = None) -> None:
        for one in list(self.bound.values()):
            if one["key"] == key or (one["mdn"], one["app"]) == place:
                del self.bound[one["key"]]
        for triple in [triple for triple in self.holds if triple[0] == key]:
            del self.holds[triple]

    def erase(self, mdn: str) -> None:
        for place in [(number, app) for number, app in self.registered if number == mdn]:
            self.end_registration(place)
        self.registered = {place for place in self.registered if place[0] != mdn}
        self.waiting = {place: one for place, one in self.waiting.items() if place[0] != mdn}
        self.forget_submissions(mdn)
        self.replies = {place: one for place, one in self.replies.items() if place[0] != mdn}
        self.erasing.add(mdn)

    def forget_submissions(self, mdn: str) -> None:
        self.submissions = {number: one for number, one in self.submissions.items() if one["mdn"] != mdn}
        self.answers = {number: one for number, one in self.answers.items() if one[0] != mdn}

    def forget_number(self, mdn: str) -> None:
        """The same digits are somebody else from now on."""
        self.erasing.discard(mdn)
        self.forget_submissions(mdn)
        self.superseded = {triple: at for triple, at in self.superseded.items() if triple[1] != mdn}

    def needs(self, mdn: str) -> bool:
        """Whether something hangs on a number, deliveries apart."""
        return any(
            mdn in numbers
            for numbers in (
                {number for number, _ in self.registered},
                {one["mdn"] for one in self.bound.values()},
                {number for number, _ in self.waiting},
                {one["mdn"] for one in self.submissions.values()},
                {triple[1] for triple in self.holds},
            )
        )

    def end_registration(self, place: tuple[str, str]) -> None:
        self.end(place=place)
        for triple in [triple for triple in self.holds if triple[1:] == place]:
            del self.holds[triple]

    def renumber(self, old: str, new: str) -> dict[str, Any] | None:
        """The result; None where it makes no sense."""
        apps = {app for number, app in self.registered if number == old}
        if old == new or not apps or new in self.erasing or any(number == new for number, _ in self.registered):
            return None
        moved = [one for one in self.bound.values() if one["mdn"] == old]
        for app in apps:
            self.registered.remove((old, app))
            self.registered.add((new, app))
            self.end_registration((old, app))
        for one in moved:
            self.bindings += 1
            self.bound[one["key"]] = {**one, "mdn": new, "number": self.bindings}
        for (number, key), one in list(self.waiting.items()):
            if number == old:
                del self.waiting[old, key]
                if (new, key) not in self.waiting or self.waiting[new, key]["received_at"] < one["received_at"]:
                    self.waiting[new, key] = {**one, "reply": False}  # the old number is not told
        self.replies = {place: one for place, one in self.replies.items() if place[0] != old}
        self.give_up_submissions(old)
        self.wake(mdn=new)
        return {"registrations": len(apps), "bindings": len(moved)}


class Life(RuleBasedStateMachine):
    def __init__(self, back_end: type[Sqlite]) -> None:
        super().__init__()
        self.back_end = back_end

    @initialize(
        sim=st.sampled_from(OnConflict),
        terminal=st.sampled_from(OnConflict),
        late=st.sampled_from([OnConflict.HELD, OnConflict.REFUSED]),
        one_store=st.booleans(),
        gateway=st.sampled_from(OnConflict),
    )
    def begin(
        self, sim: OnConflict, terminal: OnConflict, late: OnConflict, one_store: bool, gateway: OnConflict
    ) -> None:
        self.ended = ExitStack()
        self.ended.enter_context(self.back_end.small_steps())
        directory = self.ended.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        self.databases = self.back_end(Path(directory))
        self.policy = SyncPolicy(
            on_sim_change=sim,
            on_terminal_change=terminal,
            on_late=late,
            reply_expire_s=REPLY_EXPIRES_S,
            mdn_replies_a_day=REPLIES_A_DAY,
            gateways={"data": SyncPolicy(on_sim_change=gateway, on_terminal_change=terminal, late_hours=1)},
        )
        self.store = self.databases.open(self.policy)
        self.model = Model(self.policy)
        self.now = NOW
        self.received: set[int] = set()
        self.flying: list[tuple[str, OutboxRow]] = []
        self.platforms: dict[str, dict[tuple[str, str], tuple[int, str | None]]] = {name: {} for name in PLATFORMS}
        if one_store:  # two names lead to it
            self.platforms = dict.fromkeys(PLATFORMS, self.platforms["one"])
        self.highest: dict[tuple[str, str], int] = {}
        self.saved: tuple[str, Model] | None = None
        self.restored = False
        self.keeps_forgotten = False  # a receiver was forgotten under one of its names: it keeps what it was not told
        self.leaving: dict[int, tuple[str, str, str, int]] = {}  # replies without an answer: MDN, app, key, when
        self.left: Counter[int] = Counter()  # how often each reply left, but for those that were not taken

    @rule(hours=st.sampled_from([0, 0, 1, 20, 80]))
    def time_goes_by(self, hours: int) -> None:
        self.now += hours * HOUR + 1

    @rule(key=keys)
    def import_key(self, key: str) -> None:
        if key not in self.model.keys:
            app = "tracker" if key == "reserved" else None
            serial = "7" if key in ("s1", "s2") else None
            import_keys(self.store, staged(key, app_id=app, serial=serial))
            self.model.keys[key] = {"state": "live", "app": app, "serial": serial}
            self.model.arrived.add(key)

    @rule(mdn=mdns, app=apps)
    def add_registration(self, mdn: str, app: str) -> None:
        if mdn in self.model.erasing:
            with pytest.raises(NotPossible, match="is being erased"):
                register(self.store, mdn, app, now=self.now)
            return
        register(self.store, mdn, app, now=self.now)
        self.model.registered.add((mdn, app))
        self.model.wake(mdn=mdn)

    @rule(mdn=mdns, app=apps)
    def remove_registration(self, mdn: str, app: str) -> None:
        removed = self.store.registrations.remove(mdn, [app], self.now)
        assert removed == ([app] if (mdn, app) in self.model.registered else [])
        if removed:
            self.model.registered.discard((mdn, app))
            self.model.end_registration((mdn, app))
            self.model.wake_or_forget(mdn)

    @rule(mdn=mdns, wanted=st.lists(apps, min_size=1, unique=True).map(tuple))
    def business_system_adds(self, mdn: str, wanted: tuple[str, ...]) -> None:
        if mdn in self.model.erasing:
            self.ask(Add(mdn, wanted), None)
            return
        new = {(mdn, app) for app in wanted} - self.model.registered
        self.model.registered |= new
        self.model.wake(mdn=mdn)
        self.ask(Add(mdn, wanted), {"added": len(new), "unchanged": len(wanted) - len(new)})

    @rule(mdn=mdns)
    def business_system_removes_all(self, mdn: str) -> None:
        places = {place for place in self.model.registered if place[0] == mdn}
        ended = len(places & self.places().keys())
        self.model.registered -= places
        for place in places:
            self.model.end_registration(place)
        if places:
            self.model.wake_or_forget(mdn)
        self.ask(Remove(mdn, None), {"removed": len(places), "unchanged": 0, "bindings": ended})

    @rule(old=mdns, new=mdns)
    def business_system_renumbers(self, old: str, new: str) -> None:
        self.ask(Renumber(old, new), self.model.renumber(old, new))

    @rule(numbers=st.permutations(MDNS), key=keys, app=apps, waiting=keys)
    def terminal_is_bound_and_gets_another_number(self, numbers: list[str], key: str, app: str, waiting: str) -> None:
        """What takes many steps to come about by chance."""
        old, new, _ = numbers
        self.import_key(key)
        self.add_registration(old, app)
        self.messages_arrive([(old, key, app, 0, True), (old, waiting, None, 0, True), (new, waiting, None, 1, True)])
        self.business_system_removes_all(new)
        self.business_system_renumbers(old, new)

    def ask(self, wish: Add | Remove | Renumber, expected: dict[str, Any] | None) -> None:
        """For what is done with `expected`, or refused."""
        request = Request(f"request-{next(names)}", repr(wish).encode(), wish)
        (result,) = self.store.requests.apply([request], self.now)
        self.model.remembered.append((request, dict(result)))
        assert (result.pop("reason", None) is None) == (expected is not None)
        assert result == {"result": "refused" if expected is None else "done", **(expected or {})}

    @rule(data=st.data())
    def business_system_asks_again(self, data: st.DataObject) -> None:
        if self.model.remembered:
            request, result = data.draw(st.sampled_from(self.model.remembered))
            another = Request(request.id, b"another", request.wish)
            assert self.store.requests.apply([request], self.now) == [result]
            assert self.store.requests.apply([another], self.now)[0]["result"] == "error"

    @rule(batch=st.lists(reports, min_size=1, max_size=6))
    def messages_arrive(self, batch: list[tuple[str, str, str | None, int, bool]]) -> None:
        self.now += 1
        timed = [(*report, self.first_free(self.now - report[3])) for report in batch]
        asked = [
            replace(sync(mdn, key, app, received_at=at), reply_to=way_back(mdn) if reply else None)
            for mdn, key, app, _, reply, at in timed
        ]
        expected = [
            self.model.message(key, mdn, app, at, self.now, reply=reply) for mdn, key, app, _, reply, at in timed
        ]
        assert self.store.settle(asked, self.now) == expected

    def first_free(self, instant: int) -> int:
        """No two messages at one instant, so that their order is known."""
        while instant in self.received:
            instant -= 1
        self.received.add(instant)
        return instant

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), approve=st.booleans())
    def person_decides_a_hold(self, data: st.DataObject, approve: bool) -> None:
        found = open_holds(self.store)
        if found:
            hold = data.draw(st.sampled_from(found))
            triple = hold["key_id"], hold["mdn"], hold["app_id"]
            if approve:
                self.store.holds.approve(hold["hold"], "adam")
                self.model.holds[triple]["approved"] = True
            else:
                self.store.holds.refuse(hold["hold"], "eve", self.now)
                self.model.holds[triple].update(state="refused", approved=False)

    @rule()
    def intake_decides_again(self) -> None:
        self.now += 1
        expected = []
        waiters = [(mdn, key, dict(one)) for mdn, key, one in self.model.marked()]
        for hold in [hold for hold in open_holds(self.store) if hold["deciding"]]:
            triple = hold["key_id"], hold["mdn"], hold["app_id"]
            said = {name: self.model.holds[triple][name] for name in ("reply", "link")}
            expected.append(self.model.message(*triple, hold["received_at"], self.now, approval=True, **said))
            if triple in self.model.holds:
                self.model.holds[triple]["approved"] = False
        for mdn, key, one in waiters:
            said = {name: one[name] for name in ("reply", "link")}
            expected.append(
                self.model.message(key, mdn, one["named"], one["received_at"], self.now, waited=True, **said)
            )
        for number, one in list(self.model.submissions.items()):
            if one["link"] == "data":  # nobody knows the policy of another
                outcome = self.model.message(now=self.now, **one)
                expected.append(outcome)
                self.model.answers[number] = one["mdn"], outcome
                del self.model.submissions[number]
        outcomes = self.store.settle_again(self.now)
        while self.store.waiting.recalling:
            assert outcomes == []
            outcomes = self.store.settle_again(self.now)
        assert outcomes == expected

    @rule(batch=st.lists(reports, min_size=1, max_size=3), link=st.sampled_from(["data", "data", "other"]))
    def gateway_submits(self, batch: list[tuple[str, str, str | None, int, bool]], link: str) -> None:
        """A request is kept until intake decides it, by the policy of its gateway; no terminal is told."""
        self.now += 1
        timed = [(mdn, key, app, self.first_free(self.now - age)) for mdn, key, app, age, _ in batch]
        asked = [sync(mdn, key, app, received_at=at, link=link) for mdn, key, app, at in timed]
        for number, (mdn, key, app, at) in zip(self.store.submissions.submit(asked, self.now), timed, strict=True):
            self.model.submissions[number] = {"mdn": mdn, "key": key, "named": app, "received_at": at, "link": link}

    @rule(numbers=st.permutations(MDNS), key=keys, app=apps)
    def gateway_submits_a_bound_key(self, numbers: list[str], key: str, app: str) -> None:
        """What takes many steps to come about by chance."""
        for mdn in numbers[:2]:
            self.add_registration(mdn, app)
        self.terminal_is_put_into_service(numbers[0], key, app)
        self.gateway_submits([(numbers[1], key, app, 0, False)], "data")
        self.intake_decides_again()

    @rule()
    def gateway_is_answered(self) -> None:
        """Once; what is not decided yet is not forgotten."""
        expected = {number: outcome for number, (_, outcome) in self.model.answers.items()}
        numbers = [*expected, *self.model.submissions]
        assert {number: one.outcome for number, one in self.store.submissions.answers(numbers).items()} == expected
        self.store.submissions.forget(numbers)
        assert self.store.submissions.answers(numbers) == {}
        self.model.answers = {}

    @rule(limit=st.integers(1, 5))
    def intake_sends_replies(self, limit: int) -> None:
        """Each once its platform has what is wanted there, and that is the key that was reported."""
        confirmed = {
            (row["mdn"], row["app_id"]): (row["platform"], row["key_id"], row["confirmed_version"])
            for row in outbox_of(self.store)
            if row["key_id"] is not None and row["confirmed_version"] == row["wanted_version"]
        }
        replies = self.model.replies
        self.model.expire_replies(self.now)
        due = {place for place, one in replies.items() if confirmed.get(place, (None, None))[1] == one["key"]}
        taken = self.store.replies.exchange([], {"north": limit, "south": limit}, self.now)
        assert len(taken) == min(limit, len(due))
        for one in taken:
            mdn, app = place = one.to.terminal, one.app_id
            assert place in due
            assert one.key_id == replies.pop(place)["key"]
            if not self.restored:
                platform, key, version = confirmed[place]
                held_version, held = self.platforms[platform][place]
                assert held_version >= version
                assert held == key or held_version > version
            self.model.sent.append((mdn, self.now, app, one.key_id))
            self.leaving[one.number] = mdn, app, one.key_id, self.now
            self.left[one.number] += 1
            assert self.left[one.number] == 1

    @precondition(lambda self: self.leaving)
    @rule(data=st.data(), state=st.sampled_from(["waiting", "waiting", "sent", "refused", "unknown"]))
    def reply_is_answered(self, data: st.DataObject, state: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.leaving)))
        mdn, app, key, sent_at = self.leaving.pop(number)
        if state == "waiting":
            self.left[number] -= 1
            self.model.sent.remove((mdn, sent_at, app, key))
            (row,) = [row for row in self.store.replies.listing(limit=1_000) if row["reply"] == number]
            self.model.replies.setdefault((mdn, app), {"key": key, "expires_at": row["expires_at"]})
        self.model.expire_replies(self.now)
        assert self.store.replies.exchange([ReplyResult(number, ReplyState(state))], {}, self.now) == []

    @rule()
    def intake_is_killed_and_starts_again(self) -> None:
        self.store.close()
        self.store = self.databases.open(self.policy)
        self.store.replies.recover(self.now)
        self.leaving.clear()

    @rule()
    def intake_sweeps_replies(self) -> None:
        self.store.replies.sweep(self.now)
        self.store.replies.expire(self.now - DAY)
        for number in [number for number, one in self.leaving.items() if one[3] < self.now - HOUR]:
            del self.leaving[number]

    @rule(key=keys, wish=st.sampled_from(["suspend", "resume", "deactivate", "compromise", "destroy"]))
    def person_changes_a_key(self, key: str, wish: str) -> None:
        now = self.now
        known = self.model.keys.get(key, {"state": "none"})
        may, becomes = {
            "suspend": (["live"], "suspended"),
            "resume": (["suspended"], "live"),
            "deactivate": (["live", "suspended"], "deactivated"),
            "compromise": (["live", "suspended", "deactivated"], "compromised"),
            "destroy": (["live", "suspended", "deactivated", "compromised"], "destroyed"),
        }[wish]
        try:
            if wish == "suspend":
                self.store.keys.suspend(key, None)
            elif wish == "resume":
                self.store.keys.resume(key, now)
                self.model.wake(key=key)
            elif wish == "destroy":
                self.store.keys.destroy(key, now)
                assert key not in self.model.bound
                if not self.restored and not self.keeps_forgotten:
                    assert key not in [held for held_at in self.platforms.values() for _, held in held_at.values()]
            else:
                self.store.keys.revoke(key, None, now, compromised=wish == "compromise")
        except NotPossible:
            assert known["state"] not in may or wish == "destroy"
            return
        assert known["state"] in may
        known["state"] = becomes
        if wish in ("deactivate", "compromise", "destroy"):
            self.model.end(key=key)

    @rule(mdn=mdns, app=apps)
    def person_withdraws(self, mdn: str, app: str) -> None:
        try:
            self.store.bindings.withdraw(mdn, app, self.now)
        except NotPossible:
            assert (mdn, app) not in self.places()
        else:
            self.model.waiting.pop((mdn, self.places()[mdn, app]), None)
            self.model.end(place=(mdn, app))

    @rule(
        mdn=mdns,
        key=keys,
        app=apps,
        platform=st.sampled_from(PLATFORMS),
        delivered=st.booleans(),
        end=st.sampled_from(
            ["erased", "erased", "at once", "forgotten", "moves", "withdrawn", "both forgotten", "steps"]
        ),
    )
    def number_lives(self, mdn: str, key: str, app: str, platform: str, delivered: bool, end: str) -> None:
        """What the steps below seldom come to by themselves: registered, bound, delivered, and then its end begins."""
        self.import_key(key)
        self.add_registration(mdn, app)
        self.app_changes_platform(app, platform, None)
        self.messages_arrive([(mdn, key, app, 0, False)])
        if delivered:
            rows = self.store.outbox.due(platform, self.now, 10)
            self.store.outbox.settle(platform, [self.deliver(platform, row) for row in rows], self.now)
        other = PLATFORMS[platform == PLATFORMS[0]]
        if end == "forgotten":
            self.platforms_are_forgotten({platform}, None)
        elif end == "moves":
            self.app_changes_platform(app, other, 1)
        elif end in ("withdrawn", "both forgotten"):
            self.app_changes_platform(app, other, None)
            self.person_withdraws(mdn, app)
            self.platforms_are_forgotten({other} if end == "withdrawn" else set(PLATFORMS), None)
        elif end != "steps":
            self.person_erases(mdn, end == "at once")

    @rule(mdn=mdns, at_once=st.sampled_from([False, False, True]))
    def person_erases(self, mdn: str, at_once: bool) -> None:
        known = self.store.erasing.show(mdn) is not None
        erased = self.store.erasing.erase(mdn, self.now, at_once=at_once)
        assert erased.known == known
        if not known:
            assert not self.model.needs(mdn)
            return
        self.model.erase(mdn)
        self.replies_go(mdn)
        assert erased.blanked == (at_once or not erased.unconfirmed)
        if erased.blanked:
            self.number_goes(mdn)

    @precondition(lambda self: self.model.erasing)
    @rule()
    def dispatch_finishes_erasing(self) -> None:
        due = {row["mdn"] for row in outbox_of(self.store) if row["wanted_version"] != row["confirmed_version"]}
        for _ in range(4):
            self.store.erasing.finish()
        for mdn in self.model.erasing - due:
            self.number_goes(mdn)
        assert all(self.store.erasing.show(mdn) is not None for mdn in self.model.erasing)

    @rule()
    def intake_keeps_house(self) -> None:
        """Everybody was heard of long ago; whoever is needed stays."""
        due = {row["mdn"] for row in outbox_of(self.store) if row["wanted_version"] != row["confirmed_version"]}
        for _ in range(60):
            self.store.erasing.sweep(self.now + 1)
        for mdn in MDNS:
            if self.model.needs(mdn) or mdn in due:
                assert not self.model.needs(mdn) or self.store.erasing.show(mdn) is not None
            else:
                assert self.store.erasing.show(mdn) is None
                self.number_goes(mdn)

    def replies_go(self, mdn: str) -> None:
        self.model.replies = {place: one for place, one in self.model.replies.items() if place[0] != mdn}
        self.model.sent = [one for one in self.model.sent if one[0] != mdn]
        self.leaving = {number: one for number, one in self.leaving.items() if one[0] != mdn}

    def number_goes(self, mdn: str) -> None:
        """A platform that was not told keeps what it has; what it holds is the old subscriber's."""
        self.model.forget_number(mdn)
        self.replies_go(mdn)
        self.highest = {place: version for place, version in self.highest.items() if place[0] != mdn}
        for held in self.platforms.values():
            for place in [place for place in held if place[0] == mdn]:
                del held[place]
        self.flying = [(platform, row) for platform, row in self.flying if row.mdn != mdn]

    @rule(platforms=st.sets(st.sampled_from(PLATFORMS), min_size=1), steps=st.none() | st.integers(0, 6))
    def platforms_are_forgotten(self, platforms: set[str], steps: int | None) -> None:
        """They are told no more; under their names there may be others later, which hold nothing.

        To those that stay nothing is to be told on account of that.
        """
        moving, before = self.store.routes.set({}), self.rows_at(set(PLATFORMS) - platforms)
        forgetting = self.store.routes.forget(sorted(platforms), self.now)
        for _ in forgetting if steps is None else zip(range(steps), forgetting, strict=False):
            pass
        forgetting.close()
        assert moving or self.rows_at(set(PLATFORMS) - platforms) == before
        if steps is None:
            self.model.forgotten |= platforms
        for platform in platforms:
            if not self.rows_at({platform}):
                if self.platforms["one"] is not self.platforms["two"]:
                    self.platforms[platform].clear()
                else:
                    self.keeps_forgotten = True
                self.flying = [(name, row) for name, row in self.flying if name != platform]

    def rows_at(self, platforms: set[str]) -> list[dict[str, Any]]:
        return [row for row in outbox_of(self.store) if row["platform"] in platforms]

    @rule(app=apps, platform=st.sampled_from(PLATFORMS), steps=st.none() | st.integers(0, 4))
    def app_changes_platform(self, app: str, platform: str, steps: int | None) -> None:
        self.store.routes.set({app: platform})
        self.model.forgotten.discard(platform)
        moving = self.store.routes.move(self.now)
        for _ in moving if steps is None else zip(range(steps), moving, strict=False):
            pass
        moving.close()

    @rule(platform=st.sampled_from(PLATFORMS), limit=st.integers(1, 4))
    def dispatch_takes_rows(self, platform: str, limit: int) -> None:
        self.flying += [(platform, row) for row in self.store.outbox.due(platform, self.now, limit)]

    @rule(app=apps)
    def dispatch_catches_up(self, app: str) -> None:
        """Everything at once, so that what comes after a receipt is reached more often."""
        if app not in routes_of(self.store):
            self.app_changes_platform(app, PLATFORMS[0], None)
        for platform in PLATFORMS:
            rows = self.store.outbox.due(platform, self.now, 1_000)
            self.store.outbox.settle(platform, [self.deliver(platform, row) for row in rows], self.now)

    @rule(mdn=mdns, key=keys, app=apps)
    def terminal_is_put_into_service(self, mdn: str, key: str, app: str) -> None:
        self.import_key(key)
        self.add_registration(mdn, app)
        self.messages_arrive([(mdn, key, app, 0, True)])

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(), what=st.sampled_from(["deliver", "deliver", "deliver", "lose the answer", "postpone", "reject"])
    )
    def delivery_ends(self, data: st.DataObject, what: str) -> None:
        """In any order and however late."""
        platform, row = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        settlement: Any
        if what == "postpone":
            settlement = Postpone(row, self.now + HOUR, "busy")
        elif what == "reject":
            settlement = Reject(row, self.now, "no")
        else:
            settlement = self.deliver(platform, row)
        if what != "lose the answer":
            self.store.outbox.settle(platform, [settlement], self.now)

    def deliver(self, platform: str, row: OutboxRow) -> Confirm | Outbid:
        """What an honest platform does (docs/platform-protocol.rst)."""
        place, key = (row.mdn, row.app_id), row.key.key_id if row.key is not None else None
        version, held = self.platforms[platform].get(place, (0, None))
        if row.version < version:
            return Outbid(row, version, self.now, "holds more")
        assert row.version > version or key == held, "one version with two contents"
        self.platforms[platform][place] = row.version, key
        return Confirm(row)

    @rule()
    def person_retries(self) -> None:
        self.store.renewing.retry(self.now)

    @rule(platform=st.sampled_from(PLATFORMS))
    def platform_is_synchronised_again(self, platform: str) -> None:
        self.store.renewing.want_again(self.now, platform=platform)

    @rule()
    def person_backs_up(self) -> None:
        name = f"copy-{next(names)}"
        self.databases.back_up(name)
        self.saved = name, copy.deepcopy(self.model)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def person_restores(self) -> None:
        assert self.saved is not None
        self.now += HOUR
        self.store.close()
        self.databases.restore(self.saved[0], self.now)
        self.store = self.databases.open(self.policy)
        self.model = copy.deepcopy(self.saved[1])
        self.flying.clear()
        self.restored = True
        self.model.replies.clear()
        self.leaving.clear()
        self.left.clear()

    def places(self) -> dict[tuple[str, str], str]:
        return {(one["mdn"], one["app"]): key for key, one in self.model.bound.items()}

    @invariant()
    def what_is_bound_is_what_ought_to_be(self) -> None:
        active = self.store.bindings.active(limit=1_000)
        assert bound_in(self.store) == self.places()
        assert len(active) >= len(self.places())
        assert len({one["id"] for one in active}) == len({one["key_id"] for one in active}) == len(self.places())

    @invariant()
    def holds_are_what_they_ought_to_be(self) -> None:
        found = {(one["key_id"], one["mdn"], one["app_id"]): bool(one["deciding"]) for one in open_holds(self.store)}
        expected = {triple: one["approved"] for triple, one in self.model.holds.items() if one["state"] == "open"}
        assert found == expected

    @invariant()
    def waiting_is_what_something_misses_for(self) -> None:
        found = {
            (one["mdn"], one["key_id"]): (one["app_id"], one["outcome"], one["received_at"])
            for one in self.store.waiting.listing(limit=1_000)
        }
        assert found == {
            place: (one["named"], one["for"], one["received_at"]) for place, one in self.model.waiting.items()
        }

    @invariant()
    def replies_are_what_they_ought_to_be(self) -> None:
        listed = self.store.replies.listing(limit=1_000)
        waiting = {
            (one["mdn"], one["app_id"]): {"key": one["key_id"], "expires_at": one["expires_at"]}
            for one in listed
            if one["state"] == "waiting"
        }
        assert waiting == self.model.replies
        assert {one["reply"] for one in listed if one["state"] == "sending"} == set(self.leaving)
        for mdn in MDNS:
            assert (
                sum(1 for number, at, *_ in self.model.sent if number == mdn and at > self.now - DAY) <= REPLIES_A_DAY
            )

    @invariant()
    def every_answered_message_is_counted(self) -> None:
        counted: Counter[str] = Counter()
        for row in self.store.journal.tallies():
            counted[row["outcome"]] += row["count"]
        assert counted == self.model.counts
        journalled = Counter(row["outcome"] for row in self.store.journal.listing(limit=100_000))
        assert all(journalled[outcome] <= counted[outcome] for outcome in journalled)
        assert (journalled["bound"], journalled["moved"]) == (counted["bound"], counted["moved"])
        assert set(journalled) == {outcome for outcome in counted if counted[outcome]}

    @invariant()
    def outbox_wants_exactly_what_is_bound(self) -> None:
        """At one platform each: where its app is routed, or where it was while its app moves."""
        routes = routes_of(self.store)
        moving = set(self.store.routes.set({}))
        wanted: dict[tuple[str, str], list[str]] = {}
        for row in outbox_of(self.store):
            place = row["mdn"], row["app_id"]
            assert row["confirmed_version"] <= row["wanted_version"] >= row["rejected_version"]
            self.highest[place] = max(row["wanted_version"], self.highest.get(place, 0))
            if row["key_id"] is not None:
                wanted.setdefault(place, []).append(row["key_id"])
                assert row["platform"] == routes.get(row["app_id"], "") or row["app_id"] in moving
        assert wanted == {place: [key] for place, key in self.places().items()}

    @invariant()
    def a_wanted_key_has_the_highest_version_of_its_place(self) -> None:
        rows = outbox_of(self.store)
        for row in rows:
            if row["key_id"] is not None:
                place = row["mdn"], row["app_id"]
                assert row["wanted_version"] == max(
                    one["wanted_version"] for one in rows if (one["mdn"], one["app_id"]) == place
                )

    @invariant()
    def nothing_is_kept_at_a_forgotten_platform(self) -> None:
        assert self.rows_at(self.model.forgotten) == []

    @invariant()
    def versions_only_grow(self) -> None:
        now: dict[tuple[str, str], int] = {}
        for row in outbox_of(self.store):
            place = row["mdn"], row["app_id"]
            now[place] = max(row["wanted_version"], now.get(place, 0))
        assert all(version >= self.highest.get(place, 0) for place, version in now.items())

    @invariant()
    def the_database_checks_as_true(self) -> None:
        assert [one for one in self.store.checking.check() if one.count] == []

    def teardown(self) -> None:
        """In the end every platform holds exactly what is wanted there."""
        if not hasattr(self, "store"):
            return
        try:
            sum(self.store.routes.move(self.now))
            self.store.renewing.retry(self.now)
            for _ in range(3):
                for platform in PLATFORMS:
                    rows = self.store.outbox.due(platform, self.now, 1_000)
                    self.store.outbox.settle(platform, [self.deliver(platform, row) for row in rows], self.now)
            rows = [row for row in outbox_of(self.store) if row["platform"]]
            with_key = {(row["mdn"], row["app_id"]): row["key_id"] for row in rows if row["key_id"] is not None}
            for row in rows:
                assert row["confirmed_version"] == row["wanted_version"]
                place = row["mdn"], row["app_id"]
                version, held = self.platforms[row["platform"]][place]
                if row["key_id"] is not None:
                    assert (version, held) == (row["wanted_version"], row["key_id"])
                elif self.platforms["one"] is self.platforms["two"]:
                    assert held == with_key.get(place)
                else:
                    assert (version, held) == (row["wanted_version"], None)
        finally:
            self.store.close()
            self.ended.close()


@pytest.mark.parametrize("back_end", BACK_ENDS.values(), ids=BACK_ENDS)
def test_store_lives_as_its_model_does(back_end: type[Sqlite]) -> None:
    run_state_machine_as_test(partial(Life, back_end), settings=settings(max_examples=40, stateful_step_count=40))
