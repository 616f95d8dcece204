from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import pytest

from kmp_smsd.importing.child_process import told_by_child


def until_killed(tell):
    tell(os.getpid())
    while True:
        signal.pause()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def interruptible():
    """SIGINT as Python takes it: a shell may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_told_comes_in_order_from_another_process_that_sees_our_memory():
    here = os.urandom(8)

    def work(tell):
        tell(os.getpid())
        for number in range(3):
            tell((number, here))

    with told_by_child(work) as told:
        pid, *rest = told
    assert pid != os.getpid()
    assert rest == [(number, here) for number in range(3)]


def test_error_is_raised_behind_what_was_told_with_the_place_where_it_happened():
    def work(tell):
        tell(1)
        raise FileNotFoundError(2, "No such file or directory", "keys.csv")

    taken = []
    with pytest.raises(FileNotFoundError) as raised, told_by_child(work) as told:
        taken.extend(told)
    assert taken == [1]
    assert raised.value.filename == "keys.csv"
    assert "in work" in "".join(traceback.format_exception(raised.value))


def test_work_that_nobody_wants_any_more_ends_with_the_context():
    with told_by_child(until_killed) as told:
        pid = next(told)
        assert alive(pid)
    assert not alive(pid)


def test_work_waits_where_nobody_takes_what_it_tells():
    many, octets = 1000, 1 << 16
    count = mmap.mmap(-1, 8)

    def work(tell):
        for number in range(many):
            tell(b"x" * octets)
            count[:] = number.to_bytes(8, "big")

    with told_by_child(work) as told:
        for taken, _ in enumerate(told, 1):
            in_the_pipe = int.from_bytes(count[:], "big") + 1 - taken
            assert in_the_pipe <= (1 << 20) // octets + 1
    assert taken == many


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "was ended by SIGKILL, as the kernel does where memory is short",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "was ended by signal 15"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1), f"was ended by signal {signal.SIGRTMIN + 1}"),
        (lambda: os._exit(0), "ended before its work was done"),
    ],
)
def test_work_that_somebody_ends_is_an_error_and_no_end(end, how):
    def work(tell):
        tell(os.getpid())
        end()

    with told_by_child(work) as told:
        pid = next(told)
        with pytest.raises(ChildProcessError) as raised:
            next(told)
    assert str(raised.value) == f"process {pid} of this command {how}; try again"
    assert raised.value.strerror is None  # so that the sentence is shown as it is


def test_work_that_is_killed_while_it_tells_is_an_error_in_our_words():
    def work(tell):
        tell(os.getpid())
        tell(bytes(8 << 20))  # more than a pipe takes

    with told_by_child(work) as told:
        pid = next(told)
        while state(pid) != "S":  # it waits until the pipe has room
            pass
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=f"process {pid} of this command was ended by SIGKILL"):
            next(told)


def test_end_that_is_not_known_how_is_an_error_all_the_same(request):
    # Whoever began us may have it ignored: then the system keeps of a process that ended nothing to be asked for.
    request.addfinalizer(partial(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_IGN)))
    with told_by_child(lambda _: os._exit(1)) as told, pytest.raises(ChildProcessError) as raised:
        next(told)
    assert str(raised.value).endswith("of this command ended before its work was done; try again")


def test_pipe_that_may_not_be_made_longer_does_as_it_is(monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refused)
    with told_by_child(lambda tell: tell(1)) as told:
        assert list(told) == [1]


def test_work_that_cannot_begin_is_an_error_in_our_words(monkeypatch):
    def refused():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(ChildProcessError) as raised, told_by_child(until_killed):
        pass
    assert str(raised.value) == "this command cannot begin another process: Resource temporarily unavailable"
    assert raised.value.strerror is None
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.usefixtures("interruptible")
def test_interrupt_of_all_is_ours_alone():
    def work(tell):
        tell(os.getpid())
        signal.raise_signal(signal.SIGINT)
        tell("goes on")

    with told_by_child(work) as told:
        assert list(told)[1:] == ["goes on"]


@pytest.mark.usefixtures("interruptible")
def test_interrupt_ends_the_work():
    pids = []

    def take():
        with told_by_child(until_killed) as told:
            pids.append(next(told))
            signal.raise_signal(signal.SIGINT)
            next(told)

    with pytest.raises(KeyboardInterrupt):
        take()
    assert not alive(*pids)


def test_work_ends_when_we_are_killed():
    killed = f"""
import os, signal, sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from kmp_smsd.importing.child_process import told_by_child
def work(tell):
    os.write(1, b"working")
    tell(0)
    signal.pause()
with told_by_child(work) as told:
    next(told)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # Its standard output ends when nobody has it open any more.
    run = subprocess.run([sys.executable, "-c", killed], stdout=subprocess.PIPE, timeout=30, check=False)
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, b"working")
