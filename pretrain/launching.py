"""Starting training processes: one a GPU, never nn.DataParallel."""

from __future__ import annotations

import os
import socket
import sys

from configs.progress import log


def relaunch_on_all_gpus() -> None:
    """On a machine of several GPUs, replace a plainly started script by torchrun with one process a GPU.

    Does nothing under torchrun, and where there is one GPU or none.
    """
    if "RANK" in os.environ or {"--help", "-h", "--dry_run"} & set(sys.argv):
        return
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus > 1:
        log.info(f"{num_gpus} GPUs: starting one process on each with torchrun")
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={num_gpus}",
            *sys.argv,
        ]
        os.execv(sys.executable, words)  # noqa: S606 - our own interpreter, a list of words


def join_group_of_one() -> None:
    """Give DeepSpeed the process group it wants when a script runs as a single process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def leave_group() -> None:
    """Destroy the process group: without it a process that used ZeRO aborts at exit after all its work is done."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
