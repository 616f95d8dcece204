from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import Bind, Withdraw
from kmp_smsd.service.preparing import DataKeys, Preparer, Unsendable
from kmp_smsd.storage.outbox import OutboxRow
from kmp_smsd.vault.algorithms import kcv
from kmp_smsd.vault.data_key import DataKey
from tests.service.by_hand import MDN
from tests.service.vendor import Vendor, clear

VERSION = 1_732_380_000_000


@pytest.fixture(scope="module")
def vendor():
    return Vendor()


def row(key, app_id="meter"):
    return OutboxRow(id=1, subscriber=1, mdn=MDN, app_id=app_id, version=VERSION, attempts=0, key=key)


def prepare(vendor, key, app_id="meter", *, apps=("meter", "alarm"), data_keys=None):
    preparer = Preparer("metering", apps, data_keys or vendor.data_keys())
    return preparer.prepare(row(key, app_id), vendor.sealed)


def flipped(octets):
    return bytes([octets[0] ^ 1]) + octets[1:]


def test_bind_is_told_with_the_key_in_clear(vendor):
    assert prepare(vendor, vendor.wrap("KEY-1")) == Bind(
        mdn=MDN,
        app_id="meter",
        version=VERSION,
        key_id="KEY-1",
        algorithm="aes",
        kcv=kcv("aes", clear("KEY-1")),
        key=clear("KEY-1"),
    )


def test_key_may_be_reserved_for_the_app_that_it_goes_to(vendor):
    assert prepare(vendor, vendor.wrap("KEY-1", "alarm"), "alarm").key == clear("KEY-1")


def test_withdraw_needs_no_key_and_goes_where_the_app_once_was(vendor):
    nobody = DataKeys(None)
    assert prepare(vendor, None, "moved-away", data_keys=nobody) == Withdraw(
        mdn=MDN, app_id="moved-away", version=VERSION
    )


def test_app_that_the_platforms_own_file_does_not_name_gets_no_key(vendor):
    with pytest.raises(Unsendable, match="app tracker is not among the apps of platform metering"):
        prepare(vendor, vendor.wrap("KEY-1"), "tracker")


@pytest.mark.parametrize("state", ["suspended", "deactivated", "compromised", "destroyed", "", "LIVE"])
def test_key_that_is_not_live_is_not_sent(vendor, state):
    with pytest.raises(Unsendable, match=f"key KEY-1 is {state}"):
        prepare(vendor, vendor.wrap("KEY-1", state=state))


def test_key_that_is_reserved_for_another_app_is_not_sent(vendor):
    with pytest.raises(Unsendable, match="key KEY-1 is reserved for app alarm"):
        prepare(vendor, vendor.wrap("KEY-1", "alarm"))


@pytest.mark.parametrize("missing", ["nonce", "ciphertext"])
def test_destroyed_key_is_not_sent_whatever_its_state_says(vendor, missing):
    with pytest.raises(Unsendable, match="key KEY-1 is destroyed"):
        prepare(vendor, vendor.wrap("KEY-1", **{missing: None}))


@pytest.mark.parametrize(
    "altered",
    [
        lambda key: key._replace(app_id=None),  # the reservation was taken away
        lambda key: key._replace(app_id="meter"),  # or changed
        lambda key: key._replace(app_id=None, key_id="KEY-2"),
        lambda key: key._replace(app_id=None, algorithm="sm4"),
        lambda key: key._replace(app_id=None, ciphertext=flipped(key.ciphertext)),
        lambda key: key._replace(app_id=None, nonce=flipped(key.nonce)),
        lambda key: key._replace(app_id=None, nonce=b""),
        lambda key: key._replace(app_id=None, ciphertext=b""),
    ],
)
def test_key_that_was_altered_in_the_database_is_not_sent(vendor, altered):
    with pytest.raises(Unsendable, match="is not as it was imported") as caught:
        prepare(vendor, altered(vendor.wrap("KEY-1", "alarm")))
    assert caught.value.__cause__ is None


def test_unreserved_key_cannot_be_given_a_reservation(vendor):
    with pytest.raises(Unsendable, match="is not as it was imported"):
        prepare(vendor, vendor.wrap("KEY-1")._replace(app_id="meter"))


def test_key_beside_a_kcv_that_is_not_its_own_is_not_sent(vendor):
    with pytest.raises(Unsendable, match="the KCV of key KEY-1"):
        prepare(vendor, vendor.wrap("KEY-1", kcv=kcv("aes", clear("KEY-2"))))


def test_key_under_another_imports_data_key_is_not_sent(vendor):
    other = DataKey.new()
    sealed = {other.id: vendor.public_key.seal(other)}
    with pytest.raises(Unsendable, match="is not as it was imported"):
        Preparer("metering", ["meter"], vendor.data_keys()).prepare(
            row(vendor.wrap("KEY-1", data_key_id=other.id)), lambda _: sealed
        )


def test_data_key_that_our_master_key_does_not_open_is_told(vendor):
    with pytest.raises(Unsendable, match=f"was not sealed to master key {vendor.master_key.fingerprint}"):
        Preparer("metering", ["meter"], vendor.data_keys()).prepare(
            row(vendor.wrap("KEY-1")), lambda _: {vendor.data_key.id: b"altered"}
        )
    with pytest.raises(Unsendable, match="was not sealed to master key"):
        prepare(vendor, vendor.wrap("KEY-1"), data_keys=Vendor().data_keys())


def test_data_key_that_is_gone_is_told(vendor):
    with pytest.raises(Unsendable, match="the data key nowhere of key KEY-1 is gone"):
        prepare(vendor, vendor.wrap("KEY-1", data_key_id="nowhere"))


def test_data_key_is_opened_once(vendor):
    data_keys, asked = vendor.data_keys(), []

    def sealed(data_key_ids):
        asked.append(data_key_ids)
        return vendor.sealed(data_key_ids)

    for number in range(3):
        Preparer("metering", ["meter"], data_keys).prepare(row(vendor.wrap(f"KEY-{number}")), sealed)
    assert asked == [[vendor.data_key.id]]


def test_data_key_that_could_not_be_opened_is_tried_again(vendor):
    data_keys, key = vendor.data_keys(), vendor.wrap("KEY-1")
    preparer = Preparer("metering", ["meter"], data_keys)
    with pytest.raises(Unsendable):
        preparer.prepare(row(key), lambda _: {})
    assert preparer.prepare(row(key), vendor.sealed).key == clear("KEY-1")
