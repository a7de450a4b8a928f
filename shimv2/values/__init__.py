"""The values that the parts of the shim hand to each other, and the tables of states.  Pure.

Any package may import from here; nothing here does I/O or looks at a clock.
"""
