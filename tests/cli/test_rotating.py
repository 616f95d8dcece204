"""A new master key: every imported key opens with it, whatever was broken off on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import Result
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import resealing
from kmp_smsd.storage.scrubbing import Scrubber
from kmp_smsd.vault import key_files, replacing
from kmp_smsd.vault.key_files import create_master_key
from kmp_smsd.vault.master_key import MasterKey, PublicKey, WrongMasterKey
from tests.cli.site import FIRST, Site


@pytest.fixture
def site(site: Site) -> Site:
    """Two imports, sealed to the first master key."""
    site.ready("K1", "K2")
    more = site.write("more.csv", f"key_id,key\nK3,{3:032x}\n")
    site.ok("keys", "import", str(more), "--vendor", "Acme", "--plaintext")
    return site


def opened(site: Site, private: Path) -> dict[str, bytes]:
    """Each key in clear, as dispatch opens it with this private half."""
    master_key, keys = MasterKey.load(private), {}
    with site.store() as store:
        for key_id, algorithm, app, nonce, ciphertext, data_key, sealed in store._database.rows(
            """SELECT k.key_id, k.algorithm, k.app, k.nonce, k.ciphertext, d.id, d.sealed
               FROM keys k JOIN imports i ON i.id = k.import JOIN data_keys d ON d.id = i.data_key"""
        ):
            keys[key_id] = master_key.open(data_key, sealed).unwrap((nonce, ciphertext), key_id, algorithm, app)
    return keys


def is_whole(site: Site) -> None:
    """Everything fits together, and goes on."""
    private, public = site.directory / "master.key", site.directory / "master.pub"
    assert opened(site, private) == {f"K{number}": number.to_bytes(16, "big") for number in (1, 2, 3)}
    assert private.stat().st_mode & 0o777 == 0o600
    assert not list(site.directory.glob("master.*.next"))
    with site.store() as store:
        assert store.master_key() == MasterKey.load(private).fingerprint == PublicKey.load(public).fingerprint
    later = site.write("later.csv", f"key_id,key\nK9,{9:032x}\n")
    site.ok("keys", "import", str(later), "--vendor", "Acme", "--plaintext")
    assert opened(site, private)["K9"] == bytes(15) + b"\t"


def test_every_key_opens_with_the_new_half_and_none_with_the_old_one(site: Site) -> None:
    before = MasterKey.load(site.directory / "master.key").fingerprint
    told = site.ok("master-key", "rotate", "--yes")
    after = MasterKey.load(site.directory / "master.key").fingerprint
    assert before != after
    assert f"master key {after}: 2 data keys sealed to it" in told
    assert "keep a copy of the private half in a safe" in told
    with pytest.raises(WrongMasterKey):
        opened(site, site.directory / f"master.key.{before}")
    is_whole(site)


def test_nothing_of_what_was_sealed_before_stays_in_the_files_of_the_database(site: Site) -> None:
    with site.store() as store:
        sealed = [octets for (octets,) in store._database.rows("SELECT sealed FROM data_keys")]
    site.ok("master-key", "rotate", "--yes")
    assert not are_in_a_file(site, sealed)


def are_in_a_file(site: Site, sealed: list[bytes]) -> bool:
    return any(octets[:64] in file.read_bytes() for file in site.directory.glob("kmp.db*") for octets in sealed)


def test_what_was_sealed_before_is_told_where_it_stays_and_goes_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Scrubber.scrub.__kwdefaults__, "waits_s", ())
    with closing(sqlite3.connect(site.database)) as shell:
        sealed = [octets for (octets,) in shell.execute("SELECT sealed FROM data_keys")]
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM store").fetchall()
        told = site.ok("master-key", "rotate", "--yes")
        assert "they are still in the files of the database" in told
        assert are_in_a_file(site, sealed)
        shell.rollback()
        assert shell.execute("SELECT erase_log FROM store").fetchone() == (1,)  # for dispatch
        with site.store() as store:
            assert not store.finish_erasing()
        assert not are_in_a_file(site, sealed)


def test_backup_from_before_is_sealed_to_the_present_key(site: Site) -> None:
    before = MasterKey.load(site.directory / "master.key").fingerprint
    copy = site.directory / "copy.db"
    site.ok("db", "backup", str(copy))
    site.ok("master-key", "rotate", "--yes")
    present = (site.directory / "master.key").read_bytes()
    site.ok("db", "restore", str(copy), "--yes", "--other-master-key")
    code, sentence = site.refused("master-key", "rotate", "--yes")
    assert (code, sentence.endswith(f"are sealed to {before}: name its private half with --from")) == (1, True)
    older = str(site.directory / f"master.key.{before}")
    assert "2 data keys sealed to it" in site.ok("master-key", "rotate", "--yes", "--from", older)
    assert (site.directory / "master.key").read_bytes() == present
    is_whole(site)


def test_rotating_waits_for_nobody_and_leaves_all_as_it_is(site: Site) -> None:
    with site.store():
        code, sentence = site.refused("master-key", "rotate", "--yes")
    assert (code, "is in use: stop kmp-smsd" in sentence) == (75, True)
    site.ok("master-key", "rotate", "--yes")
    is_whole(site)


def test_second_rotation_changes_nothing_while_one_is_at_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would remove the new private half, and every key be lost that was sealed to it."""
    seconds: list[Result] = []

    def meanwhile(*halves: Path) -> PublicKey:
        made = create_master_key(*halves)
        if not seconds:
            seconds.append(site.run("master-key", "rotate", "--yes"))
        return made

    monkeypatch.setattr(replacing, "create_master_key", meanwhile)
    site.ok("master-key", "rotate", "--yes")
    is_whole(site)
    assert (seconds[0].exit_code, seconds[0].stdout) == (75, "")
    busy = f"another 'kmp-smsd master-key rotate' is replacing {site.directory}/master.pub"
    assert seconds[0].stderr == f"kmp-smsd: {busy}: try again when it has ended\n"


def test_nobody_is_rotated_unasked(site: Site) -> None:
    before = (site.directory / "master.key").read_bytes()
    code, sentence = site.refused("master-key", "rotate")
    assert (code, "Say --yes to do it" in sentence) == (64, True)
    assert (site.directory / "master.key").read_bytes() == before
    assert not list(site.directory.glob("master.*.next"))


def test_without_keys_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    empty = Site(tmp_path)
    empty.ready()
    code, sentence = empty.refused("master-key", "rotate", "--yes")
    assert (code, "then run 'kmp-smsd master-key create'" in sentence) == (1, True)


class Cut(BaseException):
    """The power goes."""


def after(calls: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, but the power goes instead of it once it was called so often."""
    left = [calls]

    def cut(*args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            raise Cut
        left[0] -= 1
        return call(*args, **kwargs)

    return cut


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (replacing, "create_master_key", 0),
        (resealing, "check_schema", 0),
        (PublicKey, "seal", 1),
        (replacing, "sync_directory", 0),
        (replacing, "sync_directory", 1),
        (replacing, "sync_directory", 2),
        (os, "replace", 0),
        (os, "replace", 1),
        (os, "link", 0),
        (os, "link", 1),
    ],
)
def test_what_was_broken_off_is_finished_by_the_next_try(
    site: Site, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, after(calls, getattr(owner, name)))
        with pytest.raises(Cut):
            site.ok("master-key", "rotate", "--yes")
    first = {path.name for path in site.directory.glob("master.key.*") if path.suffix != ".next"}
    site.ok("master-key", "rotate", "--yes")
    assert first <= {path.name for path in site.directory.glob("master.key.*")}
    is_whole(site)


@pytest.mark.parametrize("half", ["master.key.next", "master.pub.next"])
def test_half_that_was_half_written_is_made_anew(site: Site, half: str) -> None:
    (site.directory / half).write_bytes(b"kmp-smsd-master-key-pub")  # the power went
    site.ok("master-key", "rotate", "--yes")
    is_whole(site)


def test_bindings_and_wishes_are_as_before(site: Site) -> None:
    site.message(FIRST, "K1")
    before = site.rows("bindings", "list"), site.rows("outbox", "list")
    site.ok("master-key", "rotate", "--yes")
    assert (site.rows("bindings", "list"), site.rows("outbox", "list")) == before


def test_rotation_whose_new_private_half_was_lost_is_not_called_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = MasterKey.load(site.directory / "master.key").fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", after(0, os.replace))
        with pytest.raises(Cut):
            site.ok("master-key", "rotate", "--yes")
    coming = site.directory / "master.key.next"
    new = coming.read_bytes()
    coming.unlink()  # it lay in memory, say
    code, sentence = site.refused("master-key", "rotate", "--yes")
    assert (code, f"master.key is of master key {before}, the keys are sealed to" in sentence) == (77, True)
    coming.write_bytes(new)
    coming.chmod(0o600)
    site.ok("master-key", "rotate", "--yes")
    is_whole(site)


def test_private_half_that_lies_encrypted_elsewhere_is_asked_for(site: Site) -> None:
    (site.directory / "master.key").unlink()
    code, sentence = site.refused("master-key", "rotate", "--yes")
    assert (code, "--private names it, or a decrypted copy" in sentence) == (77, True)
    code, sentence = site.refused("master-key", "rotate", "--yes", "--from", str(site.directory / "older"))
    assert (code, "--private" in sentence) == (77, False)


@pytest.mark.parametrize("names_it", [True, False])  # of a file that is open the kernel's answer has no name
def test_a_group_that_may_not_have_the_private_half_is_not_told_to_be_joined(
    site: Site, monkeypatch: pytest.MonkeyPatch, names_it: bool
) -> None:
    def forbidden(path: Path, *_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path) if names_it else None)

    monkeypatch.setattr(MasterKey, "load", forbidden)
    monkeypatch.setattr(key_files, "create_master_key", forbidden)
    told = (77, "master.key: " * names_it + "permission denied: run this as root")
    assert site.refused("master-key", "rotate", "--yes") == told
    for made in (site.directory / "master.key", site.directory / "master.pub", site.database):
        made.unlink()
    assert site.refused("master-key", "create") == told


def test_no_key_is_sealed_to_a_half_whose_private_one_is_not_there(site: Site) -> None:
    before = MasterKey.load(site.directory / "master.key").fingerprint
    copy = site.directory / "copy.db"
    site.ok("db", "backup", str(copy))
    site.ok("master-key", "rotate", "--yes")
    site.ok("db", "restore", str(copy), "--yes", "--other-master-key")
    private = site.directory / "master.key"
    present = private.read_bytes()
    private.unlink()
    older = site.directory / f"master.key.{before}"
    assert "No such file" in site.refused("master-key", "rotate", "--yes", "--from", str(older))[1]
    private.write_bytes(older.read_bytes())
    assert site.refused("master-key", "rotate", "--yes", "--from", str(older))[0] == 77
    with site.store() as store:
        assert store.master_key() == before
    private.write_bytes(present)
    (site.directory / "master.key.next").write_bytes(b"half")  # of a rotation that was broken off at its beginning
    site.ok("master-key", "rotate", "--yes", "--from", str(older))
