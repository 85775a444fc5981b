"""Sign-in of operators and API tokens: routes of the reference application, beside the router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from obt_server.auth import Principal
from obt_server.auth.operators import COOKIE, SIGN_IN_S, Operators
from obt_server.auth.secrets import MAX_PASSWORD_CHARS
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, client_address, now
from obt_server.store.operators import ApiToken, Scope

MAX_VALID_S: Final = 3650 * 86400.0
"""Of an API token that ends by itself: ten years, as with the command."""


class SignInBody(BaseModel):
    """Name and password."""

    name: Annotated[str, Field(max_length=64)] = "admin"
    password: Annotated[str, Field(max_length=MAX_PASSWORD_CHARS)]


@dataclass(frozen=True)
class OperatorView:
    """Who is signed in."""

    name: str


class NewApiToken(BaseModel):
    """An API token to be made, for the operator who asks.

    One of scope ``inference`` opens the gateway alone, for ``machines`` (ids, names, ``@label``, ``*``) and
    ``models`` (shell patterns; all where none is given); one of scope ``metrics`` opens ``/metrics`` alone.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    valid_for_s: Annotated[float | None, Field(ge=60, le=MAX_VALID_S)] = None
    scope: Scope = "operator"
    machines: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=100)] = []
    models: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=100)] = []

    @model_validator(mode="after")
    def _limits_fit_the_scope(self) -> Self:
        if self.scope != "inference" and (self.machines or self.models):
            raise ValueError("machines and models are limits of the scope inference")
        # "All machines" is written out: nobody hands out a fleet by leaving a field empty.
        if self.scope == "inference" and not self.machines:
            raise ValueError('name machines, labels as "@label", or "*" for all')
        return self


@dataclass(frozen=True, kw_only=True)
class MadeApiToken:
    """The secret is shown this once."""

    secret: str
    token: ApiToken


def routes(context: Context, operators: Operators, *, secure_cookie: bool) -> APIRouter:
    """The routes. ``secure_cookie``: browsers reach this server by https alone."""
    router = _sign_in_route(context, operators, secure_cookie=secure_cookie)
    router.routes.extend(_operator_routes(context, operators).routes)
    return router


def _sign_in_route(context: Context, operators: Operators, *, secure_cookie: bool) -> APIRouter:
    router = api_router(context, "operators", responses.PUBLIC, public=True)

    @router.post("/session", response_model=OperatorView, summary="Sign in; sets a cookie")
    async def sign_in(body: SignInBody, request: Request) -> Response:
        # The address counts failures: somebody who guesses is slowed down, and nobody else is.
        made = await operators.sign_in(body.name, body.password, client_address(request))
        # Not before: people type their password where the name belongs.
        audit.sender(made.operator, "password")
        response = Response(msgspec.json.encode(OperatorView(made.operator)), media_type="application/json")
        # Strict, and not readable by scripts: neither another site's form nor an injected script can use it.
        response.set_cookie(
            COOKIE,
            made.token,
            path=_cookie_path(request),
            max_age=int(SIGN_IN_S),
            httponly=True,
            samesite="strict",
            secure=secure_cookie,
        )
        return response

    return router


def _operator_routes(context: Context, operators: Operators) -> APIRouter:
    router = api_router(context, "operators")

    @router.get("/session", summary="Who is signed in")
    async def session(request: Request) -> OperatorView:
        principal: Principal = request.state.principal
        return OperatorView(principal.name)

    @router.delete("/session", status_code=204, summary="Sign out")
    async def sign_out(request: Request, response: Response) -> None:
        await operators.sign_out(request)
        # A cookie is deleted by one of the same attributes; with others the browser keeps both.
        secure = request.url.scheme == "https"
        path = _cookie_path(request)
        response.delete_cookie(COOKIE, path=path, httponly=True, samesite="strict", secure=secure)

    @router.get("/api-tokens", summary="API tokens, without their secrets")
    async def tokens() -> list[ApiToken]:
        return await operators.store.tokens()

    @router.post("/api-tokens", status_code=201, summary="Make an API token for a program")
    async def make(body: NewApiToken, request: Request) -> MadeApiToken:
        # Without a date it is good until it is revoked: a program that runs each night must not stop in a
        # year.
        expires_at = None if body.valid_for_s is None else now() + body.valid_for_s
        # Whoever asks gets a token of their own: it ends with the operator, and can do no more.
        grant: tuple[list[str], list[str]] | None = None
        if body.scope == "inference":
            grant = [await _machine(context, one) for one in body.machines], body.models or ["*"]
        operator = request.state.principal.name
        secret, token = await operators.new_token(
            operator, body.name, expires_at, scope=body.scope, grant=grant
        )
        audit.note(token_id=token.id, scope=token.scope)
        return MadeApiToken(secret=secret, token=token)

    @router.delete("/api-tokens/{token_id}", status_code=204, summary="Revoke an API token")
    async def revoke(token_id: int) -> None:
        await operators.store.revoke_token(token_id)

    return router


async def _machine(context: Context, named: str) -> str:
    """Return a machine by its id: another one that takes the name later gets nothing by that."""
    return named if named == "*" or named.startswith("@") else (await context.hub.find(named)).id


def _cookie_path(request: Request) -> str:
    """Return the path under which the page is served: what else the same host serves gets no cookie."""
    root: str = request.scope.get("root_path", "")
    return f"{root}/"
