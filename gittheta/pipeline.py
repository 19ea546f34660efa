"""Results in order while a few jobs are in flight: the one scheduler of coding and merging."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import chain, islice
from typing import TypeVar

Result = TypeVar("Result")


def in_order(
    executor: Executor | None, jobs: Iterable[tuple[int, Callable[[], Result]]], max_in_flight: int
) -> Iterator[Result]:
    """Run jobs, each given as (weight, function), and yield their results in the order of the jobs.

    A job is handed to the executor when the weights of all jobs whose results were not taken yet come to
    ``max_in_flight`` at most; one job always is. Weights and ``max_in_flight`` have the same unit, such as bytes.
    Without an executor, and if there is only one job, jobs run in the calling thread: small tensors come by the
    thousand, and waking up a worker takes longer than most of them. When the iterator is closed, or a job raises, jobs
    that have not begun are cancelled.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, 2))
    if executor is None or len(first) < 2:
        for _, job in chain(first, jobs):
            yield job()
        return
    queue: deque[tuple[int, Future[Result]]] = deque()
    waiting = 0
    try:
        for weight, job in chain(first, jobs):
            queue.append((weight, executor.submit(job)))
            waiting += weight
            while waiting > max_in_flight and queue:
                done, future = queue.popleft()
                waiting -= done
                yield future.result()
        while queue:
            yield queue.popleft()[1].result()
    finally:
        for _, future in queue:
            future.cancel()
