"""The thread of a store or an inbox: in order, one job at a time, and none is left without its end."""

from __future__ import annotations

import threading

import pytest

from kmp_smsd.service.thread import OneThread, WorkThread
from tests.service.by_hand import ReactorByHand


@pytest.fixture
def thread():
    made = WorkThread("work", ReactorByHand(), monotonic=lambda: 0.0)
    made.start()
    yield made
    made.stop()
    assert "work" not in {one.name for one in threading.enumerate()}


def ended_by_stop(*jobs):
    """What was told of `jobs`, given to a thread that is stopped at once."""
    told = []
    thread = OneThread("work")
    thread.start()
    for job, *args in jobs:
        thread.callInThreadWithCallback(lambda *result: told.append(result), job, *args)
    thread.stop()
    return told


def test_jobs_are_done_in_order_by_one_thread_that_has_the_name():
    told = ended_by_stop(*[(lambda number: (number, threading.current_thread().name), number) for number in range(100)])
    assert told == [(True, (number, "work")) for number in range(100)]


@pytest.mark.parametrize("error", [ValueError("wrong"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_error_of_a_job_is_told_and_ends_nothing(error):
    def fail():
        raise error

    (failed, failure), after = ended_by_stop((fail,), (lambda: "done",))
    assert (failed, failure.value, after) == (False, error, (True, "done"))


def test_job_of_which_nobody_can_be_told_holds_up_no_other(caplog):
    def untold(*_):
        raise RuntimeError("nobody is there any more")

    told = []
    thread = OneThread("work")
    thread.start()
    thread.callInThreadWithCallback(untold, lambda: 1)
    thread.callInThreadWithCallback(lambda *result: told.append(result), lambda: 2)
    thread.stop()
    assert told == [(True, 2)]
    assert [record.event for record in caplog.records] == ["job_untold"]


def test_thread_that_was_never_begun_can_be_stopped():
    OneThread("work").stop()


def test_job_that_waits_keeps_the_ones_behind_it_waiting(thread):
    go_on, ended, told = threading.Event(), threading.Event(), []
    thread.run(go_on.wait).addCallback(told.append)
    thread.run(lambda: "second").addCallback(told.append).addCallback(lambda _: ended.set())
    assert (told, ended.is_set()) == ([], False)
    go_on.set()
    assert ended.wait(10)
    assert told == [True, "second"]


def test_what_runs_aside_is_not_followed(thread):
    go_on, began, ended = threading.Event(), threading.Event(), threading.Event()
    for run, jobs in ((thread.run_aside, 0), (thread.run, 1)):
        run(lambda: (began.set(), go_on.wait())).addCallback(lambda _: ended.set())
        assert began.wait(10)
        assert thread.busy._jobs == jobs
        go_on.set()
        assert ended.wait(10)
        for event in (go_on, began, ended):
            event.clear()
