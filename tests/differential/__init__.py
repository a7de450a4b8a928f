"""Makes the same calls to this shim and to Debian's Go shims, and compares every answer."""
