"""What rollouts and campaigns share: jobs on many machines, carried through restarts and lost links.

``Runs`` holds those that are under way and gives events to them; ``JobAttempt`` takes one job on one machine
to its end. They ask agents through the hub and know neither HTTP nor SQL.
"""
