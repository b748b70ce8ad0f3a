"""Trainings of one or two ranks, one after another, each forked from this process, which has imported what they need.

    python tests/ranks.py OUTPUT_DIR MODEL NAME...

Each of `RUNS` leaves OUTPUT_DIR/NAME/outcome.json, and metrics.jsonl as every training does.
"""

import json
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path

import deepspeed
import deepspeed.runtime.zero.muon.muon_optimizer  # as the next two: seconds, which each rank would take by itself
import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401
import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import load_file

from configs.errors import SettingsError
from configs.files import read_json
from pretrain.models import load_model
from pretrain.training import checkpoints
from pretrain.training.launching import join_group_of_one, leave_group
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
    "poison_bf16_zero1": (2, 2, 2, "1"),
    "bf16_zero1": (2, 1, 4, "1"),
    "bf16_zero2": (2, 1, 4, "2"),
    "bf16_zero3": (2, 1, 4, "3"),
    # From the checkpoint that the run of that name left.
    "bf16_zero1_resumed": (2, 1, 4, "1"),
    "bf16_zero2_resumed": (2, 1, 4, "2"),
    "bf16_zero3_resumed": (2, 1, 4, "3"),
    "small_contributions": (1, 1, 64, None),
}
BF16_STEPS, RESUMED_AT = 6, 4


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


def small_contributions() -> dict:
    """The gradient that each DeepSpeed configuration of ours has after 64 micro-batches in bfloat16.

    One of them gives 256 and 63 give 1: 319, and 256 where it is summed in bfloat16, whose next number is 258.
    """
    join_group_of_one()
    deepspeed.init_distributed("gloo", verbose=False)
    rows = torch.ones(64, 1, 8, dtype=torch.bfloat16)
    rows[0] = 256
    found = {}
    for path in sorted((ROOT / "configs" / "deepspeed").glob("*.json")):
        config = read_json(path)
        config |= {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 64}
        # torch's optimizer on the CPU too: DeepSpeed would compile its own.
        config |= {"gradient_clipping": 0.0, "zero_force_ds_cpu_optimizer": False}
        config["bf16"]["enabled"] = True
        zero = {name: 100 if value == "auto" else value for name, value in config["zero_optimization"].items()}
        for name in {"offload_optimizer", "offload_param"} & zero.keys():
            zero[name] = {"device": "cpu"}
        layer = torch.nn.Linear(8, 1, bias=False)
        optimizer = torch.optim.AdamW(layer.parameters())
        engine, *_ = deepspeed.initialize(model=layer, optimizer=optimizer, config=config | {"zero_optimization": zero})
        for number, row in enumerate(rows):
            engine.backward(64 * engine(row).sum())  # which DeepSpeed divides by 64
            if number == len(rows) - 1:
                found[path.stem] = safe_get_full_grad(engine.module.weight).flatten().tolist()
            engine.step()
    return found


def run(name: str, output_dir: Path, model_path: str) -> dict:
    """One rank's part of a training; what came of it."""
    if name == "small_contributions":
        return small_contributions()
    world, batch, accumulation, stage = RUNS[name]
    poisoned, bf16 = name.startswith("poison"), "bf16" in name
    args = TrainSettings(
        output_dir=str(output_dir),
        max_steps=BF16_STEPS if bf16 else NUM_STEPS,
        learning_rate=1e-3,
        weight_decay=0.01,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        save_strategy="steps" if poisoned or bf16 else "no",
        save_steps=1 if poisoned else RESUMED_AT,
        report_to="none",
        bf16=bf16,
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
    if name.endswith("_resumed"):
        checkpoint = f"checkpoint-{RESUMED_AT}"
        shutil.copytree(output_dir.with_name(name.removesuffix("_resumed")) / checkpoint, output_dir / checkpoint)
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
