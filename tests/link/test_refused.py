"""Refused credentials: what was ever admitted is shown for ever, over restarts and failing disks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from obt_agent.backoff import BackoffSettings
from obt_agent.errors import AdmissionRefused
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.folder import FolderError
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from tests.link.doubles import CredentialsDouble, LinkRig, linked
from tests.link.server_double import Peer, ServerDouble, refusal

HASTY = BackoffSettings(
    minimum_s=0.001, maximum_s=0.001, refused_maximum_s=0.002, refused_for_s_before_exit=0.0
)
"""Gives a credential up at the tenth refusal, were it never admitted."""
MANY = 30


async def admit_and_close(peer: Peer) -> None:
    await peer.admit()
    await peer.socket.close(1001)


async def serve(peer: Peer) -> None:
    await peer.admit()
    await peer.until_closed()


def refused_for_long() -> list[Any]:
    return [refusal(401) for _ in range(MANY)]


class FailingDisk(CredentialsDouble):
    """Fails in the methods that are named; knows nothing of earlier admissions."""

    def __init__(self, *failing: str) -> None:
        super().__init__(ever=False)
        self.failing = set(failing)

    def _check(self, method: str) -> None:
        if method in self.failing:
            raise FolderError(f"{method}: the disk fails")

    def for_next_dial(self) -> AgentCredential | None:
        self._check("for_next_dial")
        return super().for_next_dial()

    def admitted(self, credential: AgentCredential, announced: Sequence[str] = ()) -> None:
        super().admitted(credential, announced)
        self._check("admitted")

    def refused(self, credential: AgentCredential, *, revoked: bool) -> None:
        super().refused(credential, revoked=revoked)
        self._check("refused")

    def ever_admitted(self, credential: AgentCredential) -> bool:
        self._check("ever_admitted")
        return super().ever_admitted(credential)


async def test_an_admission_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    def credentials() -> Any:
        return Credentials(state.folder, Secret("provisioned"))

    with StateDir.open(tmp_path) as state:
        async with ServerDouble(serve) as server, linked(server.url, credentials=credentials()) as first:
            await first.session()
    with StateDir.open(tmp_path) as state:
        async with (
            ServerDouble(serve, refusals=refused_for_long()) as server,
            linked(server.url, credentials=credentials(), backoff=HASTY) as second,
        ):
            await second.session()
            assert len(server.requests) == MANY + 1


async def test_a_credential_that_no_process_saw_admitted_is_given_up(tmp_path: Path) -> None:
    with StateDir.open(tmp_path) as state:
        credentials: Any = Credentials(state.folder, Secret("provisioned"))
        async with ServerDouble(serve, refusals=refused_for_long()) as server:
            with pytest.raises(AdmissionRefused):
                await LinkRig(server.url, credentials=credentials, backoff=HASTY).link.run()
            assert len(server.requests) == 10


async def test_an_admission_that_the_disk_did_not_take_counts_in_this_process_and_is_noted_later() -> None:
    credentials = FailingDisk("admitted")

    async def admit_then_refuse(peer: Peer) -> None:
        await peer.admit()
        server.refusals.extend(refused_for_long())
        await peer.socket.close(1001)

    async with (
        ServerDouble(admit_then_refuse, serve) as server,
        linked(server.url, credentials=credentials, backoff=HASTY) as rig,
    ):
        await rig.session()
        await rig.session()
        assert len(server.requests) == MANY + 2
        assert credentials.verdicts.count(("admitted", "stored")) >= MANY, "tried again after each ending"


@pytest.mark.parametrize("failing", ["refused", "ever_admitted"])
async def test_a_disk_that_fails_at_a_refusal_is_no_reason_to_give_up(failing: str) -> None:
    credentials = FailingDisk(failing)
    credentials.ever = True
    async with (
        ServerDouble(serve, refusals=refused_for_long()) as server,
        linked(server.url, credentials=credentials, backoff=HASTY) as rig,
    ):
        await rig.session()


async def test_a_credential_that_cannot_be_read_any_more_is_shown_from_memory() -> None:
    credentials = FailingDisk()
    async with (
        ServerDouble(admit_and_close, serve) as server,
        linked(server.url, credentials=credentials, backoff=HASTY) as rig,
    ):
        await rig.session()
        credentials.failing.add("for_next_dial")
        await rig.session()
        assert len({request.headers["Authorization"] for request in server.requests}) == 1


async def test_a_credential_that_cannot_be_read_at_the_start_ends_the_link() -> None:
    with pytest.raises(FolderError):
        await LinkRig("http://localhost:1", credentials=FailingDisk("for_next_dial")).link.run()


def test_a_damaged_note_of_admissions_is_written_anew(tmp_path: Path) -> None:
    with StateDir.open(tmp_path) as state:
        (tmp_path / "admitted.json").write_text("{")
        (tmp_path / "admitted.json").chmod(0o600)
        credentials = Credentials(state.folder, Secret("mine"))
        credential = credentials.for_next_dial()
        assert credential is not None
        credentials.admitted(credential)
        assert Credentials(state.folder, Secret("mine")).ever_admitted(credential)
