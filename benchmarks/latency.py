"""(b) What the way adds to each token at 50 tokens/s × 8 streams, against reading Ollama directly.

The stand-in logs when it wrote each token, on the machine's monotonic clock; the reader notes on the same
clock when it has each. The difference is the way's. The ways take turns, several times, so that whatever else
the machine does, and how the streams' tokens happen to fall together, meets them all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks import processes
from benchmarks.sink import Sink, sink
from benchmarks.table import Column, print_table
from tests.ports import free_port

STREAMS = 8
TOKENS_PER_S = 50
TOKENS = 150
MODEL = "standin-small:latest"
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") or ""
SSH = shutil.which("ssh") or ""

Seen = list[int]
"""Monotonic nanoseconds at which each token of one stream was there."""


async def direct(url: str, tokens: int) -> list[Seen]:
    """Read Ollama as a program on the same machine does."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        return await asyncio.gather(*(_read(http, url, tokens) for _ in range(STREAMS)))


async def _read(http: aiohttp.ClientSession, url: str, tokens: int) -> Seen:
    seen: Seen = []
    async with http.post(f"{url}/api/generate", json=body(tokens)) as response:
        async for line in response.content:
            if b'"done":false' in line:
                seen.append(time.monotonic_ns())
    return seen


async def by_agent(server: Sink, tokens: int, streams: int = STREAMS) -> list[Seen]:
    """Through the agent's link."""
    frames: list[tuple[bytes, int]] = []

    def note(frame: bytes, at: int) -> None:
        if frame.startswith(b'{"jsonrpc":"2.0","method":"stream.data"'):
            frames.append((frame, at))

    server.on_frame = note
    await asyncio.gather(*(server.request("generate", body(tokens)) for _ in range(streams)))
    found: dict[int, Seen] = {}
    for frame, at in frames:  # read afterwards: the direct reader's JSON is not decoded either
        params = json.loads(frame)["params"]
        found.setdefault(params["id"], []).extend([at] * len(params["items"]))
    return list(found.values())


def body(tokens: int) -> dict[str, object]:
    """A generation of so many tokens."""
    return {"model": MODEL, "prompt": "x", "options": {"num_predict": tokens}}


async def _written(url: str, streams: int) -> list[Seen]:
    """When the stand-in wrote each token of the last streams, from its log."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/_standin/log") as response:
        log = await response.json()
    generations = [entry for entry in log if entry["path"] == "/api/generate"]
    return [[int(at) for at, _ in entry["writes"]] for entry in generations[-streams:]]


async def pairs(
    read: Callable[[], Awaitable[list[Seen]]], url: str, tokens: int, streams: int = STREAMS
) -> list[tuple[int, int]]:
    """When each token of every stream was written, and when it was seen."""
    seen = sorted(await read(), key=lambda stream: stream[0])
    written = sorted(await _written(url, streams), key=lambda stream: stream[0])
    return [
        (wrote, there)
        for reads, writes in zip(seen, written, strict=True)
        # Cut: the log has the final object, too.
        for there, wrote in zip(reads[:tokens], writes[:tokens], strict=True)
    ]


async def measure(read: Callable[[], Awaitable[list[Seen]]], url: str, tokens: int) -> list[float]:
    """Milliseconds from written to seen, of every token of every stream."""
    return [(there - wrote) / 1e6 for wrote, there in await pairs(read, url, tokens)]


@asynccontextmanager
async def ssh_reverse(folder: Path, target: int) -> AsyncIterator[int]:
    """``ssh -R`` to an sshd of our own on the loopback; gives the port that leads back to ``target``."""
    keys = {name: folder / name for name in ("host", "user")}
    for key in keys.values():
        await _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    authorized = folder / "authorized"
    authorized.write_text(keys["user"].with_suffix(".pub").read_text())
    sshd_port, back = free_port(), free_port()
    options = {
        "Port": sshd_port,
        "ListenAddress": "127.0.0.1",
        "HostKey": keys["host"],
        "AuthorizedKeysFile": authorized,
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "AllowTcpForwarding": "yes",
        "PermitRootLogin": "prohibit-password",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    client = [SSH, "-N", "-T", "-i", str(keys["user"]), "-p", str(sshd_port), "127.0.0.1"]
    client += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    client += ["-R", f"127.0.0.1:{back}:127.0.0.1:{target}"]
    with contextlib.suppress(PermissionError):
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it, also where no service made it
    async with processes.running([SSHD, "-D", "-f", str(config)]):
        await asyncio.sleep(1)
        async with processes.running(client):
            await _reachable(back)
            yield back


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


async def _reachable(port: int) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return


Way = Callable[[], Awaitable[list[Seen]]]


async def _agent_way(
    stack: AsyncExitStack, folder: Path, url: str, tokens: int, *, uvloop: bool, code: Path | None
) -> Way:
    server = await stack.enter_async_context(sink())
    await stack.enter_async_context(
        processes.agent(folder, server=server.url, ollama=url, uvloop=uvloop, code=code),
    )
    await server.admitted.wait()
    await server.request("generate", body(2))
    return functools.partial(by_agent, server, tokens)


async def _ways(
    stack: AsyncExitStack, folder: Path, url: str, tokens: int, before: Path | None
) -> dict[str, Way]:
    """Every way by name, ready; the direct one comes first."""
    ways: dict[str, Way] = {"read directly": functools.partial(direct, url, tokens)}
    agents = {"the agent": None} if before is None else {"the agent": None, "the agent before": before}
    for name, code in agents.items():
        for loop in ("asyncio", "uvloop"):
            way = f"{name}, {loop}"
            ways[way] = await _agent_way(stack, folder / way, url, tokens, uvloop=loop == "uvloop", code=code)
    if SSHD and SSH:
        back = await stack.enter_async_context(ssh_reverse(folder, int(url.rpartition(":")[2])))
        ways["ssh -R"] = functools.partial(direct, f"http://127.0.0.1:{back}", tokens)
    return ways


async def compare(tokens: int, rounds: int, before: Path | None = None) -> list[tuple[str, list[float]]]:
    """Milliseconds of every token by every way, at the same stand-in."""
    script = {"decode_tps": TOKENS_PER_S, "tokens": tokens, "num_parallel": STREAMS}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(processes.standin(folder, **script))
        await direct(url, 2)  # loads the model
        ways = await _ways(stack, folder, url, tokens, before)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, read in ways.items():
                found[name] += await measure(read, url, tokens)
    return list(found.items())


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks latency", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="the agent of that checkout, too")
    arguments = parser.parse_args(argv)
    rounds = 1 if arguments.quick else 6
    before: Path | None = arguments.before and arguments.before.resolve()
    found = asyncio.run(compare(TOKENS, rounds, before))
    base = statistics.median(found[0][1])
    print_table(
        f"(b) ms from written to seen, {rounds} × {STREAMS} streams of {TOKENS} tokens, {TOKENS_PER_S}/s",
        [Column("way"), Column("p50", 2), Column("p99", 2), Column("p50 added to a direct read", 2)],
        [
            (name, statistics.median(ms), statistics.quantiles(ms, n=100)[98], statistics.median(ms) - base)
            for name, ms in found
        ],
    )
    if not (SSHD and SSH):
        print("ssh -R was left out: no sshd or no ssh is installed here.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
