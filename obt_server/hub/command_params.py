"""A command's parameters: what callers may give, and the JSON text that goes to the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from obt_agent.errors import InvalidParams, ProtocolError
from obt_agent.protocol import codec, limits, methods

CommandParams = Mapping[str, Any] | msgspec.Struct | bytes
"""A JSON object as a mapping, as a struct of ``obt_agent.protocol.commands``, or as JSON text in UTF-8."""
NO_PARAMS: Final[Mapping[str, Any]] = {}


def json_object(params: CommandParams) -> msgspec.Raw:
    """Return the parameters as the text of one JSON object.

    Raises:
        InvalidParams: they are none, or nest deeper than an agent takes.
    """
    match params:
        case bytes():
            text = params
        case msgspec.Struct():
            text = msgspec.json.encode(params)
        case _:
            text = msgspec.json.encode(dict(params))
    try:
        # Before the parser: text of nested brackets costs it stack.
        # One less than a frame: the frame is a level itself.
        codec.check_depth(text, limits.MAX_DEPTH - 1)
        text.decode()  # what is not UTF-8 would end the agent's session, and with it everybody's streams
        raw = msgspec.json.decode(text, type=msgspec.Raw)
    except (ProtocolError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidParams(f"The parameters are not JSON that an agent takes: {error}.") from error
    # Spaces before it are gone already: the raw value begins where JSON begins.
    if bytes(raw)[:1] != b"{":
        raise InvalidParams("The parameters must be a JSON object.")
    return raw


def checked(method: str, params: CommandParams) -> msgspec.Raw:
    """Return the text, once it is what the method takes.

    Refused here in the agent's words: a wrong request is answered although the agent is slow.

    Raises:
        InvalidParams: it is not.
    """
    raw = json_object(params)
    codec.convert(raw, methods.METHODS[method].params)
    return raw
