"""Which secret the agent shows to the server, and what becomes of it when the server takes or refuses it.

Three may exist: a *candidate* (made for a rotation, not yet tried), the *stored* one (enrolled or rotated),
and the *provisioned* one (a file that the owner put there). The stored one beats the provisioned one until
the owner changes the latter. The candidate is tried first. Refused, it gives way to the other but is kept
until that one is admitted: the server may have taken the candidate in a hello whose answer was lost.

Beside a secret stand the pins of the keys that the server may show (``protocol.server_key``), if it was
enrolled with any. They are renewed by what an admission announces, and go with the secret.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

from obt_agent.identity.folder import Folder, FolderError
from obt_agent.identity.secret import Secret

STORED_FILE: Final = "credential.json"
CANDIDATE_FILE: Final = "credential-candidate.json"
JOIN_FILE: Final = "join.json"
ADMITTED_FILE: Final = "admitted.json"
# Hashes of admitted credentials; older ones are forgotten.
_REMEMBERED: Final = 16

Source = Literal["candidate", "stored", "provisioned"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class AgentCredential:
    """A secret and which of the three it is.

    ``pins`` are the server's keys that it may be shown to, none for whatever is trusted.
    """

    secret: Secret
    source: Source
    pins: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The secret's hash in hexadecimal."""
        return self.secret.sha256()


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret in a file, the hash of the one that was provisioned at that time, what it is for, and pins."""

    secret: str
    beside: str | None = None
    purpose: str | None = None
    pins: tuple[str, ...] = ()


class _Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """Hashes of credentials that a server has admitted, the latest last."""

    sha256: tuple[str, ...] = ()


class Credentials:
    """The credentials in a state folder.

    All methods do short file operations, with fsync where they write, and raise ``FolderError`` when a file
    is damaged or cannot be written. They may be called from several threads: one works, the others wait.
    """

    def __init__(self, folder: Folder, provisioned: Secret | str | None) -> None:
        self._folder = folder
        self._provisioned = Secret(provisioned) if isinstance(provisioned, str) else provisioned
        # The server refused the candidate, and the other credential has not been admitted since.
        self._candidate_refused = False
        # The hash of what was shown at the last dial; None before the first, or when there was nothing.
        self._shown: str | None = None
        # The link's thread rotates while the loop dials. Reentrant: storing a candidate may admit another.
        self._lock = threading.RLock()

    def for_next_dial(self) -> AgentCredential | None:
        """Return what to show at the next dial: the candidate, else ``current``; None without either."""
        with self._lock:
            candidate, chosen = self._read(CANDIDATE_FILE), self.current()
            # A refused candidate is better than nothing: the server may take it another time.
            if candidate and not (self._candidate_refused and chosen):
                chosen = AgentCredential(Secret(candidate.secret), "candidate", candidate.pins)
            self._shown = chosen.sha256 if chosen else None
            return chosen

    def current(self) -> AgentCredential | None:
        """Return the stored credential, or the provisioned one if that changed or nothing is stored."""
        stored = self._read(STORED_FILE)
        # An owner who puts another token there means it to be used; the hash tells that it is another.
        if stored and (self._provisioned is None or self._provisioned.sha256() == stored.beside):
            return AgentCredential(Secret(stored.secret), "stored", stored.pins)
        return AgentCredential(self._provisioned, "provisioned") if self._provisioned else None

    def admitted(self, credential: AgentCredential, announced: Sequence[str] = ()) -> None:
        """The server took it: a candidate becomes the stored one, and the fact is remembered.

        Another one that is admitted after the candidate was refused puts an end to the candidate.
        ``announced`` are the pins of the keys that the server shows now and will show next; they replace the
        stored ones.
        """
        with self._lock:
            candidate = self._read(CANDIDATE_FILE)
            # Only the very candidate that was shown: another may have taken its place since.
            if (
                credential.source == "candidate"
                and candidate
                and candidate.secret == credential.secret.reveal()
            ):
                self._folder.rename(CANDIDATE_FILE, STORED_FILE)
            elif self._candidate_refused:
                self._folder.remove(CANDIDATE_FILE)
            self._candidate_refused = False
            known = self._admitted_so_far()
            if credential.sha256 not in known:
                hashes = (*known, credential.sha256)[-_REMEMBERED:]
                self._folder.write(ADMITTED_FILE, msgspec.json.encode(_Admitted(sha256=hashes)))
            self._renew_pins(credential, tuple(announced))

    def _renew_pins(self, credential: AgentCredential, announced: tuple[str, ...]) -> None:
        # Only where there are some: a server can neither set an agent's first pins nor take them away.
        if not credential.pins or not announced:
            return
        for name in (STORED_FILE, CANDIDATE_FILE):
            kept = self._read(name)
            # A candidate that was made before the announcement was stored is for the same server.
            if kept and kept.pins and kept.pins != announced:
                self._folder.write(name, msgspec.json.encode(msgspec.structs.replace(kept, pins=announced)))

    def refused(self, credential: AgentCredential, *, revoked: bool) -> None:
        """The server refused it: the next dial shows the other one, if there are two.

        Only a candidate that the server calls revoked is dropped: a server's mistake must not cost an agent
        its credential.
        """
        with self._lock:
            kept = self._read(CANDIDATE_FILE)
            # Another one may have been made since that was shown.
            candidate = kept is not None and kept.secret == credential.secret.reveal()
            if candidate and revoked:
                self._folder.remove(CANDIDATE_FILE)
            self._candidate_refused = candidate and not revoked

    def store_candidate(self, rotation_id: str | None = None) -> str:
        """Make a candidate, or repeat the one made for the same rotation; returns its hash. Durable.

        It is asked for over a session, so what was shown last was admitted, even if nobody has noted that
        yet: a candidate in use becomes the stored one before another takes its place.
        """
        with self._lock:
            kept = self._read(CANDIDATE_FILE)
            if kept is None or rotation_id is None or kept.purpose != rotation_id:
                if kept is not None and Secret(kept.secret).sha256() == self._shown:
                    self.admitted(AgentCredential(Secret(kept.secret), "candidate"))
                current = self.current()
                # It is for the same server.
                pins = current.pins if current else ()
                kept = self._keep(CANDIDATE_FILE, Secret.new(), purpose=rotation_id, pins=pins)
                self._candidate_refused = False
            return Secret(kept.secret).sha256()

    def pending_join(self, server: str) -> Secret:
        """The secret to enrol with at this server: the same one until ``store_enrolled``, also after a crash.

        A join whose answer was lost is repeated with the same hash, and so burns no token.
        """
        kept = self._read(JOIN_FILE)
        if kept is None or kept.purpose != server:
            kept = self._keep(JOIN_FILE, Secret.new(), purpose=server)
        return Secret(kept.secret)

    def store_enrolled(self, secret: Secret, pins: Sequence[str] = ()) -> None:
        """The server took the join: this is the stored credential, with these pins; older ones are gone."""
        # First what is new: after a crash in between, the join is repeated with the same secret.
        self._keep(STORED_FILE, secret, pins=tuple(pins))
        self._folder.remove(CANDIDATE_FILE)
        self._folder.remove(JOIN_FILE)

    def ever_admitted(self, credential: AgentCredential) -> bool:
        """Has a server ever admitted it? A credential that was once good is retried for ever."""
        return credential.sha256 in self._admitted().sha256

    def _keep(
        self, name: str, secret: Secret, *, purpose: str | None = None, pins: tuple[str, ...] = ()
    ) -> _Kept:
        beside = self._provisioned.sha256() if self._provisioned else None
        kept = _Kept(secret=secret.reveal(), beside=beside, purpose=purpose, pins=pins)
        self._folder.write(name, msgspec.json.encode(kept))
        return kept

    def _read(self, name: str) -> _Kept | None:
        data = self._folder.read(name)
        return None if data is None else self._decoded(name, data, _Kept)

    def _admitted(self) -> _Admitted:
        data = self._folder.read(ADMITTED_FILE)
        return _Admitted() if data is None else self._decoded(ADMITTED_FILE, data, _Admitted)

    def _admitted_so_far(self) -> tuple[str, ...]:
        # For writing the file anew: what is damaged holds no secret, and is replaced.
        try:
            return self._admitted().sha256
        except FolderError:
            return ()

    def _decoded(self, name: str, data: bytes, type_: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.DecodeError:
            # Not chained: the library's error may quote the file, and the file holds a secret.
            raise FolderError(
                f"{self._folder.path / name} is damaged. Restore it from a backup, or move it away and enrol "
                "again."
            ) from None
