"""The demonstration: a server, an agent as a process of its own, and the Ollama that answers, or a stand-in.

``ollama_target``  which Ollama is driven, and whether it is one
``processes``      child processes: started, watched, ended in order
``environment``    server, enrolment through the public way, agent
``client``         the server's public API, as any program uses it
``smoke_test``     every command of the protocol, once
``report``         what the smoke test found, for a person
"""
