"""The server half: the hub that admits agents, a router to mount, and the reference application."""
