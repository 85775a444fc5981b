"""The link: dials the server, gets admitted, and keeps one session at a time alive.

``settings``     plain values: where to dial, TLS, proxy, deadlines
``address``      URLs, and what of them may be shown (pure)
``outcome``      how a dial or a session ended, and what follows from it (pure)
``tls``, ``proxy``, ``tcp``, ``dial``, ``wire``   from a URL to an open WebSocket
``flow``, ``outstream``    what goes out next (pure)
``session``, ``requests``, ``sink``, ``blobs``, ``own``   one admitted socket
``liveness``     the watchdog of one session; ``wakeups`` suspend and route changes
``connection``   ``Link``: the loop around all of it
``enroll``       a credential of one's own for a one-time join token
"""
