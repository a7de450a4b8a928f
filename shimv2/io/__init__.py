"""The standard streams of a container's processes: FIFOs, relays, terminals, logging binaries.

Above `io` no module handles a descriptor of a stream.
"""
