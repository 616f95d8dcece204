"""Everything meets here. The reactor is given; no module imports it."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from typing import Any

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import KEYS_KEPT
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.channels.protocol import Channel, ChannelDown
from kmp_smsd.config.link import Link
from kmp_smsd.config.load import Config
from kmp_smsd.config.platform import Platform
from kmp_smsd.config.secrets import SecretUnavailable, platform_identity, read_password, read_secret
from kmp_smsd.control.protocol import socket_path
from kmp_smsd.service.control_socket import claim
from kmp_smsd.service.counting import Counting
from kmp_smsd.service.daemon import Daemon
from kmp_smsd.service.deciding_process import DecidingProcess
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch import Dispatcher
from kmp_smsd.service.dispatch_role import DispatchRole, routes
from kmp_smsd.service.erasing import Eraser
from kmp_smsd.service.intake import Intake
from kmp_smsd.service.intake_role import IntakeRole, NothingToDo
from kmp_smsd.service.judging import Patience
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.preparing import DataKeys, Preparer
from kmp_smsd.service.role import Role, RoleService
from kmp_smsd.storage import Store, StoreUnusable, open_store
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.vault.master_key import MasterKey, PublicKey, WrongMasterKey


def make_service(config: Config, roles: Collection[Role], reactor: Any) -> Daemon:
    """Wire the roles of one process.

    Raises StoreError where the database is not to be used, SecretUnavailable, MasterKeyFileFault or WrongMasterKey
    where a secret is not, ControlUnusable where a control socket is not, and NothingToDo.
    """
    for role in roles:
        claim(socket_path(config.control.directory, role))
    made: list[RoleService] = []
    if Role.INTAKE in roles:
        made.append(_intake(config, reactor))
    if Role.DISPATCH in roles:
        made.append(_dispatch(config, reactor))
    return Daemon(config, made, reactor)


def _intake(config: Config, reactor: Any) -> IntakeRole:
    if not config.smsc:
        raise NothingToDo(config.path)
    for link in config.smsc.values():
        read_password(link)  # before anything is opened
    public_half = _public_half(config)
    with ExitStack() as opened:
        store = opened.enter_context(open_store(config.storage.path))
        _check_public_half(store, config, public_half)
        inbox = Inbox(config.storage.path, store.settled)
        opened.callback(inbox.close)
        deciding = DecidingProcess(config.storage.path, config.policy, store)
        opened.pop_all()
    intake = Intake(
        store,
        inbox,
        deciding,
        config.sync,
        config.numbering,
        config.smsc,
        reactor,
        storage=config.storage,
        policy=config.policy,
    )
    return IntakeRole(config, intake, partial(_links, intake, reactor), reactor)


def _links(intake: Intake, reactor: Any, name: str, link: Link) -> list[SmscLink]:
    password = read_password(link)
    receiver = SmscLink(name, link, password, intake, reactor)
    if link.bind != "pair":
        return [receiver]
    return [receiver, SmscLink(f"{name} (transmitter)", link, password, intake, reactor, receiver_of_pair=receiver)]


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
        raise StoreUnusable(
            f"the keys in {config.storage.path} are sealed to master key {known}, {config.secrets.public_key} is"
            f" {public_half}: correct [storage] path or [secrets] public_key, or restore this installation's backup"
        )


def _dispatch(config: Config, reactor: Any) -> DispatchRole:
    from kmp_smsd.channels.opening import open_channel  # brings paramiko, without which intake starts a tenth sooner

    if config.secrets.master_key is None:
        raise SecretUnavailable("[secrets] master_key is missing: dispatch needs the private half of the master key")
    master_key = MasterKey.parse(read_secret(config.secrets.master_key), "[secrets] master_key")
    make_deliverer = partial(_deliverer, config, DataKeys(master_key), open_channel)
    deliverers = {name: make_deliverer(name, platform) for name, platform in config.platforms.items()}
    with ExitStack() as opened:
        store, erasing, counted = (opened.enter_context(open_store(config.storage.path)) for _ in range(3))
        _check_master_key(store, config, master_key)
        opened.pop_all()
    dispatcher = Dispatcher(store, routes(config), deliverers, reactor)
    eraser = Eraser(erasing, reactor, monotonic=time.monotonic)
    counting = Counting(
        counted,
        dispatcher.workers.names,
        dispatcher.thread.busy,
        reactor,
        monotonic=time.monotonic,
        wall=time.time,
    )
    return DispatchRole(config, dispatcher, eraser, counting, make_deliverer, reactor)


def _check_master_key(store: Store, config: Config, master_key: MasterKey) -> None:
    """Refuse the wrong private half now, not at the first push."""
    known = store.master_key()
    if known is not None and known != master_key.fingerprint:
        raise WrongMasterKey(
            f"the keys in {config.storage.path} are sealed to master key {known}, [secrets] master_key is"
            f" {master_key.fingerprint}: put the private half of {known} there, correct [storage] path, or restore this"
            " installation's backup"
        )


def _deliverer(
    config: Config, data_keys: DataKeys, open_channel: Callable[..., Channel], name: str, platform: Platform
) -> Deliverer:
    """Secrets and database are those of the start, whatever a reload brings: see Reload.RESTART."""

    def credentials(own: SecretRef | None) -> bytes:
        return read_secret(platform_identity(own, config.secrets))

    sent: deque[bytes] = deque(maxlen=KEYS_KEPT)

    def channel(cancel: Cancel) -> Channel:
        try:
            return open_channel(platform.channel, credentials, name, cancel, time.time, sent)
        except SecretUnavailable as error:  # to be mended while we run; until then this platform waits
            raise ChannelDown(str(error)) from None

    return Deliverer(
        name,
        Preparer(name, platform.apps, data_keys),
        channel,
        lambda: open_store(config.storage.path),
        Patience(retry_min_s=platform.retry_min_s, retry_max_s=platform.retry_max_s, jitter=random.random),
    )
