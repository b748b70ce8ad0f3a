"""The report of a run: hostile text stays text, every state of a run gives a page, figures are those of the files."""

import base64
import copy
import csv
import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.errors import ExitCode, MissingInputError
from inference import scoring
from inference.scores.score_tables import NOTICE
from inference.visible_text import clean
from scripts import report_plots, reporting
from scripts.report_models import conditions
from scripts.report_reading import find_stages

ROOT = Path(__file__).parents[1]
SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "--></style></td></table></svg><!--",
    "nul \x00 bell \x07",
    "\u202eright to left",
    "half \ud800 a character",
    "{{ 7 * 7 }} {% raw %}",
    r"$\frac{$ 5 $",
    "&lt;b&gt; &amp;",
]
STAGES = ["ocr/en", "filter/en", "dedup", "corpus", "blocks", "pretrain", "finetune", "eval-base", "eval-tuned"]
VOID = {"meta", "img", "br"}


def record(stage, number, **changes):
    return {
        "stage": stage,
        "status": "finished",
        "identity": {"lang": "en"},
        "command": f"python {stage}.py {SCRIPT}",
        "settings": {},
        "started": f"2026-01-02T03:0{number}:00+00:00",
        "finished": f"2026-01-02T03:0{number}:30+00:00",
        "wall_seconds": 95.0,
        "lives": 2,
        "failed_items": 0,
        "versions": {"python": "3.11", "torch": "2.13"},
        "machine": {"node": "n1", "num_cpus": 2},
        "commit": "0123abcd",
        "slurm": {},
        "result": {},
    } | changes


def prediction(lang, number, kind, output, text):
    return {
        "id": f"Test/{lang}/{number} {text[:50]}",
        "lang": lang,
        "kind": kind,
        "prompt": {"style": "plain", "hash": "0"},
        "question": text,
        "options": {"A": "fever", "B": text, "C": "rash", "D": "pain"},
        "output": output,
        "parsed": ["A"],
        "gold": ["A"],
        "rationale": "A fever explains it.",
        "human_check_passed": False,
        "hit_limit": False,
        "seconds": 0.5,
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_training(folder, number, stage, **settings):
    perplexity = {"before": {"perplexity": {"en": 40.0, "fr": 50.0}}, "after": {"perplexity": {"en": 20.0, "fr": 51.0}}}
    settings = {"use_cpu": True, "bf16": False} | settings | ({"block_size": 640} if stage == "finetune" else {})
    identity = {"global_batch_size": 2 if stage == "pretrain" else 1}
    result = (
        {"num_steps": 4, "block_size": 512, **perplexity} if stage == "pretrain" else {"num_steps": 4, **perplexity}
    )
    write_json(folder / "run.json", record(stage, number, settings=settings, identity=identity, result=result))
    rows = [{"step": 0, "num_steps": 4, "eval_loss_en": 3.7, "eval_perplexity_en": 40.0, "eval_loss": 3.7}]
    rows += [
        {"step": n, "num_steps": 4, "loss": 4 - n / 2, "learning_rate": 1e-3, "grad_norm": 1.0} for n in (1, 2, 3, 4)
    ]
    rows[-1] |= {"target_tokens_per_second": 123.4, "seconds_left": 61}
    rows += [{"step": 4, "num_steps": 4, "eval_loss_en": 3.0, "eval_perplexity_en": 20.0, "eval_loss": 3.0}]
    write_rows(folder / "metrics.jsonl", rows)


def write_evaluation(folder, number, label, model, right):
    """Of 12 answers a language and kind so many are right and two unparsed; hostile text is in all that is others'."""
    rows = []
    for lang in ("en", "fr"):
        for n in range(12):
            letter = "A" if n < right else "B" if n < 10 else None
            text = " ".join(HOSTILE) if letter else "x" * 100_000
            rows.append(prediction(lang, n, "answer_only", letter or f"no idea {text}", text))
            answer = f"{text}\n\n### Answer: {letter}" if letter else f"no idea {text}"
            rows.append(prediction(lang, n, "with_rationale", answer, text))
    write_json(folder / "run.json", record("eval", number, settings={"model_name_or_path": f"m/{model}"}))
    write_rows(folder / "predictions.jsonl", rows)
    scoring.write_scores([(label, scoring.score(rows))], folder, f"12 questions; {SCRIPT}")


def make_run(run_dir):
    write_json(run_dir / "ocr/en/run.json", record("ocr", 0, failed_items=10, result={"books": 16, "kept": 6}))
    books = [{"where": f"book {n} {text}", "reason": f"{SCRIPT} page {n}"} for n, text in enumerate(HOSTILE)]
    books.append({"where": "book 9", "reason": "x" * 100_000})
    write_rows(run_dir / "ocr/en/failures.jsonl", books)
    write_json(run_dir / "filter/en/run.json", record("filter", 1))
    stats = {"read": 2216, "kept": 1078, "rejected": 1138, "rejected_by_reason": {"few_keywords": 976, SCRIPT: 162}}
    write_json(run_dir / "filter/en/stats.json", {**stats, "characters": {"read": 10, "kept": 5}})
    for place, stage, kept in (("dedup", "dedup", 1070), ("corpus", "decontaminate", 1069)):
        write_json(run_dir / place / "run.json", record(stage, 1, identity={}))
        write_json(run_dir / place / "stats.json", {"read": 1078, "kept": kept, "rejected": 1078 - kept})
    write_json(run_dir / "blocks/run.json", record("prepare", 2, settings={"block_size": 512}))
    split = {"num_documents": 144, "num_tokens": 98765, "num_blocks": 213, "padding_share": 0.0293}
    index = {"block_size": 512, "num_tokens_by_language": {"en": 75_000, "xx\x00": 25_000}, "splits": {"train": split}}
    write_json(run_dir / "blocks/index.json", index)
    write_training(run_dir / "pretrain", 3, "pretrain")
    write_training(run_dir / "finetune", 4, "finetune", lora=True, lora_rank=16)
    (run_dir / "finetune/uncommitted.diff").write_text("+ changed")
    # The fine-tuned model's evaluation started first, and is yet shown after the base model's.
    write_evaluation(run_dir / "eval-tuned", 5, "tuned", "finetune", right=9)
    write_evaluation(run_dir / "eval-base", 6, f"base {SCRIPT}", "base", right=3)
    return run_dir


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page; fails when tags do not close in their order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.row, self.rows = [], [], [], None, []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = "".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row_of(self, first):
        return next([" ".join(cell.split()) for cell in row] for row in self.rows if row and row[0].strip() == first)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run_dir):
    assert reporting.report(run_dir, run_dir / "report.html") == ExitCode.FAILED_ITEMS
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("loss_picture", "perplexity_picture"):
        monkeypatch.setattr(report_plots, name, lambda *_: report_plots.Picture(""))
    monkeypatch.setattr(report_plots, "score_pictures", lambda _: [])


def test_others_text_is_shown_and_does_nothing(page, run_dir):
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "link", "base", "form", "svg"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,")), (tag, attributes)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    for text in HOSTILE:
        assert clean(text) in page.text
    written = (run_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", written)
    assert "x" * 3900 in written and "x" * 4001 not in written and "(96,000 more characters)" in page.text
    assert len(written) < 2_000_000


def test_pictures_are_whole_and_follow_the_mode(page):
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 2 + 4  # accuracy, rationales; loss and perplexity of two trainings
    for source in sources:
        svg = base64.b64decode(source.partition(",")[2]).decode()
        root = ElementTree.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert "prefers-color-scheme:dark" in svg and "currentColor" in svg and report_plots._INK not in svg


def test_every_section_says_what_the_files_say(page, run_dir):
    for place in STAGES:
        row = page.row_of(place)
        assert row[2:6] == ["finished", "1m35s", "2", "10" if place == "ocr/en" else "0"]
    assert "Not in this run" not in page.text
    settings = next(" ".join(row[0].split()) for row in page.rows if row and "lora_rank" in row[0])
    assert settings.endswith("5 settings use_cpu: true bf16: false lora: true lora_rank: 16 block_size: 640"), settings
    assert page.row_of("English") == ["English", "12", "25.0", *page.row_of("English")[3:]]
    assert page.row_of("Average")[:5] == ["Average", "24", "25.0", "25.0± 8.84 unparsed", "75.0± 8.84 unparsed"]
    assert NOTICE in page.text and f"12 questions; {SCRIPT}." in page.text
    documents = [row for row in page.rows if row and row[0].strip() == "medical documents"]
    assert [cell.strip() for cell in documents[0][1:4]] == ["English", "2,216", "1,078"]
    assert f"few keywords 976 (44.0 %), {SCRIPT} 162 (7.3 %)" in documents[0]
    assert page.row_of("duplicates removed")[:4] == ["duplicates removed", "all", "1,078", "1,070"]
    assert page.row_of("test questions removed")[3] == "1,069"
    tokens = next(row for row in page.rows if row and "75,000" in row)
    assert " ".join(tokens[2].split()) == "75.0 %"
    assert page.row_of("train") == ["train", "144", "98,765", "213", "2.9"]
    perplexities = [row for row in page.rows if row and row[0] == "English" and "-50.0" in row]
    assert perplexities == [["English", "40.00", "20.00", "-50.0"]] * 2
    assert "loss 2, learning rate 0.001, gradient norm 1. Median speed 123.4 tokens/s" in page.text
    assert {"✓ right", "✗ wrong", "? unparsed"} & set(page.words) >= {"✓ right", "✗ wrong"}
    assert f"{SCRIPT.replace('1', '#')} page #" in page.text and "10 items failed" in " ".join(page.text.split())
    assert page.text.count("with uncommitted changes") == 1 and page.text.count("no uncommitted changes") == 1


def test_table_of_both_models(page, run_dir):
    table = (run_dir / "table.md").read_text(encoding="utf-8")
    line = "Pretrained 4 steps of 2 x 512 tokens, fine-tuned 4 steps of 640 tokens (LoRA rank 16), machine: 2 CPUs, float32."
    assert line in table and "12 questions" in table and NOTICE in table
    with open(run_dir / "table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    averages = {row["setting"]: float(row["accuracy_percent"]) for row in rows if row["language"] == "Average"}
    assert averages[f"base {SCRIPT}, answer only"] == 25 and averages["tuned, answer only"] == 75
    assert len(rows) == 2 * 2 * 3


def test_command_from_another_folder(page, run_dir, tmp_path):
    """Exit code, list of failed items and path of the page; the same run gives the same bytes; nothing imports torch."""
    main = "import runpy, sys; sys.argv[0] = p = sys.argv.pop(1)\ntry: runpy.run_path(p, run_name='__main__')\n"
    main += "finally: print('torch' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", main, str(ROOT / "scripts/report.py"), str(run_dir), "--output", "b.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines()[-1] == "b.html"
    assert done.stderr.count("failed: ocr/en: book") == 10 and "\x00" not in done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert (tmp_path / "b.html").read_bytes() == (run_dir / "report.html").read_bytes()


def test_at_most_20_failed_items_are_printed(tmp_path, capsys):
    for name, count in (("a", 15), ("b", 200)):
        write_json(tmp_path / name / "run.json", record("ocr", 0, failed_items=count))
        items = [{"where": f"book {n}\x1b[2J", "reason": f"no text on {n} pages"} for n in range(count)]
        write_rows(tmp_path / name / "failures.jsonl", items)
    assert reporting.report(tmp_path, tmp_path / "report.html") == ExitCode.FAILED_ITEMS
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and "215 items in all" in lines[-1] and "\x1b" not in "".join(lines)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.row_of("b")[1:] == ["200", "no text on # pages"] or page.row_of("b")[5] == "200"
    assert "The first 50 items" in page.text


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingInputError) as error:
            reporting.report(folder, tmp_path / "report.html")
        assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", STAGES)
def test_a_stage_alone_or_absent(place, run_dir, tmp_path, no_pictures):
    full, alone = make_copy(run_dir, tmp_path / "full"), tmp_path / "alone"
    (alone / place).parent.mkdir(parents=True)
    (full / place).rename(alone / place)
    for folder, code in ((full, 0 if place == "ocr/en" else 5), (alone, 5 if place == "ocr/en" else 0)):
        assert reporting.report(folder, folder / "report.html") == code
        text = Page((folder / "report.html").read_text(encoding="utf-8")).text
        assert ("Not in this run" in text) == (folder == alone or not place.startswith("eval"))
    assert ("No scores yet" in text) == (not place.startswith("eval")) == ("No answers yet" in text)
    assert ("Nothing was trained" in text) == (place not in ("pretrain", "finetune"))


def test_running_failed_stopped_and_broken_stages(run_dir, tmp_path, no_pictures):
    folder = make_copy(run_dir, tmp_path / "run")
    changes = {"status": "running", "finished": None, "wall_seconds": 0.0, "result": {}, "failed_items": 0}
    for place, name in (("pretrain", "metrics.jsonl"), ("eval-base", "predictions.jsonl")):
        write_json(folder / place / "run.json", json.loads((folder / place / "run.json").read_text()) | changes)
        content = (folder / place / name).read_bytes()
        (folder / place / name).write_bytes(content[: content.rindex(b"{") + 9])  # the last row is half written
    (folder / "eval-base/scores.json").unlink()
    error = {"status": "failed", "error": f"error: no such model\n  found: {SCRIPT}"}
    write_json(folder / "finetune/run.json", record("finetune", 4, **error))
    write_json(folder / "eval-tuned/run.json", record("eval", 5, status="stopped"))
    (folder / "filter/en/run.json").write_text('{"stage": "fil', encoding="utf-8")
    write_json(folder / "data/run.json", ["not", "a", "record"])
    assert reporting.report(folder, folder / "report.html") == ExitCode.FAILED_ITEMS
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.row_of("pretrain")[2:4] == ["running", "–"]
    assert [page.row_of(place)[2] for place in ("finetune", "eval-tuned")] == ["failed", "stopped"]
    assert [page.row_of(place)[2] for place in ("data", "filter/en")] == ["unreadable"] * 2
    assert "step 4 of 4, 1m01s left then; running, or killed" in page.text and "47 answers so far" in page.text
    assert "no such model" in page.text and "eval-base (running): no scores: a file is missing" in page.text
    assert "Pretrained 4 steps of 2 x 512 tokens (running)" in page.text
    assert page.row_of("English")[3].startswith("75.0")  # the scores that are there are shown


def make_copy(run_dir, to):
    for path in run_dir.rglob("*.json*"):
        target = to / path.relative_to(run_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return to


def test_pages_of_records_with_any_value_anywhere(run_dir, tmp_path, no_pictures):
    """One value of the run's files is replaced at a time; there is always a page, well formed."""
    draw = random.Random(0)
    values = [
        None,
        "",
        SCRIPT,
        "\ud800\x00",
        -1,
        0,
        1e999,
        -1e999,
        10**400,
        1e-300,
        True,
        [],
        {},
        [[1]],
        {"a": {"b": 1}},
    ]
    for place in ("eval-base", "eval-tuned"):  # fewer and shorter answers
        rows = [json.loads(line) for line in (run_dir / place / "predictions.jsonl").read_text().splitlines()]
        write_rows(make_copy(run_dir, tmp_path) / place / "predictions.jsonl", rows[:8])
    paths = sorted(tmp_path.rglob("*.json*"))
    for _ in range(60):
        path = draw.choice(paths)
        before = path.read_bytes()
        content = [json.loads(line) for line in before.splitlines()] if path.suffix == ".jsonl" else json.loads(before)
        holder, key = draw.choice(list(nodes(content)))
        holder[key] = copy.deepcopy(draw.choice(values))
        path.write_text("\n".join(map(json.dumps, content)) if path.suffix == ".jsonl" else json.dumps(content))
        assert reporting.report(tmp_path, tmp_path / "report.html") in (0, 5), (path, key)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert not any(tag == "script" for tag, _ in page.tags)
        path.write_bytes(before)


def nodes(value):
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from nodes(part)


def test_conditions_on_gpus(tmp_path):
    write_training(tmp_path / "p", 0, "pretrain", use_cpu=False, bf16=True, per_device_train_batch_size=8)
    write_training(tmp_path / "f", 1, "finetune", use_cpu=False, bf16=True)
    path = tmp_path / "p/run.json"
    content = json.loads(path.read_text())
    content["identity"]["global_batch_size"] = 512
    content["settings"]["gradient_accumulation_steps"] = 8
    content["result"]["num_steps"] = 3
    write_json(path, content)
    assert conditions(find_stages(tmp_path)) == (
        "Pretrained 3 of 4 steps of 512 x 512 tokens, fine-tuned 4 steps of 640 tokens (all weights), "
        "machine: 8 GPUs / 1 GPU, bfloat16"
    )


def test_every_way_of_asking_has_its_columns_and_its_setting(tmp_path, no_pictures):
    rows = [prediction("fr", n, "letter_likelihood", "AB"[n % 2], "text") for n in range(4)]
    for row in rows:
        row["setting"] = {"adaptation": "few-shot", "num_fewshot": 3, "prompt_style": "plain", "shuffled": False}
    write_json(tmp_path / "eval/run.json", record("eval", 1))
    scoring.write_scores([("base", scoring.score(rows))], tmp_path / "eval")
    write_rows(tmp_path / "eval/predictions.jsonl", rows)
    assert reporting.report(tmp_path, tmp_path / "report.html") == ExitCode.DONE
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Accuracy, %, letter likelihood" in page.text and page.row_of("French")[3].startswith("50.0")
    assert "base, letter likelihood, 3-shot" in (tmp_path / "table.md").read_text(encoding="utf-8")
