"""What worker processes of every stage have in common."""

import multiprocessing
import os
import threading
from collections.abc import Callable


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Have this process end when the one that started it has died, by whatever signal.

    A command killed with SIGKILL must not leave workers that write, or hold a GPU, beside the next one.

    Args:
        end: how it ends.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # called in processes that multiprocessing started
    threading.Thread(target=lambda: (parent.join(), end()), daemon=True).start()
