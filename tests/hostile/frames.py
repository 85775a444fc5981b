"""Frames of a peer that means harm: every method of the protocol, each field at its largest."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, get_type_hints

from obt_agent.protocol.methods import METHODS

LARGE: Final = 900_000
"""Bytes of the largest values: under the frame's limit of 1 MiB, so that they are read and not refused."""

VALUES: Final[dict[str, Callable[[], Any]]] = {
    "nothing": lambda: None,
    "small": lambda: 1,
    "long text": lambda: "x" * LARGE,
    "wide text": lambda: "\U0001f980" * (LARGE // 12),
    "long list": lambda: [0] * (LARGE // 3),
    "many keys": lambda: {str(number): 0 for number in range(LARGE // 12)},
    "deep": lambda: json.loads("[" * 50 + "]" * 50),
    "large number": lambda: 10**4000,
}


def _fields(params: Any) -> list[str]:
    names = [str(name).rstrip("_") for name in get_type_hints(params)]
    return names or ["nothing"]


def corpus(seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield frames without end, each with the kind of its value: requests, notifications, answers."""
    random_ = random.Random(seed)
    fields = {name: _fields(method.params) for name, method in METHODS.items()}
    for number in itertools.count():
        method = random_.choice(list(METHODS))
        kind = random_.choice(list(VALUES))
        params: dict[str, Any] = {
            "model": "large:latest",
            "input": "x",
            "job_id": f"j{number}",
            "verbose": True,
        }
        params[random_.choice(fields[method])] = VALUES[kind]()
        frame: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        form = random_.choice(["request", "request", "notification", "answer", "error"])
        if form != "notification":
            frame["id"] = f"h{number}"
        if form == "answer":
            frame = {"jsonrpc": "2.0", "id": number % 50, "result": params}
        elif form == "error":
            frame = {"jsonrpc": "2.0", "id": number % 50, "error": {"code": -1, "message": params}}
        yield kind, json.dumps(frame)
