"""eval.py against a real OpenAI-compatible server on loopback: `transformers serve` with the demo model."""

import json
from pathlib import Path

from data_collection.server_settings import ServerSettings
from finetune.prompts import KINDS
from inference.eval import EvalSettings
from inference.evaluation import evaluate

ROOT = Path(__file__).parents[1]


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
