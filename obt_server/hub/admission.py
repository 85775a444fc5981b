"""Who may come in: the hello, and the identity that goes with the credential."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from obt_agent.errors import AgentError, InvalidParams, ProtocolError
from obt_agent.protocol import codec, limits
from obt_agent.protocol.admission import HelloParams, HelloResult, ServerIdentity, ServerLimits
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.limits import Close
from obt_server.hub.settings import HubSettings
from obt_server.hub.sockets import BinaryFrame, HubSocket
from obt_server.hub.storage import StoredCredential
from obt_server.hub.texts import check_storable

MAX_TEXT_CHARS: Final = 200
"""Of a name, a version, an id: generous for those, small for a database."""


class AdmissionDenied(Exception):
    """The socket is closed with ``code``; ``answer`` goes out before."""

    def __init__(self, code: int, reason: str, answer: bytes | None = None) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.answer = answer


@dataclass(frozen=True)
class Hello:
    """A hello that may be answered."""

    request: Request
    params: HelloParams


async def read_hello(socket: HubSocket, credential: StoredCredential, settings: HubSettings) -> Hello:
    """Read and check the first frame.

    Raises:
        AdmissionDenied: a revoked or another agent's credential; late, too large, no hello, another version.
        SocketClosed: the peer left.
    """
    # Said in a close frame, after the upgrade: a 401 may come from any proxy, and at this the agent gives up.
    if credential.state == "revoked":
        raise AdmissionDenied(Close.CREDENTIAL_REFUSED, "revoked")
    try:
        async with asyncio.timeout(settings.hello_within_s):
            frame = await socket.receive()
    except TimeoutError as error:
        raise AdmissionDenied(Close.SILENT, f"no hello within {settings.hello_within_s:g} s") from error
    except BinaryFrame as error:
        raise AdmissionDenied(Close.UNSUPPORTED_DATA, "obt.v1 has text frames only") from error
    hello = _parse(frame)
    if not hello.params.protocol.min <= limits.PROTOCOL_VERSION <= hello.params.protocol.max:
        raise _refusal(hello.request, Close.NO_COMMON_VERSION, _versions(hello.params))
    # A state folder that was put together from two machines': results would be stored as the other one's.
    if hello.params.agent.id != credential.agent_id:
        reason = "agent.id is not the one that this credential was enrolled for"
        raise _refusal(hello.request, Close.CREDENTIAL_REFUSED, reason)
    return hello


def _versions(params: HelloParams) -> str:
    ours = limits.PROTOCOL_VERSION
    return f"this server speaks version {ours}, the agent {params.protocol.min} to {params.protocol.max}"


def _parse(frame: str | bytes) -> Hello:
    try:
        # Less than any later frame: nobody has said yet that it is an agent.
        message = codec.decode(frame, max_bytes=limits.MAX_HELLO_BYTES)
    except codec.FrameError as error:
        too_large = error.wire.data is not None and error.wire.data.kind == "too_large"
        code = Close.TOO_BIG if too_large else Close.PROTOCOL_ERROR
        # A close frame has room for 123 bytes of reason (RFC 6455, 5.5).
        raise AdmissionDenied(code, error.message[:120], codec.encode_error(error.id, error.wire)) from error
    if not isinstance(message, Request) or message.method != "agent.hello":
        raise AdmissionDenied(Close.PROTOCOL_ERROR, "the first frame must be agent.hello")
    try:
        params = codec.convert(message.params, HelloParams)
        _check_sizes(params)
    except InvalidParams as error:
        answer = codec.encode_error(message.id, to_wire(error))
        raise AdmissionDenied(Close.PROTOCOL_ERROR, error.message[:120], answer) from error
    return Hello(message, params)


def _check_sizes(params: HelloParams) -> None:
    """What is stored and shown must be short, and such as a database holds."""
    agent = params.agent
    for field, value in (("name", agent.name), ("version", agent.version), ("instance", agent.instance)):
        check_storable(value, MAX_TEXT_CHARS, f"params.agent.{field}", least=1)
    check_storable(params.store_id, MAX_TEXT_CHARS, "params.store_id")
    for capability in params.capabilities:
        check_storable(capability, MAX_TEXT_CHARS, "params.capabilities")
    # Requests of this side must fit: plans, templates of models, pieces of images.
    if params.limits.max_frame_bytes < limits.MIN_FRAME_BYTES:
        raise InvalidParams(
            f"params.limits.max_frame_bytes: at least {limits.MIN_FRAME_BYTES}.",
            field="params.limits.max_frame_bytes",
        )


def _refusal(request: Request, code: int, reason: str) -> AdmissionDenied:
    error: AgentError = ProtocolError(reason[:1].upper() + reason[1:] + ".")
    return AdmissionDenied(code, reason, codec.encode_error(request.id, to_wire(error)))


def hello_answer(request: Request, session: int, settings: HubSettings) -> bytes:
    """The frame that admits."""
    result = HelloResult(
        protocol=limits.PROTOCOL_VERSION,
        session=session,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        stream_credit_bytes=settings.stream_credit_bytes,
        link_credit_bytes=settings.link_credit_bytes,
        limits=ServerLimits(max_frame_bytes=settings.max_frame_bytes, max_in_flight=settings.max_in_flight),
        server=ServerIdentity(name=settings.name, version=settings.version),
        # By which the agent finds that its clock is wrong.
        time=time.time(),
        pins=settings.pins,
    )
    return codec.encode_result(request.id, result)
