"""Copy-on-write sharing: keeps the pages that shims have in common with their zygote shared.

Only `zygote` may import it.  Without this package shims are larger, and nothing else changes.
"""
