"""``show_model``: Ollama's metadata of one model, without paths of the host."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import ShowModelParams

REMOVED: Final = "[a path of the host, removed]"

_PATH: Final = r"""["']?(?:/|~|\.{1,2}[/\\]|\\\\|[A-Za-z]:[/\\])[^\r\n]*"""
_SPACE: Final = r"[^\S\r\n]"
"""White space within a line, taken possessively: whoever made a model wrote its Modelfile, and a thousand
blank lines must not cost the square of their number."""
_LINE: Final = re.compile(
    rf"^({_SPACE}*+(?:#{_SPACE}*+)?(?:FROM|ADAPTER|DRAFT){_SPACE}++)({_PATH})$", re.IGNORECASE | re.MULTILINE
)
_WHOLE: Final = re.compile(_PATH)
_DIGEST: Final = re.compile(r"sha256[-:][0-9a-f]{64}")
_TEXT: Final = msgspec.json.Decoder(str)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def run(services: Services, params: ShowModelParams, context: CommandContext) -> msgspec.Raw:
    await services.gate.admit(params.model)
    shown = await services.ollama.show(params.model, verbose=params.verbose, hold=context.hold)
    return msgspec.Raw(without_paths(shown))


def without_paths(metadata: bytes) -> bytes:
    """Ollama's object with the host's paths taken out of ``modelfile`` and of ``details.parent_model``.

    The digest in a blob's path stays: it names the model's weights.
    """
    fields = _FIELDS.decode(metadata)
    if "modelfile" in fields:
        fields["modelfile"] = _mapped(fields["modelfile"], modelfile_without_paths)
    if bytes(fields.get("details", b"null")) != b"null":
        details = _FIELDS.decode(fields["details"])
        if "parent_model" in details:
            details["parent_model"] = _mapped(details["parent_model"], _shown)
            fields["details"] = msgspec.Raw(msgspec.json.encode(details))
    return msgspec.json.encode(fields)


def modelfile_without_paths(text: str) -> str:
    """A Modelfile whose FROM, ADAPTER and DRAFT lines name no file of the host."""
    return _LINE.sub(lambda line: line[1] + _shown(line[2]), text)


def _mapped(raw: msgspec.Raw, change: Callable[[str], str]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(change(_TEXT.decode(raw))))


def _shown(value: str) -> str:
    if not _WHOLE.fullmatch(value):
        return value
    digest = _DIGEST.search(value)
    return digest[0] if digest else REMOVED
