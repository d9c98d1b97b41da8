"""One computation at a time; each can be stopped, by the clock and by nobody waiting."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from memory_defense.studio.tickets import BusyError, StoppedError, Ticket, TooSlowError, Watched, Workshop


def in_a_loop_of_its_own(work: Coroutine[Any, Any, None]) -> None:
    """Run it in another thread: a browser that was driven before may have left a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def waits() -> bool:
    return False


async def has_left() -> bool:
    return True


def test_results_and_errors_come_back() -> None:
    async def go() -> None:
        workshop = Workshop(seconds=10)
        assert await workshop.run(lambda _: 7, waits) == 7
        with pytest.raises(ValueError, match="seven"):
            await workshop.run(lambda _: int("seven"), waits)
        workshop.close()

    in_a_loop_of_its_own(go())


def test_only_one_runs_at_a_time() -> None:
    inside, most = 0, 0

    def job(_: Ticket) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    async def go() -> None:
        workshop = Workshop(seconds=10)
        await asyncio.gather(*(workshop.run(job, waits) for _ in range(8)))
        workshop.close()

    in_a_loop_of_its_own(go())
    assert most == 1


def test_a_full_queue_refuses_and_recovers() -> None:
    release = threading.Event()

    async def go() -> None:
        workshop = Workshop(seconds=10, waiting=2)
        tasks = [asyncio.create_task(workshop.run(lambda _: release.wait(10), waits)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError, match="2 computations"):
            await workshop.run(lambda _: 1, waits)
        release.set()
        await asyncio.gather(*tasks)
        assert await workshop.run(lambda _: 1, waits) == 1
        workshop.close()

    in_a_loop_of_its_own(go())


def test_a_job_is_stopped_by_the_clock_between_two_passes() -> None:
    def endless(ticket: Ticket) -> None:
        model = Watched(lambda images: images.flatten(1), ticket)
        while True:
            model(torch.zeros(1, 1, 2, 2))

    async def go() -> None:
        workshop = Workshop(seconds=0.05)
        with pytest.raises(TooSlowError, match="fewer steps"):
            await workshop.run(endless, waits)
        workshop.close()

    in_a_loop_of_its_own(go())


def test_a_job_stops_when_nobody_waits_and_a_queued_one_never_starts() -> None:
    ended, started = threading.Event(), threading.Event()

    def endless(ticket: Ticket) -> None:
        try:
            while True:
                ticket.check()
                time.sleep(0.001)
        finally:
            ended.set()

    async def go() -> None:
        workshop = Workshop(seconds=60)
        first = asyncio.create_task(workshop.run(endless, has_left))
        second = asyncio.create_task(workshop.run(lambda _: started.set(), has_left))
        with pytest.raises(StoppedError):
            await first
        with pytest.raises(StoppedError):
            await second
        assert await asyncio.to_thread(ended.wait, 10)
        assert await workshop.run(lambda _: "still works", waits) == "still works"
        workshop.close()

    in_a_loop_of_its_own(go())
    assert not started.is_set()


def test_rows_are_watched_by_the_same_ticket() -> None:
    ticket = Ticket(10)
    rows = Watched(lambda images: images.flatten(1), ticket).rows(torch.tensor([0]))
    ticket.cancel()
    with pytest.raises(StoppedError):
        rows(torch.zeros(1, 1, 2, 2))
