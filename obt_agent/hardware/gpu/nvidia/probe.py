"""Try NVIDIA's library in a process of its own first: it may crash, or never come back.

``python -m obt_agent.hardware.gpu.nvidia.probe [library]`` loads the library, asks the driver's version
and every GPU's name, and prints the version, or the reason why not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from obt_agent.hardware.field_reader import Unreadable

if TYPE_CHECKING:  # bound to the library's bindings, which only the tried process loads
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml

_KILL_WAIT_S = 1.0
_OK = "ok "
# The beginning of the names of the agent's own settings, some of which are secret.
_OWN = "OBT_"


class Prober:
    """Starts probes; ``places`` are where the library is looked for, the usual ones when empty.

    One that cannot even be killed (a driver call that hangs in the kernel) is never doubled.
    """

    def __init__(self, places: tuple[str, ...] = (), *, deadline_s: float = 10.0) -> None:
        self._places = places
        self._deadline_s = deadline_s
        # A process that survived its kill: it waits in the kernel, and another one would too.
        self._stuck: subprocess.Popen[str] | None = None

    def probe(self) -> str:
        """The driver's version.

        Raises:
            Unreadable: the library cannot be used; the reason says why.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            raise Unreadable("stalled: an earlier probe of the driver still hangs")
        # -P: nothing of the folder that the agent happens to be in is imported
        command = [sys.executable, "-P", "-m", "obt_agent.hardware.gpu.nvidia.probe", *self._places]
        process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )
        try:
            output, _ = process.communicate(timeout=self._deadline_s)
        except subprocess.TimeoutExpired:
            self._kill(process)
            raise Unreadable(f"stalled: the driver did not answer within {self._deadline_s:g} s") from None
        return _verdict(process.returncode, output)

    def _kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        try:
            process.communicate(timeout=_KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._stuck = process


def _environment() -> dict[str, str]:
    """The agent's, without its own settings: a library that crashes may leave them in a core dump."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}


def _verdict(code: int, output: str) -> str:
    # Negative: the process died of a signal, as of the library's segmentation fault.
    if code < 0:
        raise Unreadable(f"driver_error: NVIDIA's library crashed when tried (signal {-code})")
    if code != 0 or not output.startswith(_OK):
        raise Unreadable(output.strip() or f"driver_error: the probe ended with status {code}")
    return output.removeprefix(_OK).strip()


def main(places: tuple[str, ...]) -> int:
    """Probe in this process, and print the outcome; the usual places when none are given."""
    from obt_agent.hardware.gpu.nvidia.nvml import PLACES, Nvml  # noqa: PLC0415 -- see above

    # Names are read too, for some drivers start and then crash at the first question about a GPU.
    nvml = Nvml(places or PLACES)
    try:
        nvml.open()
        version = nvml.driver_version()
        for index in range(nvml.count()):
            _touch(nvml, index)
        print(_OK + version)  # noqa: T201 -- the parent reads it
    except Unreadable as error:
        print(error.reason)  # noqa: T201 -- the parent reads it
        return 1
    nvml.close()
    return 0


def _touch(nvml: Nvml, index: int) -> None:
    """One GPU that does not answer does not make the library unusable."""
    try:
        nvml.device(index).name()
    except Unreadable:
        return


if __name__ == "__main__":
    status = main(tuple(sys.argv[1:]))
    sys.stdout.flush()
    os._exit(status)  # a library's exit handlers may hang
