"""What a running role says of itself: much of what stands in its way, it alone knows."""

from __future__ import annotations

from collections.abc import Sequence

from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning


def judge_role(role: str, not_ready: Sequence[str], degraded: Sequence[str]) -> list[Finding]:
    """`not_ready` is why it does not do its work now, `degraded` what a person should look at all the same."""
    remedy = f"kmp-smsd status --role {role}\njournalctl -u kmp-smsd-{role}"
    found = [failure(sentence, remedy) for sentence in not_ready]
    found += [warning(sentence, remedy) for sentence in degraded]
    return found or [ok("it runs, and says that all is good")]
