"""Waiting for one file to become readable."""

import asyncio


async def readable(fd: int) -> None:
    """Return once `fd` has something to read, its end included."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        loop.remove_reader(fd)
        if not ready.done():  # the caller was cancelled in the same turn of the loop
            ready.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
