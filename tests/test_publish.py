"""Publishing: cards that the hub can read, made from records alone; nothing private in them; uploads only when told."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import MissingInputError, SettingsError
from inference import scoring
from scripts.cards import edited_card
from scripts.lineage import lineage
from scripts.publish import PublishSettings
from scripts.publishing import Upload, publish, refuse_private

ROOT = Path(__file__).parents[1]
NODE = "node-of-a-cluster"
SCRIPT = "<script>alert(1)</script> | `x` [y](z)"


def write_run(folder, stage, settings=None, result=None, status="finished", **more):
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": stage,
        "status": status,
        "started": "2026-01-02T03:04:05+00:00",
        "command": f"python {stage}.py --input /home/someone/secret",
        "folder": str(folder.parent),
        "settings": settings or {},
        "identity": {"lang": "fr", "global_batch_size": 2},
        "wall_seconds": 61.0,
        "versions": {"python": "3.11", "torch": "2.13"},
        "machine": {"node": NODE, "num_cpus": 2},
        "commit": "0123abcd",
        "result": result or {},
    }
    (folder / "run.json").write_text(json.dumps(record | more))
    return folder


def write_weights(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights of " + folder.name.encode())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "tokenizer.json").write_text('{"vocab": {"/home/a": 1}}')  # a word, not a path of ours


@pytest.fixture
def chain(tmp_path):
    """A chain as scripts/chain.sh leaves it: corpus, blocks, pretraining, adapter, its evaluation; a downloaded base."""
    base = tmp_path / "models" / "base"
    write_weights(base)
    (base / "download.json").write_text('{"name": "org/base-1B", "revision": null}')
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    write_run(tmp_path / "filter", "filter", {"input": ["books"], "lang": "fr"})
    stats = {"read": 1000, "kept": 600, "rejected": 400, "rejected_by_reason": {"few_keywords": 300, SCRIPT: 100}}
    (tmp_path / "filter" / "stats.json").write_text(json.dumps(stats))
    corpus = write_run(tmp_path / "corpus", "decontaminate", {"input": ["filter"]})
    (corpus / "stats.json").write_text(json.dumps({"read": 600, "kept": 590, "rejected": 10}))
    (corpus / "kept").mkdir()
    rows = {"lang": ["fr", "fr", "ru"], "source": ["web", SCRIPT, "web"], "licence": ["CC BY 4.0"] * 3}
    parquet.write_table(pa.table({"id": list("abc"), "text": list("xyz"), **rows}), corpus / "kept" / "a.parquet")
    tokens = {"num_tokens_by_language": {"fr": 3000, "ru": 1000}, "block_size": 512}
    write_run(tmp_path / "blocks", "prepare", {"input": ["corpus"]}, tokens)
    perplexity = {"before": {"perplexity": {"fr": 40.0}}, "after": {"perplexity": {"fr": 20.5}}}
    result = {"num_steps": 24, "block_size": 512, **perplexity}
    settings = {"data": "blocks", "model_name_or_path": str(base), "learning_rate": 1e-4, "bf16": True, "use_cpu": True}
    write_run(tmp_path / "pretrain", "pretrain", settings, result)
    write_weights(tmp_path / "pretrain", _name_or_path=str(base))
    adapter = tmp_path / "adapter"
    settings = {"model_name_or_path": "pretrain", "data": "none", "lora": True, "lora_rank": 16, "use_cpu": True}
    write_run(adapter, "finetune", settings, {"num_steps": 80, "num_questions": 246, "num_contaminated": 3})
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"r": 16, "base_model_name_or_path": str(tmp_path / "pretrain")})
    )
    (adapter / "prompt.json").write_text('{"style": "plain", "hash": "0"}')
    (adapter / "README.md").write_text(f"---\nbase_model: {tmp_path}\n---\n# Model Card for Model ID\n")
    (adapter / "checkpoint-40").mkdir()
    answer = {"lang": "fr", "kind": "answer_only", "options": {"A": "x", "B": "y"}, "gold": ["A"], "rationale": ""}
    answer |= {"human_check_passed": False, "hit_limit": False, "seconds": 0.1}
    answers = [answer | {"id": f"Test/French/{n}", "output": "A" if n < 3 else "B"} for n in range(4)]
    for name, model in (("eval-tuned", adapter), ("eval-base", base)):
        write_run(tmp_path / name, "eval", {"model_name_or_path": str(model)})
        rows = [row | {"output": "A"} for row in answers] if model is base else answers
        scoring.write_scores([("label", scoring.score(rows))], tmp_path / name, "4 test questions; greedy")
    return tmp_path


def run_publish(folder, **settings):
    return publish(PublishSettings(folder, **{"repo": "org/name"} | settings))


def shown(capsys):
    """(card, lines on files, summary) of what was printed."""
    out = capsys.readouterr().out
    card, _, files = out.partition("\nmodel org/name" if "\nmodel org/name" in out else "\ndataset org/name")
    lines = files.splitlines()
    return card, lines[1:-1], json.loads(lines[-1])


def test_the_card_of_an_adapter(chain, capsys, monkeypatch):
    from huggingface_hub import ModelCard

    monkeypatch.setattr("scripts.publishing.RUNS", chain / "nowhere")
    assert run_publish(chain / "adapter", base_model="org/pretrained") == 0
    card, files, summary = shown(capsys)
    assert (chain / "adapter" / "README.md").read_text() in card + "\n"
    data = ModelCard(card).data  # the hub's own reader
    assert (data.base_model, data.base_model_relation, data.library_name) == ("org/pretrained", "adapter", "peft")
    assert (data.license, data.language, data.pipeline_tag) == ("apache-2.0", ["fr", "ru"], "text-generation")
    (result,) = data.eval_results  # of this model, not of its base
    assert (result.metric_type, result.metric_value, result.dataset_config) == ("accuracy", 75.0, "French")
    assert result.dataset_args == {"num_questions": 4}
    # Four questions are not the test set that the hub's tables compare models on.
    named = "Questions in MMedBench's layout, not its test set"
    assert (result.dataset_type, result.dataset_name) == ("mmedbench-layout", named)
    assert f"{named}: 4 test questions; greedy. Accuracy:" in card
    monkeypatch.setattr("scripts.model_card.NUM_TEST", {"fr": 4})
    assert run_publish(chain / "adapter", base_model="org/pretrained") == 0
    card, files, summary = shown(capsys)
    (result,) = ModelCard(card).data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("mmedbench", "MMedBench")
    assert "> **For research, not for clinical use.**" in card and "## Intended use" in card and "## Limits" in card
    for line in (
        "| pretraining | 24 | 2 | 512 | 0.0001 |",
        "| French | 40.00 | 20.50 |",
        "| French | 3,000 | 75.0 |",
        "| answer only | French | 4 | 75.0 |",
        "Training questions left out because they hold a test question: 3.",
        "few keywords 300 (30.0 %), &#60;script> alert(1)&#60;/script>".replace("> ", ">"),
        'PeftModel.from_pretrained(model, "org/name")',
    ):
        assert line in card
    names = [line.split()[1] for line in files if line[:3] == "   "]
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "prompt.json"]
    assert not summary["uploaded"] and summary["num_files"] == 4
    for private in (str(chain), "/home/", NODE, "<script>"):
        assert private not in card
    assert str(chain) in (chain / "adapter" / "adapter_config.json").read_text()  # only what is uploaded is changed


def test_an_adapter_needs_a_base_that_others_can_load_and_a_model_names_what_it_came_from(chain, capsys):
    from huggingface_hub import ModelCard

    with pytest.raises(SettingsError, match=r"no use without its base model[\s\S]*--base_model"):
        run_publish(chain / "adapter")
    run_publish(chain / "pretrain")
    data = ModelCard(shown(capsys)[0]).data
    assert (data.base_model, data.base_model_relation, data.license) == ("org/base-1B", "finetune", "apache-2.0")
    (chain / "data").mkdir()
    (chain / "data" / "download.json").write_text('{"name": "mmedbench", "revision": null}')
    settings = {"model_name_or_path": "pretrain", "data": "data"}
    tuned = write_run(chain / "tuned", "finetune", settings, {"num_questions": 5, "num_contaminated": 0})
    write_weights(tuned)
    run_publish(tuned)  # trained from a model of our own, whose first model is named
    data = ModelCard(shown(capsys)[0]).data
    assert (data.base_model, data.base_model_relation) == ("org/base-1B", "finetune")
    assert data.datasets == ["Henrychur/MMedBench"]


def test_a_licence_is_inherited_or_demanded(chain, capsys):
    (chain / "models" / "base" / "README.md").write_text("no metadata")
    with pytest.raises(SettingsError, match="a licence is needed"):
        run_publish(chain / "pretrain")
    with pytest.raises(SettingsError, match="no licence as the hub writes it"):
        run_publish(chain / "pretrain", licence="Apache 2")
    run_publish(chain / "pretrain", licence="llama3")
    assert "\nlicense: llama3\n" in shown(capsys)[0]


def test_the_card_of_a_corpus(chain, capsys):
    from huggingface_hub import DatasetCard

    run_publish(chain / "corpus")
    card, files, _ = shown(capsys)
    data = DatasetCard(card).data.to_dict()
    assert (data["license"], data["language"], data["size_categories"]) == ("cc-by-4.0", ["fr", "ru"], "n<1K")
    assert data["configs"] == [{"config_name": "default", "data_files": "kept/*.parquet"}]
    assert "| test questions removed | all |  | 600 | 590 | 10 |" in card and "| CC BY 4.0 | 3 |" in card
    assert [line.split()[1] for line in files if line[:3] == "   "] == ["README.md", "kept/a.parquet"]
    assert "Chosen by keywords" in card and "test set named in its record were removed" in card
    shutil.copytree(chain / "corpus" / "kept", chain / "filter" / "kept")
    run_publish(chain / "filter")
    card = shown(capsys)[0]
    assert "Nobody has looked for questions of test sets" in card and "Chosen by keywords" in card
    assert "were removed, as far" not in card
    rows = {"lang": ["fr"], "source": ["web"], "licence": [""]}
    parquet.write_table(pa.table({"id": ["d"], "text": ["t"], **rows}), chain / "corpus" / "kept" / "b.parquet")
    with pytest.raises(SettingsError, match="none stated, CC BY"):
        run_publish(chain / "corpus")


def test_the_card_of_conversations(chain, capsys):
    from huggingface_hub import DatasetCard

    folder = write_run(chain / "rewritten", "rewrite", {"input": ["corpus"]})
    (folder / "conversations").mkdir()
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows = [{"id": lang, "lang": lang, "source": "web", "licence": "CC BY 4.0"} for lang in ("ru", "fr", "fr")]
    lines = [json.dumps({"messages": messages, **row}) + "\n" for row in rows]
    (folder / "conversations" / "a.jsonl").write_text("".join(lines))
    run_publish(folder)
    card, files, _ = shown(capsys)
    data = DatasetCard(card).data.to_dict()
    assert (data["license"], data["language"]) == ("cc-by-4.0", ["fr", "ru"])
    assert data["configs"] == [{"config_name": "default", "data_files": "conversations/*.jsonl"}]
    assert "| Language | Source | Conversations |" in card and "| French | web | 2 |" in card
    assert "a language model made of documents" in card and "test set named in its record were removed" in card
    assert [line.split()[1] for line in files if line[:3] == "   "] == ["README.md", "conversations/a.jsonl"]


def test_the_card_of_questions_comes_from_their_statistics(chain, capsys):
    from huggingface_hub import DatasetCard

    folder = write_run(chain / "questions", "benchmark", result={"num_removed": 7})
    for split in ("Train", "Test"):
        (folder / split).mkdir()
        (folder / split / "French.jsonl").write_text("{}\n")
    group = {
        "lang": "fr",
        "language": "French",
        "questions": 1000,
        "answers": {"1": 520, "2": 480},
        "licences": {"Apache-2.0": 1000},
    }
    group |= {
        "with_rationale": 900,
        "human_checked": 50,
        "human_check_passed": 40,
        "rationale_models": {"some-model": 900},
    }
    lengths = {"question": {"median": 20.0, "p90": 40.0}, "option": {"median": 3.0, "p90": 9.0}, "rationale": None}
    group |= {"topics": {"Surgery": 600}, "length_unit": "words", "lengths": lengths}
    statistics = {
        "topic_names": {"note": "Names are MedMCQA's."},
        "groups": [group | {"split": split} for split in ("Train", "Test")],
    }
    (folder / "statistics.json").write_text(json.dumps(statistics))
    run_publish(folder)
    card, files, _ = shown(capsys)
    data = DatasetCard(card).data.to_dict()
    assert (data["license"], data["size_categories"], data["language"]) == ("apache-2.0", "1K<n<10K", ["fr"])
    files_of = [{"split": "train", "path": "Train/French.jsonl"}, {"split": "test", "path": "Test/French.jsonl"}]
    assert data["configs"] == [{"config_name": "French", "data_files": files_of}]
    assert "| French | Test | 1,000 | 480 | 900 | 50 | 40 |" in card and "7 questions" in card
    assert "| French | Test | words | 20.0 | 40.0 | 3.0 | 9.0 | – | – |" in card
    assert "Topics. Names are MedMCQA's." in card and "| Surgery | 1,200 |" in card and "| some-model | 1,800 |" in card
    assert "Train/French.jsonl" in "".join(files)


def test_a_card_edited_by_hand_is_kept_and_checked(chain, capsys):
    folder = chain / "pretrain"
    run_publish(folder)
    path = folder / "README.md"
    assert edited_card(folder) is None  # ours: made anew by the next command
    edited = path.read_text().replace("## Use", "## Our own words\n\nWe like it.\n\n## Use")
    path.write_text(edited)
    capsys.readouterr()
    run_publish(folder)
    assert path.read_text() == edited and "We like it." in shown(capsys)[0]
    path.write_text(edited.replace("For research, not for clinical use", "For everyone"))
    with pytest.raises(SettingsError, match="no notice"):
        run_publish(folder)
    path.write_text("---\nlanguage: [fr\n---\n")
    with pytest.raises(SettingsError, match="the card cannot be published"):
        run_publish(folder)
    path.write_text(edited + "\nsee /home/someone/notes")
    with pytest.raises(SettingsError, match=r"README\.md: a path of a machine"):
        run_publish(folder)


@pytest.mark.parametrize(
    "text",
    ["x = /scratch/me/a", "C:\\Users\\me", "hf_abcdefghijklmnopqrstuv", "-----BEGIN RSA PRIVATE KEY", "the-secret-of-the-env", NODE],
)  # fmt: skip
def test_private_things_are_refused_and_not_repeated(text, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "the-secret-of-the-env")
    with pytest.raises(SettingsError) as error:
        refuse_private([Upload("config.json", text.encode())], [NODE, os.environ["SOME_API_KEY"]])
    assert "config.json" in str(error.value) and text not in str(error.value)
    refuse_private([Upload("config.json", b"https://huggingface.co/data/x and 3/4 of a/b")], [])


def test_what_cannot_be_published_is_refused(chain):
    write_run(chain / "pretrain", "pretrain", status="running")
    with pytest.raises(SettingsError, match="must be finished"):
        run_publish(chain / "pretrain")
    with pytest.raises(MissingInputError, match="no record"):
        run_publish(chain / "models")
    with pytest.raises(MissingInputError, match="nothing to publish"):
        run_publish(chain / "blocks")
    for repo in ("name", "a/b/c", "../x", "org/na me"):
        with pytest.raises(SettingsError, match="the hub has no such names"):
            run_publish(chain / "corpus", repo=repo)


def test_the_lineage_goes_back_to_the_first_step_and_ends_where_records_name_themselves(chain):
    assert [stage.name for stage in lineage(chain / "adapter")] == [
        "filter",
        "decontaminate",
        "prepare",
        "pretrain",
        "finetune",
    ]
    write_run(chain / "filter", "filter", {"input": ["corpus", "filter"]})
    assert [stage.name for stage in lineage(chain / "corpus")] == ["filter", "decontaminate"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs; keeps what it was sent."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        answer = {}
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.send_response(401)
        else:
            self.send_response(200)
            if self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            elif self.path.endswith("/commit/main"):
                answer = {"commitUrl": "https://huggingface.co/org/name/commit/1", "commitOid": "1", "success": True}
            elif self.path.endswith("/create"):
                answer = {"url": "https://huggingface.co/org/name", "name": "org/name"}
        text = json.dumps(answer).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads, server.seen = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def command(chain, hub, script_env, *words, token="hf_right"):
    env = {name: value for name, value in script_env.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    env |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(chain / "hf"),
        "HF_TOKEN": token,
        "NO_PROXY": "127.0.0.1",
    }
    line = [sys.executable, "scripts/publish.py", str(chain / "pretrain"), "--repo", "org/name", *words]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_only_with_upload_something_leaves_the_machine_and_it_is_what_was_shown(chain, hub, script_env):
    shown_only = command(chain, hub, script_env)
    assert shown_only.returncode == 0, shown_only.stderr
    assert hub.seen == [] and "nothing was uploaded" in shown_only.stderr
    done = command(chain, hub, script_env, "--upload")
    assert done.returncode == 0, done.stderr
    created = json.loads(next(body for path, _, body in hub.seen if path.endswith("/repos/create")))
    assert created["visibility"] == "private" and created["name"] == "name"
    lines = [json.loads(line) for line in next(body for path, _, body in hub.seen if "/commit/" in path).splitlines()]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    listed = [line.split() for line in shown_only.stdout.splitlines() if line.startswith("      ")]
    assert {name: f"{len(content):,}" for name, content in sent.items()} == {line[1]: line[0] for line in listed}
    assert sent["README.md"] == (chain / "pretrain" / "README.md").read_bytes()
    assert json.loads(sent["config.json"]) == {"model_type": "llama"}  # without the folder it was loaded from
    assert b"hf_right" not in b"".join(sent.values()) and "hf_right" not in done.stdout + done.stderr
    refused = command(chain, hub, script_env, "--upload", token="hf_wrong")
    assert refused.returncode == 4 and "HF_TOKEN" in refused.stderr and "Traceback" not in refused.stderr
