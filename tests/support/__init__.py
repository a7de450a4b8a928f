"""Helpers that the tests share; tests/README.md lists them."""
