"""Ollama's own requests, held within the owner's limits; everything else in them stays as it came. Pure.

Ollama is written in Go, which reads JSON keys without regard to case and takes the last of equal ones. A
request is therefore taken apart and written anew (the last of equal keys wins here too), and another spelling
of a key that the policy reads is refused: what was checked is what Ollama gets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from obt_agent.config.schema import OptionsPolicy, PolicyConfig
from obt_agent.errors import InvalidParams, NotPermitted, TooLarge

Blob = Callable[[str], bytes]
Fields = dict[str, msgspec.Raw]

REFUSED_FIELDS: Final = ("insecure", "remote_host")
READ_FIELDS: Final = frozenset(
    ["model", "name", "options", "keep_alive", "format", "think", "images", "messages", "stream"]
).union(REFUSED_FIELDS)
"""Fields that the policy reads, as Ollama spells them."""
MAX_THINK_BYTES: Final = 32
NUM_PREDICT: Final = "num_predict"

_LEAST: Final = {"num_ctx": 1, "num_batch": 1, "num_thread": 0}
_OPTION_KEYS: Final = ("num_ctx", "num_batch", "num_thread")
_NULL: Final = b"null"
_FIELDS: Final = msgspec.json.Decoder(Fields)
_MESSAGES: Final = msgspec.json.Decoder(list[Fields])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_NUMBER: Final = msgspec.json.Decoder(int | float)
_ENCODE: Final = msgspec.json.encode
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_AMOUNT: Final = r"\d++(?:\.\d*+)?|\.\d++"
"""Possessive: a text of digits alone must not be tried from each of them."""
_DURATION: Final = re.compile(rf"[+-]?(?:0|(?:(?:{_AMOUNT})(?:ns|us|µs|μs|ms|s|m|h))+)")
_PART: Final = re.compile(rf"({_AMOUNT})(ns|us|µs|μs|ms|s|m|h)")


class _BlobImage(msgspec.Struct, frozen=True):
    """An image by the name of its blob."""

    blob: str


_IMAGE: Final = msgspec.json.Decoder(str | _BlobImage)


def fields_of(raw: msgspec.Raw | bytes, where: str = "params") -> Fields:
    """The fields of a request, each still JSON.

    Raises:
        InvalidParams: no object, or a key that Ollama reads as another's spelling.
        NotPermitted: a field that no server may use.
    """
    try:
        fields = _FIELDS.decode(raw)
    except msgspec.MsgspecError as error:
        raise InvalidParams(f"{where}: must be an object.", field=where) from error
    for key in fields:
        meant = key.casefold()
        if key != meant and meant in READ_FIELDS:
            raise InvalidParams(
                f"{where}.{key[:64]}: Ollama reads this as {meant!r}; write it so.",
                field=f"{where}.{key[:64]}",
            )
    for key in REFUSED_FIELDS:
        if key in fields and bytes(fields[key]) not in (_NULL, b"false", b'""'):
            raise NotPermitted(
                f"{where}.{key}: no server may use this field; the agent's policy has no key to allow it.",
                policy_key="policy.registries",
                field=f"{where}.{key}",
            )
    return fields


def go_seconds(value: str | float) -> float:
    """Seconds of Ollama's ``keep_alive``: a number of seconds, or a duration of Go such as ``"1h30m"``.

    Raises:
        ValueError: it is no duration.
    """
    if isinstance(value, int | float):
        return float(value)
    if not _DURATION.fullmatch(value):
        raise ValueError(f"{value[:40]!r} is no duration")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    return -seconds if value.startswith("-") else seconds


def clamp_keep_alive(raw: msgspec.Raw | bytes, most_s: float | None) -> bytes:
    """``keep_alive`` as it came when it is within the limit, else the limit in seconds.

    A negative one means for ever.

    Raises:
        InvalidParams: it is no duration.
    """
    try:
        value = msgspec.json.decode(raw, type=int | float | str)
        seconds = go_seconds(value)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise InvalidParams(
            'params.keep_alive: must be a number of seconds, or a duration such as "10m".',
            field="params.keep_alive",
        ) from error
    if most_s is None or 0 <= seconds <= most_s:
        return bytes(raw)
    return _ENCODE(most_s)


def clamp_options(
    raw: msgspec.Raw | bytes | None, limits: OptionsPolicy, predict: int | None, *, always: bool = True
) -> bytes | None:
    """Ollama's ``options`` with the clamped ones within their limits; unknown options stay untouched.

    Args:
        raw: the object as it came, or None.
        limits: largest values.
        predict: most output tokens; None leaves ``num_predict`` as it is.
        always: set ``num_predict`` even where the request names none, for Ollama's own default is no limit.

    Raises:
        InvalidParams: no object, or a clamped option that is no number.
    """
    options = {} if raw is None or bytes(raw) == _NULL else _options(raw)
    for key in _OPTION_KEYS:
        most: int | None = getattr(limits, key)
        if key in options and most is not None:
            options[key] = _clamped(options[key], _LEAST[key], most, key)
    if predict is not None and (always or NUM_PREDICT in options):
        options[NUM_PREDICT] = _clamped_predict(options.get(NUM_PREDICT), predict)
    return _ENCODE(options) if options else None


def _options(raw: msgspec.Raw | bytes) -> Fields:
    try:
        return _FIELDS.decode(raw)
    except msgspec.MsgspecError as error:
        raise InvalidParams("params.options: must be an object.", field="params.options") from error


def _number(raw: msgspec.Raw, key: str) -> float | None:
    if bytes(raw) == _NULL:
        return None
    try:
        value: float = _NUMBER.decode(raw)
    except msgspec.MsgspecError as error:
        field = f"params.options.{key}"
        raise InvalidParams(f"{field}: must be a number.", field=field) from error
    return value


def _clamped(raw: msgspec.Raw, least: int, most: int, key: str) -> msgspec.Raw:
    value = _number(raw, key)
    if value is None or least <= value <= most:
        return raw
    return msgspec.Raw(_ENCODE(least if value < least else most))


def _clamped_predict(raw: msgspec.Raw | None, most: int) -> msgspec.Raw:
    """Zero and less mean no limit to Ollama."""
    value = None if raw is None else _number(raw, NUM_PREDICT)
    if raw is not None and value is not None and 1 <= value <= most:
        return raw
    return msgspec.Raw(_ENCODE(most))


class RequestShaper:
    """Holds requests within a policy.

    Args:
        config: the policy's limits.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self._config = config
        predict = config.options.num_predict
        self.max_tokens = config.max_tokens if predict is None else min(predict, config.max_tokens)

    def inference(self, raw: msgspec.Raw, blob: Blob, *, streams: bool, generates: bool) -> bytes:
        """The body of ``generate``, ``chat`` or ``embed`` for Ollama.

        Args:
            raw: the server's parameters.
            blob: bytes of a blob by name.
            streams: ``stream`` is forced to this.
            generates: whether output tokens are counted (not for embeddings).

        Raises:
            InvalidParams, TooLarge, NotPermitted
        """
        fields = fields_of(raw)
        put_images(fields, self._measured(blob))
        self._check_small(fields)
        self._clamp(fields, generates=generates)
        fields["stream"] = msgspec.Raw(b"true" if streams else b"false")
        if not generates:
            del fields["stream"]
        body = _ENCODE(fields)
        self.check_prompt_bytes(len(body))
        return body

    def _measured(self, blob: Blob) -> Blob:
        """The same blobs, within the limit of one request: it may name one blob a thousand times."""
        total = 0

        def get(name: str) -> bytes:
            nonlocal total
            data = blob(name)
            total += len(data)
            self.check_prompt_bytes(total)
            return data

        return get

    def _clamp(self, fields: Fields, *, generates: bool) -> None:
        limits = self._config.options
        options = clamp_options(fields.get("options"), limits, self.max_tokens if generates else None)
        if options is not None:
            fields["options"] = msgspec.Raw(options)
        keep_alive = fields.get("keep_alive")
        if keep_alive is not None and bytes(keep_alive) != _NULL:
            fields["keep_alive"] = msgspec.Raw(clamp_keep_alive(keep_alive, limits.keep_alive_s))

    def _check_small(self, fields: Mapping[str, msgspec.Raw]) -> None:
        most = self._config.options.format_bytes
        size = len(bytes(fields.get("format", b"")))
        if most is not None and size > most:
            raise TooLarge(
                f"params.format: {size} bytes; the host's owner allows {most}.",
                policy_key="policy.options.format_bytes",
                asked=size,
            )
        if len(bytes(fields.get("think", b""))) > MAX_THINK_BYTES:
            raise InvalidParams(
                'params.think: must be true, false or a level such as "high".', field="params.think"
            )

    def check_prompt_bytes(self, size: int) -> None:
        """Refuse a request whose prompt, messages and images are too large.

        Raises:
            TooLarge: with ``policy_key``.
        """
        most = self._config.max_prompt_bytes
        if size > most:
            raise TooLarge(
                f"Prompt, messages and images have {size} bytes; the host's owner allows {most}.",
                policy_key="policy.max_prompt_bytes",
                asked=size,
            )


def put_images(fields: Fields, blob: Blob) -> None:
    """Replace ``{"blob": name}`` in ``images`` (of the request and its messages) by base64 of its bytes."""
    if "images" in fields:
        fields["images"] = _images(fields["images"], blob, "params.images")
    messages = fields.get("messages")
    if messages is None or b'"blob"' not in bytes(messages):
        return
    try:
        turns = _MESSAGES.decode(messages)
    except msgspec.MsgspecError:
        return  # no list of objects: Ollama's refusal says it better
    for index, turn in enumerate(turns):
        if "images" in turn:
            turn["images"] = _images(turn["images"], blob, f"params.messages[{index}].images")
    fields["messages"] = msgspec.Raw(_ENCODE(turns))


def _images(raw: msgspec.Raw, blob: Blob, where: str) -> msgspec.Raw:
    if b'"blob"' not in bytes(raw):
        return raw
    try:
        images = [_IMAGE.decode(image) for image in _LIST.decode(raw)]
    except msgspec.MsgspecError as error:
        raise InvalidParams(
            f'{where}: must be a list of base64 texts and {{"blob": name}} objects.', field=where
        ) from error
    texts: list[Any] = [
        base64.b64encode(blob(image.blob)).decode() if isinstance(image, _BlobImage) else image
        for image in images
    ]
    return msgspec.Raw(_ENCODE(texts))
