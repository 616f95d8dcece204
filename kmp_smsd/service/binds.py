"""How a link binds: with which binds, as whom, and what a refusal means for the next try."""

from __future__ import annotations

from kmp_smsd.config.link import Link
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from kmp_smsd.smpp.events import BindRefused, BindUnanswered
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import SessionSettings

#: How a link binds -> the binds that it tries, in this order.
BIND_COMMANDS = {
    "transceiver": (CommandId.BIND_TRANSCEIVER,),
    "receiver": (CommandId.BIND_RECEIVER,),
    "pair": (CommandId.BIND_RECEIVER,),
    "auto": (CommandId.BIND_TRANSCEIVER, CommandId.BIND_RECEIVER),
}
WRONG_ACCOUNT = frozenset(  # trying again at once helps nobody, and some SMSCs then ban the address
    {
        CommandStatus.ESME_RINVPASWD,
        CommandStatus.ESME_RINVSYSID,
        CommandStatus.ESME_RINVSYSTYP,
        CommandStatus.ESME_RPROHIBITED,
    }
)
BUSY = frozenset({CommandStatus.ESME_RSYSERR, CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL})
WRONG_MODE = frozenset({CommandStatus.ESME_RINVCMDID, CommandStatus.ESME_RINVBNDSTS, CommandStatus.ESME_RBINDFAIL})


def minds_the_mode(failure: BindRefused | BindUnanswered | None) -> bool:
    """Whether the SMSC may take a bind of another kind. None: the connection was lost, which says nothing of it."""
    match failure:
        case BindRefused(command_status=status, nacked=nacked):
            return nacked or status in WRONG_MODE
        case BindUnanswered():
            return True
    return False


def session_settings(link: Link, password: str, command_id: CommandId) -> SessionSettings:
    """How a session of `link` binds and waits. Raises ValueError where the password does not fit into a bind."""
    return SessionSettings(
        bind=Bind(
            command_id=command_id,
            system_id=link.system_id,
            password=password,
            system_type=link.system_type,
            interface_version=link.interface_version,
            addr_ton=link.addr_ton,
            addr_npi=link.addr_npi,
            address_range=link.address_range,
            allow_long_password=link.allow_long_password,
        ),
        bind_timeout_s=link.bind_timeout_s,
        enquire_after_s=link.enquire_after_s or None,
        response_timeout_s=link.response_timeout_s,
        pdu_timeout_s=link.pdu_timeout_s,
        unbind_timeout_s=link.unbind_timeout_s,
        max_pdu_octets=link.max_pdu_octets,
    )
