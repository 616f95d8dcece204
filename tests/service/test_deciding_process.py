"""The process that decides, and the one that asks it: real ones, on a real database."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from kmp_smsd import __version__
from kmp_smsd.cli.log_lines import JsonLine, traceback_of
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import Unfit
from kmp_smsd.service import deciding_process
from kmp_smsd.service.deciding_process import DecidingFailed, DecidingProcess
from kmp_smsd.storage import StoreUnavailable, lock_waits, open_store
from kmp_smsd.storage.locks import WriteLock
from kmp_smsd.storage.received import Received
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, A, B, bound, counted, import_keys, register, sync

MOVE_ALL = SyncPolicy(on_sim_change=OnConflict.MOVED, on_terminal_change=OnConflict.MOVED)


class At:
    def __init__(self, path):
        self.path = path
        self.store = open_store(path)
        self.deciding = DecidingProcess(path, SyncPolicy(), self.store.lock_wait)
        self._last = 0

    def close(self):
        self.deciding.close()
        self.store.close()

    def received(self, *messages):
        first, self._last = self._last + 1, self._last + len(messages)
        return Received("run", first, messages)

    def settle(self, *messages):
        return self.deciding.settle([self.received(*messages)], NOW)

    def begun(self):
        """The process, begun by what is harmless."""
        self.deciding.settle_again(NOW)
        return self.deciding.pid


@pytest.fixture
def at(tmp_path):
    new_database(tmp_path / "kmp.db")
    with closing(At(tmp_path / "kmp.db")) as at:
        yield at


def has_ended(pid):
    """Whether a process, which need not be our child, has ended or is about to be taken away."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def until(is_so, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        os.sched_yield()


_HOLDER = """
import sys
from pathlib import Path
from kmp_smsd.storage.locks import WriteLock
with WriteLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def lock_held_by_another(path):
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder


@contextmanager
def beside(call, *arguments):
    """Have a thread call it while the block goes on; what will come of it."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(call, *arguments)


def waits_for_a_lock(pid):
    """Whether a process waits for an flock, as the kernel tells."""
    return any(" -> FLOCK " in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_it_decides_and_writes_in_a_process_of_its_own(at):
    import_keys(at.store, "K1")
    register(at.store, A, "meter")
    unfit = Unfit(outcome=Outcome.INVALID_MDN, received_at=NOW, link="north")
    assert at.settle(sync(A, "K1"), unfit, sync(B, "K1")) == [
        Outcome.BOUND,
        Outcome.INVALID_MDN,
        Outcome.NOT_REGISTERED,
    ]
    assert bound(at.store) == {(A, "meter"): "K1"}
    assert at.deciding.pid not in (None, os.getpid())


def test_batch_of_several_lines_is_one(at):
    lines = [at.received(sync(A, "K1")), at.received(sync(B, "K1"), sync(A, "K2"))]
    assert at.deciding.settle(lines, NOW) == [Outcome.NOT_REGISTERED] * 3
    with open_store(at.path) as store:
        assert store.settled.first_left("run", 1) == 4


def test_what_was_marked_is_decided_again(at):
    register(at.store, A, "meter")
    assert at.settle(sync(A, "K1")) == [Outcome.UNKNOWN_KEY]
    assert at.deciding.settle_again(NOW) == ([], False)
    import_keys(at.store, "K1")
    found = []
    while True:
        outcomes, more = at.deciding.settle_again(NOW)
        found += outcomes
        if not more:
            break
    assert found == [Outcome.BOUND]


def test_it_goes_by_the_policy_that_it_was_told_last(at):
    import_keys(at.store, "K1", "K2", "K3")
    register(at.store, A, "meter")
    assert at.settle(sync(A, "K1"), sync(A, "K2")) == [Outcome.BOUND, Outcome.HELD]
    at.deciding.set_policy(
        SyncPolicy(gateways=MappingProxyType({"data": MOVE_ALL}), on_terminal_change=OnConflict.MOVED)
    )
    assert at.settle(sync(A, "K2")) == [Outcome.MOVED]
    os.kill(at.deciding.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        at.settle(sync(A, "K3"))
    assert at.settle(sync(A, "K3")) == [Outcome.MOVED]  # the next one knows the policy, too


def test_process_that_ends_is_told_of_and_another_is_begun(at):
    pid = at.begun()
    os.kill(pid, signal.SIGKILL)
    message = sync(A, "K1")
    batch = [at.received(message)]
    with pytest.raises(
        StoreUnavailable, match=rf"the process that decides \(PID {pid}\) was ended by signal 9; another"
    ):
        at.deciding.settle(batch, NOW)
    assert at.deciding.settle(batch, NOW) == [Outcome.NOT_REGISTERED]
    assert at.deciding.pid not in (None, pid)
    assert counted(at.store) == {"not_registered": 1}


def test_nothing_is_settled_twice_where_it_was_killed_after_the_commit(at):
    """The answer is lost, and who asked asks again."""
    batch = [at.received(sync(A, "K1"), sync(B, "K1")), at.received(sync(A, "K2"))]
    assert at.deciding.settle(batch[:1], NOW) == [Outcome.NOT_REGISTERED] * 2
    os.kill(at.deciding.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        at.deciding.settle(batch, NOW)
    assert at.deciding.settle(batch, NOW) == [None, None, Outcome.NOT_REGISTERED]
    assert counted(at.store) == {"not_registered": 3}


def test_killed_while_it_waits_it_holds_no_lock_and_has_written_nothing(at):
    pid = at.begun()
    with lock_held_by_another(at.path) as holder, beside(at.settle, sync(A, "K1")) as outcomes:
        until(lambda: at.deciding.lock_wait.is_for_others)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="signal 9"):
            outcomes.result(20)
        assert not at.deciding.lock_wait.is_for_others
        holder.stdin.close()
    assert counted(at.store) == {}


_ASKS = """
import sys
from pathlib import Path
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.service.deciding_process import DecidingProcess
from kmp_smsd.storage import open_store
from kmp_smsd.storage.received import Received
path, line = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
deciding = DecidingProcess(path, SyncPolicy(), open_store(path).lock_wait)
deciding.settle_again(0)
print(deciding.pid, flush=True)
deciding.settle([Received.parse(line)], 0)
"""


def test_what_it_is_at_is_finished_once_though_the_one_who_asked_was_killed(at):
    batch = [at.received(sync(A, "K1"))]
    with lock_held_by_another(at.path) as holder:
        with subprocess.Popen(
            [sys.executable, "-c", _ASKS, at.path, batch[0].line().hex()], stdout=subprocess.PIPE, text=True
        ) as asker:
            orphan = int(asker.stdout.readline())
            until(lambda: waits_for_a_lock(orphan))
            asker.kill()
        with beside(at.deciding.settle, batch, NOW) as outcomes:  # as the next start does
            until(lambda: at.deciding.lock_wait.is_for_others)
            holder.stdin.close()
            until(lambda: has_ended(orphan))
            assert outcomes.result(20) in ([None], [Outcome.NOT_REGISTERED])
    assert counted(at.store) == {"not_registered": 1}


def test_it_ends_in_seconds_though_it_waits_where_the_one_who_asked_was_killed(at):
    """Somebody may hold the lock for hours."""
    batch = [at.received(sync(A, "K1"))]
    with lock_held_by_another(at.path):
        with subprocess.Popen(
            [sys.executable, "-c", _ASKS, at.path, batch[0].line().hex()], stdout=subprocess.PIPE, text=True
        ) as asker:
            orphan = int(asker.stdout.readline())
            until(lambda: waits_for_a_lock(orphan))
            asker.kill()
        until(lambda: has_ended(orphan))
    assert counted(at.store) == {}


def test_it_ends_with_the_pipe(at):
    pid = at.begun()
    at.deciding.close()
    assert not Path(f"/proc/{pid}").exists()
    at.deciding = DecidingProcess(at.path, SyncPolicy(), at.store.lock_wait)  # to be closed


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_of_a_terminal_or_a_service_manager_do_not_end_it(at, number):
    pid = at.begun()
    os.kill(pid, number)
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.deciding.pid == pid


def test_another_version_says_what_to_do(at, monkeypatch):
    monkeypatch.setattr(deciding_process, "__version__", "0.0.1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"kmp-smsd is {__version__} now: restart what still runs 0.0.1"):
            at.settle(sync(A, "K1"))
    monkeypatch.undo()
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]


def test_process_that_cannot_be_begun_is_tried_again(at, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(
            StoreUnavailable, match="the process that decides cannot be begun: No such file or directory"
        ):
            at.settle(sync(A, "K1"))
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]


def test_database_that_is_unavailable_to_it_is_so_for_who_asks(at):
    at.begun()
    moved = at.path.with_name("moved.db")
    at.path.rename(moved)
    try:
        with pytest.raises(StoreUnavailable, match=f"{at.path} was removed or replaced under us"):
            at.settle(sync(A, "K1"))
    finally:
        moved.rename(at.path)
    pid = at.deciding.pid
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.deciding.pid == pid


def test_fault_of_a_request_has_its_traceback_and_ends_nothing(at):
    pid = at.begun()
    with pytest.raises(DecidingFailed, match="TypeError: ") as raised:
        at.deciding.settle([at.received(sync(A, "K1"))], "never")
    assert "in settle" in "".join(raised.value.__notes__)
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.deciding.pid == pid


def test_what_it_says_is_said_here_with_its_fields_and_traceback(at, caplog):
    with at.store._database.transaction() as connection:
        connection.execute(
            """CREATE TRIGGER spoilt BEFORE INSERT ON journal WHEN NEW.key_id = 'K2'
               BEGIN SELECT RAISE(ABORT, 'spoilt'); END"""
        )
    register(at.store, A, "meter")
    assert at.settle(sync(A, "K1"), sync(A, "K2")) == [Outcome.UNKNOWN_KEY, Outcome.ERROR]
    (said,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert (said.name, said.event, said.getMessage()) == (
        "kmp_smsd.storage.settling",
        "message_error",
        "message could not be settled",
    )
    assert "IntegrityError: spoilt" in "".join(traceback_of(said))
    assert '"traceback": ' in JsonLine("intake").format(said)


def test_what_nobody_wants_to_hear_is_not_said(at, caplog):
    caplog.set_level(logging.CRITICAL, "kmp_smsd.storage")
    with at.store._database.transaction() as connection:
        connection.execute("CREATE TRIGGER spoilt BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'spoilt'); END")
    register(at.store, A, "meter")
    assert at.settle(sync(A, "K1")) == [Outcome.ERROR]
    assert not [record for record in caplog.records if record.name.startswith("kmp_smsd.storage")]


# The write lock


def test_wait_for_another_process_is_known_with_its_holder_and_when_it_was_over(at, monkeypatch):
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    at.begun()
    wait = at.deciding.lock_wait
    assert (wait.is_for_others, at.store.lock_wait.holder) == (False, None)
    with lock_held_by_another(at.path) as holder, beside(at.settle, sync(A, "K1")) as outcomes:
        until(lambda: wait.is_for_others)
        assert at.store.lock_wait.holder.startswith(f"PID {holder.pid} (")
        holder.stdin.close()
        assert outcomes.result(20) == [Outcome.NOT_REGISTERED]
    assert (wait.is_for_others, at.store.lock_wait.holder) == (False, None)


def test_wait_for_who_asks_is_none_for_others(at):
    at.begun()
    with ExitStack() as opened:
        mine = opened.enter_context(closing(WriteLock(at.path)))
        waiting = opened.enter_context(ExitStack())
        with mine:
            outcomes = waiting.enter_context(beside(at.settle, sync(A, "K1")))
            until(lambda: waits_for_a_lock(at.deciding.pid))
            assert not at.deciding.lock_wait.is_for_others
        assert outcomes.result(20) == [Outcome.NOT_REGISTERED]


def test_who_asks_and_waits_for_it_waits_for_no_others(at):
    """It may hang with the lock, and then a restart does help."""
    register(at.store, A, "meter")
    with at.store._database.transaction() as connection:
        connection.execute(
            """CREATE TRIGGER slow BEFORE INSERT ON journal BEGIN
                 SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000000)
                                       SELECT i FROM n);
               END"""
        )
    pid = at.begun()
    with ExitStack() as opened:
        lock = opened.enter_context(closing(WriteLock(at.path)))
        outcomes = opened.enter_context(beside(at.settle, sync(A, "K1")))
        until(lambda: at.deciding.lock_wait.shown.holds)
        os.kill(pid, signal.SIGSTOP)
        opened.callback(os.kill, pid, signal.SIGCONT)
        entered = opened.enter_context(beside(lambda: lock.__enter__() or lock.__exit__(None, None, None)))
        until(lambda: waits_for_a_lock(os.getpid()))
        assert not lock.wait.is_for_others
        assert not at.deciding.lock_wait.is_for_others
        os.kill(pid, signal.SIGCONT)
        assert outcomes.result(20) == [Outcome.UNKNOWN_KEY]
        entered.result(20)
