"""How many connections are open, and which one gives way."""

from __future__ import annotations

from kmp_smsd.service.dispatch_workers import FAILING_MAX, IDLE_CLOSE_S, OPEN_MAX
from tests.service.by_hand import alarms
from tests.service.dispatch.stage import failed
from tests.service.vendor import mdn


def test_at_most_sixty_four_connections_are_open(start, events):
    everybody = range(1, OPEN_MAX + 4)
    at = start(OPEN_MAX + 3, due=everybody)
    assert OPEN_MAX == 64
    assert at.begun() == [f"p{number}" for number in range(1, 65)]
    assert at.pool.maxthreads == 64
    at.settle(1)
    at.end("p1")
    at.look()
    assert at.pool.waiting()[-2:] == [at.by_name["p1"].close_channel, at.by_name["p65"].run]  # threads take them so
    assert len(at.pool.jobs) == 65
    at.look(10)
    assert len(at.pool.jobs) == 65
    assert alarms(events) == []


def test_platforms_with_standing_work_take_turns(start):
    at = start(OPEN_MAX + 2, due=range(1, OPEN_MAX + 3))
    for name in ("p1", "p2", "p3", "p4"):  # each has more to do, as long due as what the others have
        at.reactor.advance(0.01)
        at.end(name)
        at.look()
        at.pool.run_one(at.by_name[name].close_channel)
    assert at.begun()[-4:] == ["p65", "p66", "p1", "p2"]


def test_open_connection_that_gets_work_displaces_nobody(start):
    at = start(OPEN_MAX, due=range(1, OPEN_MAX + 1))
    for number in (1, 2):
        at.settle(number)
        at.end(f"p{number}")
    at.store.bindings.withdraw(mdn(2), "app-2", at.now)
    at.look()
    assert at.begun()[-1] == "p2"
    assert {job.__name__ for job in at.pool.waiting()} == {"run"}


def test_longest_idle_connection_gives_way(start):
    at = start(OPEN_MAX + 1, due=range(1, OPEN_MAX + 1))
    for number in (2, 1, 3):
        at.settle(number)
        at.end(f"p{number}")
        at.reactor.advance(0.01)
    at.make_due(65)
    at.look()
    closing_jobs = [job.__self__.platform for job in at.pool.waiting() if job.__name__ == "close_channel"]
    assert closing_jobs == ["p2"]
    assert "p65" in at.begun()


def test_connection_that_gives_way_is_not_given_work_while_it_closes(start):
    at = start(OPEN_MAX + 1, due=range(2, OPEN_MAX + 1))
    at.make_due(1)
    at.look()
    at.settle(1)
    at.end("p1")  # the only idle one
    at.make_due(65)
    at.make_due(1, keys=False, after_ms=1)
    at.store.bindings.withdraw(mdn(1), "app-1", at.now + 1)
    at.reactor.advance(0.01)
    at.look()
    assert "p65" in at.begun()
    assert "p1" not in at.begun()
    at.pool.run_one(at.by_name["p1"].close_channel)
    at.settle(65)
    at.end("p65")
    at.look()
    assert "p1" in at.begun()
    assert at.by_name["p1"].done == ["close_channel"]


def test_idle_connection_closes_after_a_minute(start):
    at = start(due=(1,))
    at.settle(1)
    at.end("p1")
    assert IDLE_CLOSE_S == 60
    at.look(595)
    assert at.pool.waiting() == []
    at.look(6)
    at.pool.run()
    assert at.by_name["p1"].done == ["close_channel"]
    at.look(1000)
    assert at.by_name["p1"].done == ["close_channel"]


def test_connection_at_work_is_not_idle(start):
    at = start(due=(1,))
    at.look(1000)
    assert at.begun() == ["p1"]
    assert len(at.pool.jobs) == 1


def test_failing_platforms_share_a_quarter_of_the_connections(start):
    at = start(40, due=range(1, 41))
    for number in range(1, 31):
        failed(at, f"p{number}", 0)
    at.look()
    assert FAILING_MAX == 16
    begun = at.begun()
    assert begun[:10] == [f"p{number}" for number in range(31, 41)]
    assert len(begun[10:]) == 16
    at.look(10)
    assert len(at.begun()) == 26
    failed(at, "p1", 900)
    at.look()
    assert len(at.begun()) == 26


def test_platform_that_fails_takes_its_turn_like_any_other(start):
    at = start(OPEN_MAX + 1, due=range(1, OPEN_MAX + 2))
    at.reactor.advance(0.01)
    failed(at, "p1", 0)
    at.look()
    assert at.begun()[-1] == "p65"
    assert "p1" not in at.begun()
    at.end("p2")  # which has more to do
    at.look()
    assert at.begun()[-1] == "p1"
    assert "p2" not in at.begun()
