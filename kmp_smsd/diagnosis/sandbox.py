"""What the unit that we run in lets us do: less is better."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.diagnosis.finding import Finding, ok, warning

FILES_GOOD = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFacts:
    """Of this process, as the kernel says; None where it does not."""

    no_new_privileges: bool | None
    seccomp: bool | None
    capabilities: int | None  # the bounding set
    can_make_code: bool | None  # map memory that can be written and executed
    core_octets: int  # of a core file, at most; -1: any
    open_files: int
    configuration_is_read_only: bool | None  # for everybody: its mount
    closed: tuple[str, ...]  # directories that a role writes to, on a read-only mount


def judge_sandbox(facts: SandboxFacts) -> list[Finding]:
    """Against what the units of this package set."""
    return [
        _expect(facts.no_new_privileges, "NoNewPrivileges=yes", "this process could gain privileges"),
        _expect(facts.seccomp, "SystemCallFilter=", "every system call is allowed"),
        _expect(
            None if facts.capabilities is None else facts.capabilities == 0,
            "CapabilityBoundingSet=",
            "this process could get capabilities",
        ),
        _expect(
            None if facts.can_make_code is None else not facts.can_make_code,
            "MemoryDenyWriteExecute=yes",
            "memory can be written and executed",
        ),
        _expect(facts.core_octets == 0, "LimitCORE=0", "a core file could hold keys in clear"),
        _expect(
            facts.open_files >= FILES_GOOD, "LimitNOFILE=65536", f"only {facts.open_files:,} files may be open at once"
        ),
        _expect(
            facts.configuration_is_read_only,
            "ProtectSystem=strict and ReadOnlyPaths=",
            "the configuration is on a mount that can be written",
        ),
        _expect(not facts.closed, "ReadWritePaths=", f"{', '.join(facts.closed)} cannot be written"),
    ]


def _expect(holds: bool | None, setting: str, otherwise: str) -> Finding:
    if holds is None:
        return ok(f"{setting}: the kernel does not say")
    if holds:
        return ok(setting)
    return warning(
        f"{otherwise}: the unit lacks {setting}", "use the units of the package; 'systemctl cat' shows drop-ins"
    )
