"""Answers of msgspec's types: encoded by msgspec, described to OpenAPI through models of pydantic's.

FastAPI knows pydantic's types and dataclasses. The types of the protocol are msgspec's, and listing each a
second time for the description would let the two drift; so the description is made from them. The models made
here validate nothing: msgspec encodes the answer, past pydantic.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from fastapi import Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.routing import compile_path


@dataclass(frozen=True)
class Shape:
    """What a ``msgspec.Raw`` holds: ``Annotated[msgspec.Raw, Shape(Inventory)]``.

    Args:
        kind: the type that describes it.
        partial: whether any of its fields may be missing.
    """

    kind: Any
    partial: bool = False


def described(kind: Any) -> Any:
    """Return the type by which pydantic describes a type of msgspec's."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        # Other annotations (lengths, patterns) are msgspec's to check; an answer is described without them.
        shape = next((one for one in arguments[1:] if isinstance(one, Shape)), None)
        if shape is None:
            return described(arguments[0])
        return _model(shape.kind, partial=True) if shape.partial else described(shape.kind)
    if origin in (Union, types.UnionType):
        # UNSET is a field that is left out, and no value that a reader could get.
        return Union[tuple(described(one) for one in arguments if one is not msgspec.UnsetType)]  # noqa: UP007 - built
    if origin in (tuple, list, dict):
        return origin[tuple(one if one is ... else described(one) for one in arguments)]
    # Also where it stands inside a list, a mapping or another struct: all go through here.
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _model(kind)
    return Any if kind is msgspec.Raw else kind


@functools.cache
def _model(struct: type[msgspec.Struct], *, partial: bool = False) -> type[BaseModel]:
    """Return the model that describes a struct; fields that msgspec may leave out are not required."""
    # A field with a default is in every answer, unless the struct leaves defaults out of its JSON.
    optional = partial or struct.__struct_config__.omit_defaults
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        required = field.required and not partial
        default = ... if required or not optional else None
        fields[field.encode_name] = (described(field.type), Field(default, json_schema_extra=_drop_default))
    # Both forms of one struct stand in the same document, and need names of their own.
    name = f"{struct.__name__}Fields" if partial else struct.__name__
    # A newer agent may send more, and it is passed on: a generated client must not refuse it.
    config = ConfigDict(extra="allow", protected_namespaces=())
    return create_model(
        name, __config__=config, __doc__=struct.__doc__, __module__=struct.__module__, **fields
    )


def _drop_default(schema: dict[str, Any]) -> None:
    """The default is the model's, not the struct's: it must not be shown."""
    schema.pop("default", None)


class StructRoute(APIRoute):
    """A route whose endpoint may return whatever msgspec encodes.

    Its validators and its description are made when they are first needed, with the first request to it at
    the latest: for all routes of the interface they take 0.2 to 0.3 s, and a server is asked for few of them.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # What it takes to find a route, and no more: no ``app`` and no ``endpoint``, so that nothing is
        # answered past the gate that a subclass puts before the endpoint.
        self.path = path
        self.name = options.get("name") or endpoint.__name__
        self.methods = {method.upper() for method in options.get("methods") or ["GET"]}
        self.include_in_schema = options.get("include_in_schema", True)
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._deferred: tuple[Callable[..., Any], dict[str, Any]] | None = (endpoint, options)

    def __getattr__(self, name: str) -> Any:
        """Make the rest of the route; called for what is not there yet."""
        deferred = self.__dict__.get("_deferred")
        if deferred is None:
            raise AttributeError(name)
        # First: what the framework looks for in vain while it makes the route is not made anew.
        self._deferred = None
        endpoint, options = deferred
        # A router that is included in another makes its routes anew, with the model found before: its
        # endpoint is wrapped by then, and says no type.
        if isinstance(options.get("response_model"), DefaultPlaceholder):
            # With extras: a Raw says nothing of its content but by the Shape beside it.
            returned = get_type_hints(endpoint, include_extras=True).get("return")
            # A response is made by its handler, and a 204 has no body: FastAPI 0.115 would take None for one.
            if isinstance(returned, type) and issubclass(returned, (Response, types.NoneType)):
                options["response_model"] = None
            else:
                options["response_model"] = described(returned)
                endpoint = _encoded(endpoint, options.get("status_code") or 200)
        super().__init__(self.path, endpoint, **options)
        return getattr(self, name)


def _encoded(
    endpoint: Callable[..., Coroutine[Any, Any, Any]], status: int
) -> Callable[..., Coroutine[Any, Any, Response]]:
    @functools.wraps(endpoint)
    async def encode(*args: Any, **kwargs: Any) -> Response:
        answer = await endpoint(*args, **kwargs)
        # The framework's way for an endpoint to say another status: it takes a response, and sets it there.
        said = next((one.status_code for one in kwargs.values() if isinstance(one, Response)), None)
        return Response(msgspec.json.encode(answer), said or status, media_type="application/json")

    # FastAPI 0.115 would look for the names in the annotations in this module, and not in the endpoint's.
    encode.__signature__ = inspect.signature(endpoint, eval_str=True)  # type: ignore[attr-defined] # PEP 362
    return encode
