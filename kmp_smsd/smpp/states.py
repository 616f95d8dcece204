"""One table says what may happen when (SMPP 3.4, section 2.2). What is not in it is refused."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where a session stands, seen from the ESME."""

    CLOSED = auto()  # no connection, or nothing more to say on it
    OPEN = auto()  # connected, the bind is not answered yet
    BOUND_RX = auto()
    BOUND_TX = auto()
    BOUND_TRX = auto()
    UNBINDING = auto()  # we sent unbind and go on answering until unbind_resp
    UNBINDING_TX = auto()  # the same, where there is nothing to answer
    UNBOUND = auto()  # the SMSC sent unbind and gets unbind_resp after our last answer


class Input(Enum):
    """What can happen to a session."""

    CONNECTED = auto()
    BOUND_AS_RECEIVER = auto()
    BOUND_AS_TRANSMITTER = auto()
    BOUND_AS_TRANSCEIVER = auto()
    MESSAGE = auto()  # deliver_sm or data_sm
    SUBMIT = auto()  # a submit_sm of ours
    UNBIND_SENT = auto()
    UNBIND = auto()
    UNBIND_ANSWERED = auto()  # by them or by us
    LOST = auto()  # the bind was refused, the stream broke, a timer ran out, or the connection ended


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.CLOSED, Input.CONNECTED): State.OPEN,
    (State.OPEN, Input.BOUND_AS_RECEIVER): State.BOUND_RX,
    (State.OPEN, Input.BOUND_AS_TRANSMITTER): State.BOUND_TX,
    (State.OPEN, Input.BOUND_AS_TRANSCEIVER): State.BOUND_TRX,
    (State.BOUND_RX, Input.MESSAGE): State.BOUND_RX,
    (State.BOUND_TRX, Input.MESSAGE): State.BOUND_TRX,
    (State.UNBINDING, Input.MESSAGE): State.UNBINDING,
    (State.BOUND_TX, Input.SUBMIT): State.BOUND_TX,
    (State.BOUND_TRX, Input.SUBMIT): State.BOUND_TRX,
    (State.BOUND_RX, Input.UNBIND_SENT): State.UNBINDING,
    (State.BOUND_TX, Input.UNBIND_SENT): State.UNBINDING_TX,
    (State.BOUND_TRX, Input.UNBIND_SENT): State.UNBINDING,
    (State.BOUND_RX, Input.UNBIND): State.UNBOUND,
    (State.BOUND_TX, Input.UNBIND): State.UNBOUND,
    (State.BOUND_TRX, Input.UNBIND): State.UNBOUND,
    (State.UNBINDING, Input.UNBIND): State.UNBOUND,
    (State.UNBINDING_TX, Input.UNBIND): State.UNBOUND,
    (State.UNBINDING, Input.UNBIND_ANSWERED): State.CLOSED,
    (State.UNBINDING_TX, Input.UNBIND_ANSWERED): State.CLOSED,
    (State.UNBOUND, Input.UNBIND_ANSWERED): State.CLOSED,
    **{(state, Input.LOST): State.CLOSED for state in State},
}
