"""The revisions, each a file that Alembic loads by its path. None that was released is changed again."""
