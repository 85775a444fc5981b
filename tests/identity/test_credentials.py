import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.folder import FolderError
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from tests.effort import examples


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.open(tmp_path / "state")


def shown(credentials: Credentials) -> AgentCredential:
    credential = credentials.for_next_dial()
    assert credential is not None
    return credential


def test_with_nothing_there_is_nothing_to_show(state: StateDir) -> None:
    assert Credentials(state.folder, None).for_next_dial() is None


def test_the_enrolled_one_beats_the_provisioned_one_until_that_changes(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned-1")
    assert shown(credentials).source == "provisioned"
    credentials.store_enrolled(Secret("enrolled"))
    assert shown(credentials) == AgentCredential(Secret("enrolled"), "stored")
    assert shown(Credentials(state.folder, "provisioned-1")).secret == Secret("enrolled")
    assert shown(Credentials(state.folder, "provisioned-2")).secret == Secret("provisioned-2")
    assert shown(Credentials(state.folder, None)).secret == Secret("enrolled")


def test_one_provisioned_after_enrolment_is_a_change(state: StateDir) -> None:
    Credentials(state.folder, None).store_enrolled(Secret("enrolled"))
    assert shown(Credentials(state.folder, "provisioned")).source == "provisioned"


def test_a_candidate_is_tried_next_and_kept_when_admitted(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    digest = credentials.store_candidate("rotation-1")
    candidate = shown(credentials)
    assert (candidate.source, candidate.sha256) == ("candidate", digest)
    assert shown(Credentials(state.folder, "provisioned")) == candidate, "it survives the process"
    credentials.admitted(candidate)
    assert shown(Credentials(state.folder, "provisioned")) == AgentCredential(candidate.secret, "stored")


def test_a_repeated_rotation_gives_the_same_hash_and_another_one_another(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    first = credentials.store_candidate("rotation-1")
    assert credentials.store_candidate("rotation-1") == first
    assert credentials.store_candidate("rotation-2") != first
    assert credentials.store_candidate() != credentials.store_candidate()


def test_a_refused_candidate_gives_way_and_is_dropped_once_the_old_one_is_admitted(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    credentials.store_candidate()
    credentials.refused(shown(credentials), revoked=False)
    old = shown(credentials)
    assert old.source == "provisioned"
    credentials.admitted(old)
    assert shown(Credentials(state.folder, "provisioned")).source == "provisioned"


def test_a_candidate_whose_hello_was_answered_unheard_is_tried_again(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    credentials.store_candidate()
    candidate = shown(credentials)
    credentials.refused(candidate, revoked=False)  # a proxy's bad day
    credentials.refused(shown(credentials), revoked=False)  # the server has retired the old one
    assert shown(credentials) == candidate


def test_a_candidate_is_tried_again_when_there_is_no_other(state: StateDir) -> None:
    credentials = Credentials(state.folder, None)
    credentials.store_candidate()
    credentials.refused(shown(credentials), revoked=False)
    assert shown(credentials).source == "candidate"


def test_a_refusal_is_of_the_candidate_that_was_shown(state: StateDir) -> None:
    credentials = Credentials(state.folder, None)
    credentials.store_enrolled(Secret("enrolled"))
    credentials.store_candidate("first")
    old = shown(credentials)
    credentials.admitted(old)
    new = credentials.store_candidate("second")
    credentials.refused(old, revoked=True)
    assert shown(credentials).sha256 == new
    credentials.refused(old, revoked=False)
    assert shown(credentials).sha256 == new


def test_a_revoked_candidate_is_dropped_and_a_revoked_stored_one_kept(state: StateDir) -> None:
    credentials = Credentials(state.folder, None)
    credentials.store_enrolled(Secret("enrolled"))
    credentials.store_candidate()
    credentials.refused(shown(credentials), revoked=True)
    assert shown(Credentials(state.folder, None)).source == "stored"
    credentials.refused(shown(credentials), revoked=True)
    assert shown(credentials).source == "stored"


def test_admission_is_remembered_for_each_credential(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    assert not credentials.ever_admitted(shown(credentials))
    credentials.admitted(shown(credentials))
    credentials.admitted(shown(credentials))
    again = Credentials(state.folder, "provisioned")
    assert again.ever_admitted(shown(again))
    other = Credentials(state.folder, "another-one")
    assert not other.ever_admitted(shown(other))


def test_a_join_keeps_its_secret_until_it_is_stored(state: StateDir) -> None:
    credentials = Credentials(state.folder, None)
    secret = credentials.pending_join("https://a")
    assert Credentials(state.folder, None).pending_join("https://a") == secret
    assert credentials.pending_join("https://b") != secret
    credentials.store_candidate()
    credentials.store_enrolled(secret)
    assert shown(credentials) == AgentCredential(secret, "stored")
    assert credentials.pending_join("https://b") != secret


@pytest.mark.parametrize(
    "name", ["credential.json", "credential-candidate.json", "admitted.json", "join.json"]
)
def test_a_damaged_file_is_named_and_its_content_is_not(state: StateDir, name: str) -> None:
    (state.path / name).write_text('{"secret": canary')
    (state.path / name).chmod(0o600)
    credentials = Credentials(state.folder, "provisioned")

    def read_all() -> None:
        credentials.for_next_dial()
        credentials.pending_join("https://a")
        credentials.ever_admitted(AgentCredential(Secret("x"), "stored"))

    with pytest.raises(FolderError) as caught:
        read_all()
    assert name in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_files_of_secrets_are_closed_to_others(state: StateDir) -> None:
    credentials = Credentials(state.folder, "provisioned")
    credentials.pending_join("x")
    credentials.store_candidate()
    credentials.admitted(shown(credentials))
    credentials.store_candidate()
    assert {file.stat().st_mode & 0o777 for file in state.path.iterdir()} == {0o600}


def test_a_disk_that_is_full_costs_no_credential(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials(state.folder, None)
    credentials.store_enrolled(Secret("enrolled"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderError, match="cannot be written: No space left on device"):
        credentials.store_enrolled(Secret("another"))
    with pytest.raises(FolderError, match="cannot be renamed"):
        state.folder.rename("credential.json", "credential-candidate.json")
    with pytest.raises(FolderError, match="cannot be removed"):
        state.folder.remove("identity.json")
    monkeypatch.undo()
    assert not [file for file in state.path.iterdir() if file.name.startswith(".")]


class Rotation(RuleBasedStateMachine):
    """An honest server and an agent that dies at any moment: they always find together again.

    The server knows one or two secrets (the old one until the new one's hello is answered).
    """

    @initialize()
    def enrol(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.state = StateDir.open(Path(self.folder.name) / "state")
        self.agent = Credentials(self.state.folder, None)
        self.agent.store_enrolled(Secret.new())
        self.known = [shown(self.agent).sha256]
        self.connected = False

    @precondition(lambda self: self.connected)
    @rule(deaf=st.booleans())
    def rotate(self, deaf: bool) -> None:
        """The server asks, in a session, for a candidate; a deaf one never hears the answer."""
        digest = self.agent.store_candidate()
        if not deaf:
            self.known = [self.known[0], digest]

    @rule(lost=st.booleans(), bad_day=st.booleans())
    def dial(self, lost: bool, bad_day: bool) -> None:
        """A hello; its answer may be lost, and a proxy may refuse anything."""
        credential = shown(self.agent)
        self.connected = False
        if bad_day or credential.sha256 not in self.known:
            self.agent.refused(credential, revoked=False)
            return
        self.known = [credential.sha256]
        if not lost:
            self.agent.admitted(credential)
            self.connected = True

    @rule()
    def restart(self) -> None:
        self.agent = Credentials(self.state.folder, None)
        self.connected = False

    @invariant()
    def some_dial_of_the_next_two_is_admitted(self) -> None:
        if not hasattr(self, "agent"):
            return
        trial = Credentials(self.state.folder, None)
        tried = shown(trial)
        if tried.sha256 not in self.known:
            trial.refused(tried, revoked=False)
            assert shown(trial).sha256 in self.known

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.state.close()
            self.folder.cleanup()


TestRotation = Rotation.TestCase
TestRotation.settings = settings(
    max_examples=examples(40),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_rotation_right_behind_an_admission_never_loses_the_credential_in_use(state: StateDir) -> None:
    """The admission is noted in another thread; the server may ask for a rotation before that is done."""
    credentials = Credentials(state.folder, "provisioned")
    credentials.store_candidate("rotation-1")
    in_use = shown(credentials)
    newest = credentials.store_candidate("rotation-2")
    credentials.admitted(in_use)
    again = Credentials(state.folder, "provisioned")
    assert shown(again).sha256 == newest
    again.refused(shown(again), revoked=False)
    assert shown(again).secret == in_use.secret, "the server never heard of the second candidate"
