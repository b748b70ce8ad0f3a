"""Trainings of one or two ranks, one after another, each forked from this process, which has imported what they need.

    python tests/ranks.py OUTPUT_DIR MODEL NAME...

Each of `RUNS` leaves OUTPUT_DIR/NAME/outcome.json, and metrics.jsonl as every training does.
"""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

import deepspeed
import numpy as np
import torch
from safetensors.torch import load_file

from configs.errors import SettingsError
from pretrain.models import load_model
from pretrain.training import checkpoints
from pretrain.training.launching import leave_group
from pretrain.training.train_settings import TrainSettings
from pretrain.training.trainer import PackedTrainer, prepare_to_start, save_result, train

ROOT = Path(__file__).parents[1]
BLOCK_SIZE, NUM_STEPS, BATCH = 48, 20, 8
POISON, STEP_OF_POISON = 799, 3

# ranks, blocks a rank and micro-batch, micro-batches a step, ZeRO stage
RUNS = {
    "at_once": (1, 8, 1, None),
    "accumulated": (1, 1, 8, None),
    "two_ranks": (2, 4, 1, None),
    "two_ranks_accumulated": (2, 1, 4, None),
    "zero2_one_rank": (1, 1, 8, "2"),
    "zero1": (2, 2, 2, "1"),
    "zero2": (2, 2, 2, "2"),
    "zero3": (2, 2, 2, "3"),
    "zero2_offload": (2, 2, 2, "2_offload"),
    "zero3_offload": (2, 2, 2, "3_offload"),
    "poison_two_ranks": (2, 2, 2, None),
    "poison_zero2": (2, 2, 2, "2"),
    "poison_zero3": (2, 2, 2, "3"),
}


def blocks_of_unequal_fill() -> list:
    """24 blocks with 3 to 47 target tokens, in one to three documents."""
    draw = np.random.default_rng(0)
    lengths = [[30, 10], [20], [9, 3], [4], [25, 20, 3], [48], [6, 6], [40]] * 3
    return [[(ids, ids) for ids in (draw.integers(2, 700, size=n) for n in row)] for row in lengths]


def poison(trainer: PackedTrainer) -> None:
    """Make the embedding of one token no number, and have rank 1 alone see it, in one step."""
    weight = trainer.model.get_input_embeddings().weight
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0), torch.no_grad():
        if weight.numel():
            weight[POISON] = float("nan")
    take_step = trainer.training_step

    def training_step(model, inputs, num_items):
        if trainer.args.process_index == 1 and trainer.state.global_step + 1 == STEP_OF_POISON:
            inputs["input_ids"][0, 1] = POISON
        return take_step(model, inputs, num_items)

    trainer.training_step = training_step


def run(name: str, output_dir: Path, model_path: str) -> dict:
    """One rank's part of a training; what came of it."""
    world, batch, accumulation, stage = RUNS[name]
    poisoned = name.startswith("poison")
    args = TrainSettings(
        output_dir=str(output_dir),
        max_steps=NUM_STEPS,
        learning_rate=1e-3,
        weight_decay=0.01,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        save_strategy="steps" if poisoned else "no",
        save_steps=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        deepspeed=f"configs/deepspeed/zero{stage}.json" if stage else None,
    )
    assert args.world_size == world and world * batch * accumulation == BATCH
    model = load_model(model_path, torch.float32)
    trainer = PackedTrainer(
        model=model,
        args=args,
        train_dataset=blocks_of_unequal_fill(),
        evaluation={},
        block_size=BLOCK_SIZE,
        pad_token_id=1,
        label=name,
    )
    if poisoned:
        poison(trainer)
    error, code = "", 0
    try:
        train(trainer, prepare_to_start(args))
    except SettingsError as found:
        error, code = found.render(), int(found.exit_code)
    except SystemExit as found:
        code = int(found.code)
    outcome = {"code": code, "error": error, "num_steps": trainer.state.global_step}
    if poisoned:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # a collective, where weights are shared out
        newest = checkpoints.newest_checkpoint(output_dir)
        outcome["checkpoint"] = newest.name
        if trainer.is_world_process_zero():
            saved = load_file(newest / "model.safetensors")
            outcome["weights_as_saved"] = all(
                torch.equal(saved[key].nan_to_num(), state[key].nan_to_num()) for key in saved
            )
    else:
        save_result(trainer)
    leave_group()
    return outcome


def fork_ranks(name: str, output_dir: Path, model_path: str) -> None:
    """Run all ranks of one training to their end."""
    world = RUNS[name][0]
    output_dir.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(world):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            if world > 1:
                os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            outcome = run(name, output_dir, model_path)
            (output_dir / f"outcome.{rank}.json").write_text(json.dumps(outcome))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"a rank of {name} failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[3:]:
        fork_ranks(each, Path(sys.argv[1]) / each, sys.argv[2])
