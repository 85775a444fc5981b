"""The reference server's operators: passwords, browsers that signed in, API tokens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection

from obt_agent.errors import AgentError
from obt_server.auth import secrets
from obt_server.auth.limiter import FailureLimiter
from obt_server.auth.principal import Principal
from obt_server.store.operators import ApiToken, OperatorStore

COOKIE: Final = "obt_sign_in"
SIGN_IN_S: Final = 7 * 86400.0
_NOBODY: Final = "scrypt$32768$8$1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


class SignInRefused(AgentError):
    """Wrong name or password."""

    kind = "sign_in_refused"


class TooManyAttempts(AgentError):
    """Too many wrong passwords; ``retry_after_ms`` says when to try again."""

    kind = "too_many_attempts"
    retryable_by_default = True


@dataclass(frozen=True)
class SignIn:
    """A browser's new cookie."""

    operator: str
    token: str
    expires_at: float


class Operators:
    """Authentication of the reference server.

    Args:
        store: where operators are kept.
        limiter: against guessing.
    """

    def __init__(self, store: OperatorStore, limiter: FailureLimiter | None = None) -> None:
        self.store = store
        self._limiter = limiter or FailureLimiter()
        self._hashing = asyncio.Semaphore(2)

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """The operator behind a request's bearer token or cookie."""
        token = bearer(connection)
        if token is not None:
            name = await self.store.token_operator(secrets.sha256(token), time.time())
        else:
            cookie = connection.cookies.get(COOKIE)
            name = None if not cookie else await self.store.sign_in(secrets.sha256(cookie), time.time())
        return None if name is None else Principal(name)

    async def sign_in(self, name: str, password: str, address: str) -> SignIn:
        """Check a password and open a sign-in.

        Raises:
            SignInRefused, TooManyAttempts.
        """
        self._check_attempts(address)
        stored = await self.store.password(name)
        async with self._hashing:
            self._check_attempts(address)  # the others that waited may have failed meanwhile
            right = await asyncio.to_thread(secrets.check_password, password, stored or _NOBODY)
            if not right or stored is None:
                self._limiter.failed(address, time.monotonic())
                raise SignInRefused("Wrong name or password.")
        self._limiter.succeeded(address)
        token, now = secrets.new_secret("obts"), time.time()
        await self.store.add_sign_in(secrets.sha256(token), name, now, now + SIGN_IN_S)
        return SignIn(name, token, now + SIGN_IN_S)

    def _check_attempts(self, address: str) -> None:
        wait = self._limiter.wait_s(address, time.monotonic())
        if wait > 0:
            raise TooManyAttempts(
                f"Too many wrong passwords; try again in {wait:.0f} s.", retry_after_ms=int(wait * 1000) + 1
            )

    async def sign_out(self, connection: HTTPConnection) -> None:
        """End the browser's sign-in."""
        cookie = connection.cookies.get(COOKIE)
        if cookie:
            await self.store.remove_sign_in(secrets.sha256(cookie))

    async def set_password(self, name: str, password: str) -> None:
        """Make an operator, or change a password."""
        hashed = await asyncio.to_thread(secrets.hash_password, password)
        await self.store.set_password(name, hashed, time.time())

    async def create_first(self, name: str) -> str | None:
        """At the very first start: an operator with a random password, which is returned once; else None."""
        if await self.store.names():
            return None
        password = secrets.new_password()
        hashed = await asyncio.to_thread(secrets.hash_password, password)
        return password if await self.store.create_first(name, hashed, time.time()) else None

    async def new_token(self, operator: str, name: str, expires_at: float | None) -> tuple[str, ApiToken]:
        """Make an API token; its secret is returned this once. Raises NotStored: no such operator."""
        secret = secrets.new_secret("obtk")
        token = await self.store.add_token(
            secrets.sha256(secret), name=name, operator=operator, at=time.time(), expires_at=expires_at
        )
        return secret, token


def bearer(connection: HTTPConnection) -> str | None:
    """The bearer token of a request."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
