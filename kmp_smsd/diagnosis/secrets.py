"""Whether each secret is where the configuration says, and whether the master key is the one that the keys need."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from kmp_smsd.diagnosis.files import FileFacts
from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning

_HAVE = "put it there and restart that role"
_HAVE_FIRST = {
    "[secrets] master_key": f"for a new installation: kmp-smsd master-key create; else {_HAVE}",
    "[secrets] ssh_identity": f"for a new installation: ssh-keygen, as docs/operations.rst says; else {_HAVE}",
}

_ELSEWHERE = (
    "where a drop-in of its unit loads the credential from elsewhere, run this in a unit of its own, with its line:\n"
    "systemd-run --pty -p LoadCredential=NAME:FILE kmp-smsd doctor --skip sandbox"  # which is no role's
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFacts:
    """One secret. `fault` says why it cannot be used, '' where it was read and is good.

    `loaded_from` is set for a credential looked for outside its unit: the file that the unit loads. Of such a one
    `fault` says only what is wrong with what it holds. `encrypted` is the file beside it that has it encrypted, where
    it is not there itself.
    """

    option: str
    fault: str = ""
    loaded_from: FileFacts | None = None
    encrypted: str = ""


def judge_secret(secret: SecretFacts) -> Finding:
    """A secret that the role reads, or the file that its unit will load.

    Modes in $CREDENTIALS_DIRECTORY are systemd's own affair, and are not judged.
    """
    if secret.encrypted:
        return ok(f"{secret.option}, encrypted in {secret.encrypted}, into which was not looked")
    file = secret.loaded_from
    if file is None:
        return failure(f"{secret.option}: {secret.fault}", _remedy(secret)) if secret.fault else ok(secret.option)
    if file.is_missing:
        return failure(
            f"{secret.option}: {file.path}: {file.fault}: {_without(secret)}",
            f"{_HAVE_FIRST.get(secret.option, _HAVE)}\n{_ELSEWHERE}",
        )
    if file.fault:
        return warning(f"{secret.option}: not looked at: {file.path}: {file.fault}", f"run this as root; {_ELSEWHERE}")
    if secret.fault:
        return failure(f"{secret.option}: {secret.fault}", _remedy(secret))
    if stat.S_ISDIR(file.mode):
        return failure(f"{secret.option}: {file.path} is a directory", _remedy(secret))
    if file.mode & (stat.S_IRWXG | stat.S_IRWXO):
        return failure(f"{secret.option}: {file.path} is open to other users", f"chmod 0600 {file.path}")
    if file.uid != 0:
        return warning(f"{secret.option}: {file.path} is owned by {file.owner}", f"chown root:root {file.path}")
    return ok(f"{secret.option}, which the unit loads from {file.path}")


def _remedy(secret: SecretFacts) -> str:
    return f"{_without(secret)}: mend what the sentence names"


def _without(secret: SecretFacts) -> str:
    """What a role does without it; an identity is read when dispatch connects."""
    is_identity = secret.option.startswith(("[secrets] ssh_identity", "[channel] identity"))
    return "dispatch cannot log in" if is_identity else "the role that needs it does not start"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeyFacts:
    """Fingerprints of the configured public half, the private half and the one that the database's keys are sealed to.

    None where it is not known: no key was imported yet, or this role has nothing to do with that half. A half that
    cannot be read has its `*_fault`.
    """

    public: str | None = None
    public_fault: str = ""
    private: str | None = None
    private_fault: str = ""
    database: str | None = None


def judge_master_key(facts: MasterKeyFacts) -> list[Finding]:
    """Whether all three are one key."""
    found = []
    if facts.public_fault:
        first = "" if facts.database else "for a new installation 'kmp-smsd master-key create', else "
        remedy = f"nothing can be imported: {first}restore the file from its copy"
        found.append(failure(f"the public half: {facts.public_fault}", remedy))
    if facts.private_fault:
        remedy = "mend what the sentence names, or restore it from its copy"
        found.append(failure(f"the private half: {facts.private_fault}", remedy))
    needed = facts.database
    for half, fingerprint, option in (
        ("public", facts.public, "[secrets] public_key"),
        ("private", facts.private, "[secrets] master_key"),
    ):
        if needed is not None and fingerprint is not None and fingerprint != needed:
            found.append(
                failure(
                    f"the keys in the database are sealed to master key {needed}, the {half} half is {fingerprint}",
                    f"put the {half} half of {needed} where {option} says, or correct [storage] path;\n"
                    "or restore the backup of this installation",
                )
            )
    if needed is None and None not in (facts.public, facts.private) and facts.public != facts.private:
        found.append(
            failure(
                f"the halves are of two keys: public {facts.public}, private {facts.private}",
                "import nothing: what is sealed to this public half cannot be opened; put both of one key in place",
            )
        )
    if found:
        return found
    known = facts.database or facts.public or facts.private
    if known is None:
        return [ok("no key was imported yet, and no half of a master key is looked at here")]
    sealed = "the database's keys are sealed to it" if facts.database else "no key was imported yet"
    unseen = "" if facts.private is not None else "; the private half was not looked at"
    return [ok(f"master key {known}: {sealed}{unseen}")]
