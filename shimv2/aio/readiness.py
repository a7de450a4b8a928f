"""Wait until one descriptor is readable."""

import asyncio


async def readable(fd: int) -> None:
    """Return once `fd` has data to read, is at its end, or is in error."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        loop.remove_reader(fd)
        if not ready.done():  # cancelled in the same iteration of the loop
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
