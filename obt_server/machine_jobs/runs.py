"""What runs: a task for each run, the events that concern it, and what is new of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import structlog

from obt_agent.errors import Busy
from obt_server.hub import Hub
from obt_server.hub.events import AgentChanged, Event, JobChanged
from obt_server.hub.storage import ENDED_STATES
from obt_server.machine_jobs.attempt import held_back
from obt_server.machine_jobs.machines import Machines
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

_KEPT_NEWS: Final = 32


def _nothing() -> None:
    """Where nothing was begun that could be ended."""


class MachineRun(Protocol):
    """A rollout or a campaign that runs."""

    @property
    def id(self) -> str:
        """Which one."""

    @property
    def machines(self) -> Iterable[str]:
        """On which machines it works, or may."""

    async def run(self) -> None:
        """Carry it to its end; what is stored goes on where it was left."""

    def on_job(self, agent_id: str, job_id: str, *, moved_on: bool) -> bool:
        """A job changed; ``moved_on``: more than its progress. Return whether it is one of this run."""

    def on_machine(self, agent_id: str) -> None:
        """A machine came or went."""

    def look_again(self, agent_id: str) -> None:
        """A machine that the run waited for is here."""


R = TypeVar("R", bound=MachineRun)
N = TypeVar("N")


class Runs(Generic[R, N]):
    """All rollouts, or all campaigns, that run, from ``start`` to ``close``; each is called once.

    Args:
        hub: the live agents.
        kind: what a run is called in the log and in its task's name.
        again_after_s: the pause after a fault, such as a full disk, before a run goes on.
        news: returns what is new of a run.
    """

    def __init__(self, hub: Hub, kind: str, again_after_s: float, news: Callable[[R], N]) -> None:
        self._hub = hub
        self._kind = kind
        self._again_after_s = again_after_s
        self._news = news
        # None before ``start``: who is here is known from then on.
        self._machines: Machines | None = None
        # Those that run, and the task of each.
        self._runs: dict[str, R] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # By machine: runs that are at work there, or were; so that an event finds them without a search.
        self._of_machine: dict[str, set[str]] = {}
        # By machine and job: its state, and whether its last progress said that it stands still.
        self._said: dict[tuple[str, str], tuple[str, bool]] = {}
        # What ended or was deleted (None), until it is said; bounded, for nobody may be there to say it to.
        self._last_news: dict[str, N | None] = {}
        self._closed = False
        self._stop_observing: Callable[[], None] = _nothing

    async def start(self) -> None:
        """Listen to events from now on."""
        # Who is enrolled, before any run is looked at: an unknown machine would fail.
        await self._hub.directory.current()
        self._machines = Machines(self._hub)
        self._stop_observing = self._hub.events.observe(self._on_event)

    async def close(self) -> None:
        """End all tasks; what they were at is stored, and goes on with the runs that are made next."""
        self._closed = True
        self._stop_observing()
        await end_tasks(self._tasks.values())

    @property
    def machines(self) -> Machines:
        """Who is here. Raises Busy before ``start`` and after ``close``."""
        if self._machines is None or self._closed:
            raise Busy("The server is starting or stopping; try again.", retry_after_ms=1000)
        return self._machines

    def check(self) -> None:
        """Raise Busy before ``start`` and after ``close``: nothing can be begun, changed or ended then."""
        _ = self.machines

    def get(self, run_id: str) -> R | None:
        """Return a run, unless it has ended."""
        return self._runs.get(run_id)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    def begin(self, run: R, after: Callable[[], None] | None = None) -> None:
        """Carry a run to its end, in a task of its own; then call ``after``. Nothing after ``close``."""
        # Stored by a request that was answered while this ended: it goes on where the next runs are made.
        if self._closed:
            return
        self._runs[run.id] = run
        self.watch(run)
        self._tasks[run.id] = asyncio.create_task(self._carry(run, after), name=f"{self._kind} {run.id}")

    def watch(self, run: R) -> None:
        """Give the events of all its machines to a run; again where it got more of them."""
        for agent_id in run.machines:
            self._of_machine.setdefault(agent_id, set()).add(run.id)

    async def ended(self, run_id: str) -> None:
        """Wait until the task of a run that is over has ended."""
        with contextlib.suppress(KeyError):
            await asyncio.wait([self._tasks[run_id]])

    async def _carry(self, run: R, after: Callable[[], None] | None) -> None:
        try:
            while True:
                try:
                    await run.run()
                    break
                # A full disk, or a fault of the program: what is stored goes on when it is over.
                except Exception:
                    log.exception("run.failed", kind=self._kind, id=run.id)
                    await asyncio.sleep(self._again_after_s)
        finally:
            for agent_id in run.machines:
                mine = self._of_machine.get(agent_id, set())
                mine.discard(run.id)
                if not mine:
                    self._of_machine.pop(agent_id, None)
            self.keep_news(run.id, self._news(run))
            self._runs.pop(run.id, None)
            self._tasks.pop(run.id, None)
        if after is not None:
            after()

    # -- news -----------------------------------------------------------------------------------------

    def take_news(self, run_id: str) -> N | None:
        """Return what is new of a run since the last call; None for one that was deleted.

        Raises:
            KeyError: there is nothing new of it.
        """
        run = self._runs.get(run_id)
        return self._last_news.pop(run_id) if run is None else self._news(run)

    def keep_news(self, run_id: str, news: N | None) -> None:
        """Keep what is to be said of one that does not run any more."""
        self._last_news[run_id] = news
        if len(self._last_news) > _KEPT_NEWS:
            del self._last_news[next(iter(self._last_news))]

    # -- events ---------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Wake whom an event concerns. Called for each heartbeat: it must cost nothing where nobody waits."""
        if isinstance(event, JobChanged):
            self._on_job(event)
        elif isinstance(event, AgentChanged) and self._machines is not None:
            came_or_went, waiting = self._machines.note(event.agent_id)
            for run_id in waiting:
                if run_id in self._runs:
                    self._runs[run_id].look_again(event.agent_id)
            if came_or_went:
                for run_id in self._of_machine.get(event.agent_id, ()):
                    self._runs[run_id].on_machine(event.agent_id)

    def _on_job(self, event: JobChanged) -> None:
        key = event.agent_id, event.job_id
        said = event.state, held_back(event.progress)
        # Progress alone comes twice a second of each job; a look into storage for each would be many.
        moved_on = event.progress is None or self._said.get(key) != said
        mine = [
            run_id
            for run_id in self._of_machine.get(event.agent_id, ())
            if self._runs[run_id].on_job(event.agent_id, event.job_id, moved_on=moved_on)
        ]
        if not mine or event.state in ENDED_STATES:
            self._said.pop(key, None)
        else:
            self._said[key] = said
