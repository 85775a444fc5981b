"""Several server processes (replicas) on one database: who runs, who leads, and how each reaches all agents.

``FleetHub`` is the hub of such a process. The database says which process has an agent; messages between the
processes carry what is asked of it, and what each shows of its agents. It knows no HTTP and no SQL:
``obt_server.replica_storage`` is what it needs of a database.
"""
