"""The protocol's times, shortened alike for the kit and for the other side."""

from obt_conformance.deadlines import Deadlines

SHORT = Deadlines(
    hello_s=1.0,
    alive_s=0.5,
    silence_s=1.5,
    probe_s=0.5,
    stalled_s=5.0,
    streams_alive_s=0.6,
    slack_s=3.0,
    answer_s=10.0,
    quiet_s=0.1,
    check_s=60.0,
)
