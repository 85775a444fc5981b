"""The demonstration: a server, an agent as a process of its own, and the Ollama that answers, or a stand-in.

``subject``    which Ollama is driven, and whether it is one
``processes``  child processes: started, watched, ended in order
``scene``      server, enrolment through the public way, agent
``client``     the server's public API, as any program uses it
``tour``       every command of the protocol, once
``report``     what the tour saw, for a person
"""
