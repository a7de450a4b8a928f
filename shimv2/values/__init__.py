"""The values that the packages of the shim pass to each other, and the state tables.  Pure.

Any package may import from here; nothing here does I/O or reads a clock.
"""
