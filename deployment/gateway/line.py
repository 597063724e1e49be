"""The line of requests before the model: so many threads that ask it, so many requests that wait, no more."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

from deployment.gateway.problems import unavailable

_Result = TypeVar("_Result")


class Line:
    """``slots`` threads for the work of requests, and room for ``queue`` requests more.

    A thread cannot be ended: work whose request was given up keeps its slot until it is done.
    """

    def __init__(self, *, slots: int, queue: int) -> None:
        self._free = asyncio.Semaphore(slots)
        self._room = slots + queue
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="answer")
        self.length = 0  # requests at work or waiting

    @contextmanager
    def place(self) -> Iterator[None]:
        """One request's place. Raises Refused where the line is full."""
        if self.length >= self._room:
            raise unavailable(
                f"{self.length:,} requests are here already and no more can wait; ask again later.", reason="queue"
            )
        self.length += 1
        try:
            yield
        finally:
            self.length -= 1

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """What ``work`` gives, on a thread, as soon as one is free."""
        await self._free.acquire()
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._release)
        return await asyncio.shield(future)

    async def stream(self, work: Callable[[], Generator[_Result]]) -> AsyncGenerator[_Result]:
        """What ``work`` yields on a thread, as it comes; the thread stops soon after nobody listens any more."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[_Result | None] = asyncio.Queue()
        left = threading.Event()

        def pump() -> None:
            with closing(work()) as made:
                for item in made:
                    if left.is_set():
                        return
                    loop.call_soon_threadsafe(items.put_nowait, item)

        pumping = asyncio.ensure_future(self.run(pump))
        pumping.add_done_callback(lambda _: items.put_nowait(None))
        try:
            while (item := await items.get()) is not None:
                yield item
            await pumping
        finally:
            left.set()
            pumping.cancel()

    def close(self) -> None:
        """End the threads once their work is done."""
        self._pool.shutdown()

    def _release(self, future: "asyncio.Future[_Result]") -> None:
        self._free.release()
        if not future.cancelled():
            future.exception()  # of work that was given up; nobody else reads it
