"""An agent that is deleted and enrols again: its sessions go on being newer than all before."""

from pathlib import Path

from tests.replicas.fleet import fleet_of
from tests.server.enrolling import enrol_over_http
from tests.waiting import until


async def test_an_agent_that_was_deleted_and_enrols_again_is_seen_by_all(tmp_path: Path) -> None:
    async with fleet_of(tmp_path) as fleet:
        here, there = fleet.replicas
        agent_id, secret = await there.server.enrol("box")
        last = 0
        for _ in range(2):
            async with there.server.agent(credentials=(agent_id, secret)) as agent:
                await here.hears_of(agent)
                assert agent.hello_result is not None
                last = agent.hello_result.session
            await here.misses(agent_id)
        for _ in range(2):
            deleted = await here.server.http.delete(f"/api/v1/agents/{agent_id}")
            assert deleted.status_code == 204
            credentials = await enrol_over_http(there.server.http, "box", agent_id)
            async with there.server.agent(credentials=credentials) as again:
                await here.hears_of(again)
                assert again.hello_result is not None
                # Else who holds an older one passes for its owner, by the number.
                assert again.hello_result.session > last
                last = again.hello_result.session


async def test_the_word_of_an_end_that_comes_late_ends_no_session_of_who_enrolled_since(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path) as fleet:
        here, there = fleet.replicas
        agent_id, _ = await there.server.enrol("box")
        assert (await here.server.http.delete(f"/api/v1/agents/{agent_id}")).status_code == 204
        credentials = await enrol_over_http(there.server.http, "box", agent_id)
        async with there.server.agent(credentials=credentials) as again:
            await here.hears_of(again)
            local = there.hub._local  # noqa: SLF001 - where the word of an end arrives
            end, ended = local.end_agent, list[str]()

            async def noted(agent_id: str) -> None:
                await end(agent_id)
                ended.append(agent_id)

            local.end_agent = noted  # type: ignore[method-assign] # to know when it has come
            # As of the deletion, which the bus brings now.
            await here.hub.end_agent(agent_id)
            await until(lambda: ended)
            assert there.hub.presence(agent_id) is not None
            # One whose credential is gone does end.
            await there.server.parts.storage.revoke_credentials(agent_id, 1.0)
            await here.hub.end_agent(agent_id)
            assert await again.until_closed() == (4401, "revoked")
