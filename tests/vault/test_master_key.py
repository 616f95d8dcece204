from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
import traceback

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.key_files import create_master_key, sync_directory
from kmp_smsd.vault.master_key import MasterKey, MasterKeyFileFault, PublicKey, WrongMasterKey, create


def _octets(path):
    return base64.urlsafe_b64decode(path.read_text().split()[2])


@pytest.fixture
def files(tmp_path):
    private, public = tmp_path / "master-key", tmp_path / "master-key.pub"
    create_master_key(private, public)
    return private, public


@pytest.fixture
def halves(files):
    return MasterKey.load(files[0]), PublicKey.load(files[1])


def test_what_the_public_half_seals_the_private_half_opens(halves):
    master, public = halves
    data_key = DataKey.new()
    sealed = public.seal(data_key)
    opened = master.open(data_key.id, sealed)
    assert (opened.id, opened.octets) == (data_key.id, data_key.octets)
    assert len(sealed) == 1168


def test_both_halves_have_one_fingerprint_and_every_master_key_another(halves):
    master, public = halves
    assert master.fingerprint == public.fingerprint
    assert len(master.fingerprint) == 32
    assert create()[1].split()[1] != create()[1].split()[1]


def test_another_private_half_is_refused(halves, tmp_path):
    create_master_key(tmp_path / "other", tmp_path / "other.pub")
    data_key = DataKey.new()
    with pytest.raises(WrongMasterKey, match=rf"^data key {data_key.id} was not sealed to master key [0-9a-f]{{32}}$"):
        MasterKey.load(tmp_path / "other").open(data_key.id, halves[1].seal(data_key))


def test_data_key_is_opened_under_its_own_id_only(halves):
    master, public = halves
    with pytest.raises(WrongMasterKey):
        master.open("another", public.seal(DataKey.new()))


@pytest.mark.parametrize("damage", [lambda s: s[:-1], lambda s: s[:0], lambda s: s[:1120], lambda s: s + b"\0"])
def test_damaged_seal_is_refused(halves, damage):
    master, public = halves
    data_key = DataKey.new()
    with pytest.raises(WrongMasterKey):
        master.open(data_key.id, damage(public.seal(data_key)))


def test_only_a_data_key_can_come_out_of_a_seal(halves):
    master, public = halves

    class Short:
        id = "d1"
        octets = bytes(16)

    with pytest.raises(WrongMasterKey):
        master.open("d1", public.seal(Short()))


def test_seal_is_hpke_as_the_standards_have_it(files, halves):
    """RFC 9180 in base mode with the X-Wing KEM, opened here without our library's HPKE."""
    octets = _octets(files[0])
    mlkem, x25519 = (
        MLKEM768PrivateKey.from_seed_bytes(octets[:64]),
        X25519PrivateKey.from_private_bytes(octets[64:]),
    )
    data_key = DataKey.new()
    sealed = halves[1].seal(data_key)
    mlkem_ciphertext, x25519_ciphertext, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
    shared = hashlib.sha3_256(
        mlkem.decapsulate(mlkem_ciphertext)
        + x25519.exchange(X25519PublicKey.from_public_bytes(x25519_ciphertext))
        + x25519_ciphertext
        + x25519.public_key().public_bytes_raw()
        + b"\\.//^\\"
    ).digest()
    suite = b"HPKE" + bytes.fromhex("647a 0001 0002")

    def extract(salt, label, octets):
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + octets, "sha256")

    def expand(secret, label, info, size):
        labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
        return hmac.digest(secret, labelled + b"\x01", "sha256")[:size]

    info = b"kmp-smsd data key v1\0" + data_key.id.encode()
    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    key, nonce = expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == data_key.octets


def test_files_have_exact_permissions_whatever_the_umask_is(tmp_path):
    before = os.umask(0o077)
    try:
        create_master_key(tmp_path / "a", tmp_path / "a.pub")
        os.umask(0)
        create_master_key(tmp_path / "b", tmp_path / "b.pub")
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / f"{name}.pub").stat().st_mode) == 0o644


def test_file_is_one_line_of_text(files):
    for path, kind in zip(files, ("private", "public"), strict=True):
        text = path.read_text("ascii")
        assert text.startswith(f"kmp-smsd-master-key-{kind}-v1 ")
        assert text.count("\n") == 1
        assert text.endswith("\n")


@pytest.mark.parametrize("existing", ["master-key", "master-key.pub"])
def test_existing_file_is_never_overwritten_and_no_half_is_left_alone(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError):
        create_master_key(tmp_path / "master-key", tmp_path / "master-key.pub")
    assert (tmp_path / existing).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_dangling_link_is_not_followed(tmp_path):
    (tmp_path / "master-key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="exists"):
        create_master_key(tmp_path / "master-key", tmp_path / "master-key.pub")
    assert not (tmp_path / "elsewhere").exists()


def test_each_half_is_on_the_disk_whole_and_then_its_name(tmp_path, monkeypatch):
    private, public = tmp_path / "master-key", tmp_path / "master-key.pub"
    synced = []

    def noted(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", noted)
    create_master_key(private, public)
    assert [(path, size) for path, size in synced if path != str(tmp_path)] == [
        (str(half), half.stat().st_size) for half in (private, public)
    ]
    assert [path for path, _ in synced] == [str(private), str(tmp_path), str(public), str(tmp_path)]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", range(4))
def test_half_that_is_not_on_the_disk_is_none(tmp_path, monkeypatch, before, error):
    syncs = iter(range(4))

    def failing(_):
        if next(syncs) == before:
            raise error

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(type(error)):
        create_master_key(tmp_path / "master-key", tmp_path / "master-key.pub")
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_stays_open(tmp_path, monkeypatch):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    def failing(_):
        raise OSError(5, "Input/output error")

    before = descriptors()
    create_master_key(tmp_path / "master-key", tmp_path / "master-key.pub")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        sync_directory(tmp_path)
    assert descriptors() == before


def test_wrong_half_is_recognised(files):
    private, public = files
    with pytest.raises(MasterKeyFileFault, match=r"master-key\.pub: this is the public half of a master key; the priv"):
        MasterKey.load(public)
    with pytest.raises(MasterKeyFileFault, match=r"master-key: this is the private half of a master key; the public "):
        PublicKey.load(private)


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"", "this is not a master key"),
        (b"\0" * 5000, "this is not a master key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n", "this is not a master key"),
        (b"\xff\xfe\x00", "this is not a master key"),
        (b"kmp-smsd-master-key-private-v2 ab secret", "another version of kmp-smsd"),
        (b"kmp-smsd-master-key-private-v1", "damaged"),
        (b"kmp-smsd-master-key-private-v1 ab secret", "damaged"),
        (b"kmp-smsd-master-key-private-v1 ab c2VjcmV0", "damaged"),
    ],
)
def test_other_files_are_refused_with_a_sentence_that_shows_nothing_of_them(tmp_path, octets, sentence):
    (tmp_path / "file").write_bytes(octets)
    with pytest.raises(MasterKeyFileFault, match=sentence) as fault:
        MasterKey.load(tmp_path / "file")
    assert "secret" not in "".join(traceback.format_exception(fault.value))
    assert "c2VjcmV0" not in str(fault.value)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("position", [40, 70, 100, 160])  # not 150: X25519 ignores the lowest bits there (RFC 7748, 5)
def test_one_changed_character_is_noticed(files, half, position):
    path = files[half]
    text = path.read_text()
    path.write_text(text[:position] + ("B" if text[position] == "A" else "A") + text[position + 1 :])
    with pytest.raises(MasterKeyFileFault, match="damaged"):
        (MasterKey, PublicKey)[half].load(path)


def test_public_half_that_is_no_key_is_noticed_whatever_its_fingerprint_is(files):
    octets = b"\xff" * len(_octets(files[1]))
    fingerprint = hashlib.sha256(octets).hexdigest()[:32]
    files[1].write_text(f"kmp-smsd-master-key-public-v1 {fingerprint} {base64.urlsafe_b64encode(octets).decode()}\n")
    with pytest.raises(MasterKeyFileFault, match="damaged"):
        PublicKey.load(files[1])


@pytest.mark.parametrize("half", [0, 1])
def test_cut_file_is_noticed(files, half):
    files[half].write_bytes(files[half].read_bytes()[:-20])
    with pytest.raises(MasterKeyFileFault, match="damaged"):
        (MasterKey, PublicKey)[half].load(files[half])


def test_missing_file_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MasterKey.load(tmp_path / "nowhere")


def test_repr_shows_the_fingerprint_and_no_octet_of_the_key(files, halves):
    master, public = halves
    assert repr(master) == f"<MasterKey {master.fingerprint}>"
    assert repr(public) == f"<PublicKey {public.fingerprint}>"
    assert files[0].read_text().split()[2] not in repr(master)
