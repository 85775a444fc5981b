"""The protocol's times, shortened alike for the kit and for the other side, with room for a busy machine."""

from obt_conformance.deadlines import Deadlines

SHORT = Deadlines(
    hello_s=3.0,
    alive_s=1.0,
    silence_s=4.0,
    probe_s=2.0,
    stalled_s=5.0,
    streams_alive_s=0.6,
    slack_s=3.0,
    answer_s=10.0,
    quiet_s=0.1,
    unread_s=2.0,
    check_s=60.0,
)
