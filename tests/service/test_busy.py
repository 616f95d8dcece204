from __future__ import annotations

from types import SimpleNamespace

from kmp_smsd.service.busy import Busy


def test_a_thread_with_nothing_to_do_is_not_stuck():
    assert Busy(lambda: 5.0).stuck_s == 0.0


def test_a_job_counts_from_when_the_thread_could_begin_it():
    now = [0.0]
    thread = Busy(lambda: now[0])
    thread.begun()
    now[0] = 3.0
    thread.begun()
    assert thread.stuck_s == 3.0
    assert thread.ended("result") == "result"
    assert thread.stuck_s == 0.0  # the second has only begun
    now[0] = 10.0
    assert thread.stuck_s == 7.0
    thread.ended(None)
    assert thread.stuck_s == 0.0
    now[0] = 50.0  # it had nothing to do meanwhile
    thread.begun()
    assert thread.stuck_s == 0.0


def test_thread_in_which_no_job_ends_is_silent_even_where_none_was_begun():
    now = [5.0]
    thread = Busy(lambda: now[0])
    now[0] = 8.0
    assert thread.silent_s == 3.0
    thread.begun()
    now[0] = 10.0
    assert thread.silent_s == 5.0
    thread.ended(None)
    assert thread.silent_s == 0.0


def test_thread_begins_anew_when_it_has_long_waited_for_the_write_lock():
    now, lock_wait = [0.0], SimpleNamespace(is_for_others=True, over_s=float("inf"))
    thread = Busy(lambda: now[0], lock_wait)
    thread.begun()
    now[0] = 90.0
    assert (thread.stuck_s, thread.silent_s, thread.waits_for_others) == (90.0, 90.0, True)
    lock_wait.is_for_others, lock_wait.over_s = False, 2.0
    assert (thread.stuck_s, thread.silent_s, thread.waits_for_others) == (2.0, 2.0, False)
    thread.ended(None)
    assert (thread.stuck_s, thread.silent_s) == (0.0, 0.0)
