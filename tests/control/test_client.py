from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kmp_smsd.control.client import RoleAway, ask
from kmp_smsd.control.protocol import Done, NotDone, Progress, Refused, Request


class RoleByHand:
    """A role that says what the test says, and nothing more."""

    def __init__(self, path: Path, *answers: bytes, hang: bool = False) -> None:
        self.heard: list[bytes] = []
        self._answers, self._hang = answers, hang
        self._over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with closing(connection):
            self.heard.append(connection.makefile("rb").readline())
            for answer in self._answers:
                connection.sendall(answer)
            if self._hang:
                self._over.wait(20)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "intake.sock"


@pytest.fixture
def role(path: Path) -> Iterator[object]:
    roles: list[RoleByHand] = []

    def made(*answers: bytes, hang: bool = False) -> RoleByHand:
        roles.append(RoleByHand(path, *answers, hang=hang))
        return roles[-1]

    yield made
    for one in roles:
        one.close()


def test_the_result_comes_after_the_progress(path, role):
    asked = role(Progress("half").encode(), Progress("whole").encode(), Done({"state": "running"}).encode())
    told: list[str] = []
    assert ask(path, "drain", {"wait": True}, progress=told.append) == {"state": "running"}
    assert told == ["half", "whole"]
    assert Request.decode(asked.heard[0]) == Request("drain", {"wait": True})


def test_an_answer_may_come_in_pieces(path, role):
    line = Done({"name": "é" * 100_000}).encode()
    role(line[:3], line[3:70_000], line[70_000:])
    assert ask(path, "status")["name"] == "é" * 100_000


def test_a_refusal_has_its_sentences_and_its_exit_code(path, role):
    role(NotDone("file:3: wrong\n1 fault", 78).encode())
    with pytest.raises(Refused, match="file:3: wrong") as refused:
        ask(path, "reload")
    assert refused.value.exit_code == 78


@pytest.mark.parametrize(
    ("answers", "why"),
    [((), "ended before it answered"), ((b"hello\n",), "an answer that this program does not know")],
)
def test_a_role_that_says_nothing_of_use_is_away(path, role, answers, why):
    role(*answers)
    with pytest.raises(RoleAway, match=why) as away:
        ask(path, "status")
    assert away.value.exit_code == 69


def test_nobody_waits_longer_than_he_wants_to(path, role):
    role(Progress("soon").encode(), hang=True)
    with pytest.raises(RoleAway, match=r"intake runs, but does not answer within 0\.1 s"):
        ask(path, "status", within_s=0.1)


def test_a_role_that_does_not_run_is_away(path):
    with pytest.raises(RoleAway, match="intake does not run: nobody listens at"):
        ask(path, "status")
    with closing(socket.socket(socket.AF_UNIX)) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(RoleAway, match="intake does not run"):
        ask(path, "status")
