"""Commands through the public interface, answered by a scripted agent."""

import msgspec
import pytest

from obt_agent.protocol.envelope import Request
from obt_server.rest.sse import event_of_text
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running


async def generate(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, b'{"response":"a","done":false}', b'{"response":"b","done":false}')
    return agent.final(request)


def events(text: str) -> list[tuple[str, object]]:
    """Events of a stream's text, comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], msgspec.json.decode(fields["data"])))
    return found


async def test_a_command_with_one_answer_comes_back_as_the_agent_gave_it(server: Running) -> None:
    async def running_models(_: AgentDouble, __: Request) -> Answer:
        return {"models": [], "later": 1}

    async with server.agent() as agent:
        agent.handlers["running_models"] = running_models
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/running_models")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"models": [], "later": 1}


async def test_a_streamed_command_comes_as_events_and_ends_with_the_final(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        answer = await server.http.post(
            f"/api/v1/agents/{agent.agent_id}/commands/generate", json={"model": "m", "prompt": "p"}
        )
    assert answer.status_code == 200, answer.text
    kinds = [kind for kind, _ in events(answer.text)]
    assert kinds == ["item", "item", "final"]


async def test_a_body_that_is_no_utf_8_is_refused_and_the_agents_session_goes_on(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        path = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        for body in (b'{"model":"m","prompt":"\xff"}', b'{"model":"\xff"}'):
            answer = await server.http.post(path, content=body)
            assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid_params")
        good = await server.http.post(path, json={"model": "m", "prompt": "p"})
    assert [kind for kind, _ in events(good.text)] == ["item", "item", "final"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n\r\n"])
def test_an_event_is_one_event_also_when_the_agent_writes_json_on_several_lines(line_end: bytes) -> None:
    made = event_of_text("item", b'{%b"a": 1%b}' % (line_end, line_end))
    assert events(made.decode()) == [("item", {"a": 1})]
    assert b"\r" not in made
