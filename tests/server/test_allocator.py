"""Where the C library puts large blocks, in a process of its own."""

import platform
import subprocess
import sys

import pytest

WHERE = """
import sys
from pathlib import Path
from obt_server.allocator import keep_large_blocks_apart
if sys.argv[1] == "apart":
    keep_large_blocks_apart()
freed = bytes(1 << 20)
del freed
block = bytes(300_000)
(heap,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
start, end = (int(text, 16) for text in heap.split()[0].split("-"))
print(start <= id(block) < end)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep no such bound")
@pytest.mark.parametrize(("mode", "in_heap"), [("as it is", "True"), ("apart", "False")])
def test_a_large_block_has_pages_of_its_own_also_after_one_was_freed(mode: str, in_heap: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WHERE, mode], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == in_heap
