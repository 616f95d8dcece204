"""What systemd says of our units."""

from __future__ import annotations

import subprocess

from kmp_smsd.diagnosis.address_filter import FilterFacts

SYSTEMD_WITHIN_S = 10.0


def address_filter(unit: str) -> FilterFacts | None:
    """Which addresses a unit may talk to; None where it is not there, or nobody says."""
    words = ["systemctl", "show", unit, "--property=LoadState,IPAddressAllow,IPAddressDeny"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SYSTEMD_WITHIN_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if said.get("LoadState") != "loaded":
        return None
    return FilterFacts(
        unit=unit, allowed=tuple(said["IPAddressAllow"].split()), denied=tuple(said["IPAddressDeny"].split())
    )
