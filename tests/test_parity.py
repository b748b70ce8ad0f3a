"""The same blocks give the same training however they are shared out; a loss that is no number stops all ranks.

LONG_TESTS=1 pytest tests/test_parity.py      also with offloading to the CPU, for which DeepSpeed compiles an optimizer,
                                              and all ZeRO stages in bfloat16
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.models import load_model
from pretrain.training.callbacks import read_metrics

ROOT = Path(__file__).parents[1]
SHARED_OUT = ["accumulated", "two_ranks", "two_ranks_accumulated", "zero2_one_rank", "zero1", "zero2", "zero3"]
IN_BF16 = ["bf16_zero1"]  # whose optimizer is one that the others do not have
if "LONG_TESTS" in os.environ:
    SHARED_OUT += ["zero2_offload", "zero3_offload"]
    IN_BF16 += ["bf16_zero2", "bf16_zero3"]
POISONED = ["poison_two_ranks", "poison_zero2", "poison_zero3", "poison_bf16_zero1"]
RESUMED = [f"{name}_resumed" for name in IN_BF16]
NUM_STEPS, METRICS = 20, "metrics.jsonl"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model, script_env):
    """The folder of all trainings of tests/ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    names = ["at_once", *SHARED_OUT, *POISONED, *IN_BF16, *RESUMED, "small_contributions"]
    command = [sys.executable, "tests/ranks.py", str(folder), str(tiny_model), *names]
    env = script_env | {"OMP_NUM_THREADS": "1", "TENSORBOARD_LOGGING_DIR": str(folder)}
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def steps(folder):
    rows = [row for row in read_metrics(folder / METRICS) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED_OUT)
def test_losses_and_gradient_norms_are_those_of_one_batch_on_one_rank(runs, name):
    wanted, found = steps(runs / "at_once"), steps(runs / name)
    for key in ("loss", "grad_norm"):
        assert found[0][key] == pytest.approx(wanted[0][key], rel=1e-5), key
        for one, other in zip(found, wanted, strict=True):
            assert one[key] == pytest.approx(other[key], rel=1e-4), (key, one["step"])
    assert wanted[-1]["loss"] < wanted[0]["loss"] - 0.5  # it was not one loss all the time


@pytest.mark.slow
@pytest.mark.parametrize("name", ["at_once", *SHARED_OUT])
def test_what_every_zero_stage_saves_is_loaded_by_from_pretrained_and_holds_no_pickle(runs, name, tiny_model):
    folder = runs / name
    weights = load_file(folder / "model.safetensors")
    assert "rope_theta" in json.loads((folder / "config.json").read_text())  # for transformers 4
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    model = load_model(str(folder), torch.float32)
    state, start = model.state_dict(), load_file(tiny_model / "model.safetensors")
    assert weights.keys() == state.keys() == start.keys()
    assert all(torch.equal(state[key], weights[key]) for key in state)
    assert not any(torch.equal(state[key], start[key]) for key in start if "norm" not in key)
    reference = load_file(runs / "at_once" / "model.safetensors")
    assert all(torch.allclose(weights[key], reference[key], atol=2e-4) for key in reference)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".jsonl", ".svg"}


@pytest.mark.slow
@pytest.mark.parametrize("name", POISONED)
def test_not_a_number_on_one_rank_stops_all_before_the_step_and_leaves_the_checkpoint(runs, name):
    first, second = (json.loads((runs / name / f"outcome.{rank}.json").read_text()) for rank in (0, 1))
    assert first["code"] == second["code"] == 2
    assert first["num_steps"] == second["num_steps"] == 2 and first["checkpoint"] == "checkpoint-2"
    assert "step 3 is not finite" in first["error"] and "loss nan on rank 1" in first["error"]
    assert "rank 0" not in first["error"] and "goes on from checkpoint-2" in first["error"]
    assert second["error"] == ""  # rank 0 speaks for all
    assert first["weights_as_saved"]


@pytest.mark.slow
def test_no_configuration_of_ours_loses_small_contributions_to_an_accumulated_gradient(runs):
    found = json.loads((runs / "small_contributions" / "outcome.0.json").read_text())
    assert found == {f"zero{name}": [319.0] * 8 for name in ("1", "2", "2_offload", "3", "3_offload")}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_BF16)
def test_in_bfloat16_too_a_resumed_training_equals_an_uninterrupted_one(runs, name):
    rows, resumed, reference = (
        {row["step"]: (row["loss"], row["grad_norm"]) for row in read_metrics(runs / each / METRICS) if "loss" in row}
        for each in (name, f"{name}_resumed", "at_once")
    )
    assert list(rows) == [1, 2, 3, 4, 5, 6] and resumed == {step: rows[step] for step in (5, 6)}
    assert rows[1] == pytest.approx(reference[1], rel=5e-3)  # the schedules differ after it
    wanted, found = (load_file(runs / each / "model.safetensors") for each in (name, f"{name}_resumed"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
