"""Whether there is room: on the disk, and in the write-ahead log."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning

MIB = 1024 * 1024
FREE_MIN = 256 * MIB  # what the log alone may take in an hour in which somebody reads for long
FREE_GOOD = 2_048 * MIB
LOG_GOOD = 320 * MIB  # the writers themselves move it at 256 MiB, unless somebody reads


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFacts:
    """Octets of the database, of its log, and free for us beside them."""

    path: str
    octets: int
    log_octets: int
    free_octets: int


def judge_room(facts: RoomFacts) -> list[Finding]:
    """A full disk loses nothing, but every message stays with its SMSC, and nothing is delivered."""
    free = f"{facts.free_octets // MIB:,} MiB are free beside {facts.path}, which has {facts.octets // MIB:,} MiB"
    grow = "make room or give the volume more; what may go: old *.before-restore-* and *.before-0* files beside it"
    if facts.free_octets < FREE_MIN:
        found = [failure(f"{free}: messages will soon stay with the SMSCs", grow)]
    elif facts.free_octets < FREE_GOOD:
        found = [warning(free, grow)]
    elif facts.free_octets < facts.octets:
        found = [warning(f"{free}: no copy of it fits, as an upgrade and a restore make one", grow)]
    else:
        found = [ok(free)]
    log = f"the write-ahead log has {facts.log_octets // MIB:,} MiB"
    if facts.log_octets > LOG_GOOD:
        found.append(
            warning(
                f"{log}: somebody has been reading the database for long, so that it cannot begin anew",
                f"find who has it open and end what is not kmp-smsd: fuser -v {facts.path}",
            )
        )
    else:
        found.append(ok(log))
    return found
