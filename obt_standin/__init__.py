"""A stand-in for Ollama on a real socket: its routes, its errors, its timing, scripted. Runs no model."""

from obt_standin.log import LoggedExchange
from obt_standin.script import Behaviour, Model, ModelBlob, PullFault, Script, Stall, usual_models
from obt_standin.server import StandIn

__all__ = [
    "Behaviour",
    "LoggedExchange",
    "Model",
    "ModelBlob",
    "PullFault",
    "Script",
    "Stall",
    "StandIn",
    "usual_models",
]
