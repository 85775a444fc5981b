"""The link: dials the server, gets admitted, and keeps one session at a time alive.

``timings``          deadlines and intervals
``address``          where the server is (pure)
``disconnect``       how a dial or a session ended, and what follows from it (pure)
``dial``             from a URL to an open WebSocket, through ``proxy`` and ``tls``
``wire``             one WebSocket, on the library's sans-I/O part
``streams``, ``send``            what goes out next: items under credit, in fair turns
``session``          one admitted socket; ``control`` its own methods, ``pending_requests`` its answers
``liveness``         the watchdog of one session; ``network_monitor`` suspend and route changes
``connection_attempt``           one wire from hello to close
``connection``       ``Link``: the loop around all of it; ``reconnect`` decides the delays
``enroll``           a credential of one's own for a one-time join token
"""
