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
    """The results of some jobs, in the order of the jobs; each job comes with its weight.

    Jobs run on the executor as long as the weights of those whose results nobody has taken yet are not above
    ``max_in_flight``, at least one of them. Without an executor, and where there is but one job, they run here: small
    tensors come by the thousand, and to wake up a worker takes longer than most of them do. When the iterator is
    closed, or a job raises, jobs that have not begun are cancelled.
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
