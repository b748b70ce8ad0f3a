"""Measures of a part, each in a process of its own and recorded as soon as it is made."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from configs.errors import FailedItems
from configs.progress import log
from configs.records import already_done, run_record

STAGE = "bench-gpu"
Measure = Callable[[], dict[str, Any]]


def run_measures(folder: Path, settings: Any, identity: Any, measures: Mapping[str, Measure]) -> int:
    """Make the measures that are not there yet; one that fails is recorded with its error and costs no other.

    The same call goes on where it was ended: first what was not tried, then what failed or was ended before.

    Args:
        folder: of the part; its run.json holds the figures, {measure: {...}} with the commit of each.
        settings: for the record.
        identity: what the figures depend on; other figures in the folder are refused.
        measures: name to a function that can be pickled.

    Returns:
        The exit code, 5 where any measure failed.
    """
    done = already_done(folder, identity)
    if done and not done["failed_items"]:
        log.info(f"already done: {folder}")
        return 0
    failed = FailedItems()
    with run_record(folder, STAGE, settings, identity) as record:
        found = record.data["result"]
        again = [name for name in measures if "error" in found.get(name, {})]
        for name in [name for name in measures if name not in found] + again:
            log.info(f"{folder.name}: {name}")
            found[name] = {"error": "ended from outside before it was done (time limit?)"}
            record.write()
            try:
                found[name] = in_own_process(measures[name])
            except Exception as error:  # whatever it is, the other measures are worth having
                found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
                failed.add(f"{folder.name}: {name}", found[name]["error"])
            found[name]["commit"] = record.data["commit"]
            record.write()
        record.finish("finished", len(failed))
    return failed.exit_code


def in_own_process(work: Measure) -> dict[str, Any]:
    """What the function returns in a fresh process, with whose end all of its memory is free again.

    Raises:
        BrokenProcessPool: the process was killed, by the system for its memory, say.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()
