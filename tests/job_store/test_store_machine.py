"""The store under crashes: whatever is done and wherever it breaks off, what was promised is there again."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.rows import FinalText
from tests.effort import examples
from tests.job_store.doubles import new_job


class Crash(Exception):
    """The process ends here, before the commit."""


class CrashingDatabase(JobDatabase):
    """Breaks off the next transaction before or after its commit when told to."""

    crash: str | None = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with super()._transaction():
            yield
            if self.crash == "before":
                raise Crash
        if self.crash == "after":
            raise Crash


IDS = st.sampled_from(["a", "b", "c"])
CRASHES = st.sampled_from([None, None, None, "before", "after"])


class StoreMachine(RuleBasedStateMachine):
    """A plain model of each job beside the real store; a crash closes the file without ceremony."""

    open_jobs: Bundle[str] = Bundle("open_jobs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.db = CrashingDatabase(self.folder / "jobs.sqlite")
        self.store_id = self.db.store_id
        self.states: dict[str, str] = {}
        self.texts: dict[str, bytes] = {}
        self.records: dict[str, list[bytes]] = {}
        self.acknowledged: set[str] = set()

    def teardown(self) -> None:
        self.db.close()
        shutil.rmtree(self.folder)

    def attempt(self, crash: str | None, name: str, *args: Any, **named: Any) -> tuple[bool, Any]:
        """Do something that may crash; whether it was promised (returned, or crashed after its commit)."""
        self.db.crash = crash
        try:
            result = getattr(self.db, name)(*args, **named)
        except Crash:
            self.reopen()
            return crash == "after", None
        finally:
            self.db.crash = None
        return True, result

    def reopen(self) -> None:
        """As after a kill: nothing was closed, another process opens the file."""
        old = self.db
        self.db = CrashingDatabase(self.folder / "jobs.sqlite")
        old.close()

    @rule(job_id=IDS, crash=CRASHES)
    def accept(self, job_id: str, crash: str | None) -> None:
        if self.db.get(job_id) is None and self.attempt(crash, "accept", new_job(job_id), 1.0)[0]:
            self.states[job_id] = "accepted"
            self.records[job_id] = []

    @rule(job_id=IDS, crash=CRASHES)
    def start(self, job_id: str, crash: str | None) -> None:
        done, _ = self.attempt(crash, "start", job_id, 2.0)
        if done and self.states.get(job_id) in ("accepted", "queued", "running"):
            self.states[job_id] = "running"

    @rule(job_id=IDS, body=st.binary(max_size=20), crash=CRASHES)
    def record(self, job_id: str, body: bytes, crash: str | None) -> None:
        running = self.states.get(job_id) == "running"
        if running and self.attempt(crash, "add_record", job_id, body)[0]:
            self.records[job_id].append(body)

    @rule(
        job_id=IDS,
        state=st.sampled_from(["completed", "failed", "cancelled", "interrupted"]),
        text=st.binary(min_size=1, max_size=50),
        crash=CRASHES,
    )
    def finish(self, job_id: str, state: str, text: bytes, crash: str | None) -> None:
        done, _ = self.attempt(crash, "finish", job_id, state, FinalText.of(text), None, 3.0)
        if done and self.states.get(job_id) in ("accepted", "queued", "running"):
            self.states[job_id] = state
            self.texts[job_id] = text
            self.records[job_id] = []

    @rule(job_id=IDS, same=st.booleans(), crash=CRASHES)
    def acknowledge(self, job_id: str, same: bool, crash: str | None) -> None:
        sha256 = FinalText.of(self.texts.get(job_id, b"")).sha256 if same else "0" * 64
        done, _ = self.attempt(crash, "acknowledge", job_id, sha256, 10.0, conflict=False)
        if done and same and job_id in self.texts:
            self.acknowledged.add(job_id)

    @rule(crash=CRASHES)
    def expire_nothing_yet(self, crash: str | None) -> None:
        self.attempt(crash, "expire", 50.0, 50.0, 90.0)

    @rule()
    def crash(self) -> None:
        self.reopen()

    @invariant()
    def the_store_holds_what_was_promised(self) -> None:
        assert self.db.store_id == self.store_id
        for job_id, state in self.states.items():
            job = self.db.get(job_id)
            assert job is not None
            assert job.state == state
            assert self.db.records(job_id) == self.records[job_id]
            assert job.acknowledged == (job_id in self.acknowledged)
            final = self.db.result(job_id)
            waits = job_id in self.texts and job_id not in self.acknowledged
            assert (final.text if final else None) == (self.texts[job_id] if waits else None)
        waiting = {job.job_id for job in self.db.waiting()}
        assert waiting == set(self.texts) - self.acknowledged
        assert {job.job_id for job in self.db.unsettled()} == set(self.states) - self.acknowledged


StoreMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
test_the_store_survives_a_crash_at_any_step = StoreMachine.TestCase
