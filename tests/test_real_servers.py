"""Commands against a real OpenAI-compatible server on loopback, `transformers serve` with the demo model.

It is too small to pass what rationales.py and rewrite.py check, and its failures are recorded.
"""

import json
import subprocess
import sys
from pathlib import Path

from data_collection.llm.server_settings import ServerSettings
from finetune.prompts import KINDS
from inference.eval import EvalSettings
from inference.evaluation import evaluate

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"


def test_a_real_server_is_asked_and_what_it_writes_is_judged(tmp_path, real_server, script_env):
    (tmp_path / "q" / "Test").mkdir(parents=True)
    rows = (SAMPLE / "mmedbench" / "Test" / "French.jsonl").read_text(encoding="utf-8").splitlines()[:2]
    (tmp_path / "q" / "Test" / "French.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = "Warfarin keeps the liver from renewing vitamin K, so that blood clots more slowly. It is started with 5 mg."
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": text, "lang": "en"}) + "\n")
    address = ["--server_url", real_server.url, "--server_model", real_server.model, "--max_concurrent_requests", "2"]
    words = ["--max_new_tokens", "24", "--max_attempts", "1", *address]
    for step, given in (("rationales", tmp_path / "q"), ("rewrite", tmp_path / "d.jsonl")):
        out = tmp_path / step
        command = [
            sys.executable,
            ROOT / "data_collection" / f"{step}.py",
            "--input",
            given,
            "--output_dir",
            out,
            *words,
        ]
        command += ["--replace"] if step == "rationales" else []
        done = subprocess.run(command, env=script_env, capture_output=True, text=True, timeout=300)
        record = json.loads((out / "run.json").read_text())
        assert record["status"] == "finished" and done.returncode in (0, 5), done.stderr
        journal = out / ("attempts.jsonl" if step == "rationales" else "attempts/d.jsonl")
        answers = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        assert len(answers) == (2 if step == "rationales" else 1)
        for answer in answers:
            assert (
                answer["output"] and answer["num_prompt_tokens"] > 20 and answer["model"].startswith(real_server.model)
            )
            assert 0 < answer["num_new_tokens"] <= 24 and answer["problem"]  # 24 tokens are too few for any


def test_the_demo_model_is_evaluated_through_a_real_server(real_server, tmp_path, capsys):
    from transformers import AutoTokenizer

    settings = EvalSettings(
        engine="server",
        data=ROOT / "assets" / "sample",
        output_dir=tmp_path / "out",
        languages=["en", "zh"],
        max_questions_per_language=1,
        max_new_tokens=10,
        max_new_tokens_answer_only=3,
    )
    server = ServerSettings(server_url=real_server.url, server_model=real_server.model, api_key_variable="NO_SUCH_KEY")
    assert evaluate(settings, server) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sorted((row["lang"], row["kind"]) for row in rows) == sorted((x, y) for x in ("en", "zh") for y in KINDS)
    limits = {"with_rationale": 10, "answer_only": 3}
    tokenizer = AutoTokenizer.from_pretrained(real_server.model)
    for row in rows:
        assert 0 < row["num_new_tokens"] <= limits[row["kind"]] and row["output"].strip() and not row["error"]
        assert row["hit_limit"] == (row["num_new_tokens"] == limits[row["kind"]])
        # The server gave its model the whole question: tokens of the words alone, and its chat template's on top.
        words = tokenizer.encode("\n".join([row["question"], *row["options"].values()]))
        assert len(words) < row["num_prompt_tokens"] < len(words) + 150
    assert "zero-shot, with rationale" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "finished" and record["settings"]["server_model"] == real_server.model
