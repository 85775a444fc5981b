"""Messages between server processes of one installation. Knows no hub, no HTTP and no database.

``Bus`` carries single messages, ``LocalBus`` inside one process. ``Exchanges`` makes calls and streams of
them.
"""

from obt_server.bus.bus import Bus, BusMessage, BusSubscription, BusUnavailable, NoResponders, Serving
from obt_server.bus.exchange import Exchanges
from obt_server.bus.local import LocalBroker, LocalBus
from obt_server.bus.remote_call import RemoteStream
from obt_server.bus.served_call import ExchangeHandler, ReplySink
from obt_server.bus.settings import ExchangeSettings

__all__ = [
    "Bus",
    "BusMessage",
    "BusSubscription",
    "BusUnavailable",
    "ExchangeHandler",
    "ExchangeSettings",
    "Exchanges",
    "LocalBroker",
    "LocalBus",
    "NoResponders",
    "RemoteStream",
    "ReplySink",
    "Serving",
]
