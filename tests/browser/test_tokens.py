"""Tokens that programs use models with: made on the page, for some machines and models, and revoked there."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from obt_server.gateway import GatewaySettings
from tests.browser.conftest import Watched, open_signed_in, turn, visit
from tests.browser.simulated import heartbeat, model
from tests.server.conftest import NO_AUTHORITIES, PASSWORD, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def answers(server: Running, secret: str) -> list[int]:
    """What a program with the token gets: its machine, another one, a model of others, what operators ask."""
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, trust_env=False, verify=NO_AUTHORITIES
    ) as program:
        machines = [await program.get(f"/ollama/{name}/api/version") for name in ("box", "other")]
        model = await program.post("/ollama/box/api/chat", json={"model": "large:70b", "messages": []})
        return [one.status_code for one in (*machines, model, await program.get("/api/v1/agents"))]


async def test_a_token_of_inference_is_limited_shown_once_and_revoked(
    shared: Watched, tmp_path: Path, port: int
) -> None:
    page = shared.page
    async with (
        running(tmp_path, port=port, gateway=GatewaySettings()) as server,
        server.agent("box") as box,
        server.agent("other"),
        turn(shared, server.url),
    ):
        await box.sync_models(model("small:1b"), model("large:70b", "b"))
        await heartbeat(box)
        await open_signed_in(page, server.url, PASSWORD)
        await visit(page, "settings")
        form = page.locator("form", has_text="Make a token")
        await form.get_by_label("Name", exact=True).fill("a chat")
        machines = form.get_by_label("Machines", exact=True)
        await expect(machines).to_have_count(0)  # an operator's token has no such limits
        await form.get_by_role("combobox", name="May").select_option("inference")
        make = form.get_by_role("button", name="Make a token")
        await make.click()
        await expect(machines).to_be_focused()  # nobody hands out a fleet by leaving a field empty
        await machines.fill("nosuch")
        await make.click()
        await expect(page.locator(".toast")).to_contain_text("nosuch")
        secret = page.locator("code", has_text=re.compile("^obti_"))
        await expect(secret).to_have_count(0)
        await machines.fill("box, @lab")
        await form.get_by_label("Models", exact=True).fill("small:*")
        await make.click()
        made = await secret.text_content()
        assert made is not None
        row = page.locator("tr", has_text="a chat")
        await expect(row).to_contain_text("small:* on box, @lab")
        assert await answers(server, made) == [200, 404, 403, 403]
        await page.reload()
        await expect(row).to_contain_text("small:* on box, @lab")
        await expect(page.locator("main")).not_to_contain_text(made)  # it was shown once
        await page.get_by_label("Revoke the token a chat").click()
        await expect(row).to_have_count(0)
        assert await answers(server, made) == [401, 401, 401, 401]
