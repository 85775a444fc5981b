"""The rules' names in the order of the protocol's document, and why some cannot be tried from outside."""

from __future__ import annotations

from typing import Final

# A test holds them against the document.
RULES: Final = (
    *("TRANSPORT-1", "TRANSPORT-2", "TRANSPORT-3", "TRANSPORT-4", "TRANSPORT-5"),
    *("HELLO-1", "HELLO-2", "HELLO-3", "HELLO-4", "HELLO-5", "HELLO-6"),
    "SYNC-1",
    *("CMD-1", "CMD-2", "CMD-3", "CMD-4", "CMD-5", "CMD-6"),
    *("STREAM-1", "STREAM-2", "STREAM-3", "STREAM-4"),
    *("CREDIT-1", "CREDIT-2", "CREDIT-3", "CREDIT-4"),
    *("ALIVE-1", "ALIVE-2"),
    *("JOB-1", "JOB-2", "JOB-3", "JOB-4", "JOB-5", "JOB-6", "JOB-7"),
    *("LIFE-1", "LIFE-2", "LIFE-3", "LIFE-4"),
    *("ENROL-1", "ENROL-2"),
    "ROTATE-1",
)

# Rules that ask nothing of a server that could be seen on its socket.
NOT_OF_SERVERS: Final[dict[str, str]] = {
    "STREAM-4": "It binds the agent: it is about lines that Ollama sends.",
    "CREDIT-3": "It binds the agent: the sender ends a stream that is granted nothing.",
    "JOB-7": "It binds the agent: what it keeps, and for how long.",
}

# Rules that ask nothing of an agent that could be seen on its socket.
NOT_OF_AGENTS: Final[dict[str, str]] = {
    "STREAM-4": "It needs an Ollama that sends broken lines; the kit is not between the two.",
    "ENROL-1": "An agent enrols by HTTP, before it dials: the kit meets one that has a credential.",
    "ENROL-2": "The kit knows no secret of the agent, and so cannot tell which one it should come with.",
}
