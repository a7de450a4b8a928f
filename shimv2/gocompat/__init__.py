"""Texts, JSON and `Any` in the form that Go programs write and expect.  Pure.

Any package may call it.  It knows nothing about containers.
"""
