"""The last moment of a start, as operators give it: a finite one that is meant."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.server.conftest import Running

ROLLOUT: dict[str, Any] = {"action": "pull", "model": "tiny", "targets": {"all": True}}
CAMPAIGN: dict[str, Any] = {
    "plans": [{"plan": {"num_iterations": 3}, "label": "A"}],
    "models": ["tiny:latest"],
    "targets": {"all": True},
}
NONE_AT_ALL = ["NaN", "Infinity", "-Infinity", "1e300", "-1", "1900000000000"]
"""The last one is milliseconds."""


async def send(server: Running, method: str, path: str, body: dict[str, Any], moment: str) -> int:
    """Send a body whose moment is written as it stands: the library's own writer refuses some."""
    text = json.dumps(body).replace('"MOMENT"', moment)
    headers = {"Content-Type": "application/json"}
    answer = await server.http.request(method, f"/api/v1/{path}", content=text, headers=headers)
    if answer.status_code == 422:
        assert answer.json()["error"]["kind"] == "invalid_params"
    return answer.status_code


async def sent(server: Running, moment: str) -> list[int]:
    """What a rollout, a campaign, a schedule and the previews of the first two are answered."""
    await server.enrol()
    rollout, campaign = ROLLOUT | {"until": "MOMENT"}, CAMPAIGN | {"not_after": "MOMENT"}
    schedule = {"cron": "0 2 * * *", "time_zone": "UTC", "campaign": campaign}
    return [
        await send(server, "POST", "rollouts", rollout, moment),
        await send(server, "POST", "rollouts/preview", rollout, moment),
        await send(server, "POST", "campaigns", campaign, moment),
        await send(server, "POST", "campaigns/preview", campaign, moment),
        await send(server, "PUT", "schedules/nightly", schedule, moment),
    ]


@pytest.mark.parametrize("moment", NONE_AT_ALL)
async def test_a_last_moment_that_is_no_time_is_refused(server: Running, moment: str) -> None:
    assert await sent(server, moment) == [422] * 5


@pytest.mark.parametrize("moment", ["NaN", "Infinity"])
async def test_a_benchmark_takes_no_such_moment(server: Running, moment: str) -> None:
    async with server.agent():
        body = {"agent": "box", "plan": {"model_name": "tiny"}, "not_after": "MOMENT"}
        assert await send(server, "POST", "benchmarks", body, moment) == 422


async def test_a_last_moment_in_a_year_is_taken(server: Running) -> None:
    assert await sent(server, str(time.time() + 366 * 86400)) == [201, 200, 201, 200, 200]
