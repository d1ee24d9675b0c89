"""Processes that each examine a few models, replaced when too slow, too large, or crashed."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

import psutil

from .examine import examine, quiet

PER_WORKER = 20
"""Models a process examines before a new one takes over, so that what they leave is given back."""
POLL_S = 0.2

_context = multiprocessing.get_context("fork")


def examine_all(
    names: Iterable[str], jobs: int, timeout: float, memory: float
) -> Iterator[dict[str, Any]]:
    """What each model gives, as it comes; `timeout` in seconds, `memory` in bytes per process."""
    waiting = deque(names)
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_Worker([waiting.popleft() for _ in _share(waiting, jobs)]))
            wait([worker.pipe for worker in workers], POLL_S)
            for worker in list(workers):
                yield from worker.results(timeout, memory)
                if worker.ended:
                    worker.stop()
                    workers.remove(worker)
                    waiting.extendleft(reversed(worker.names))
    finally:
        for worker in workers:
            worker.stop()


def _share(waiting: deque[str], jobs: int) -> range:
    return range(min(PER_WORKER, -(-len(waiting) // jobs)))


class _Worker:
    """A process, and the models it still has to examine."""

    def __init__(self, names: list[str]) -> None:
        self.names = deque(names)
        self.pipe, theirs = _context.Pipe(duplex=False)
        self.process = _context.Process(target=_work, args=(theirs, names), daemon=True)
        self.process.start()
        theirs.close()
        self.stage = "build"
        self.since = monotonic()
        self.ended = False

    def results(self, timeout: float, memory: float) -> Iterator[dict[str, Any]]:
        """What the process has sent, or why its current model has no result."""
        try:
            while self.names and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, str):
                    self.stage = message
                else:
                    self.names.popleft()
                    self.since = monotonic()
                    yield message
        except EOFError:
            self.process.join()
            yield self._lost(f"Crash: the process ended with {self.process.exitcode}")
        if self.ended or not self.names:
            self.ended = True
        elif monotonic() - self.since > timeout:
            yield self._lost(f"Timeout: more than {timeout:.0f} s")
        elif (used := _resident(self.process.pid)) > memory:
            yield self._lost(f"Memory: {used / 2**30:.1f} GB")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _lost(self, why: str) -> dict[str, Any]:
        self.ended = True
        name = self.names.popleft()
        return {
            "name": name,
            "source": name.split("/")[0],
            "stage": self.stage,
            "error": why,
            "total_s": monotonic() - self.since,
        }


def _resident(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _work(pipe: Connection, names: list[str]) -> None:
    os.setsid()
    quiet()
    for name in names:
        pipe.send(examine(name, tell=pipe.send))
