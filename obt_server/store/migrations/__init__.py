"""What brings a database of an older release up to date: Alembic's revisions, and the environment of them."""
