"""The conformance kit: checks that a server written by somebody else speaks the protocol as documented."""
