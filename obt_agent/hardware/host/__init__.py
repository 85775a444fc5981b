"""The host: CPUs, memory, disks, network, sensors and the processes of Ollama."""
