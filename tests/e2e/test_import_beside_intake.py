"""A vendor's large file is imported while terminals report: none of them waits, and the new keys exist all at once."""

from __future__ import annotations

import subprocess

from kmp_smsd.smpp.constants import CommandStatus

KEYS = 500_000  # so many that some are still to come when 20 messages have been answered


def test_large_import_leaves_no_message_with_the_smsc(carrier):
    terminals = [(f"861388{number:07d}", f"EARLY-{number:04d}") for number in range(400)]
    carrier.import_keys([(key, "") for _, key in terminals])
    registrations = carrier.directory / "beside.csv"
    registrations.write_text("mdn,app_id\n" + "".join(f"{mdn},meter\n" for mdn, _ in terminals))
    carrier.command("registrations", "import", str(registrations))
    file = carrier.directory / "large.csv"
    file.write_text("key_id,key\n" + "".join(f"LATE-{number:06d},{number:032x}\n" for number in range(KEYS)))
    put_off = carrier.smsc.counts.put_off
    importing = subprocess.Popen(
        carrier.words("keys", "import", str(file), "--vendor", "Beside", "--plaintext"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = 0
    while importing.poll() is None and said < len(terminals) - 1:
        mdn, key = terminals[said]
        assert carrier.say(mdn, f"K1:{key}") == CommandStatus.ESME_ROK
        said += 1
    output, _ = importing.communicate(timeout=120)
    assert importing.returncode == 0, output
    assert said > 20
    assert carrier.smsc.counts.put_off == put_off
    mdn, _ = terminals[-1]
    assert carrier.say(mdn, f"K1:LATE-{KEYS - 1:06d}") == CommandStatus.ESME_ROK
    assert carrier.outcomes(mdn) == ["bound"]
