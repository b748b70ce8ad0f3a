"""The frame of a command that works shard by shard: markers, worker processes, Slurm arrays, the record.

A shard is done when its marker, written last, is there with the fingerprint of the rules and the input that made it
and its outputs exist. So a command can be killed at any moment and goes on where it was, two tasks given the same
shard do no harm (each writes to a name of its own, the last rename wins, and both wrote the same), and the task of an
array that ends last writes the totals.

A plain `sbatch data_collection/run.sh STEP ...` spreads itself: the job sees how many shards are left, submits an
array for all but its own share, works on that, takes over the shares that still wait in the queue, and writes the
totals.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from configs.errors import EnvironmentFailure, ExitCode, FailedItems, SettingsError
from configs.files import fingerprint, read_json, write_json
from configs.processes import end_with_parent
from configs.progress import Progress, log
from configs.records import already_done, check_identity, exit_code, run_record
from data_collection.corpus.work import array_task, num_allocated_cpus, remove_half_written


class Item(Protocol):
    """A unit of work, such as `documents.Shard`: its name names the outputs, its identity tells a changed input."""

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, Any]: ...


Work = Callable[[Any, FailedItems], dict[str, Any]]
Tidy = Callable[[Any, dict[str, Any]], None]


@dataclass(frozen=True)
class ShardJob:
    """Work to be done on each shard of an input.

    Attributes:
        stage: name in run.json, logs and output files.
        output_dir: folder of the output; markers are OUTPUT/shards/NAME.json.
        rules: everything that decides what comes out, JSON-able; changed rules over old output are refused.
        work: writes a shard's outputs (each atomically, through `DocumentWriter` or `configs.files`), adds what could
            not be used to the `FailedItems`, and returns the numbers for the marker. A module's function or a
            `functools.partial` of one: it runs in another process.
        outputs: the files that `work` writes for a shard.
        unit: what a shard is, for progress.
        tidy: removes what only an unfinished shard needs; called with a shard and its marker, when that is written.
        spreads: a plain sbatch spreads the work over an array.
    """

    stage: str
    output_dir: Path
    rules: dict[str, Any]
    work: Work
    outputs: Callable[[Any], Sequence[Path]]
    unit: str = "files"
    tidy: Tidy | None = None
    spreads: bool = True

    def marker_path(self, item: Item) -> Path:
        """The file whose presence says that the shard is done."""
        return self.output_dir / "shards" / f"{item.name}.json"

    def identity(self, item: Item) -> dict[str, Any]:
        return {**self.rules, **item.identity()}

    def made_by(self, item: Item) -> dict[str, str]:
        """Metadata for the output files of a shard."""
        return {"stage": self.stage, "fingerprint": fingerprint(self.identity(item))}

    def is_done(self, item: Item) -> bool:
        """Whether the shard's output is there, made by the same rules from the same input.

        Raises:
            SettingsError: it is there but made by other rules or from other input; both are shown.
        """
        path = self.marker_path(item)
        if not path.exists():
            return False
        check_identity(path, read_json(path), self.identity(item))
        return all(path.exists() for path in self.outputs(item))


def shard_files(output_dir: Path, item: Item) -> tuple[Path, Path]:
    """Where a shard's kept and rejected documents are, in the output of every step that keeps and rejects."""
    return output_dir / "kept" / f"{item.name}.parquet", output_dir / "rejected" / f"{item.name}.parquet"


SHARES = "SHARES_FILE"  # in the environment of `_spread`'s array tasks: the names of each task's shards
ARRAY_SCRIPT = "ARRAY_SCRIPT"  # set by run.sh: the batch script that a step is submitted with, and the step's name
_POLL_SECONDS = 5.0


def _do(work: Work, item: Item, identity: dict[str, Any], marker_path: Path, tidy: Tidy | None) -> None:
    failed = FailedItems()
    made_by = {"fingerprint": fingerprint(identity), "identity": identity}
    try:
        numbers = work(item, failed)
        marker = {**made_by, **numbers, "failed": failed.items}
        write_json(marker_path, marker)
    except FileNotFoundError:
        # Another task was given this shard too, ended first, and took our half-written files for a killed task's.
        if not marker_path.exists() or read_json(marker_path)["fingerprint"] != made_by["fingerprint"]:
            raise
        return
    if tidy:
        tidy(item, marker)


def do_shards(job: ShardJob, items: Sequence[Item], num_processes: int | None = None) -> None:
    """Do those of `items` that are not done yet, `num_processes` at once (by default the CPUs allocated).

    Raises:
        EnvironmentFailure: a worker process was killed, most often for its memory.
    """
    todo = [item for item in items if not job.is_done(item)]
    if not todo:
        return
    progress = Progress(job.stage, len(items), job.unit, done=len(items) - len(todo))
    workers = min(num_processes or num_allocated_cpus(), len(todo))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        try:
            tasks = [(job.work, item, job.identity(item), job.marker_path(item), job.tidy) for item in todo]
            for future in as_completed([pool.submit(_do, *task) for task in tasks]):
                future.result()
                progress.advance()
        except BrokenProcessPool:
            raise EnvironmentFailure(
                "a worker process was killed",
                where=job.output_dir,
                found=f"{progress.done} of {len(items)} {job.unit} done",
                todo="most often memory ran out: the same command with a smaller --num_processes goes on from here",
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    progress.close()


def _spread(job: ShardJob, items: Sequence[Item], num_processes: int) -> None:
    """Have a Slurm array help this job with its unfinished shards, as many tasks as they fill."""
    left = [item for item in items if not job.is_done(item)]
    num_tasks = min(math.ceil(len(left) / num_processes), _max_array_size())
    if num_tasks < 2:
        return
    shares = [left[index::num_tasks] for index in range(num_tasks)]
    life = os.environ.get("SLURM_RESTART_COUNT", "0")  # tasks of an earlier life may still wait with their own shares
    path = job.output_dir / f"array-{os.environ['SLURM_JOB_ID']}-{life}.json"
    write_json(path, [[item.name for item in share] for share in shares])
    words = ["sbatch", "--parsable", f"--array=1-{num_tasks - 1}", f"--job-name={job.stage}"]
    for option, name in (("partition", "PARTITION"), ("account", "ACCOUNT"), ("qos", "QOS")):
        if value := os.environ.get(f"SLURM_JOB_{name}"):
            words.append(f"--{option}={value}")
    for option, name in (("mem-per-cpu", "MEM_PER_CPU"), ("mem", "MEM_PER_NODE")):
        if value := os.environ.get(f"SLURM_{name}"):
            words.append(f"--{option}={value}")
    shown = _slurm("scontrol", "-o", "show", "job", os.environ["SLURM_JOB_ID"]) or ""
    for option, name in (("time", "TimeLimit"), ("comment", "Comment")):
        if found := re.search(rf" {name}=(\S+)", shown):
            words.append(f"--{option}={found[1]}")
    words += [
        f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}",
        "--export=ALL",  # and not SHARES=PATH here, where a comma in a path would end it
    ]
    words += [*os.environ[ARRAY_SCRIPT].split(), *sys.argv[1:]]
    answer = (_slurm(*words, **{SHARES: str(path.resolve())}) or "").strip()
    if not answer:
        log.info("sbatch gave no array; this job does all shards itself")
        return
    array = answer.split(";")[0]
    log.info(f"{len(left)} of {len(items)} {job.unit} are left: array {array} of {num_tasks - 1} tasks, and this job")
    do_shards(job, shares[0], num_processes)
    taken: set[str] = set()
    while True:
        queue = _slurm("squeue", "-h", "-r", "-j", array, "-o", "%t %K")
        if queue is None:  # a controller that does not answer is no array that has ended
            time.sleep(_POLL_SECONDS)
            continue
        tasks = [line.split() for line in queue.splitlines()]
        waiting = [task for state, task in tasks if state == "PD" and task not in taken]
        if waiting:  # a full cluster: better do it here than wait
            taken.add(waiting[-1])
            _slurm("scancel", f"{array}_{waiting[-1]}")
            do_shards(job, shares[int(waiting[-1])], num_processes)
        elif any(task not in taken for _, task in tasks):
            time.sleep(_POLL_SECONDS)
        else:
            return


def _max_array_size() -> int:
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config") or "")
    return int(found[1]) if found else 1001


def _slurm(*words: str, **variables: str) -> str | None:
    """What a Slurm command prints, "" of jobs that Slurm has forgotten; None, with a line in the log, when it fails.

    `variables` are added to its environment.
    """
    try:
        done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=False)
    except OSError as error:
        log.info(f"{words[0]} failed: {error}")
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        log.info(f"{words[0]} failed: {done.stderr.strip()}")
        return None
    return done.stdout


def markers(job: ShardJob, items: Sequence[Item]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each shard with its marker, one in memory at a time."""
    for item in items:
        yield item, read_json(job.marker_path(item))


def _checked(job: ShardJob, items: Sequence[Item], failed: FailedItems) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The markers, their failed items taken, and checked: all rows read are kept or rejected, and in the files."""
    for item, marker in markers(job, items):
        for part, path in zip(("kept", "rejected"), shard_files(job.output_dir, item), strict=True):
            if part not in marker:
                continue
            num_rows = pq.read_metadata(path).num_rows
            if num_rows != marker[part]:
                raise SettingsError(
                    "an output file does not hold what its marker says",
                    where=path,
                    found=f"{num_rows} rows",
                    wanted=f"{marker[part]} rows",
                    todo=f"remove {job.marker_path(item)}, then the same command",
                )
        if "kept" in marker:
            assert marker["read"] == marker["kept"] + marker["rejected"], (item.name, marker)
        failed.items.extend(marker["failed"])
        yield item, marker


def run_shard_job(
    job: ShardJob,
    items: Sequence[Item],
    settings: Any,
    summarise: Callable[[Iterator[tuple[Any, dict[str, Any]]]], tuple[dict[str, Any], dict[str, Any]]],
    num_processes: int | None = None,
    forget: Callable[[Any], None] | None = None,
) -> int:
    """Do a command's shards and write its record, stats.json and failures.jsonl; return the exit code.

    In a Slurm array this task does its share, and the totals are written by the task that ends last.

    Args:
        job: the work.
        items: all shards of the input, the same in every task of an array.
        settings: the command's settings dataclass, for the record.
        summarise: the shards with their markers to (what stats.json says, what run.json's result and the printed
            line say). Markers that count read, kept and rejected rows were checked against `shard_files` before.
        num_processes: shards worked on at once.
        forget: called first with each shard of this task, after a finished run too: it removes the markers of those to
            be done again.
    """
    index, count = array_task()
    num_processes = num_processes or num_allocated_cpus()
    inputs = [item.identity() for item in items]
    num_bytes = sum(identity.get("num_bytes", 0) for identity in inputs)
    identity = {**job.rules, "inputs": f"{len(inputs)} shards, {num_bytes:,} bytes, {fingerprint(inputs)}"}
    done = already_done(job.output_dir, identity)
    if done and not forget:
        log.info(f"already done: {job.output_dir}")
        print(json.dumps(done["result"], ensure_ascii=False))
        return exit_code(done)
    if SHARES in os.environ:  # a task of `_spread`'s array; the job that submitted it writes the totals
        names = set(read_json(Path(os.environ[SHARES]))[index + 1])
        do_shards(job, [item for item in items if item.name in names], num_processes)
        return ExitCode.DONE
    share = items[index::count]
    if forget:
        for item in share:
            forget(item)
    if count > 1:
        do_shards(job, share, num_processes)
        if not all(job.is_done(item) for item in items):
            log.info("this task's share is done; the task that ends last writes the totals")
            failed_here = any(marker["failed"] for _, marker in markers(job, share))
            return ExitCode.FAILED_ITEMS if failed_here else ExitCode.DONE
    with run_record(job.output_dir, job.stage, vars(settings), identity) as record:
        if count == 1 and job.spreads and "SLURM_JOB_ID" in os.environ and ARRAY_SCRIPT in os.environ:
            _spread(job, items, num_processes)
        do_shards(job, items, num_processes)
        failed = FailedItems()
        statistics, result = summarise(_checked(job, items, failed))
        remove_half_written(path for item in items for path in (*job.outputs(item), job.marker_path(item)))
        failed.write(job.output_dir / "failures.jsonl")
        write_json(job.output_dir / "stats.json", statistics)
        # The totals, which another command may be writing at this moment.
        totals = [path for path in job.output_dir.iterdir() if path.is_file() and not path.name.startswith(".")]
        remove_half_written(totals, of_earlier_commands=True)
        record.finish("finished", failed_items=len(failed), **result)
    print(json.dumps(record.data["result"], ensure_ascii=False))
    return failed.exit_code
