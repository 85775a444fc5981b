"""A machine in a folder, and a system that records what it is asked."""

from collections.abc import Sequence
from pathlib import Path

from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import Outcome, System


class FakeSystem(System):
    """Takes commands down; answers by the first words that match, else with success."""

    def __init__(self, **answers: Outcome) -> None:
        self.asked: list[list[str]] = []
        self.output: list[str] = []
        self.users: list[str] = []
        self.answers = answers

    def call(self, command: Sequence[str], *, text: str | None = None, user: str | None = None) -> Outcome:
        self.asked.append(list(command))
        self.output += [text] if text else []
        self.users += [user] if user else []
        words = " ".join(command)
        found = (answer for key, answer in self.answers.items() if key.replace("_", " ") in words)
        return next(found, Outcome(0, "", ""))


def machine(folder: Path, *, packaged: bool = False, systemd: bool = True) -> ServicePaths:
    """The places below a folder."""
    if systemd:
        (folder / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    return ServicePaths(root=folder, packaged=packaged)
