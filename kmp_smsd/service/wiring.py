"""Everything meets here. The reactor is given; no module imports it."""

from __future__ import annotations

import random
import time
from collections.abc import Collection
from enum import StrEnum
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.channels.protocol import Channel, ChannelDown
from kmp_smsd.channels.ssh import open_channel
from kmp_smsd.config.load import Config
from kmp_smsd.config.platform import Platform
from kmp_smsd.config.secrets import SecretUnavailable, read_password, read_secret, ssh_identity
from kmp_smsd.service.delivering import Deliverer, Patience
from kmp_smsd.service.dispatch import Dispatcher
from kmp_smsd.service.erasing import Eraser
from kmp_smsd.service.intake import Intake
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.preparing import DataKeys, Preparer
from kmp_smsd.storage import Store, StoreUnusable, open_store
from kmp_smsd.vault.master_key import MasterKey, PublicKey, WrongMasterKey


class Role(StrEnum):
    """What a process does. Each role touches only its own secrets."""

    INTAKE = "intake"
    DISPATCH = "dispatch"


class IntakeRole(MultiService):
    """The links and the intake behind them. Stops in the order of the data: links first."""

    def __init__(self, intake: Intake, links: Collection[SmscLink], transmitters: Collection[SmscLink] = ()) -> None:
        super().__init__()
        self.intake = intake
        self.links = (*links, *transmitters)
        intake.setServiceParent(self)
        for link in links:
            intake.attach(link)
        for link in self.links:
            link.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await gatherResults([link.drain() for link in self.links])
        await self.intake.finish()


class DispatchRole(MultiService):
    """The dispatcher, and the erasing beside it; stops when the workers of both have."""

    def __init__(self, dispatcher: Dispatcher, eraser: Eraser) -> None:
        super().__init__()
        self.dispatcher, self.eraser = dispatcher, eraser
        dispatcher.setServiceParent(self)
        eraser.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await gatherResults([ensureDeferred(self.dispatcher.finish()), ensureDeferred(self.eraser.finish())])


class NothingToDo(Exception):
    """The configuration names no SMSC, so intake would run and never hear anything (exit 78)."""


def make_service(config: Config, roles: Collection[Role], reactor: Any) -> MultiService:
    """Wire the roles of one process.

    Raises StoreError where the database is not to be used, SecretUnavailable, MasterKeyFileFault or WrongMasterKey
    where a secret is not, and NothingToDo.
    """
    service = MultiService()
    if Role.INTAKE in roles:
        _intake(config, reactor).setServiceParent(service)
    if Role.DISPATCH in roles:
        _dispatch(config, reactor).setServiceParent(service)
    return service


def _intake(config: Config, reactor: Any) -> IntakeRole:
    if not config.smsc:
        raise NothingToDo(f"{config.path}: no [smsc.NAME] section is enabled: intake has nothing to bind to")
    passwords = {name: read_password(link) for name, link in config.smsc.items()}
    public_half = _public_half(config)
    store = open_store(config.storage.path, config.policy, checkpoint_aside=True)
    _check_public_half(store, config, public_half)
    intake = Intake(store, config.sync, config.numbering, config.smsc, reactor)
    links = [SmscLink(name, link, passwords[name], intake, reactor) for name, link in config.smsc.items()]
    transmitters = [
        SmscLink(
            f"{link.name} (transmitter)",
            link.options,
            passwords[link.name],
            intake,
            reactor,
            receiver_of_pair=link,
        )
        for link in links
        if link.options.bind == "pair"
    ]
    return IntakeRole(intake, links, transmitters)


def _public_half(config: Config) -> str | None:
    """The fingerprint of the public half; None where there is none, which whoever imports will miss."""
    try:
        return PublicKey.load(config.secrets.public_key).fingerprint
    except FileNotFoundError:
        return None


def _check_public_half(store: Store, config: Config, public_half: str | None) -> None:
    """Refuse another installation's database: it would answer our terminals that nobody registered them."""
    if public_half is None:
        return
    known = store.master_key()
    if known is not None and known != public_half:
        store.close()
        raise StoreUnusable(
            f"the keys in {config.storage.path} are sealed to master key {known}, {config.secrets.public_key} is"
            f" {public_half}: correct [storage] path or [secrets] public_key, or restore this installation's backup"
        )


def _dispatch(config: Config, reactor: Any) -> DispatchRole:
    if config.secrets.master_key is None:
        raise SecretUnavailable("[secrets] master_key is missing: dispatch needs the private half of the master key")
    master_key = MasterKey.parse(read_secret(config.secrets.master_key), "[secrets] master_key")
    store = open_store(config.storage.path)
    _check_master_key(store, master_key)
    data_keys = DataKeys(master_key)
    routes = {app: name for name, platform in config.platforms.items() for app in platform.apps}
    deliverers = {name: _deliverer(config, name, platform, data_keys) for name, platform in config.platforms.items()}
    eraser = Eraser(open_store(config.storage.path), reactor, monotonic=time.monotonic)
    return DispatchRole(Dispatcher(store, routes, deliverers, reactor), eraser)


def _check_master_key(store: Store, master_key: MasterKey) -> None:
    """Refuse the wrong private half now, not at the first push."""
    known = store.master_key()
    if known is not None and known != master_key.fingerprint:
        store.close()
        raise WrongMasterKey(
            f"the keys in the database are sealed to master key {known},"
            f" [secrets] master_key is {master_key.fingerprint}"
        )


def _deliverer(config: Config, name: str, platform: Platform, data_keys: DataKeys) -> Deliverer:
    def credentials(own: SecretRef | None) -> bytes:
        return read_secret(ssh_identity(own, config.secrets))

    def channel(cancel: Cancel) -> Channel:
        try:
            return open_channel(platform.channel, credentials, name, cancel, time.time)
        except SecretUnavailable as error:  # to be mended while we run; until then this platform waits
            raise ChannelDown(str(error)) from None

    return Deliverer(
        name,
        Preparer(name, platform.apps, data_keys),
        channel,
        lambda: open_store(config.storage.path),
        Patience(retry_min_s=platform.retry_min_s, retry_max_s=platform.retry_max_s, jitter=random.random),
    )
