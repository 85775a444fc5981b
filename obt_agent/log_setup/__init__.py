"""Where log events go and in what form. Modules log with ``structlog.get_logger(__name__)``.

An event's name is a stable, dotted word; everything else about it is a keyword. ``obt_agent.log_setup.setup``
puts it together.
"""
