"""The stand-in for Ollama, as a process of the lab's machine: three models, 25 tokens a second."""

import asyncio

from obt_standin.script import Script
from obt_standin.server import StandIn


async def main() -> None:
    script = Script(decode_tps=25.0)
    async with StandIn(script, port=11434):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
