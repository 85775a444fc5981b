"""What is used of uvicorn beyond its documented interface; pyproject.toml bounds the version for it."""

import ast
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from obt_server import serve, uvicorn_protocols
from obt_server.serve import DrainingServer
from obt_server.uvicorn_protocols import BoundedHttp, BoundedWebSocket

OURS: Final[dict[type, type]] = {
    BoundedHttp: H11Protocol,
    BoundedWebSocket: WebSocketsSansIOProtocol,
    DrainingServer: uvicorn.Server,
}
CALLED_BY_ASYNCIO: Final = {
    "connection_made",
    "connection_lost",
    "data_received",
    "pause_writing",
    "resume_writing",
}
USED: Final[dict[type, set[str]]] = {
    H11Protocol: {*CALLED_BY_ASYNCIO, "handle_events", "cycle", "scope", "transport"},
    RequestResponseCycle: {"more_body", "response_complete"},
    WebSocketsSansIOProtocol: {
        *CALLED_BY_ASYNCIO,
        "close_sent",
        "close_timer",
        "conn",
        "curr_msg_data_type",
        "disconnected",
        "frames",
        "handle_connect",
        "handle_cont",
        "handle_parser_exception",
        "handle_ping",
        "handshake_complete",
        "initial_response",
        "loop",
        "queue",
        "read_paused",
        "receive",
        "scope",
        "send",
        "send_receive_event_to_app",
        "shutdown",
        "transport",
    },
    ServerProtocol: {"close_sent", "data_to_send", "reject", "send_close", "send_response"},
    uvicorn.Server: {
        "_serve",
        "capture_signals",
        "config",
        "force_exit",
        "handle_exit",
        "lifespan",
        "server_state",
        "servers",
        "should_exit",
        "shutdown",
        "started",
        "startup",
    },
    uvicorn.Config: {"backlog", "host", "http_protocol_class", "port", "ssl"},
}


def class_node(kind: type) -> ast.ClassDef:
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    return node


def attributes(kind: type, of: str) -> Iterator[ast.Attribute]:
    """Attributes of a name (``self``), or of an attribute of self (``self.conn``), in a class's source."""
    for node in ast.walk(class_node(kind)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == of:
            yield node


def set_on_self(kind: type) -> set[str]:
    found = {node.attr for node in attributes(kind, "self") if isinstance(node.ctx, ast.Store)}
    return found.union(*(set_on_self(base) for base in kind.__bases__ if package(base) == package(kind)))


def package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def there(kind: type, name: str) -> bool:
    return hasattr(kind, name) or name in set_on_self(kind)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in USED for name in sorted(USED[kind])])
def test_each_part_that_is_used_is_there(kind: type, name: str) -> None:
    message = f"{kind.__module__}.{kind.__name__} has no {name} any more, and the server uses it"
    assert there(kind, name), message


@pytest.mark.parametrize(("ours", "theirs"), OURS.items())
def test_no_part_is_used_that_is_not_named_here(ours: type, theirs: type) -> None:
    named = {node.attr for of in ("self", "super()") for node in attributes(ours, of)}
    methods = {node.name for node in class_node(ours).body if hasattr(node, "name")}
    assert {name for name in named | methods if there(theirs, name) and name != "__init__"} == USED[theirs]


@pytest.mark.parametrize(
    ("ours", "name"),
    [(ours, name) for ours in OURS for name in sorted(vars(ours)) if hasattr(OURS[ours], name)],
)
def test_each_method_that_is_replaced_is_called_as_it_was(ours: type, name: str) -> None:
    theirs = OURS[ours]
    member: Any = vars(ours)[name]
    if name.startswith("__") or not inspect.isfunction(member):
        return
    expected = inspect.signature(getattr(theirs, name)).parameters
    assert list(inspect.signature(member).parameters) == list(expected)
    if name not in CALLED_BY_ASYNCIO:
        called = {node.attr for node in attributes(theirs, "self")}
        called |= {node.attr for node in attributes(uvicorn.Server, "connection")}
        assert name in called, f"uvicorn's {theirs.__name__} calls {name} no more: ours would never run"


def test_only_these_modules_of_uvicorn_are_imported() -> None:
    imported = {
        node.module
        for module in (serve, uvicorn_protocols)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn")
    }
    assert imported == {H11Protocol.__module__, WebSocketsSansIOProtocol.__module__}


def test_the_version_of_uvicorn_is_bounded_above() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (bound,) = [one for one in project["project"]["optional-dependencies"]["server"] if "uvicorn" in one]
    assert "<" in bound
