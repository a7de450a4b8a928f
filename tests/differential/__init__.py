"""The same calls to this shim and to Debian's Go shims, and every answer compared."""
