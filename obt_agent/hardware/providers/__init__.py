"""One module per source of readings.

Each finds, describes and samples one kind of hardware, and never raises.
"""
