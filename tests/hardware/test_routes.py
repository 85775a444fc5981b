"""Default routes, from the kernel's tables."""

from __future__ import annotations

from pathlib import Path

from obt_agent.hardware.host import platform
from obt_agent.hardware.host.linux.routes import default_routes

IPV4 = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
tun0\t00000000\t01000A0A\t0003\t0\t0\t50\t00000080\t0\t0\t0
"""
ZERO = "0" * 32
IPV6 = f"""{ZERO} 00 {ZERO} 00 fe80000000000000021122fffe334455 00000400 00000001 00000000 00450003     eth0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
fe800000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
"""


def files(folder: Path, ipv4: str = IPV4, ipv6: str = IPV6) -> tuple[Path, Path]:
    four, six = folder / "route", folder / "ipv6_route"
    four.write_text(ipv4)
    six.write_text(ipv6)
    return four, six


def test_default_routes_are_found_and_others_are_not(tmp_path: Path) -> None:
    assert default_routes(files(tmp_path)) == {
        ("eth0", "0102A8C0", "100"),
        ("eth0", "fe80000000000000021122fffe334455", "00000400"),
    }


def test_files_that_are_missing_or_odd_give_no_routes(tmp_path: Path) -> None:
    assert default_routes((tmp_path / "a", tmp_path / "b")) == frozenset()
    assert default_routes(files(tmp_path, "odd line\n", "\n\n")) == frozenset()


def test_this_machine_has_routes_or_none_and_one_boot() -> None:
    assert platform.default_routes() == default_routes()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert platform.boot_id() == platform.boot_id() == boot
