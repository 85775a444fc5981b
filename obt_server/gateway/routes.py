"""The gateway's routes, below ``/ollama/{machine}``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from obt_server.gateway.answer import GatewayAnswer
from obt_server.gateway.catalogue import ModelCatalogue
from obt_server.gateway.errors import OLLAMA, OPENAI, Dialect
from obt_server.gateway.exchange import TEXT, Work, whole
from obt_server.gateway.gate import GatewayGate
from obt_server.gateway.machines import MachineChoice
from obt_server.gateway.ollama_api import OllamaApi, no_change, no_route
from obt_server.gateway.openai_api import JSON as OPENAI_JSON
from obt_server.gateway.openai_api import OpenAiApi
from obt_server.gateway.settings import GatewaySettings
from obt_server.rest.context import Context
from obt_server.rest.struct_route import StructRoute

GATEWAY_PREFIX: Final = "/ollama"
_CHANGES: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("/api/pull", ("POST",)),
    ("/api/push", ("POST",)),
    ("/api/create", ("POST",)),
    ("/api/copy", ("POST",)),
    ("/api/delete", ("DELETE",)),
    ("/api/blobs/{digest}", ("HEAD", "POST")),
)
_ANY: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Machine = Annotated[str, Path(description="an agent's id or name, or @LABEL for the first that can answer")]


class _Routes:
    """Adds routes that are served past the framework's reading and encoding."""

    def __init__(self, gate: GatewayGate, prefix: str) -> None:
        self._gate = gate
        self.router = APIRouter(
            prefix=f"{prefix}{GATEWAY_PREFIX}/{{machine}}", tags=["gateway"], route_class=StructRoute
        )

    def add(
        self,
        path: str,
        methods: Sequence[str],
        work: Work,
        *,
        dialect: Dialect = OLLAMA,
        reads: bool = True,
        shown: bool = True,
    ) -> None:
        """Add one, of one or several methods."""

        async def endpoint(machine: Machine, request: Request) -> Response:  # noqa: ARG001 - read from the scope
            return GatewayAnswer(self._gate, path, dialect, work, reads=reads)

        # One by one: a route of several methods would be described as one of them.
        for method in methods:
            self.router.add_api_route(
                path,
                endpoint,
                methods=[method],
                summary=f"As Ollama's {path}",
                include_in_schema=shown and method != "HEAD",
            )


def gateway_router(context: Context, settings: GatewaySettings) -> APIRouter:
    """Return the router.

    Args:
        context: agents, storage, and who asks.
        settings: the bounds.
    """
    routes = _Routes(GatewayGate(context, settings), context.prefix)
    machines = MachineChoice(context.hub)
    catalogue = ModelCatalogue(context.hub, context.storage, machines)
    ollama = OllamaApi(context.hub, machines, catalogue, settings)
    get, post = ("GET", "HEAD"), ("POST",)
    routes.add("", get, whole(ollama.root, TEXT), shown=False)
    routes.add("/", get, whole(ollama.root, TEXT), shown=False)
    routes.add("/api/version", get, whole(ollama.version))
    routes.add("/api/tags", get, whole(ollama.tags))
    routes.add("/api/ps", get, whole(ollama.ps))
    routes.add("/api/show", post, whole(ollama.show))
    routes.add("/api/generate", post, functools.partial(ollama.generation, "generate"))
    routes.add("/api/chat", post, functools.partial(ollama.generation, "chat"))
    routes.add("/api/embed", post, whole(ollama.embed))
    routes.add("/api/embeddings", post, whole(ollama.embeddings))
    openai = OpenAiApi(context.hub, machines, catalogue, settings)
    add_openai = functools.partial(routes.add, dialect=OPENAI)
    add_openai("/v1/models", get, whole(openai.models, OPENAI_JSON))
    add_openai("/v1/models/{model:path}", get, whole(openai.model, OPENAI_JSON))
    add_openai("/v1/chat/completions", post, openai.chat)
    add_openai("/v1/completions", post, openai.completions)
    add_openai("/v1/embeddings", post, whole(openai.embeddings, OPENAI_JSON))
    # Said to be refused, and not missing: who tries learns why.
    for path, methods in _CHANGES:
        routes.add(path, methods, whole(no_change), reads=False)
    # Last: whatever else is asked is refused in the client's own form, and by nobody without a token.
    add_openai("/v1/{rest:path}", _ANY, whole(no_route), reads=False, shown=False)
    routes.add("/{rest:path}", _ANY, whole(no_route), reads=False, shown=False)
    return routes.router
