"""rationales.py and rewrite.py against a real server on loopback: a model too small to pass, and its failures recorded."""

import json
import subprocess
import sys
from pathlib import Path

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
