"""Labels: set at a machine, and the fleet found and grouped by them."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import fits, visit
from tests.server.conftest import Running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_operator_labels_a_machine_and_its_own_labels_stay(bare: Page, server: Running) -> None:
    async with server.agent("box", labels=("gpu",)) as agent:
        await visit(bare, f"machine/{agent.agent_id}?tab=access")
        labels = bare.get_by_label("Labels", exact=True)
        await expect(labels.locator("li")).to_have_text([re.compile("gpu.*from its configuration")])
        await labels.get_by_label("New label").fill("Rack=2")
        await labels.get_by_label("New label").press("Enter")
        await expect(labels.locator("li", has_text="rack=2")).to_be_visible()
        await expect(labels.get_by_label("New label")).to_have_value("")
        await labels.get_by_label("New label").fill("no label")
        await labels.get_by_role("button", name="Add").click()
        await expect(labels.get_by_role("alert")).to_contain_text("at most 63 characters")
        await expect(labels.get_by_label("New label")).to_have_value("no label")
        await labels.get_by_label("New label").fill("")
        await expect(labels.get_by_role("alert")).to_have_count(0)
        await labels.get_by_label("Remove the label rack=2").click()
        await expect(labels.locator("li")).to_have_count(1)


async def test_the_fleet_is_found_and_grouped_by_label(bare: Page, server: Running) -> None:
    async with server.agent("alpha", labels=("lab", "gpu")), server.agent("beta", labels=("lab",)) as beta:
        await server.enrol("gamma")
        await visit(bare, "")
        cards = bare.locator("article.machine")
        await expect(cards).to_have_count(3)
        await bare.get_by_role("combobox", name="Label").select_option("gpu")
        await expect(cards).to_have_count(1)
        assert "label=gpu" in bare.url
        await bare.reload()
        await expect(cards).to_have_count(1)  # an address that can be passed on
        await bare.get_by_role("combobox", name="Label").select_option("")
        await bare.get_by_role("button", name="By label").click()
        headings = bare.locator("main h2", has_text="online")
        one, both, none = "gpu 1 of 1 machine", "lab 2 of 2 machines", "No label 0 of 1 machine"
        await expect(headings).to_have_text([re.compile(words) for words in (one, both, none)])
        await expect(cards).to_have_count(4)  # alpha stands under both of its labels
        await server.http.put(f"/api/v1/agents/{beta.agent_id}/labels", json={"labels": ["gpu"]})
        await expect(headings.first).to_contain_text("gpu 2 of 2")
        await bare.get_by_role("button", name="Table").click()
        await expect(bare.locator("tbody tr", has_text="beta")).to_have_count(2)
        await expect(bare.locator("th[scope=rowgroup]")).to_have_count(3)
        await bare.set_viewport_size({"width": 360, "height": 740})
        await fits(bare)
        await bare.get_by_role("link", name="gpu", exact=True).first.click()
        await expect(bare.get_by_role("combobox", name="Label")).to_have_value("gpu")
