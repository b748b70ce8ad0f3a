"""Fixtures for every test file: a real Slurm of two virtual nodes on this machine (scripts/local_slurm.sh)."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LOCAL_SLURM = Path(__file__).parents[1] / "scripts" / "local_slurm.sh"
NODES = 2


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below those that the kernel gives to clients."""
    for first in random.sample(range(20_000, 30_000, count), 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError(f"no {count} consecutive free ports between 20000 and 30000")


@pytest.fixture(scope="session")
def new_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, str]]]:
    """Makes the environment of one more cluster, in a folder and with ports of its own; whoever asks starts it."""
    lack = pytest.fail if os.environ.get("CI") else pytest.skip  # in CI the tests of Slurm must run
    if os.geteuid() != 0:
        lack("a local Slurm needs root")
    if not shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin"):
        lack("slurmctld is missing: apt-get install slurmctld slurmd slurm-client munge")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN", "LOCAL_SLURM"))}
    made = []

    def new() -> dict[str, str]:
        folder = tmp_path_factory.mktemp("slurm")
        made.append(
            inherited
            | {"LOCAL_SLURM_DIR": str(folder), "LOCAL_SLURM_PORT": str(free_ports(NODES + 1))}
            | {"LOCAL_SLURM_NODES": str(NODES), "SLURM_CONF": str(folder / "slurm.conf")}
        )
        return dict(made[-1])

    yield new
    for env in made:
        subprocess.run([LOCAL_SLURM, "stop"], env=env, check=True, timeout=60)


@pytest.fixture(scope="session")
def slurm(new_slurm: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The environment in which sbatch, srun and scontrol speak to a running cluster: 2 nodes, 64 CPUs, 8 GPUs each."""
    env = new_slurm()
    started = subprocess.run([LOCAL_SLURM, "start"], env=env, capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr
    return env


@pytest.fixture(scope="session")
def script_env() -> dict[str, str]:
    """The environment in which tests start the entry scripts: no hub, no GPU, no Slurm, nothing a launcher left."""
    ours = ("SLURM", "RANK", "WORLD_SIZE", "NUM_PROCESSES", "STOP_FILE", "EXIT_CODE_FILE", "PYTHON", "TENSORBOARD")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of two layers and of a byte-level tokenizer, with a start token, made on the sample."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<start>", "<end>"], initial_alphabet=alphabet)
    sample = LOCAL_SLURM.parents[1] / "assets" / "sample" / "mmedbench" / "Train"
    tokenizer.train([str(path) for path in sorted(sample.glob("*.jsonl"))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    folder = tmp_path_factory.mktemp("tiny")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
