"""`doctor` on a whole installation: all is good, and then what is broken is told with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kmp_smsd.vault.master_key import create
from tests.e2e.carrier import Carrier


def diagnosed(carrier: Carrier, *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and what is not good by the name of its check. The clock is the machine's own affair."""
    done = carrier.command("doctor", "--json", "--skip", "clock", *words, check=False)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    bad = {one["check"]: [found for found in one["findings"] if found["level"] != "ok"] for one in reports}
    return done.returncode, {name: found for name, found in bad.items() if found}


def test_healthy_installation_is_told_from_a_broken_one(own_carrier: Carrier) -> None:
    carrier = own_carrier
    mdn, key_id = carrier.terminal("meter")
    carrier.say(mdn, f"K1:{key_id}")
    carrier.settled()
    assert diagnosed(carrier) == (0, {})
    assert diagnosed(carrier, "--bind") == (0, {})

    _pin_another_key(carrier, "fleet")
    code, bad = diagnosed(carrier)
    assert (code, list(bad)) == (69, ["platform fleet"])
    (found,) = bad["platform fleet"]
    assert "the host key is not one of host_keys" in found["sentence"]
    assert "kmp-smsd platforms trust fleet" in found["remedy"]
    carrier.write_config()

    private = carrier.directory / "master.key"
    right = private.read_bytes()
    private.write_bytes(create()[0])
    code, bad = diagnosed(carrier)
    assert (code, list(bad)) == (77, ["master-key"])
    assert "put the private half of" in bad["master-key"][0]["remedy"]
    private.write_bytes(right)

    carrier.smsc.stop()
    code, bad = diagnosed(carrier, "--skip", "roles")  # intake may have heard of it or not
    assert (code, list(bad)) == (69, ["smsc lab"])
    assert bad["smsc lab"][0]["remedy"].startswith("is the SMSC up")


def _pin_another_key(carrier: Carrier, name: str) -> None:
    """Have a platform's file name a key of the same type that its host does not have."""
    path = carrier.directory / "platforms.d" / f"{name}.toml"
    algorithm, pinned = carrier.platforms[name].server.host_key.split()[:2]
    other = pinned[:-8] + pinned[-8:][::-1]
    assert (algorithm, pinned != other) == ("ssh-ed25519", True)
    path.write_text(path.read_text().replace(pinned, other))


def test_disk_with_little_room_is_told(small_disk: Path, tmp_path: Path) -> None:
    with Carrier(tmp_path / "carrier") as carrier:
        carrier.database = small_disk / "kmp-smsd.db"
        carrier.write_config()
        carrier.command("db", "migrate")
        small_disk.chmod(0o700)
        code, bad = diagnosed(carrier)
        assert (code, list(bad)) == (75, ["database"])
        (found,) = bad["database"]
        assert "messages will soon stay with the SMSCs" in found["sentence"]
        assert found["remedy"].startswith("make room")
