"""Copy-on-write sharing: keeps the pages that shims have in common with their zygote shared.

    zygote   publish.py    moves its memory into a file in memory, the image, mapped in its place
             refcounts.py  makes all objects immortal, so that their reference counts mean nothing
             bytecode.py   finds what the interpreter notes in code, which means nothing either
             canary.py     tries all this with a fork before there are shims
    shim     reclaim.py    gives up copies of pages that say what the image says
             prefault.py   gets the pages at once that another shim has used at its start

`zygote` imports it, and `cli` to say whether it works here (support.py).  Without it shims are
larger, and nothing else changes.  ADR 4 tells why it is safe.
"""
