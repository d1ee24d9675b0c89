"""A process that answers requests, one JSON text a line: for what cannot share one with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Where glibc gives large blocks back, they cost a page fault a page when they are taken again; and
# whether it does is chance: a checkout beside itself differs by a third.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**30)}


class Served:
    """A process that runs a script which calls `answer`.

    Parameters
    ----------
    script
        The script.
    env
        Variables of its environment, besides this process' own.
    """

    def __init__(self, script: Path, env: dict[str, str]) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script)],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"the process of {self._script.name} ended at {request}")
        return json.loads(answer)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answer(answers: Callable[[dict[str, str]], Any]) -> None:
    """Answer the requests of the process that started this one, until it has no more."""
    out, sys.stdout = sys.stdout, sys.stderr  # what models print is no answer
    for line in sys.stdin:
        print(json.dumps(answers(json.loads(line))), file=out, flush=True)
