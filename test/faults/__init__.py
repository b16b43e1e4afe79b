"""The fault matrix: real processes are killed, stopped, cut off and starved, one story per file; an oracle that knows
every accepted task checks after each that nothing is lost, doubled or left behind. `python -m test.faults` runs all.
"""
