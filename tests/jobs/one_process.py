"""One run of an agent's jobs, as a process that can be killed.

``python -m tests.jobs.one_process FOLDER CRASH_AT`` starts job ``j`` as a server would that repeats what was
not answered, runs it, and tells a server whose commits are lines of a file. With ``CRASH_AT`` n above 0 the
process kills itself (SIGKILL) just before the n-th commit to its store.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from obt_agent.jobs import JobService
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.policy import Policy
from obt_agent.protocol.jobs import JobFinishedParams, JobFinishedResult
from tests.job_store.doubles import ServerSession
from tests.jobs.doubles import FAST, benchmark, fast_uploader
from tests.jobs.measuring import MeasuringRunner
from tests.policy.configs import config

LOG = "server.log"


class DyingDatabase(JobDatabase):
    """Kills the process before a commit of a given number (counted from 1)."""

    crash_at = 0
    commits = 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with super()._transaction():
            yield
            type(self).commits += 1
            if self.commits == self.crash_at:
                os.kill(os.getpid(), signal.SIGKILL)


class FileServer(ServerSession):
    """Commits a final by a line in a file, before it answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.log = folder / LOG
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            job_id, text = msgspec.json.decode(line, type=tuple[str, str])
            self.results[job_id] = text.encode()

    def store(self, params: JobFinishedParams) -> JobFinishedResult:
        before = dict(self.results)
        answer = super().store(params)
        if params.job_id in self.results and params.job_id not in before:
            with self.log.open("ab") as log:
                line = msgspec.json.encode((params.job_id, self.results[params.job_id].decode()))
                log.write(line + b"\n")
                log.flush()
                os.fsync(log.fileno())
        return answer


async def live(folder: Path) -> None:
    """Until the server has acknowledged the job."""
    outbox = JobStore(folder, database=DyingDatabase)
    await outbox.open()
    runners: Any = {"benchmark": MeasuringRunner(outbox, lambda _: "x" * 30_000)}
    jobs = JobService(outbox, runners, Policy(config()), uploader=fast_uploader(outbox), timings=FAST)
    tasks = [
        asyncio.create_task(jobs.worker.run(), name="jobs"),
        asyncio.create_task(jobs.serve(FileServer(folder), 1_000.0), name="serve"),
    ]
    await jobs.start_benchmark(benchmark("j"))
    async with asyncio.timeout(60):
        while (job := await outbox.get("j")) is None or not job.acknowledged:
            await outbox.wait_changed(outbox.generation)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await outbox.close()


if __name__ == "__main__":
    DyingDatabase.crash_at = int(sys.argv[2])
    asyncio.run(live(Path(sys.argv[1])))
