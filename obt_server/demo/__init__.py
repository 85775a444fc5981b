"""The demonstration: a server, agents as processes of their own, and the Ollama that answers, or stand-ins.

``ollama_target``  which Ollama is driven, and whether it is one
``processes``      child processes: started, watched, ended in order
``bound_child``    makes a child process end with the one that started it
``machines``       one machine: enrolment through the public way, agent
``environment``    the server, and a machine on the Ollama of ``ollama_target``
``fleet``          further machines, on stand-ins of other speeds; ``machines.json`` says which
``scripted_gpus``  GPUs that do not exist, for some of them
``scripted_agent`` the agent with such GPUs, as a program
``client``         the server's public API, as any program uses it
``smoke_test``     every command of the protocol, once
``report``         what the smoke test found, for a person
"""
