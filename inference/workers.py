"""Several processes that work on what one process gives them, each with what it made for itself (a model, on a GPU).

The process that gives the work is the only one that writes: whoever dies, nothing is lost and nothing is double.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from configs.errors import EnvironmentFailure
from configs.processes import end_with_parent

Task = tuple[str, tuple[Any, ...]]  # name of a method of what the process made, and what to call it with
Said = tuple[Literal["at", "done", "failed"], Any]


class Workers:
    """`num_processes` processes, each with what `make` gives it.

    Args:
        make: called with the process's number, from 0, in it; can be pickled. A method that is to be called (`Task`)
            gets a function first, to tell how far it is by a whole number.
        num_processes: how many.
    """

    def __init__(self, make: Callable[[int], Any], num_processes: int):
        self._make, self._num_processes = make, num_processes
        self._processes: dict[Connection, Any] = {}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for number in range(self._num_processes):
            here, there = context.Pipe()
            # A daemon is ended when this process ends, however it does; SIGKILL is seen by `end_with_parent`.
            process = context.Process(target=_serve, args=(there, self._make, number), name=str(number), daemon=True)
            process.start()
            there.close()  # so that the end of the process is the end of the pipe
            self._processes[here] = process

    def do(self, tasks: Sequence[Task], on_progress: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
        """The number of each task and its result, as they come; whoever is free takes the first that is left.

        The processes start with the first tasks, and stay for those of later calls where all of these were done.

        Args:
            on_progress: called with how far a task is, of whichever process says it.

        Raises:
            EnvironmentFailure: a process died, or its work raised an error.
        """
        if not self._processes:
            self._start()
        left, at_work = iter(enumerate(tasks)), {}
        free = list(self._processes)
        try:
            while True:
                for connection, (number, task) in zip(free, left, strict=False):
                    with suppress(OSError):  # it has died: `_hear` says so
                        connection.send(task)
                    at_work[connection] = number
                free = []
                if not at_work:
                    return
                for connection in wait(list(at_work)):
                    what, value = self._hear(connection)
                    if what == "at":
                        on_progress(value)
                    else:
                        free.append(connection)
                        yield at_work.pop(connection), value
        finally:
            if at_work:  # what the others are at would be taken for the results of later tasks
                self.close()

    def _hear(self, connection: Any) -> Said:
        process = self._processes[connection]
        try:
            what, value = connection.recv()
        except (EOFError, OSError):
            process.join()
            what, value = (
                "failed",
                f"exit code {process.exitcode}" if process.exitcode >= 0 else (f"killed by signal {-process.exitcode}"),
            )
        if what == "failed":
            raise EnvironmentFailure(
                f"process {process.name} of {self._num_processes} that answer has failed",
                where=f"process id {process.pid}",
                found=value,
                todo="its own words are above; where memory ran out, a smaller --batch_size or --num_processes. "
                "The same command goes on",
            )
        return what, value

    def close(self) -> None:
        """End the processes."""
        for connection, process in self._processes.items():
            connection.close()
            process.kill()
            process.join()
        self._processes = {}


def _serve(connection: Connection, make: Callable[[int], Any], number: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle, which ends this process
    try:
        worker = make(number)
        while True:
            method, arguments = connection.recv()
            result = getattr(worker, method)(lambda at: connection.send(("at", at)), *arguments)
            connection.send(("done", result))
    except EOFError:
        return
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            connection.send(("failed", f"{type(error).__name__}: {error}"))
        sys.stderr.flush()
        os._exit(1)
