"""Who may use the interface: operators, programs with a token; and which browsers may ask at all."""

from obt_server.auth.origin import OriginPolicy, RequestRefusal
from obt_server.auth.principal import Authenticate, InferenceGrant, Principal

__all__ = ["Authenticate", "InferenceGrant", "OriginPolicy", "Principal", "RequestRefusal"]
