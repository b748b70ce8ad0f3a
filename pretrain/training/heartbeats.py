"""A process of a training that has stopped without dying is named, and the training ended, within minutes.

A process under SIGSTOP, on a frozen node or behind a cut cable leaves all others waiting in their next collective
until `ddp_timeout` (half an hour) ends them, without a word about who was missing. So every process says that it lives,
from a thread of its own: a long step, a compilation or an evaluation holds no thread up. What does is a call that holds
Python's lock throughout, such as the writing of a large file: hence no time by default. A process whose main thread
alone hangs lives by this measure; `ddp_timeout` is for those.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

from configs.errors import EXIT_CODE_FILE, EnvironmentFailure
from configs.progress import rank

_WATCHERS = (0, 1)  # two, so that one of them lives where the other has stopped
_MAX_INTERVAL = 10.0  # seconds
_OVER = "over"


@contextmanager
def heartbeats(hang_timeout: float | None) -> Iterator[None]:
    """Watch the processes that torchrun started while the block runs; each of them calls this.

    A process that has left the block, or not yet come to it, is not missed.

    Args:
        hang_timeout: seconds without a sign of life after which a process counts as hung; None watches nothing.
    """
    if not hang_timeout or "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    pulse = _Pulse(hang_timeout)
    pulse.start()
    try:
        yield
    finally:
        pulse.stop()


class _Pulse(threading.Thread):
    """Says every few seconds in torchrun's store that this process lives; in two of them, looks at all others."""

    def __init__(self, hang_timeout: float):
        import torch

        super().__init__(daemon=True)
        self.hang_timeout, self.interval = hang_timeout, min(_MAX_INTERVAL, hang_timeout / 4)
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.where = f"node {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}, process {os.getpid()}"
        # A connection of its own: the main thread may wait for hours on the group's.
        self.store = torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=hang_timeout)
        )
        self.over = threading.Event()
        self._say(f"0 {self.where}")

    def run(self) -> None:
        signs: dict[int, tuple[str, float]] = {}  # of a rank: its last sign of life, and when it came here
        count, looked = 0, time.monotonic()
        # The store lives in the first node's launcher. Where that has died, so has the run; where that whole node is
        # frozen, nobody can be asked who lives, and Slurm's own time (SlurmdTimeout) ends the job.
        while not self.over.wait(self.interval):
            with contextlib.suppress(RuntimeError):  # of one call; the next may go through
                count += 1
                self._say(f"{count} {self.where}")
                now = time.monotonic()
                if now - looked > 2 * self.interval:  # this process itself was held up, perhaps with all others
                    signs.clear()
                looked = now
                for other in range(self.world_size) if rank() in _WATCHERS else ():
                    self._look_at(other, signs, now)

    def _say(self, sign: str) -> None:
        self.store.set(f"heartbeat/{rank()}", sign)

    def _look_at(self, other: int, signs: dict[int, tuple[str, float]], now: float) -> None:
        key = f"heartbeat/{other}"
        if not self.store.check([key]):
            return
        sign = self.store.get(key).decode()
        if sign == _OVER or sign != signs.get(other, ("", 0))[0]:
            signs[other] = sign, now
        elif now - signs[other][1] > self.hang_timeout:
            _end(other, sign.partition(" ")[2], self.hang_timeout)

    def stop(self) -> None:
        """Say that this process is not to be missed from now on."""
        self.over.set()
        self.join()
        with contextlib.suppress(RuntimeError):
            self._say(_OVER)


def _end(other: int, where: str, hang_timeout: float) -> NoReturn:
    """Say which rank hangs and end this process; torchrun ends the others."""
    problem = EnvironmentFailure(
        "a training process hangs",
        where=f"rank {other}, {where}",
        found=f"no sign of life for {hang_timeout:.0f} s",
        todo="look at that node (dmesg, nvidia-smi, the file system) and at the process's state there; the same "
        "command goes on from the newest complete checkpoint",
    )
    print(problem.render(), file=sys.stderr, flush=True)
    if EXIT_CODE_FILE in os.environ:
        with contextlib.suppress(FileExistsError), open(os.environ[EXIT_CODE_FILE], "x") as file:
            file.write(str(int(problem.exit_code)))
    os._exit(problem.exit_code)
