"""Nights of a fleet in a real store, with results as agents send them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from obt_server.campaign_storage import (
    Campaign,
    CampaignBaseline,
    CampaignCell,
    CampaignMachine,
    CampaignPlan,
)
from obt_server.campaigns.evaluation import Evaluation
from obt_server.hub.storage import JobRecord, JobResult
from obt_server.result_index import ResultIndex
from obt_server.storage import Enrolment
from obt_server.store import AgentQuota, Database, SqlStorage
from obt_server.store import jobs as job_rows
from obt_server.verdict_storage import RegressionFilter, Verdict
from tests.server.agent_double import uuid7
from tests.server.enrolling import enrol

DAY = 86_400.0
FIRST = 1_790_000_000.0
DIGEST = "d" * 64
ITERATIONS = 5
PLANS = ("a" * 64, "b" * 64)
LABELS = ("512:128 ctx 4096 x1", "2048:128 ctx 4096 x1", "3584:128 ctx 4096 x1")
"""As agents call the points of ``SWEEP``."""
SWEEP: dict[str, object] = {
    "prompts": [{"prompt_tokens": 512, "completion_tokens": 128}],
    "sweep": {"prompt_tokens": [512, 2048, 3584]},
}
MODELS = ("tiny:latest", "small:latest", "big:70b")

Speed = Callable[[int, CampaignCell], float]
"""Tokens a second of a night (counted from 1) and a cell."""


def figures(speed: float) -> dict[str, Any]:
    """A cell's figures of a result."""
    spread = 0.01 * speed
    half = 2.776 * spread / math.sqrt(ITERATIONS)
    summary = {
        "n": ITERATIONS,
        "mean": speed,
        "median": speed,
        "stddev": spread,
        "cv": 0.01,
        "min": speed - spread,
        "max": speed + spread,
        "ci_low": speed - half,
        "ci_high": speed + half,
        "confidence": 0.95,
    }
    first_token = summary | {"mean": 1000 / speed, "median": 1000 / speed, "stddev": 10 / speed}
    return {"decode_tps_corrected": summary, "first_token_ms": first_token, "prefill_tps": summary}


def result(cell: CampaignCell, speed: float, points: Sequence[float] = (1.0,), **more: Any) -> bytes:
    """A result as an agent sends it, as far as comparisons read it; ``points``: the speed there, relative."""
    environment = {
        "plan_hash": cell.plan_hash,
        "model": cell.model,
        "model_digest": DIGEST,
        "ollama_version": "0.33.0",
        "driver": "580.65",
        "kernel": "6.12.1",
        "agent_version": "1.0",
    } | more.pop("environment", {})
    flags = more.pop("flags", [])
    return json.dumps(
        {
            "status": "completed",
            "environment": environment,
            "metrics": [{"flags": flags} for _ in range(ITERATIONS)],
            "cells": [
                {"index": index, "label": LABELS[index], "summary": figures(speed * factor)}
                for index, factor in enumerate(points)
            ],
        }
        | more
    ).encode()


def _store_all(db: Session, results: Sequence[tuple[CampaignCell, str, bytes, float]]) -> None:
    for cell, job_id, text, at in results:
        job = JobRecord(
            job_id=job_id,
            agent_id=cell.agent_id,
            kind="benchmark",
            state="running",
            params=b'{"job_id":"x"}',
            model=cell.model,
            created_at=at,
        )
        done = JobResult(
            agent_id=cell.agent_id,
            job_id=job_id,
            kind="benchmark",
            state="completed",
            text=text,
            sha256=hashlib.sha256(text).hexdigest(),
            model=cell.model,
            model_digest=DIGEST,
            error=None,
            at=at + 50,
        )
        job_rows.create(db, job)
        assert job_rows.finish(db, done, AgentQuota()) == "stored"


@dataclass
class Fleet:
    """Machines whose nights are stored one after the other."""

    database: Database
    agents: dict[str, str] = field(default_factory=dict)
    """Ids by name."""
    news: list[int] = field(default_factory=list)
    """Regressions that the evaluation told of."""
    campaigns: list[Campaign] = field(default_factory=list)
    swept: Sequence[str] = ()
    """Hashes of plans that sweep."""

    async def enrol(self, count: int) -> None:
        for number in range(1, count + 1):
            enrolment = Enrolment(agent_id=uuid7(), name=f"m{number}", version="1", secret_sha256=uuid7())
            self.agents[f"m{number}"] = (await enrol(self.storage, enrolment, 1.0)).id

    @functools.cached_property
    def storage(self) -> SqlStorage:
        return SqlStorage(self.database)

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        return Evaluation(self.storage, ResultIndex(self.storage), lambda id_, _: self.news.append(id_))

    async def night(
        self,
        number: int,
        speed: Speed,
        *,
        baseline: CampaignBaseline | None = None,
        models: Sequence[str] = MODELS,
        points: Callable[[CampaignCell], Sequence[float]] = lambda _: (1.0,),
        more: Callable[[CampaignCell], dict[str, Any]] = lambda _: {},
    ) -> list[Verdict]:
        """Store a campaign of a night with all its results, compare it, and return its verdicts by cell."""
        at = FIRST + number * DAY
        campaign = Campaign(
            id=uuid7(),
            name=f"night {number}",
            plans=tuple(
                CampaignPlan(hash=hashed, label=hashed[:2], plan=SWEEP if hashed in self.swept else {})
                for hashed in PLANS
            ),
            models=tuple(models),
            machines=tuple(CampaignMachine(id=id_, name=name) for name, id_ in self.agents.items()),
            baseline=baseline or CampaignBaseline(),
            state="done",
            created_at=at,
            created_by="tests",
            finished_at=at + 7200,
        )
        cells = [
            CampaignCell(id=f"c{index}", agent_id=id_, agent_name=name, model=model, plan_hash=hashed)
            for index, (name, id_, model, hashed) in enumerate(
                (
                    (name, id_, model, hashed)
                    for name, id_ in self.agents.items()
                    for model in models
                    for hashed in PLANS
                ),
                1,
            )
        ]
        done, results = [], []
        for index, cell in enumerate(cells):
            job_id = f"{campaign.id}.{cell.id}.1"
            text = result(cell, speed(number, cell), points(cell), **more(cell))
            results.append((cell, job_id, text, at + 60.0 * (index + 1)))
            done.append(msgspec.structs.replace(cell, state="done", job_id=job_id, waiting_for=None))
        await self._store(results)
        await self.storage.create_campaign(campaign, done)
        self.campaigns.append(campaign)
        return await self.judge(campaign)

    async def measure_again(self, campaign: Campaign, speed: Speed, number: int) -> list[Verdict]:
        """Measure all cells of a campaign a second time, and compare it again."""
        cells = list(await self.storage.campaign_cells(campaign.id))
        again, results = [], []
        for index, cell in enumerate(cells):
            job_id = f"{campaign.id}.{cell.id}.2"
            text = result(cell, speed(number, cell))
            results.append((cell, job_id, text, campaign.created_at + 5000 + index))
            again.append(msgspec.structs.replace(cell, job_id=job_id, attempt=2))
        await self._store(results)
        await self.storage.save_campaign(campaign, again)
        return await self.judge(campaign)

    async def judge(self, campaign: Campaign) -> list[Verdict]:
        cells = list(await self.storage.campaign_cells(campaign.id))
        await self.evaluation.judge(campaign, cells)
        return list(await self.storage.verdicts(campaign.id))

    async def _store(self, results: Sequence[tuple[CampaignCell, str, bytes, float]]) -> None:
        """All in one transaction: each by itself would wait for the disk."""
        await self.database.run(_store_all, results)

    async def open_regressions(self) -> list[tuple[str, str]]:
        """Machines and models that are slower, and nobody has acknowledged."""
        found = await self.storage.regressions(RegressionFilter(state="open"))
        return sorted((one.agent_name, one.model) for one in found)


def steady(seed: int, sigma: float = 0.004) -> Speed:
    """Speeds that differ from night to night, by machine and model, and not otherwise."""
    usual = {"tiny:latest": 200.0, "small:latest": 80.0, "big:70b": 9.0}

    def speed(number: int, cell: CampaignCell) -> float:
        rng = random.Random(f"{seed} {number} {cell.agent_name} {cell.model} {cell.plan_hash}")
        return usual[cell.model] * math.exp(rng.gauss(0, sigma))

    return speed


def slower(speed: Speed, since: int, machine: str, by: float = 1.05) -> Speed:
    """The same with one machine that is slower from some night on."""
    return lambda number, cell: (
        speed(number, cell) / (by if number >= since and cell.agent_name == machine else 1.0)
    )
