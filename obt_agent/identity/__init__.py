"""Who this agent is: its state folder, its identity and its credentials."""
