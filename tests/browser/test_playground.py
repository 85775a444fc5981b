"""What a model writes, as the playground shows it."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import HOSTILE, visit
from tests.browser.simulated import model
from tests.server.agent_double import never
from tests.server.conftest import Running

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRITTEN = f"""# Title

A **bold** and `fixed` [link](https://example.org/a) and [trap](javascript:document.title='owned') &lt;b&gt;
{HOSTILE}

- one
  1. inner
- two

> said

| a | b |
|---|---|
| 1 | *2* |

```html
<script>document.title = 'owned'</script>
```

<b>raw</b> <style>main {{ display: none }}</style> ![picture](https://example.org/x.png)
"""


async def test_markdown_becomes_elements_and_everything_else_stays_text(bare: Page, server: Running) -> None:
    async with server.agent("box") as agent:
        agent.handlers["chat"] = never
        await agent.sync_models(model("small:1b", capabilities=("completion",)))
        await visit(bare, f"playground?on={agent.agent_id}&model=small:1b")
        await expect(bare.get_by_role("combobox", name="Model")).to_have_value("small:1b")
        await bare.fill("textarea >> nth=0", "Write.")
        await bare.keyboard.press("Enter")
        await agent.until(lambda: bool(agent.requests) and agent.requests[-1].method == "chat")
        message = {"role": "assistant", "content": WRITTEN}
        await agent.stream(agent.requests[-1], json.dumps({"message": message, "done": False}).encode())
        answer = bare.locator("article.assistant .markdown")
        await expect(answer.locator("h4")).to_have_text("Title")
        await expect(answer.locator("strong")).to_have_text("bold")
        await expect(answer.locator("a")).to_have_attribute("href", "https://example.org/a")
        await expect(answer.locator("ul > li > ol > li")).to_have_text("inner")
        await expect(answer.locator("blockquote")).to_have_text("said")
        await expect(answer.locator("td em")).to_have_text("2")
        await expect(answer.locator("pre")).to_contain_text("<script>document.title = 'owned'</script>")
        for words in ("and trap <b>", HOSTILE, "<b>raw</b>"):
            await expect(answer).to_contain_text(words)
        # Of kinds that could do something, load something or hide something there is none.
        await expect(answer.locator("img, script, style, b, iframe, [onerror], [style]")).to_have_count(0)
        await expect(answer.locator("a")).to_have_count(1)
        assert "owned" not in await bare.title()
