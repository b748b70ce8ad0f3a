"""The GPU benchmark where there is none: measures that fail or are ended, the arithmetic, the page, --quick."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from configs.errors import MissingInputError, SettingsError
from configs.files import read_json
from pretrain.throughput import flops_per_token
from scripts.bench.gpu.finetuning import LEAK, best_of_trl
from scripts.bench.gpu.materials import SMOLLM2, GpuBenchSettings, data_folder, make_model
from scripts.bench.gpu.measures import run_measures
from scripts.bench.gpu.page import render
from scripts.bench.gpu.pretraining import PRETRAINING, attended_length, pretraining
from scripts.bench.gpu.profiling import kind_of, summary
from scripts.bench.gpu.real import real

ROOT = Path(__file__).parents[1]


def figure(path, value):
    """A measure that leaves a line a time it is made, and fails while its value is not there."""
    with open(path, "a") as file:
        file.write(".")
    if value == "killed":
        os._exit(9)
    return {"value": float(value)}


def test_a_measure_that_fails_or_is_killed_costs_no_other_and_only_it_is_made_again(tmp_path):
    def measures(**values):
        return {name: partial(figure, tmp_path / name, value) for name, value in values.items()}

    folder, identity = tmp_path / "part", {"quick": True}
    assert run_measures(folder, {}, identity, measures(a="killed", b="nothing", c="3")) == 5
    found = read_json(folder / "run.json")["result"]
    assert "BrokenProcessPool" in found["a"]["error"] and "could not convert" in found["b"]["error"]
    assert found["c"]["value"] == 3 and read_json(folder / "run.json")["failed_items"] == 2
    assert run_measures(folder, {}, identity, measures(a="1", b="2", c="nothing")) == 0
    assert [value["value"] for value in read_json(folder / "run.json")["result"].values()] == [1, 2, 3]
    assert [len((tmp_path / name).read_text()) for name in "abc"] == [2, 2, 1]
    with pytest.raises(SettingsError):
        run_measures(folder, {}, {"quick": False}, measures(a="1"))


def test_what_was_not_tried_comes_before_what_was_ended(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("scripts.bench.gpu.measures.in_own_process", lambda work: order.append(work()) or {})

    def ended():
        order.append("slow")
        raise KeyboardInterrupt

    measures = {"slow": ended, "other": lambda: "other"}
    with pytest.raises(KeyboardInterrupt):
        run_measures(tmp_path, {}, {}, measures)
    assert "ended from outside" in read_json(tmp_path / "run.json")["result"]["slow"]["error"]
    with pytest.raises(KeyboardInterrupt):
        run_measures(tmp_path, {}, {}, measures)
    assert order == ["slow", "other", "slow"]


def test_attention_within_documents_costs_what_it_costs_document_by_document():
    from transformers import LlamaConfig

    from pretrain.models import empty_model

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model, lengths = empty_model(LlamaConfig(vocab_size=100, **sizes)), [100, 20, 3]
    one_by_one = sum(length * flops_per_token(model, length) for length in lengths)
    assert sum(lengths) * flops_per_token(model, attended_length(lengths)) == pytest.approx(one_by_one)


def test_a_profile_knows_overlaps_gaps_and_kinds():
    found = summary([("flash_fwd", 0, 10), ("nvjet_hsh_gemm", 5, 20), ("void multi_tensor_apply", 30, 40)])
    assert found["shares"]["waiting"] == 0.25 and found["milliseconds"] == 0.04
    assert found["shares"]["attention"] == 0.25 and found["shares"]["matrix products"] == 0.375
    assert kind_of("Memcpy DtoD") == "copies" and kind_of("triton_poi_fused_silu") == "norms, activations, sums"


def test_ways_of_pretraining_have_as_many_blocks_a_step(tmp_path):
    for name, part in PRETRAINING.items():
        ways = pretraining(GpuBenchSettings(part=name, output_dir=tmp_path))
        own = [way.args[1] for label, way in ways.items() if label != "published"]
        assert {way.blocks * way.accumulation for way in own} == {part.blocks * part.accumulation}
        assert [way.recomputed for way in own] == [True, False][: len(own)]


def test_trls_best_is_the_fastest_that_keeps_examples_apart():
    speeds = {"trl, a": 300.0, "trl, b": 200.0, "ours": 900.0, "trl, c": 100.0}
    found = {name: {"useful_tokens_per_second": speed} for name, speed in speeds.items()}
    assert best_of_trl(found | {LEAK: {"trl, a": 0.02, "trl, b": 1e-7}}) == "trl, b"
    assert best_of_trl({"ours": found["ours"], "trl, d": {"error": "no trl"}}) is None


def test_the_page_shows_ratios_shares_errors_and_what_did_not_run():
    speed = "useful_tokens_per_second"
    way = {"blocks": 16, "accumulation": 8, "optim": "adamw", "deepspeed": None, "recomputed": True}
    ours = {speed: 600.0, "tflops": 400.0, "mfu": 0.4, "memory_gib": 70.0, "way": way}
    scores = {"accuracy": 0.25, "accuracy_low": 0.2, "accuracy_high": 0.3, "bleu_1_sentence": None}
    parts = {
        "matmul": {"product": {"tflops": 800.0}},
        "pretrain-1.8b-2048": {
            "ours": ours,
            "ours, nothing recomputed": ours | {speed: 800.0, "way": way | {"blocks": 8, "recomputed": False}},
            "published": {speed: 200.0, "memory_gib": 60.0},
        },
        "pretrain-8b-2048": {"ours": ours, "published": {"error": "OutOfMemoryError: x\nmore"}},
        "real": {"base": {"answer_only": scores, "with_rationale": scores}, "rows": {"error": "killed"}},
    }
    found = {"date": "2026-01-01", "commit": "", "versions": {"torch": "2"}, "device": "GPU", "peak_tflops": 1000.0}
    more = {"questions and documents": "real ones", "tokenizer": "made", "missing": ["profile"], "parts": parts}
    text = render(found | more, is_real=True)
    line = "| pretrain-1.8b-2048 | 16 x 8, adamw, no DeepSpeed | 600.0 | 200.0 | 3.0 | 400.0 | 0.5 | 40.0 % |"
    assert line in text and "measures nothing" not in text
    assert "| 8 x 8, adamw, no DeepSpeed, nothing recomputed | 800.0 | 200.0 | 4.0 |" in text
    assert text.count("| pretrain-8b-2048 |") == 1
    assert "- pretrain-8b-2048, published: OutOfMemoryError: x\n" in text and "- profile: not run" in text
    assert "| base | 25.0 % (20.0 to 30.0) | 25.0 % (20.0 to 30.0) | - | - | - |" in text
    assert "## Profile" not in text and "## Fine-tuning" not in text


def test_without_any_model_or_data_there_are_shapes_a_tokenizer_and_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.bench.gpu.materials.DEMO_MODEL", tmp_path / "absent")
    settings = GpuBenchSettings(part="check", output_dir=tmp_path, data=tmp_path / "absent", quick=True)
    assert data_folder(settings) == ROOT / "assets" / "sample"
    with pytest.raises(MissingInputError, match=r"download\.py smollm2-135m"):
        real(GpuBenchSettings(part="real", output_dir=tmp_path))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_model(settings, SMOLLM2)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = "Où est la glande ? 甲状腺 щитовидная железа"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and len(ids) < len(text.encode()) / 2
    assert max(ids) < model.config.vocab_size and tokenizer.pad_token_id is not None


def test_quick_from_the_command_to_the_page(tmp_path, script_env):
    command = ["bash", ROOT / "scripts" / "bench" / "gpu.sh", "--quick", "--part", "matmul", "--output_dir", tmp_path]
    env = script_env | {"PATH": f"{Path(sys.executable).parent}:{script_env['PATH']}", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    found = read_json(tmp_path / "report.json")
    checked = found["parts"]["check"]["packed as alone"]
    assert checked["sdpa float32"]["difference"] <= 1e-5 and found["parts"]["matmul"]["product"]["tflops"] > 0
    assert found["quick"] and "profile" in found["missing"] and (tmp_path / "report.md").read_text() in answer.stdout
    wrong = subprocess.run([*command[:4], "matmull"], env=env, capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2 and "pretrain-1.8b-2048" in wrong.stderr
