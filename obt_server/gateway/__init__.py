"""The gateway: Ollama's and OpenAI's clients use a machine behind NAT, with a base URL and a token.

Off unless the server is told so. It takes API tokens of scope ``inference`` and nothing else, asks the agents
by the same commands as the rest of the server, so that each owner's policy holds, and changes no model.
"""

from obt_server.gateway.routes import gateway_router
from obt_server.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "gateway_router"]
