from __future__ import annotations

from dataclasses import replace

import pytest

from kmp_smsd.domain.shown import NO_PLATFORM
from kmp_smsd.service.health import alive_in, degraded, ready
from kmp_smsd.service.status import (
    ConfigurationStatus,
    LinkStatus,
    PlatformStatus,
    PlatformWord,
    Snapshot,
    State,
    StoreStatus,
)

NORTH = LinkStatus(
    name="north", word="bound as receiver", bound=True, paused=False, since=0, peer="h:1", last_received_at=None,
    last_sent_at=None, last_message_at=None, enquire_rtt_s=None, binds=1, bind_failures={}, reconnects=0, messages=0,
    answers={}, rates={}, in_flight=0, in_flight_max=10, throttled=0, bad_pdus=0, last_error="", last_error_at=None,
    next_try_at=None,
)  # fmt: skip
SOUTH = replace(NORTH, name="south", word="waiting to reconnect", bound=False, last_error="no connection")
METERING = PlatformStatus(
    name="metering", word=PlatformWord.IDLE, paused=False, since=0, apps=("meter",), due=0, due_more=False,
    oldest_due_at=None, rejected=0, rejected_more=False, confirmed=0, rejections=0, postponed=0, failures=0,
    rates={}, push_s={}, last_success_at=None, last_error=None, last_error_at=None, next_try_at=None,
)  # fmt: skip
INTAKE = Snapshot(
    role="intake", pid=1, version="1", started_at=0, state=State.RUNNING,
    configuration=ConfigurationStatus(path="f", loaded_at=0), store=StoreStatus(path="db"), reactor_lag_s=0.0,
    links=(NORTH,),
)  # fmt: skip
DISPATCH = replace(INTAKE, role="dispatch", links=(), platforms=(METERING,))


def stored(**changes):
    return replace(INTAKE, store=replace(INTAKE.store, **changes))


@pytest.mark.parametrize("snapshot", [INTAKE, DISPATCH])
def test_what_is_well_lives_is_ready_and_nobody_has_to_look(snapshot):
    assert (alive_in(snapshot), ready(snapshot), degraded(snapshot)) == ((), (), ())


@pytest.mark.parametrize(
    ("well", "ill", "reason"),
    [
        (replace(INTAKE, reactor_lag_s=10), replace(INTAKE, reactor_lag_s=11), "the reactor is 11 s late"),
        (stored(stuck_s=60), stored(stuck_s=61), "a thread of the store has been stuck for 61 s"),
        (stored(silent_s=120), stored(silent_s=121), "the store has said nothing for 121 s"),
    ],
)
def test_what_a_restart_may_mend_is_no_life(well, ill, reason):
    assert alive_in(well) == ()
    assert alive_in(ill) == (reason,)


def test_peers_and_a_full_disk_are_no_reason_to_start_anew():
    away = replace(INTAKE, links=(SOUTH,), store=replace(INTAKE.store, error="disk full"))
    assert alive_in(away) == ()
    assert ready(away) == ("the store is unavailable: disk full", "no link is bound")


def test_write_lock_of_another_process_is_no_reason_to_start_anew_but_none_is_ready_meanwhile():
    store = replace(INTAKE.store, stuck_s=600, silent_s=600, waits_for_others=True, lock_holder="PID 7 (kmp-smsd)")
    for role in (INTAKE, DISPATCH):
        waiting = replace(role, store=store)
        assert alive_in(waiting) == ()
        assert ready(waiting) == ("the write lock is held by PID 7 (kmp-smsd)",)
    assert alive_in(replace(INTAKE, reactor_lag_s=11, store=store)) == ("the reactor is 11 s late",)


def test_one_bound_link_is_enough_but_the_other_one_is_told():
    both = replace(INTAKE, links=(NORTH, SOUTH))
    assert ready(both) == ()
    assert degraded(both) == ("link south is waiting to reconnect: no connection",)


def test_who_drains_is_not_ready():
    assert ready(replace(DISPATCH, state=State.DRAINING)) == ("dispatch is draining",)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"last_error": "refused", "due": 1}, ("platform metering fails: refused",)),
        ({"last_error": "refused", "due": 0}, ()),
        ({"rejected": 1}, ("platform metering rejected 1 delivery",)),
        ({"rejected": 1000, "rejected_more": True}, ("platform metering rejected 1,000+ deliveries",)),
        ({"word": PlatformWord.UNSERVED, "due": 0, "rejected": 1}, ()),
        ({"word": PlatformWord.HELD_BACK, "rejected": 20}, ("platform metering is held back after rejections",)),
        (
            {"word": PlatformWord.UNSERVED, "last_error": "refused", "due": 1000, "due_more": True},
            ("1,000+ deliveries and withdrawals wait for platform metering, which has no enabled file",),
        ),
        ({"word": PlatformWord.UNSERVED, "due": 0}, ()),
        (
            {"word": PlatformWord.UNSERVED, "due": 1},
            ("1 delivery or withdrawal waits for platform metering, which has no enabled file",),
        ),
        (
            {"word": PlatformWord.UNSERVED, "name": NO_PLATFORM, "due": 1000, "due_more": True},
            ("1,000+ deliveries wait for a platform: no file names their app",),
        ),
        ({"certificate_left_s": 30 * 86_400.0}, ()),
        ({"certificate_left_s": 30 * 86_400.0 - 1}, ("our certificate at platform metering is valid for 29 days",)),
        ({"certificate_left_s": -86_400.0}, ("our certificate at platform metering expired 1 day ago",)),
        ({"paused": True, "word": PlatformWord.PAUSED, "last_error": "x", "due": 1}, ("platform metering is paused",)),
    ],
)
def test_platforms_that_want_a_person_are_told(changes, reasons):
    found = replace(DISPATCH, platforms=(replace(METERING, **changes),))
    assert (ready(found), degraded(found)) == ((), reasons)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"last_reload_ok": False}, ()),
        ({"faulty": True}, ()),
        ({"refusal_stands": True}, ("the last reload was refused",)),
        ({"refusal_stands": True, "faulty": True}, ("the last reload was refused: a restart would fail",)),
        ({"needs_restart": ("[storage] path",)}, ("needs restart: [storage] path",)),
    ],
)
def test_a_configuration_that_wants_a_person_is_told(changes, reasons):
    assert degraded(replace(INTAKE, configuration=replace(INTAKE.configuration, **changes))) == reasons


def test_json_has_what_its_role_has():
    intake, dispatch = INTAKE.as_json(), DISPATCH.as_json()
    assert intake["links"][0]["name"] == "north"
    assert dispatch["platforms"][0]["word"] == "idle"
    assert (intake["v"], "platforms" in intake, "links" in dispatch, "outcomes" in dispatch) == (1, False, False, False)
