"""Parts of nats-py that are not public, on which ``obt_server.bus.nats`` builds."""

import inspect

from nats.aio import client, transport


def test_the_server_s_description_passes_through_a_method_before_credentials_go_out() -> None:
    described = inspect.signature(vars(client.Client)["_process_info"])
    assert list(described.parameters) == ["self", "info", "initial_connection"]
    text = inspect.getsource(vars(client.Client)["_process_connect_init"])
    assert text.index("_process_info(srv_info, initial_connection=True)") < text.index("_connect_command()")


def test_commands_wait_in_a_list_and_pings_are_answered_in_their_order() -> None:
    pinged = inspect.getsource(vars(client.Client)["_send_ping"])
    assert "self._pongs.append(future)" in pinged
    # Written at once, which is what is mended: without it nothing is to be mended.
    assert "self._transport.write(PING_PROTO)" in pinged
    assert "self._pending.append(cmd)" in inspect.getsource(vars(client.Client)["_send_command"])
    assert "self._pongs.pop(0)" in inspect.getsource(vars(client.Client)["_process_pong"])


def test_what_is_received_is_read_by_a_method_that_ends_with_the_connection() -> None:
    assert "create_task(self._read_loop())" in inspect.getsource(vars(client.Client)["_process_connect_init"])


def test_a_connection_has_a_writer_that_can_be_dropped() -> None:
    assert "self._transport = TcpTransport()" in inspect.getsource(client)
    assert "self._io_writer = w" in inspect.getsource(transport.TcpTransport.connect)
