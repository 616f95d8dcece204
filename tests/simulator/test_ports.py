from __future__ import annotations

import socket
from contextlib import closing

import pytest

from kmp_smsd.simulator.openssh import OpensshServer, new_identity
from kmp_smsd.simulator.ports import ReservedPort
from tests.sshd import require_sshd


def test_port_is_free_for_who_names_it_and_for_nobody_else() -> None:
    port = ReservedPort()
    place = ("127.0.0.1", port.number)
    for _ in range(2):
        with closing(socket.socket()) as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(place)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        with socket.create_server(place), socket.create_connection(place):  # which leaves nothing in its way
            pass
    del port
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # because of the connections
        other.bind(place)


def test_sshd_keeps_its_port_while_it_does_not_listen(tmp_path) -> None:
    require_sshd()
    server = OpensshServer(tmp_path, "true", new_identity()[1])
    assert server.port == 0
    server.start()
    place = ("127.0.0.1", server.port)
    server.stop()
    with closing(socket.socket()) as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(place)
    server.start()
    try:
        assert ("127.0.0.1", server.port) == place
        socket.create_connection(place).close()
    finally:
        server.stop()
