from __future__ import annotations

import os
from pathlib import Path

from kmp_smsd.cli.standard_output import StandardError


def test_a_log_goes_on_when_the_disk_has_room_again(tmp_path: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with StandardError(descriptor, "wb") as log:
        log.write(b"lost\n")
        room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(room, descriptor)
        os.close(room)
        log.write(b"kept\n")
    assert (tmp_path / "log").read_bytes() == b"kept\n"
