"""kill -9 of either role, of the process that decides and of the receivers, under load: no ROK is ever lost."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

from kmp_smsd.simulator.openssh import OpensshServer
from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.storage import open_store
from tests.e2e.carrier import Carrier

ROUNDS = int(os.environ.get("KMP_KILL_ROUNDS", "24"))
EACH_ROUND = 300
VICTIMS = ("intake", "dispatch", "receiver", "decider")


def test_nothing_answered_ok_is_lost_whoever_is_killed(tmp_path):
    chance = random.Random(os.environ.get("KMP_KILL_SEED", "1"))
    with Carrier(tmp_path, link={"answer_within_s": 5.0}) as carrier:
        terminals = [(f"861377{number:07d}", f"K-{number:06d}") for number in range(ROUNDS * EACH_ROUND)]
        carrier.import_keys([(key, "") for _, key in terminals])
        register(carrier, [mdn for mdn, _ in terminals])
        carrier.start_role("dispatch")
        carrier.start_role("intake")
        answers = {}
        killed: Counter[str] = Counter()
        unanswered = 0
        for number in range(ROUNDS):
            batch = terminals[number * EACH_ROUND : (number + 1) * EACH_ROUND]
            for mdn, key in batch:
                answers[mdn] = carrier.smsc.send(mdn, f"K1:{key}")
            victim = VICTIMS[number % len(VICTIMS)]
            # Let a random share of the round be answered, then kill; the SMSC keeps what had no answer. B023: the
            # function is called before the loop goes on.
            enough = chance.randrange(EACH_ROUND)
            carrier.wait_for(lambda: sum(answers[mdn].done() for mdn, _ in batch) >= enough, "answers", 60)  # noqa: B023
            unanswered += sum(not answers[mdn].done() for mdn, _ in batch)
            killed[victim] += kill(carrier, victim)
        for answer in answers.values():
            assert answer.result(120) == CommandStatus.ESME_ROK
        carrier.wait_for(carrier.nothing_due, "every delivery to be confirmed", within_s=120)
        carrier.settled()
        assert set(carrier.bindings().items()) == {((mdn, "meter"), key) for mdn, key in terminals}
        with open_store(carrier.database) as store:
            counted = Counter({row["outcome"]: row["count"] for row in store.journal.tallies()})
        assert counted["bound"] == len(terminals)  # what was sent again after a lost answer is already_bound
        assert counted.keys() <= {"bound", "already_bound"}
        assert min(killed[victim] for victim in VICTIMS) >= ROUNDS // len(VICTIMS)
        assert unanswered > ROUNDS  # they died with work in hand


def test_messages_that_cannot_be_decided_are_laid_aside_and_are_decided_once_they_are_back(tmp_path: Path) -> None:
    """As docs/operations.rst says, for a fault of ours: what comes meanwhile is decided."""
    with Carrier(tmp_path / "carrier") as carrier:
        intake = carrier.start_role("intake")
        terminals = [carrier.terminal("meter") for _ in range(4)]
        (decider,) = children(intake.process.pid)
        os.kill(decider, signal.SIGSTOP)  # instead of the fault
        for mdn, key in terminals[:3]:
            assert carrier.smsc.send(mdn, f"K1:{key}").result(30) == CommandStatus.ESME_ROK
        os.kill(decider, signal.SIGKILL)
        intake.kill()
        aside, inbox = tmp_path / "aside", carrier.database.with_name(carrier.database.name + "-inbox")
        aside.mkdir()
        move(inbox, aside)

        intake = carrier.start_role("intake")
        carrier.say(terminals[3][0], f"K1:{terminals[3][1]}")
        assert set(carrier.bindings()) == {(terminals[3][0], "meter")}
        assert intake.stop() == 0

        move(aside, inbox)
        carrier.start_role("intake")
        carrier.wait_for(carrier.all_settled, "what was laid aside to be decided")
        assert set(carrier.bindings().items()) == {((mdn, "meter"), key) for mdn, key in terminals}


def move(source: Path, target: Path) -> None:
    for path in source.glob("*.messages"):
        path.rename(target / path.name)


def register(carrier: Carrier, mdns: list[str]) -> None:
    file = carrier.directory / "registrations.csv"
    file.write_text("mdn,app_id\n" + "".join(f"{mdn},meter\n" for mdn in mdns))
    carrier.command("registrations", "import", str(file))


def children(pid: int) -> list[int]:
    """The processes that a process, whichever thread of it, has begun."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def kill(carrier: Carrier, victim: str) -> int:
    """kill -9 and, as systemd would, start again; how many processes died at least."""
    if victim == "decider":  # intake begins another
        intake = next(one for one in reversed(carrier.roles) if one.name == "intake").process.pid
        carrier.wait_for(lambda: bool(children(intake)), "a process that decides to kill")
        (decider,) = children(intake)
        os.kill(decider, signal.SIGKILL)
        return 1
    if victim == "receiver":
        server = carrier.platforms["metering"].server
        assert isinstance(server, OpensshServer)
        # Not first seen and then killed: that of a dispatch which was killed before ends by itself in between.
        carrier.wait_for(lambda: server.kill_receivers() > 0, "a receiver to kill")
        return 1
    role = next(one for one in reversed(carrier.roles) if one.name == victim)
    role.kill()
    carrier.start_role(victim)
    return 1
