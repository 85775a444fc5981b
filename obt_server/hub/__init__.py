"""The hub: admitted agents, what they are asked, what they report. Knows no HTTP and no database.

``AgentHub`` is the entrance, ``Hub`` what others see of it; ``HubSocket`` and ``HubStorage`` are what it
needs of the world around it.
"""

from obt_server.hub.agent_stream import AgentStream
from obt_server.hub.command_params import CommandParams
from obt_server.hub.errors import AgentOffline, HubError, OutOfReach, UnknownAgent
from obt_server.hub.hub import AgentHub
from obt_server.hub.interface import Hub
from obt_server.hub.presence import Presence
from obt_server.hub.settings import HubSettings
from obt_server.hub.shared_series import Viewer
from obt_server.hub.sockets import HubSocket, SocketClosed
from obt_server.hub.storage import AgentRecord, HubStorage, StoredCredential

__all__ = [
    "AgentHub",
    "AgentOffline",
    "AgentRecord",
    "AgentStream",
    "CommandParams",
    "Hub",
    "HubError",
    "HubSettings",
    "HubSocket",
    "HubStorage",
    "OutOfReach",
    "Presence",
    "SocketClosed",
    "StoredCredential",
    "UnknownAgent",
    "Viewer",
]
