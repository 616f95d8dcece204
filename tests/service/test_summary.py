from __future__ import annotations

from dataclasses import replace

import pytest

from kmp_smsd.service.status import ConfigurationStatus, LinkStatus, PlatformStatus, Snapshot, State, StoreStatus
from kmp_smsd.service.summary import summary

HEAD = {
    "pid": 1,
    "version": "1",
    "started_at": 0,
    "state": State.RUNNING.value,
    "configuration": ConfigurationStatus(path="kmp-smsd.toml", loaded_at=0),
    "store": StoreStatus(path="kmp-smsd.db"),
    "reactor_lag_s": 0.0,
}


def blank(kind, **known):
    """A value whose other fields say that nothing has happened."""
    fields = dict.fromkeys(kind.__dataclass_fields__)
    return kind(**{**fields, **known})


def link(name, *, bound):
    word = "bound as receiver" if bound else "waiting to reconnect"
    return blank(LinkStatus, name=name, word=word, bound=bound, paused=False, last_error="" if bound else "refused")


def platform(name, due, **known):
    return blank(PlatformStatus, name=name, word="waiting", paused=False, due=due, **{"due_more": False, **known})


INTAKE = Snapshot(role="intake", links=(link("north", bound=True), link("south", bound=True)), **HEAD)
DISPATCH = Snapshot(role="dispatch", platforms=(platform("metering", 0),), **HEAD)


def test_a_process_that_does_its_work_is_told_in_a_few_words():
    assert summary([INTAKE]) == "2 of 2 links bound"
    assert summary([DISPATCH]) == "1 platform, nothing due"
    assert summary([INTAKE, DISPATCH]) == "2 of 2 links bound; 1 platform, nothing due"


@pytest.mark.parametrize(
    ("platforms", "said"),
    [
        ((platform("a", 1200), platform("b", 34)), "2 platforms, 1,234 due"),
        ((platform("a", 100_000, due_more=True),), "1 platform, more than 100,000 due"),
        ((), "0 platforms, nothing due"),
    ],
)
def test_what_is_due_is_counted_over_all_platforms(platforms, said):
    assert summary([replace(DISPATCH, platforms=platforms)]) == said


def test_what_a_person_should_look_at_follows():
    snapshot = replace(INTAKE, links=(link("north", bound=True), link("south", bound=False)))
    assert summary([snapshot]) == "1 of 2 links bound; link south is waiting to reconnect: refused"
    assert summary([replace(INTAKE, state=State.DRAINING.value)]) == "draining; 2 of 2 links bound"
    broken = replace(INTAKE, store=StoreStatus(path="kmp-smsd.db", error="disk full"))
    assert summary([broken]) == "2 of 2 links bound; the store is unavailable: disk full"


def test_what_concerns_both_roles_is_said_once():
    refused = ConfigurationStatus(path="kmp-smsd.toml", loaded_at=0, last_reload_ok=False, refusal_stands=True)
    both = [replace(one, configuration=refused) for one in (INTAKE, DISPATCH)]
    assert summary(both).count("the last reload was refused") == 1
