"""Copy-on-write sharing: shims share memory pages with their zygote for as long as possible.

    zygote   publish.py    moves its memory into a file in memory (the image) and maps that instead
             refcounts.py  makes all objects immortal: their reference counts have no meaning then
             bytecode.py   finds what the interpreter writes into bytecode: no meaning either
             canary.py     tests all of this in a fork, before there are shims
    shim     reclaim.py    gives up copies of pages that are equal to the image
             prefault.py   maps all pages at once that another shim used at its start

`zygote` imports this package.  `cli` imports support.py, to report whether sharing works here.
Without this package shims are larger, and nothing else changes.  ADR 4 gives the reasons why it
is safe.
"""
