"""Installers power up first, and the office follows: real processes, real SSH."""

from __future__ import annotations

import threading

from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier

ROK = CommandStatus.ESME_ROK
WITHIN_S = 20.0  # tests/service/intake/test_wishes.py has how soon intake looks


def held(carrier: Carrier, platform: str = "metering") -> dict[str, str]:
    return {row["mdn"]: row["key_id"] for row in carrier.platforms[platform].holds()}


def test_registered_after_power_on(carrier):
    mdn, key = carrier.terminal()
    assert carrier.say(mdn, f"K1:{key}") == ROK
    (request,) = carrier.listing("waiting", "list", "--mdn", mdn)
    assert (request["key_id"], request["outcome"]) == (key, "not_registered")
    carrier.command("registrations", "add", mdn, "meter")
    carrier.wait_for(lambda: carrier.bindings().get((mdn, "meter")) == key, "the binding", within_s=WITHIN_S)
    carrier.settled()
    assert held(carrier)[mdn] == key
    assert carrier.outcomes(mdn) == ["bound", "not_registered"]
    assert carrier.listing("waiting", "list", "--mdn", mdn) == []


def test_imported_after_power_on(carrier):
    mdn, _ = carrier.terminal("meter")
    assert carrier.say(mdn, "K1:LATE-KEY") == ROK
    assert carrier.outcomes(mdn) == ["unknown_key"]
    carrier.import_keys([("LATE-KEY", "")])
    carrier.wait_for(lambda: carrier.bindings().get((mdn, "meter")) == "LATE-KEY", "the binding", within_s=WITHIN_S)


def test_resumed_after_power_on(carrier):
    mdn, key = carrier.terminal("meter")
    carrier.command("keys", "suspend", key, "--reason", "on its way")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.command("keys", "resume", key)
    carrier.wait_for(lambda: carrier.bindings().get((mdn, "meter")) == key, "the binding", within_s=WITHIN_S)


def test_waiting_survives_a_restart_of_intake(carrier):
    mdn, key = carrier.terminal()
    assert carrier.say(mdn, f"K1:{key}") == ROK
    intake = next(one for one in carrier.roles if one.name == "intake" and one.process.poll() is None)
    intake.process.kill()
    intake.process.wait()
    carrier.command("registrations", "add", mdn, "meter")  # while nobody could look
    carrier.start_role("intake")
    carrier.wait_for(lambda: carrier.bindings().get((mdn, "meter")) == key, "the binding", within_s=WITHIN_S)


def test_import_and_registration_race_the_message(carrier):
    """Each terminal lacks one of the two when the race begins. Whatever comes first, in the end it is bound."""
    unregistered = [(f"86139{number:08}", f"RACE-{number:03}") for number in range(30)]
    unimported = [(f"86139{number:08}", f"RACE-{number:03}") for number in range(30, 60)]
    carrier.import_keys([(key, "") for _, key in unregistered])
    register(carrier, [mdn for mdn, _ in unimported])
    answers: list[int] = []

    def power_on() -> None:
        terminals = [one for pair in zip(unregistered, unimported, strict=True) for one in pair]
        futures = [carrier.smsc.send(mdn, f"K1:{key}") for mdn, key in terminals]
        answers.extend(future.result(30) for future in futures)

    racing = [
        threading.Thread(target=power_on),
        threading.Thread(target=register, args=(carrier, [mdn for mdn, _ in unregistered])),
    ]
    for one in racing:
        one.start()
    carrier.import_keys([(key, "") for _, key in unimported])
    for one in racing:
        one.join(60)
    assert answers == [ROK] * 60
    expected = {(mdn, "meter"): key for mdn, key in (*unregistered, *unimported)}
    carrier.wait_for(lambda: carrier.bindings().items() >= expected.items(), "every binding", within_s=WITHIN_S)
    carrier.settled()
    assert held(carrier).items() >= dict((*unregistered, *unimported)).items()


def register(carrier: Carrier, mdns: list[str]) -> None:
    file = carrier.directory / f"registrations-{mdns[0]}.csv"
    file.write_text("mdn,app_id\n" + "".join(f"{mdn},meter\n" for mdn in mdns))
    carrier.command("registrations", "import", str(file))
