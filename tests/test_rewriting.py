"""Documents to questions and answers: passages, what is asked, what is refused, and the command against a server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.corpus.documents import Document, find_shards, read_shard
from data_collection.llm.passages import cut_passages, num_tokens
from data_collection.llm.rewriting import Passage, RewriteRules, check_pairs
from data_collection.llm.server_settings import ServerSettings
from finetune.conversations import find_conversation_files, read_conversations

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "assets" / "sample" / "documents"
RULES = RewriteRules("tiny", "", "conversations", 100, 3, 200, 2, {})
PASSAGE = (
    "Warfarin keeps the liver from renewing vitamin K, so that blood clots more slowly. "
    "It is started with 5 mg a day. It is not given to pregnant women."
)
PAIR = (
    "### Question: What does warfarin do to the clotting of blood?\n"
    "### Answer: Warfarin keeps the liver from renewing vitamin K, so blood clots more slowly."
)


@pytest.mark.parametrize("lang", ["en", "zh", "ja", "ru"])
@pytest.mark.parametrize("limit", [25, 120, 100_000])
def test_passages_hold_the_whole_text_and_are_cut_at_the_ends_of_sentences(lang, limit):
    (shard,) = find_shards([DOCUMENTS / f"{lang}.medical.jsonl"])
    num_cuts = num_good = 0
    for document in list(read_shard(shard, FailedItems()))[:15]:
        passages = cut_passages(document.text, limit)
        assert "".join("".join(passages).split()) == "".join(document.text.split())
        assert all(num_tokens(passage) <= limit for passage in passages)
        if limit == 100_000:
            assert passages == [document.text.strip()]
        for passage in passages[:-1]:
            num_cuts += 1
            num_good += passage.endswith(tuple('.!?。！？”"」』)）»')) or f"{passage}\n" in document.text
    assert limit != 120 or num_good >= 0.95 * num_cuts > 0


def test_further_fields_of_requests_are_part_of_the_rules():
    with_fields = replace(RULES, extra_body={"reasoning_effort": "low"})
    assert "extra_body" not in RULES.identity() and with_fields.identity()["extra_body"] == with_fields.extra_body


def test_a_text_without_any_bound_is_cut_all_the_same():
    for text in ("x" * 5000, "药" * 3000, "\U0001f48a" * 1000, "", " \n\n "):
        passages = cut_passages(text, 50)
        assert "".join(passages) == text.strip() and all(0 < num_tokens(passage) <= 50 for passage in passages)
    assert cut_passages("One.\n\n\nTwo is long enough to stand alone.", 13) == [
        "One.",
        "Two is long enough to stand alone.",
    ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_request_is_in_the_passages_language_and_holds_it(lang):
    passage = Passage(Document("1", PASSAGE, lang, "", "", {}), 1, "", RULES)
    (message,) = passage.request(0, []).messages
    assert message["content"].endswith(f"\n\n{PASSAGE}") and "{" not in message["content"]
    assert all(part in message["content"] for part in ("### Question:", "### Answer:", "3"))
    assert passage.request(1, []).options != passage.request(2, []).options != passage.request(0, []).options


@pytest.mark.parametrize(
    ("text", "num_good", "problem"),
    [
        (PAIR, 1, ""),
        (PAIR.replace("###", "**").replace("Question:", "Question**:"), 1, ""),
        (f"Here they are:\n{PAIR}\n\n{PAIR.replace('do to the clotting of blood', 'change')}", 2, ""),
        (f"{PAIR}\n{PAIR}", 1, ""),
        (PAIR.replace("vitamin K", "vitamin K within 12 hours"), 0, "a number"),
        (PAIR.replace("What does warfarin do", "What do 7 mg of warfarin do"), 0, "the question has a number"),
        (PAIR.replace("What does warfarin", "According to the text, what does warfarin"), 0, "speaks of the passage"),
        (PAIR.replace("Warfarin keeps", "As the passage says, warfarin keeps"), 0, "speaks of the passage"),
        (f"{PAIR.partition('###  Answer')[0].splitlines()[0]}\n### Answer: It is given to pregnant women.", 0, "the opp"),
        (
            "### Question: How is diabetes best treated in older people?\n### Answer: Exercise, food with little sugar "
            "and regular walks are what most doctors suggest first.",
            0,
            "not from the passage",
        ),
        (PAIR.replace("Warfarin keeps the liver from renewing vitamin K, so blood clots more slowly.", "Oui, la "
         "warfarine empêche le foie de renouveler la vitamine K."), 0, "in another language"),
        ("I'm sorry, but I cannot help with that.", 0, "a refusal"),
        ("Warfarin is a drug.", 0, "no question with an answer"),
        ("### Question:\n### Answer:", 0, "an empty"),
        (PAIR[:-30], 0, "broken off"),
    ],
)  # fmt: skip
def test_what_is_taken_of_what_a_server_writes(text, num_good, problem):
    result, found = check_pairs(text, False, PASSAGE, "en")
    assert len(result["pairs"]) == num_good
    assert found.startswith(problem) if problem else not found


def test_of_an_answer_that_was_cut_the_last_pair_is_left_out():
    assert check_pairs(PAIR, True, PASSAGE, "en") == ({"pairs": [], "dropped": []}, "cut at the limit")
    result, problem = check_pairs(f"{PAIR}\n### Question: Who\n### Answer: Not", True, PASSAGE, "en")
    assert len(result["pairs"]) == 1 and not problem


def test_tasks_share_the_limits():
    settings = ServerSettings(requests_per_minute=60, tokens_per_minute=None, budget=8, input_price=1)
    share = settings.share(4)
    assert (share.requests_per_minute, share.tokens_per_minute, share.budget) == (15, None, 2)


@pytest.fixture
def writer(http):
    """A server that asks about the first sentence of each passage and answers with it."""

    def reply(request):
        _, passage = request["messages"][0]["content"].split("\n\n", 1)
        first = re.match(r".{40,}?[.。](?!\d)|.*", passage, re.DOTALL)[0].strip()
        question = first.rstrip(".。") + ("？" if "。" in first else "?")
        return f"### Question: {question}\n### Answer: {first}"

    http.reply, http.finish_reason = reply, "stop"
    return http


def run(folder, http, env, *words, task=None):
    command = [sys.executable, ROOT / "data_collection" / "rewrite.py", "--output_dir", folder, *words]
    command += ["--server_url", f"http://127.0.0.1:{http.server_address[1]}/v1", "--api_key_variable", "A_KEY"]
    array = {} if task is None else {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "1", **array} if array else {}
    env = {**env, **array, "A_KEY": "the-key"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


def some_documents(folder, langs, number=4):
    folder.mkdir()
    for lang in langs:
        lines = (DOCUMENTS / f"{lang}.medical.jsonl").read_text(encoding="utf-8").splitlines()[:number]
        (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_from_documents_to_conversations_that_training_reads(tmp_path, writer, script_env):
    some_documents(tmp_path / "in", ("en", "zh"))
    with open(tmp_path / "in" / "en.jsonl", "a", encoding="utf-8") as file:
        file.write(
            '{"text": "Too short."}\nbroken\n{"text": "' + "Hij loopt naar huis en leest. " * 9 + '", "lang": "nl"}\n'
        )
    words = ("--input", tmp_path / "in", "--max_passage_tokens", "150", "--input_price", "1", "--output_price", "2")
    done = run(tmp_path / "out", writer, script_env, *words)
    assert done.returncode == 5, done.stderr
    assert "at most when each passage is good" in done.stderr
    files = find_conversation_files(tmp_path / "out" / "conversations")
    failed = FailedItems()
    conversations = [row for path in files for row in read_conversations(path, failed)]
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    statistics = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert len(conversations) == len(rows) == statistics["pairs"] > 8 and not len(failed)
    assert {row["lang"] for row in rows} == {"en", "zh"} and rows[0]["id"].endswith("/1/1")
    assert {row["meta"]["rewritten_by"] for row in rows} == {"tiny"} and rows[0]["licence"] == "Apache-2.0"
    rejected = [pq.read_table(path).to_pylist() for path in (tmp_path / "out" / "rejected").glob("*.parquet")]
    reasons = [row["reason"] for part in rejected for row in part]
    assert statistics["passages"] == statistics["rewritten"] + len(reasons)
    assert {"too_short", "language without a prompt"} <= set(reasons)
    assert sum(writer.seen.values()) == statistics["attempts"]
    assert statistics["cost"] == pytest.approx(statistics["attempts"] * 20e-6)
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert "not JSON" in failure
    # One of the two files is to be done again, and what the other has cost is of the budget.
    shutil.copytree(tmp_path / "out", tmp_path / "half")
    for name in ("run.json", "shards/zh.json", "attempts/zh.jsonl"):
        (tmp_path / "half" / name).unlink()
    spent = json.loads((tmp_path / "half" / "shards" / "en.json").read_text())["cost"]
    over = run(tmp_path / "half", writer, script_env, *words, "--budget", str(spent + 1e-6))
    assert over.returncode == 2 and f"of which {spent:.4f} is spent" in over.stderr
    assert sum(writer.seen.values()) == statistics["attempts"]
    writer.over.set()
    writer.shutdown()
    writer.server_close()  # not needed to see that all is done
    again = run(tmp_path / "out", writer, script_env, *words)
    assert "already done" in again.stderr and again.returncode == 5


def test_two_tasks_of_an_array_make_documents_together(tmp_path, writer, script_env):
    some_documents(tmp_path / "in", ("en", "fr"), 2)
    words = ("--input", tmp_path / "in", "--layout", "documents", "--requests_per_minute", "6000")
    first = run(tmp_path / "out", writer, script_env, *words, task=0)
    assert first.returncode == 0 and "this task's share is done" in first.stderr, first.stderr
    assert not (tmp_path / "out" / "stats.json").exists() and set(os.listdir(tmp_path / "out" / "kept")) == {
        "en.parquet"
    }
    second = run(tmp_path / "out", writer, script_env, *words, task=1)
    assert second.returncode == 0, second.stderr
    shards = find_shards([tmp_path / "out"])
    texts = [document.text for shard in shards for document in read_shard(shard, FailedItems())]
    assert len(texts) == json.loads((tmp_path / "out" / "stats.json").read_text())["pairs"] > 2
    assert all("?\n" in text for text in texts) and set(writer.seen.values()) == {1}


def test_an_array_of_a_slurm_is_cancelled_on_its_way_and_sent_again(slurm, tmp_path, writer):
    some_documents(tmp_path / "in", ("en", "fr", "ru", "zh"), 3)
    command = ["sbatch", "--parsable", "--array=0-1", "--cpus-per-task=2", f"--output={tmp_path}/log-%a"]
    command += ["data_collection/run.sh", "rewrite", "--input", tmp_path / "in", "--output_dir", tmp_path / "out"]
    command += ["--server_url", f"http://127.0.0.1:{writer.server_address[1]}/v1", "--api_key_variable", "A_KEY"]
    command += ["--max_concurrent_requests", "1"]
    env = {**slurm, "A_KEY": "the-key"}
    for asked in (3, None):  # cancelled when so many requests were answered, then not at all
        writer.delay = 0.3 if asked else 0
        job = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()
        end = time.monotonic() + 200
        while subprocess.run(["squeue", "-h", "-j", job], env=env, capture_output=True, text=True).stdout.strip():
            assert time.monotonic() < end, [path.read_text() for path in tmp_path.glob("log-*")]
            if asked and sum(writer.seen.values()) >= asked:
                subprocess.run(["scancel", "--signal=KILL", "--full", job], env=env, check=True)
            time.sleep(0.2)
        if asked:
            assert not (tmp_path / "out" / "stats.json").exists()
    statistics = json.loads((tmp_path / "out" / "stats.json").read_text())
    files = find_conversation_files(tmp_path / "out" / "conversations")
    assert {path.stem for path in files} == {"en", "fr", "ru", "zh"}
    assert sum(path.read_bytes().count(b"\n") for path in files) == statistics["pairs"] > 8
    # What a killed task had asked and not yet written down, one request a task, is asked again; nothing else is.
    assert statistics["attempts"] <= sum(writer.seen.values()) <= statistics["attempts"] + 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "finished"
