"""A training process that stopped without dying is named and ends the others; busy, early and late ones are not missed."""

import multiprocessing
import os
import signal
import sys
import time

import torch

from configs.errors import ExitCode
from pretrain.training.heartbeats import heartbeats

HANG_TIMEOUT = 3


def work(rank, port, folder, hung):
    """A rank of two: both watch for longer than the time, one leaves, both meet again, and `hung` hangs."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(TORCHELASTIC_RUN_ID="test", SLURMD_NODENAME="n7", EXIT_CODE_FILE=str(folder / "code"))
    with open(folder / f"said by {rank}", "w") as sys.stderr:
        with heartbeats(HANG_TIMEOUT):
            time.sleep((1.1 if rank == hung else 2.2) * HANG_TIMEOUT)
        (folder / f"met {rank}").touch()
        while len(list(folder.glob("met *"))) < 2:
            time.sleep(0.05)
        with heartbeats(HANG_TIMEOUT):
            if rank == hung:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(300)


def test_a_stopped_process_is_named_and_ends_the_others(tmp_path):
    context = multiprocessing.get_context("fork")
    runs = []
    try:
        for hung in (0, 1):  # either of the two that watch
            store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)  # torchrun's, in life
            folder = tmp_path / str(hung)
            folder.mkdir()
            ranks = [context.Process(target=work, args=(rank, store.port, folder, hung)) for rank in (0, 1)]
            for process in ranks:
                process.start()
            runs.append((hung, folder, store, ranks))
        for hung, folder, _, ranks in runs:
            ranks[1 - hung].join(60)
            said = " ".join((folder / f"said by {1 - hung}").read_text().split())
            assert ranks[1 - hung].exitcode == ExitCode.ENVIRONMENT, said
            assert (folder / "met 0").exists() and (folder / "met 1").exists()  # nobody was missed before
            assert "error: a training process hangs" in said
            assert f"rank {hung}, node n7, process {ranks[hung].pid}" in said
            assert (folder / "code").read_text() == "4" and ranks[hung].is_alive()
    finally:
        for *_, ranks in runs:
            for process in ranks:
                process.kill()
                process.join()


def test_nothing_is_watched_unless_asked_for_or_without_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with heartbeats(60):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")  # there is no store to reach
    monkeypatch.setenv("MASTER_PORT", "1")
    with heartbeats(None):
        pass
