"""The reference server's operators: passwords, browsers that signed in, API tokens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection

from obt_agent.errors import AgentError
from obt_server.auth import secrets
from obt_server.auth.limiter import FailureLimiter
from obt_server.auth.principal import InferenceGrant, Principal
from obt_server.auth.turns import FairTurns, Lines, Places
from obt_server.connections import address_key
from obt_server.store.operators import ApiToken, OperatorStore, Scope

COOKIE: Final = "obt_sign_in"
SIGN_IN_S: Final = 7 * 86400.0
FREE_OF_ADDRESS: Final = 20
"""Failures of an address with any accounts before it waits: several people may be behind it."""
MAX_WAITING: Final = 16
"""Passwords of strangers that wait to be hashed: two seconds of one processor."""
MAX_IN_LINE: Final = 4
"""Of those the ones of one address, so that none fills all places."""
MAX_KNOWN_WAITING: Final = 1024
"""Passwords that wait for their check where their operator signed in before."""
MAX_KNOWN_IN_LINE: Final = 128
"""Of those the ones of one operator at one address: at their pace less than a minute."""
MAX_LATE_S: Final = 5.0
"""By which such a password is checked late, after wrong ones of that operator at that address. They wait at
the same time: a right one waits this long once, however many wrong ones come."""
PACE_S: Final = 0.25
"""Between such checks, after wrong ones: with the hashing, about three a second."""
_PREFIXES: Final[Mapping[Scope, str]] = {"operator": "obtk", "inference": "obti", "metrics": "obtm"}
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
    """

    def __init__(self, store: OperatorStore) -> None:
        self.store = store
        # by account and address: nobody can lock an account for other addresses
        self._pairs = FailureLimiter()
        # by address, whatever the account
        self._addresses = FailureLimiter(FREE_OF_ADDRESS)
        # hashing takes a processor for 0.1 s; those who signed in before do not queue with strangers
        self._hashing = {True: FairTurns(), False: FairTurns()}
        # by address for strangers; else by account and address, so that no guess at one account keeps another
        self._lines = Lines()
        # by the same keys: those whose password is not being hashed yet
        self._places = {
            True: Places(MAX_KNOWN_IN_LINE, MAX_KNOWN_WAITING),
            False: Places(MAX_IN_LINE, MAX_WAITING),
        }
        self.claim: Callable[[Sequence[bytes]], Awaitable[bool]] | None = None
        """Asked before somebody tries whose tries are delayed: whether no other server process lets the same
        one try at this moment."""

    @property
    def limiters(self) -> Mapping[str, FailureLimiter]:
        """What counts failures, by name: server processes that share the operators share these."""
        return {"sign-in": self._pairs, "sign-in address": self._addresses}

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """The operator behind a request's bearer token or cookie."""
        # A token wins over a cookie: a program that runs in a browser's session means its token.
        token = bearer(connection)
        if token is not None:
            found = await self.store.valid_token(secrets.sha256(token), time.time())
            return None if found is None else _principal(found)
        cookie = connection.cookies.get(COOKIE)
        name = None if not cookie else await self.store.sign_in(secrets.sha256(cookie), time.time())
        return None if name is None else Principal(name, via="sign-in")

    async def sign_in(self, name: str, password: str, address: str) -> SignIn:
        """Check a password and open a sign-in.

        From an address that this operator signed in from before, failures have the next passwords checked up
        to ``MAX_LATE_S`` late, and then one by one in their order: a right one gets in, whatever others try
        there. Only where more than ``MAX_KNOWN_IN_LINE`` wait, lots say which of them are refused for now.
        From other addresses, failures delay the next try.

        Raises:
            SignInRefused, TooManyAttempts.
        """
        sender = address_key(address)
        known = await self.store.signed_in_from(name, sender)
        # Whoever signed in from here before is never locked out by what others try at that address.
        if not known:
            self._check_attempts(name, sender)
        await self._check_password(name, password, sender, known=known)
        self._pairs.succeeded((name, sender))
        self._addresses.succeeded(sender)
        # The browser keeps the token, the database its hash: a copy of the database opens no session.
        token, now = secrets.new_secret("obts"), time.time()
        await self.store.add_sign_in(secrets.sha256(token), name, now, now + SIGN_IN_S, sender)
        return SignIn(name, token, now + SIGN_IN_S)

    async def _check_password(self, name: str, password: str, sender: str, *, known: bool) -> None:
        """Raise SignInRefused or TooManyAttempts unless the password is the operator's."""
        async with contextlib.AsyncExitStack() as turn:
            await self._wait_for_turn(turn, name, sender, known=known)
            if not known:
                self._check_attempts(name, sender)  # the others that waited may have failed meanwhile
                await self._check_claim(name, sender)
            # A name that does not exist costs as much time as one that does: its answer tells nothing.
            stored = await self.store.password(name)
            right = await asyncio.to_thread(secrets.check_password, password, stored or _NOBODY)
        if not right or stored is None:
            # Both counts, so that one address cannot try many accounts, nor many addresses one account for
            # free.
            now = time.monotonic()
            self._pairs.failed((name, sender), now)
            self._addresses.failed(sender, now)
            raise SignInRefused("Wrong name or password.")

    async def _wait_for_turn(
        self, turn: contextlib.AsyncExitStack, name: str, sender: str, *, known: bool
    ) -> None:
        """Wait until a password may be hashed, and enter that into ``turn``; raise TooManyAttempts."""
        pair = (name, sender)
        line = pair if known else sender
        try:
            async with self._places[known].place(line):
                if known:
                    # Before the check: a guess costs its time first. Before the line, too: there a few that
                    # wait so long would keep a right password out. And for guesses at this account alone:
                    # another operator at the same address has done nothing.
                    await asyncio.sleep(min(self._pairs.wait_s(pair, time.monotonic()), MAX_LATE_S))
                await turn.enter_async_context(self._lines.line(line))
                if known and self._pairs.slowed(pair) is not None:
                    await asyncio.sleep(PACE_S)
                await turn.enter_async_context(self._hashing[known].turn(sender))
        except TimeoutError as error:
            raise TooManyAttempts("Too many sign-ins at once; try again.", retry_after_ms=2000) from error

    def _check_attempts(self, name: str, sender: str) -> None:
        now = time.monotonic()
        wait = max(self._pairs.wait_s((name, sender), now), self._addresses.wait_s(sender, now))
        if wait > 0:
            raise TooManyAttempts(
                f"Too many wrong passwords; try again in {wait:.0f} s.", retry_after_ms=int(wait * 1000) + 1
            )

    async def _check_claim(self, name: str, sender: str) -> None:
        slowed = [self._pairs.slowed((name, sender)), self._addresses.slowed(sender)]
        keys = [key for key in slowed if key is not None]
        if keys and self.claim is not None and not await self.claim(keys):
            raise TooManyAttempts("Too many wrong passwords; try again in 1 s.", retry_after_ms=1000)

    async def sign_out(self, connection: HTTPConnection) -> None:
        """End the browser's sign-in."""
        cookie = connection.cookies.get(COOKIE)
        if cookie:
            await self.store.remove_sign_in(secrets.sha256(cookie))

    async def set_password(self, name: str, password: str) -> None:
        """Make an operator, or change a password."""
        hashed = await asyncio.to_thread(secrets.hash_password, password)
        await self.store.set_password(name, hashed, time.time())

    async def create_first(self, name: str, password: str | None = None) -> str | None:
        """Make an operator at the very first start, and return its password; None where there are operators.

        Args:
            name: the operator's.
            password: None for a random one, which is seen this once.
        """
        if await self.store.names():
            return None
        password = secrets.new_password() if password is None else password
        hashed = await asyncio.to_thread(secrets.hash_password, password)
        return password if await self.store.create_first(name, hashed, time.time()) else None

    async def new_token(
        self,
        operator: str,
        name: str,
        expires_at: float | None,
        *,
        scope: Scope = "operator",
        grant: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> tuple[str, ApiToken]:
        """Make an API token; its secret is returned this once.

        Args:
            operator: for whom it acts; it ends with that operator.
            name: what it is for.
            expires_at: when it ends; None: when it is revoked.
            scope: what it is for; ``inference`` where a grant is given.
            grant: machines and models of a token of scope ``inference``; None for one of another scope.

        Raises:
            NotStored: no such operator.
        """
        # Another prefix: whoever finds one in a file sees what it opens.
        scope = scope if grant is None else "inference"
        secret = secrets.new_secret(_PREFIXES[scope])
        token = await self.store.add_token(
            secrets.sha256(secret),
            name=name,
            operator=operator,
            at=time.time(),
            expires_at=expires_at,
            scope=scope,
            grant=grant,
        )
        return secret, token


def _principal(token: ApiToken) -> Principal:
    if token.scope == "operator":
        return Principal(token.operator, via=f"token {token.id}")
    if token.scope == "metrics":
        return Principal(token.operator, metrics_only=True)
    return Principal(token.operator, InferenceGrant(str(token.id), token.machines, token.models))


def bearer(connection: HTTPConnection) -> str | None:
    """The bearer token of a request."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
