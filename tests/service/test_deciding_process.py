"""The process that decides, and the one that asks it: real ones, on a real database."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple
from mmap import mmap
from multiprocessing.connection import Pipe
from pathlib import Path
from types import MappingProxyType

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd import __version__
from kmp_smsd.cli.log_lines import JsonLine, traceback_of
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import Unfit
from kmp_smsd.service import deciding_child, deciding_process
from kmp_smsd.service.deciding import LOADED
from kmp_smsd.service.deciding_child import _Pipe, _ToPipe
from kmp_smsd.service.deciding_process import BEGIN_MAX_S, DecidingFailed, DecidingProcess
from kmp_smsd.storage import StoreUnavailable, lock_waits, open_store, wait_memory
from kmp_smsd.storage.locks import WriteLock
from kmp_smsd.storage.received import Received
from kmp_smsd.storage.wait_memory import WaitMemory
from tests.storage.fresh import new_database
from tests.storage.lock_holder import held_by_another
from tests.storage.stock import NOW, A, B, bound, counted, import_keys, register, sync

MOVE_ALL = SyncPolicy(on_sim_change=OnConflict.MOVED, on_terminal_change=OnConflict.MOVED)


class At:
    def __init__(self, path):
        self.path = path
        self.store = open_store(path)
        self.now = 0.0
        self._last = 0
        self.begin()

    def begin(self):
        self.deciding = DecidingProcess(self.path, SyncPolicy(), self.store, monotonic=lambda: self.now)

    def close(self):
        self.deciding.close()
        self.store.close()

    @property
    def pid(self):
        """The process that decides."""
        return self.deciding._process.pid

    def received(self, *messages):
        first, self._last = self._last + 1, self._last + len(messages)
        return Received.of("run", first, messages)

    def settle(self, *messages):
        return self.deciding.settle([self.received(*messages)], NOW)

    def begun(self):
        """The process, begun by what is harmless."""
        self.deciding.settle_again(NOW)
        return self.pid


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
    assert at.pid != os.getpid()


def test_batch_of_several_lines_is_one(at):
    lines = [at.received(sync(A, "K1")), at.received(sync(B, "K1"), sync(A, "K2"))]
    assert at.deciding.settle(lines, NOW) == [Outcome.NOT_REGISTERED] * 3
    with open_store(at.path) as store:
        assert store.settled().first_left("run", 1) == 4


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
    os.kill(at.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        at.settle(sync(A, "K3"))
    at.now += BEGIN_MAX_S
    assert at.settle(sync(A, "K3")) == [Outcome.MOVED]  # the next one knows the policy, too


def test_process_that_ends_is_told_of_and_another_is_begun(at, caplog):
    pid = at.begun()
    os.kill(pid, signal.SIGKILL)
    message = sync(A, "K1")
    batch = [at.received(message)]
    with pytest.raises(StoreUnavailable, match="the process that decides was ended by signal 9; another"):
        at.deciding.settle(batch, NOW)
    at.now += BEGIN_MAX_S
    assert at.deciding.settle(batch, NOW) == [Outcome.NOT_REGISTERED]
    assert at.pid != pid
    assert [(one.pid, one.how) for one in caplog.records if one.event == "deciding_ended"] == [
        (pid, "was ended by signal 9")
    ]
    assert counted(at.store) == {"not_registered": 1}


def test_nothing_is_settled_twice_where_it_was_killed_after_the_commit(at):
    """The answer is lost, and who asked asks again."""
    batch = [at.received(sync(A, "K1"), sync(B, "K1")), at.received(sync(A, "K2"))]
    assert at.deciding.settle(batch[:1], NOW) == [Outcome.NOT_REGISTERED] * 2
    os.kill(at.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        at.deciding.settle(batch, NOW)
    at.now += BEGIN_MAX_S
    assert at.deciding.settle(batch, NOW) == [None, None, Outcome.NOT_REGISTERED]
    assert counted(at.store) == {"not_registered": 3}


def test_killed_while_it_waits_it_holds_no_lock_and_has_written_nothing(at):
    pid = at.begun()
    with held_by_another(at.path) as holder, beside(at.settle, sync(A, "K1")) as outcomes:
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
deciding = DecidingProcess(path, SyncPolicy(), open_store(path))
deciding.settle_again(0)
print(deciding._process.pid, flush=True)
deciding.settle([Received.parse(line)], 0)
"""


def test_it_is_killed_with_the_one_who_asks(at):
    """Whoever comes next finds neither a lock of it nor what it decided by a policy of before."""
    batch = [at.received(sync(A, "K1"))]
    with held_by_another(at.path):
        with subprocess.Popen(
            [sys.executable, "-c", _ASKS, at.path, batch[0].line.hex()], stdout=subprocess.PIPE, text=True
        ) as asker:
            orphan = int(asker.stdout.readline())
            until(lambda: waits_for_a_lock(orphan))
            os.kill(orphan, signal.SIGSTOP)
            asker.kill()
        until(lambda: has_ended(orphan))
    assert at.deciding.settle(batch, NOW) == [Outcome.NOT_REGISTERED]
    assert counted(at.store) == {"not_registered": 1}


def test_stop_does_not_wait_for_a_lock_for_ever(at):
    at.begun()
    with held_by_another(at.path):
        at.deciding._pipe.send(("settle", [astuple(at.received(sync(A, "K1")))], NOW))
        until(lambda: waits_for_a_lock(at.pid))
        at.deciding.close()
    at.begin()
    assert counted(at.store) == {}


def test_it_does_not_wait_for_checkpoints(at, monkeypatch):
    told = []
    monkeypatch.setattr(deciding_child, "open_store", lambda *_, **named: told.append(named) or open_store(at.path))
    decider = deciding_child._Decider(at.path, at.store.identity, at.deciding._shown)
    decider.settle_again(NOW)
    decider.close()
    assert told == [{"checkpoint_aside": True}]


def test_it_ends_with_the_pipe(at):
    pid = at.begun()
    at.deciding.close()
    assert not Path(f"/proc/{pid}").exists()
    at.begin()  # to be closed


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_of_a_terminal_or_a_service_manager_do_not_end_it(at, number):
    pid = at.begun()
    os.kill(pid, number)
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.pid == pid


def test_another_version_says_what_to_do(at, monkeypatch):
    monkeypatch.setattr(deciding_process, "LOADED", "0.0.1 of before")
    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match=f"kmp-smsd {__version__} was installed meanwhile: restart this role"
        ):
            at.settle(sync(A, "K1"))
        at.now += BEGIN_MAX_S
    monkeypatch.undo()
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]


def test_those_that_end_at_once_are_begun_ever_more_seldom(at, monkeypatch):
    begun = []
    monkeypatch.setattr(deciding_process, "LOADED", "0.0.1 of before")
    real = at.deciding._spawned
    monkeypatch.setattr(at.deciding, "_spawned", lambda its: (begun.append(at.now), real(its))[1])
    for _ in range(1000):
        with pytest.raises(StoreUnavailable, match="was installed meanwhile: restart this role"):
            at.deciding.settle_again(NOW)
        at.now += 0.1
    waits = [after - before for before, after in itertools.pairwise(begun)]
    assert 0.4 < waits[0] < 1.1
    assert 14 < waits[-1] < 31
    assert len(begun) < 15


def test_nothing_but_a_batch_shows_that_they_live(at, monkeypatch):
    """It may be the batch that ends them."""
    begun = []
    real = at.deciding._spawned
    monkeypatch.setattr(at.deciding, "_spawned", lambda its: (begun.append(at.now), real(its))[1])
    for _ in range(80):
        with suppress(StoreUnavailable):
            os.kill(at.begun(), signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            at.settle(sync(A, "K1"))
        at.now += 0.1
    assert max(after - before for before, after in itertools.pairwise(begun)) > 1.9
    at.now += BEGIN_MAX_S
    at.settle(sync(A, "K1"))
    at.now += BEGIN_MAX_S
    for _ in range(2):
        os.kill(at.begun(), signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            at.settle(sync(A, "K1"))
        at.now += 1.0
        at.settle(sync(A, "K1"))


def test_why_there_is_none_is_told(at, monkeypatch):
    at.begun()
    monkeypatch.setattr(at.deciding._pipe, "recv", lambda: int("odd"))
    with pytest.raises(ValueError, match="odd"):
        at.settle(sync(A, "K1"))
    with pytest.raises(StoreUnavailable, match="ValueError: invalid literal"):
        at.settle(sync(A, "K1"))
    at.deciding.close()
    with pytest.raises(StoreUnavailable, match="intake is stopping"):
        at.settle(sync(A, "K1"))


def test_one_that_was_stopped_is_not_waited_for_for_ever(at, monkeypatch):
    monkeypatch.setattr(deciding_process, "CLOSE_WITHIN_S", 0.1)
    os.kill(pid := at.begun(), signal.SIGSTOP)
    began = time.monotonic()
    at.deciding.close()
    assert time.monotonic() - began < 5
    assert has_ended(pid)


def test_one_that_hangs_is_killed_once_it_is_given_up_and_another_is_begun(at, caplog):
    at.deciding.give_up()  # there is none
    os.kill(pid := at.begun(), signal.SIGSTOP)
    batch = [at.received(sync(A, "K1"))]
    with beside(at.deciding.settle, batch, NOW) as outcomes:
        try:
            until(lambda: (at.deciding.give_up(), outcomes.done())[1])
        except AssertionError:
            os.kill(pid, signal.SIGCONT)  # else the thread would wait for ever
            raise
        with pytest.raises(StoreUnavailable, match="was ended by signal 9; another is begun"):
            outcomes.result(20)
    assert has_ended(pid)
    assert [one.pid for one in caplog.records if one.event == "deciding_hangs"] == [pid]
    at.now += BEGIN_MAX_S
    assert at.deciding.settle(batch, NOW) == [Outcome.NOT_REGISTERED]


def test_process_that_cannot_be_begun_is_tried_again(at, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(
            StoreUnavailable, match="the process that decides cannot be begun: No such file or directory"
        ):
            at.settle(sync(A, "K1"))
    at.now += BEGIN_MAX_S
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
    pid = at.pid
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.pid == pid


@pytest.mark.parametrize("gone", ["kmp.db*", "kmp.db-wal", "kmp.db-shm"])
def test_another_database_in_the_place_of_ours_is_not_written_to(at, gone):
    """It has another master key, or is a copy: what lies in the inbox is for the one that intake has open."""
    os.kill(at.begun(), signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        at.deciding.settle_again(NOW)
    at.now += BEGIN_MAX_S
    moved = [(one, one.with_name("moved-" + one.name)) for one in at.path.parent.glob(gone)]
    for path, elsewhere in moved:
        path.rename(elsewhere)
    if not at.path.exists():
        new_database(at.path)
    before = at.path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"{at.path} was removed or replaced under us"):
            at.settle(sync(A, "K1"))
    assert at.path.read_bytes() == before
    assert [path for path, _ in moved if path.exists() and path != at.path] == []
    for path, elsewhere in moved:
        elsewhere.rename(path)
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]


def test_another_database_that_comes_between_the_look_and_the_opening_is_not_written_to(at, monkeypatch):
    identity = at.store.identity
    monkeypatch.setattr(deciding_child, "identity_of", lambda _: identity)
    moved = [(one, one.with_name("moved-" + one.name)) for one in at.path.parent.glob("kmp.db*")]
    for path, elsewhere in moved:
        path.rename(elsewhere)
    new_database(at.path)
    decider = deciding_child._Decider(at.path, identity, WaitMemory(mmap(-1, WaitMemory.OCTETS)))
    decider.set_policy(SyncPolicy())
    with pytest.raises(StoreUnavailable, match="was removed or replaced under us"):
        decider.settle([astuple(at.received(sync(A, "K1")))], NOW)
    for path, elsewhere in moved:
        elsewhere.rename(path)


class Watched:
    """A pipe by which something was asked long ago; it is closed with the second look."""

    def __init__(self):
        self.asked_at = time.monotonic() - 2 * deciding_child.STUCK_S
        self.looks = 0

    def wait_until_closed(self, _timeout_s):
        self.looks += 1
        return self.looks > 1


@pytest.mark.parametrize("waits", ["never", "now", "lately"])
def test_where_it_hangs_is_said_unless_it_waited_for_the_lock(monkeypatch, waits):
    dumped = []
    monkeypatch.setattr(deciding_child.faulthandler, "dump_traceback", lambda: dumped.append(True))
    monkeypatch.setattr(deciding_child.os, "_exit", lambda _: None)
    monkeypatch.setattr(deciding_child, "END_WITHIN_S", 0.0)
    memory = WaitMemory(mmap(-1, WaitMemory.OCTETS))
    with ExitStack() as waiting:
        if waits != "never":
            waiting.enter_context(memory.waiting(time.monotonic() - deciding_child.STUCK_S))
        if waits == "lately":
            waiting.close()
        deciding_child._watch(Watched(), memory)
    assert bool(dumped) == (waits == "never")


def test_policy_that_it_does_not_take_ends_it(at, monkeypatch):
    pid = at.begun()
    monkeypatch.setattr(deciding_process, "_to_be_sent", lambda _: lambda: None)
    with pytest.raises(AttributeError, match=r"Can't (pickle|get) local object"):
        at.deciding.set_policy(SyncPolicy())
    assert has_ended(pid)


def test_it_has_our_package_and_no_more_of_us_than_it_needs(at, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/kmp-smsd-intake.service")
    pid = at.begun()
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"NOTIFY_SOCKET" not in environment
    assert b"CREDENTIALS_DIRECTORY" not in environment
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    assert Path(f"/proc/{pid}/comm").read_text() == "kmp-smsd-decide\n"
    for _ in range(3):
        os.kill(at.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            at.deciding.settle_again(NOW)
        at.now += BEGIN_MAX_S
        at.begun()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_fault_of_a_request_has_its_traceback_and_ends_nothing(at):
    pid = at.begun()
    with pytest.raises(DecidingFailed, match="TypeError: ") as raised:
        at.deciding.settle([at.received(sync(A, "K1"))], "never")
    assert "in settle" in "".join(raised.value.__notes__)
    assert at.settle(sync(A, "K1")) == [Outcome.NOT_REGISTERED]
    assert at.pid == pid


def test_what_it_says_is_said_here_with_its_fields_and_traceback(at, caplog):
    with at.store._database.transaction() as connection:
        connection.execute(
            """CREATE TRIGGER spoilt BEFORE INSERT ON journal WHEN NEW.key_id = 'K2'
               BEGIN SELECT RAISE(ABORT, 'spoilt'); END"""
        )
    for mdn in (A, B):
        register(at.store, mdn, "meter")
    assert at.settle(sync(A, "K1"), sync(B, "K2")) == [Outcome.UNKNOWN_KEY, Outcome.ERROR]
    (said,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert (said.name, said.event, said.getMessage()) == (
        "kmp_smsd.storage.settling",
        "message_error",
        "message could not be settled",
    )
    assert "IntegrityError: spoilt" in "".join(traceback_of(said))
    assert '"traceback": ' in JsonLine("intake").format(said)


def test_what_cannot_be_sent_of_a_record_is_said_in_words():
    mine, its = Pipe()
    with mine, its:
        handler = _ToPipe(_Pipe(os.dup(its.fileno())))
        handler.emit(logging.makeLogRecord({"msg": "said", "count": 3, "odd": lambda: None, "none": None}))
        kind, fields = mine.recv()
    assert (kind, fields["msg"], fields["count"], fields["none"]) == ("log", "said", 3, None)
    assert fields["odd"].startswith("<function ")


def test_record_that_cannot_be_said_fails_nobody():
    mine, its = Pipe()
    with mine, its:
        handler = _ToPipe(_Pipe(os.dup(its.fileno())))
        handler.emit(logging.makeLogRecord({"name": "some", "msg": "%d", "args": ("8613900000001",), "lineno": 7}))
        kind, fields = mine.recv()
    assert (kind, fields["levelname"], fields["msg"]) == (
        "log",
        "ERROR",
        "something at line 7 of some could not be said",
    )


def test_what_nobody_wants_to_hear_is_not_said(at, caplog):
    with at.store._database.transaction() as connection:
        connection.execute("CREATE TRIGGER spoilt BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'spoilt'); END")
    register(at.store, A, "meter")
    said = []
    for level in (logging.CRITICAL, logging.ERROR):
        caplog.set_level(level, "kmp_smsd.storage")
        assert at.settle(sync(A, "K1")) == [Outcome.ERROR]
        said.append([record.event for record in caplog.records if record.name == "kmp_smsd.storage.settling"])
    assert said == [[], ["message_error"] * 2]


def test_what_it_cannot_say_here_is_masked(at):
    """As where its own code cannot be loaded, or nobody asks any more."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from kmp_smsd.service.deciding_child import main; main(*__import__('sys').argv[1:])",
            ),
            *(LOADED, at.path, str(os.getpid()), "", "0", "x8613912345678"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "base 10: 'x86139*****678'" in done.stderr
    assert "8613912345678" not in done.stderr


# The write lock


def test_wait_for_another_process_is_known_with_its_holder_and_when_it_was_over(at, monkeypatch):
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    at.begun()
    wait = at.deciding.lock_wait
    assert (wait.is_for_others, at.store.lock_wait.holder) == (False, None)
    with held_by_another(at.path) as holder, beside(at.settle, sync(A, "K1")) as outcomes:
        until(lambda: wait.is_for_others)
        assert at.store.lock_wait.holder.startswith(f"PID {holder.pid} (")
        holder.stdin.close()
        assert outcomes.result(20) == [Outcome.NOT_REGISTERED]
    assert (wait.is_for_others, at.store.lock_wait.holder) == (False, None)


def test_wait_of_one_that_was_stopped_is_none_for_others(at, monkeypatch):
    """It may have the lock by now, and does not go on: a restart helps."""
    monkeypatch.setattr(wait_memory, "BEAT_WITHIN_S", 1.5)
    pid = at.begun()
    with ExitStack() as opened:
        holder = opened.enter_context(held_by_another(at.path))
        outcomes = opened.enter_context(beside(at.settle, sync(A, "K1")))
        until(lambda: at.deciding.lock_wait.is_for_others)
        os.kill(pid, signal.SIGSTOP)
        opened.callback(os.kill, pid, signal.SIGCONT)
        until(lambda: not at.deciding.lock_wait.is_for_others)
        os.kill(pid, signal.SIGCONT)
        until(lambda: at.deciding.lock_wait.is_for_others)
        holder.stdin.close()
        assert outcomes.result(20) == [Outcome.NOT_REGISTERED]


def test_wait_that_its_end_ended_has_just_been(at, monkeypatch):
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    pid = at.begun()
    with held_by_another(at.path), beside(at.settle, sync(A, "K1")) as outcomes:
        until(lambda: at.deciding.lock_wait.is_for_others)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            outcomes.result(20)
    assert at.deciding.lock_wait.over_s < 60


def test_wait_for_who_asks_is_none_for_others(at):
    at.begun()
    with ExitStack() as opened:
        mine = opened.enter_context(closing(WriteLock(at.path)))
        waiting = opened.enter_context(ExitStack())
        with mine:
            outcomes = waiting.enter_context(beside(at.settle, sync(A, "K1")))
            until(lambda: waits_for_a_lock(at.pid))
            assert not at.deciding.lock_wait.is_for_others
        assert outcomes.result(20) == [Outcome.NOT_REGISTERED]


def test_who_asks_and_waits_for_it_waits_for_no_others(at):
    """It may hang with the lock, and then a restart does help."""
    register(at.store, A, "meter")
    pid = at.begun()
    with ExitStack() as opened:
        stranger = sqlite3.connect(at.path, isolation_level=None)
        opened.callback(stranger.close)
        stranger.execute("BEGIN IMMEDIATE")  # for which it waits with the lock
        lock = opened.enter_context(closing(WriteLock(at.path)))
        outcomes = opened.enter_context(beside(at.settle, sync(A, "K1")))
        until(lambda: at.deciding.lock_wait.memory.holds)
        os.kill(pid, signal.SIGSTOP)
        entered = opened.enter_context(beside(lambda: lock.__enter__() or lock.__exit__(None, None, None)))
        opened.callback(os.kill, pid, signal.SIGCONT)
        opened.callback(stranger.close)
        until(lambda: waits_for_a_lock(os.getpid()))
        assert not lock.wait.is_for_others
        assert not at.deciding.lock_wait.is_for_others
        stranger.close()
        os.kill(pid, signal.SIGCONT)
        assert outcomes.result(20) == [Outcome.UNKNOWN_KEY]
        entered.result(20)
