"""The leaderboard: rows are those of the files, hostile text stays text, and a real browser sorts, filters and reads it."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import ExitCode, FailedItems, MissingInputError
from data_collection.questions.mmedbench import find_files, read_questions
from inference import scoring
from inference.board.leaderboard_page import render, write_page
from inference.board.leaderboard_rows import (
    ACCURACY,
    AVERAGE,
    ENGLISH,
    MMEDBENCH,
    NUM_TEST,
    OTHER,
    Row,
    billions,
    published_rows,
)
from inference.board.leaderboard_runs import run_rows
from inference.board.submissions import check_submission

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "sample"
HOSTILE = [
    "<script>document.title='broken'</script>",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "</script><script>document.title='broken'</script><!--",
    "nul \x00 bell \x07 half \ud800",
    "\u202eright to left\u2066",
    "مرحبا model",
    "=1+1",
    "y" * 100_000,
]


def predictions(right, languages=("en", "fr"), num=4):
    """`num` answers a language and kind, the first `right` of them correct."""
    return [
        {
            "id": f"Test/{lang}/{n:05d}",
            "lang": lang,
            "kind": kind,
            "output": f"Fever explains it.\n\n### Answer: {'A' if n < right else 'B'}",
            "options": {"A": "fever", "B": "cough", "C": "rash", "D": "pain"},
            "gold": ["A"],
            "rationale": "Fever explains it all.",
            "human_check_passed": n == 0,
            "hit_limit": False,
            "seconds": 0.1,
        }
        for lang in languages
        for kind in ("with_rationale", "answer_only")
        for n in range(num)
    ]


def write_run(folder, label, rows, **settings):
    folder.mkdir(parents=True)
    scoring.write_scores([(label, scoring.score(rows))], folder)
    record = {"stage": "eval", "settings": settings, "identity": {"questions": "0123456789abcdef"}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    model = folder / "demo" / "tuned-1.8b"
    model.mkdir(parents=True)
    (model / "run.json").write_text(json.dumps({"stage": "finetune", "result": {"method": "LoRA"}}))
    write_run(folder / "a", "my label", predictions(3), model_name_or_path=str(model), data="data/mmedbench")
    write_run(folder / "b", "zero-shot", predictions(1, ("en",)), model_name_or_path="models/qwen3-8b", data="other")
    write_run(folder / "c", "zero-shot", predictions(2, ("en",)), model_name_or_path="x/y-7B", benchmark="medqa")
    return folder


def test_rows_say_score_interval_setting_size_and_version_of_the_data(runs):
    failed = FailedItems()
    rows = {(row.model, row.setting): row for row in run_rows([runs], failed)}
    assert not failed and len(rows) == 6
    tuned = rows["demo/tuned-1.8b", "my label, with rationale"]
    value, low, high = tuned.scores[MMEDBENCH][ACCURACY]["French"]
    assert value == 75 and 0 <= low < 75 < high <= 100
    assert (tuned.group, tuned.size, tuned.billions, tuned.ours) == ("PEFT", "1.8B", 1.8, True)
    assert tuned.data == "MMedBench Test, 8 questions, version 0123456789abcdef"
    assert tuned.notes == ["average over English, French", "8 of the published 8,518 test questions"]
    # "fever explains it" against "fever explains it all .": precision 1, brevity penalty exp(1 - 5/4).
    bleu = tuned.scores[MMEDBENCH]["human_check_passed_bleu_1_sentence"]
    assert bleu["English"][0] == pytest.approx(100 * math.exp(1 - 5 / 4)) and AVERAGE in bleu
    base = rows["qwen3-8b", "zero-shot, answer only"]
    assert (base.group, base.billions) == ("zero-shot", 8) and "MMedBench Test (other)" in base.data
    assert rows["x/y-7B", "zero-shot, answer only"].scores == {ENGLISH: {ACCURACY: {"MedQA": [50, 0, 100]}}}


def test_a_model_behind_a_server_bears_its_own_name(tmp_path):
    folder = write_run(tmp_path / "run", "zero-shot", predictions(1), model_name_or_path="o/x-7b at http://h:8000/v1")
    record = json.loads((folder / "run.json").read_text())
    identity = {"model": "o/x-7b", "questions": "0", "extra_body": {"reasoning_effort": "low"}}
    (folder / "run.json").write_text(json.dumps(record | {"identity": identity}))
    rows = run_rows([folder], FailedItems())
    assert {(row.model, row.size, row.group) for row in rows} == {("o/x-7b", "7B", "zero-shot")}
    assert all('asked with {"reasoning_effort": "low"}' in row.notes for row in rows)


def test_the_recorded_setting_goes_over_what_labels_say(tmp_path):
    folder = write_run(tmp_path / "run", "zero-shot", predictions(1), model_name_or_path="m/x-7b")
    content = json.loads((folder / "scores.json").read_text())
    setting = {"adaptation": "few-shot", "num_fewshot": 3, "prompt_style": "chat", "shuffled": True}
    content["runs"][0]["settings"] = {
        "answer_only": setting,
        "with_rationale": {"adaptation": ["odd"], "num_fewshot": "x"},
    }
    (folder / "scores.json").write_text(json.dumps(content))
    rows = {row.setting: row.group for row in run_rows([folder], FailedItems())}
    asked = "zero-shot, answer only, 3-shot, chat prompt, options shuffled"
    assert rows == {asked: "few-shot", "zero-shot, with rationale": "zero-shot"}


def test_published_rows_are_the_tables_and_intervals_follow_from_the_numbers_of_questions():
    rows = {(row.model, row.size): row for row in published_rows() if MMEDBENCH in row.scores}
    row = rows["MMedLM 2", "7B"]
    assert row.scores[MMEDBENCH]["human_check_passed_bleu_1_sentence"]["Japanese"][0] == 54.79  # one row, both tables
    value, low, high = row.scores[MMEDBENCH][ACCURACY]["Russian"]
    half = 1.96 * math.sqrt(0.8047 * 0.1953 / 256) * 100
    assert (value, low, high) == (80.47, pytest.approx(80.47 - half), pytest.approx(80.47 + half))
    shares = [
        row.scores[MMEDBENCH][ACCURACY][name][0] / 100
        for name in ("English", "Chinese", "Japanese", "French", "Russian", "Spanish")
    ]
    error = math.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, NUM_TEST.values(), strict=True))) / 6
    assert row.scores[MMEDBENCH][ACCURACY][AVERAGE] == [
        67.3,
        pytest.approx(67.3 - 196 * error),
        pytest.approx(67.3 + 196 * error),
    ]
    assert rows["GPT-4", ""].scores[MMEDBENCH][ACCURACY][AVERAGE] == [74.27, None, None]  # other numbers of questions
    assert sum(NUM_TEST.values()) == 8518


@pytest.mark.parametrize(
    ("name", "size"),
    [("Qwen2.5-0.5B", 0.5), ("internlm2-1_8b", 1.8), ("smollm2-135m", 0.135), ("13b-tests/llama-7b-hf", 7), ("gpt-4", None), ("4bit", None)],
)  # fmt: skip
def test_sizes_are_read_from_names(name, size):
    assert billions(name) == size


def test_what_is_no_score_is_a_failed_item_and_the_rest_stays(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "good")
    bad = {
        "runs": [{"label": "x", "languages": {"answer_only": {"en": {"accuracy": 7}}}, "average": {"answer_only": 3}}]
    }
    for name, text in {"share": json.dumps(bad), "list": "[1]", "half": '{"runs": [', "deep": "[" * 100_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(text)
    failed = FailedItems()
    assert len(run_rows([tmp_path], failed)) == 2 and len(failed) == 4
    assert any("no scores between 0 and 1" in item["reason"] for item in failed.items)
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingInputError, match="there are no scores"):
        run_rows([tmp_path / "none"], failed)


def test_the_command_writes_a_page_and_a_table_with_the_same_numbers(runs, tmp_path, script_env):
    command = [
        sys.executable,
        "inference/leaderboard.py",
        str(runs),
        "--output_dir",
        str(tmp_path),
        "--published",
        "false",
    ]
    answer = subprocess.run(command, cwd=ROOT, env=script_env, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(tmp_path / "index.html")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished" and record["result"]["num_ours"] == 6
    with open(tmp_path / "leaderboard.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    found = [
        line["percent"]
        for line in table
        if (line["group"], line["metric"], line["column"]) == ("PEFT", "accuracy", "English")
    ]
    assert found == ["75.0", "75.0"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "For research, not for clinical use." in page and "//" not in page.split("default-src 'none'")[1][:200]


# A browser


@pytest.fixture
def open_page(browser):
    """Opens a page and holds it to have no error on the console and to ask for no address but its own file."""
    contexts = []

    def opened(path, width=1440, height=900, fragment="", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        contexts.append((context, said, asked))
        page.goto(path.as_uri() + fragment)
        return page

    yield opened
    for context, said, asked in contexts:
        context.close()
        assert not said and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The published rows, and rows whose every text is hostile."""
    folder = tmp_path_factory.mktemp("board")
    rows = published_rows()
    for number, text in enumerate(HOSTILE):
        row = Row(text, text, None, text, text, text, text, True, [text])
        row.add(MMEDBENCH, ACCURACY, AVERAGE, [float(number), 0.0, 20.0])
        rows.append(row)
    row.add(OTHER, ACCURACY, "constructor", [50.0, None, None])
    write_page(rows, folder, f"Board {HOSTILE[0]}")
    return folder / "index.html"


def column(page, name):
    """The texts of a column, top to bottom: 0 rank, 1 model, 2 the column with bars, and so on."""
    return page.locator(f"tbody tr > :nth-child({name + 1})").all_inner_texts()


def names(page):
    return page.locator("tbody th .name").all_inner_texts()


def numbers(page, which):
    return [float(text.split()[0]) for text in column(page, which) if text != "–"]


def test_hostile_names_are_shown_as_text(open_page, board):
    page = open_page(board)
    assert "Board <script>" in page.title() and not page.locator("img").count()
    shown = " ".join(names(page))
    for text in (
        "<script>document.title",
        "<img src=http",
        "</script>",
        "nul ␀ bell ␇",
        "⟨U+202E⟩right to left",
        "مرحبا",
    ):
        assert text in shown
    assert "yyy" in shown and len(shown) < 8000
    wider = "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent)"
    assert page.locator("tbody th, tbody td").evaluate_all(wider) == []  # long words break within their cells
    page.get_by_label("Model").fill("<script>document")
    assert len(names(page)) == 2
    text = board.read_text(encoding="utf-8")
    assert "\x00" not in text and "\u202e" not in text and text.count("</script>") == 2


def test_a_set_may_be_called_as_javascript_calls_its_own(open_page, board):
    page = open_page(board, fragment="#view=other&sort=constructor")
    place = page.locator("thead th").all_inner_texts().index("constructor")
    first, *others = column(page, place)
    assert first == "50.0" and len(others) > 5 and set(others) == {"–"}


def test_sorting_by_mouse_and_keyboard(open_page, board):
    page = open_page(board)
    values = numbers(page, 2)
    assert values == sorted(values, reverse=True) and names(page)[0] == "MMed-Llama 3.1"
    page.get_by_role("button", name="French").click()
    french = numbers(page, 6)
    assert french == sorted(french, reverse=True) and french[0] == 73.5
    # What has no value stays below, whichever way the others are sorted.
    page.keyboard.press("Enter")
    assert numbers(page, 6) == sorted(french) and column(page, 6)[-1] == "–"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("French")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Japanese")
    page.get_by_role("button", name="Model").press("Enter")
    found = [name.lower() for name in names(page) if name[0].isalpha() and name.isascii()]
    assert found == sorted(found)


def test_filters_by_size_setting_source_and_language_and_the_address_keeps_them(open_page, board):
    page = open_page(board)
    page.get_by_label("Size").select_option("under 2B")
    assert sorted(names(page)) == ["InternLM 2", "MMedLM 2"]
    page.get_by_label("Size").select_option("all sizes")
    page.get_by_label("Setting").select_option("zero-shot")
    assert sorted(names(page)) == ["GPT-3.5", "GPT-4", "Gemini-1.0 pro"]
    page.get_by_label("Language").select_option("Chinese")
    assert numbers(page, 2) == [75.07, 60.19, 52.29]  # its own column with bars, and the order by it
    again = open_page(board, fragment="#" + page.url.partition("#")[2])
    assert names(again) == names(page) and again.get_by_label("Setting").input_value() == "zero-shot"
    again.get_by_role("button", name="Clear filters").click()
    assert len(names(again)) == 20 + len(HOSTILE)
    again.get_by_label("Source").select_option("measured here")
    assert len(names(again)) == len(HOSTILE)
    assert again.get_by_role("status").inner_text().startswith(f"{len(HOSTILE)} of ")


def test_views_by_keyboard_and_bars_with_intervals(open_page, board):
    page = open_page(board)
    bar = page.locator("tbody tr", has_text="MMed-Llama 3.1").locator(".interval")
    track = page.locator("tbody .track").first.bounding_box()["width"]
    low, high = 79.08, 81.94  # 80.51 and 1.96 standard errors
    assert bar.bounding_box()["width"] == pytest.approx(track * (high - low) / 100, abs=1.5)
    page.get_by_role("radio", name="Accuracy").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Score").input_value() == "human_check_passed_bleu_1_sentence"
    assert names(page)[0] == "MMedLM 2" and numbers(page, 2)[0] == 48.81
    page.get_by_label("Score").select_option("ROUGE-1, human-checked references")
    assert numbers(page, 2)[0] == 45.29
    page.get_by_role("radio", name="English benchmarks").check()
    assert names(page)[0] == "MMed-Llama 3" and "MedMCQA" in page.locator("thead").inner_text()
    page.get_by_role("radio", name="More question sets").check()
    page.get_by_role("combobox", name="Question set").select_option("CExam")
    assert names(page)[0] == "Huatuo2-7B" and numbers(page, 2) == [65.81, 61.5, 34.5, 30.65, 20.65]


def test_a_phone_and_dark_mode(open_page, board, tmp_path):
    phone = open_page(board, width=390, height=844, color_scheme="dark", is_mobile=True, has_touch=True)
    for view in ("Accuracy", "Rationales", "English benchmarks", "More question sets"):
        phone.get_by_role("radio", name=view).check()
        assert phone.evaluate("document.documentElement.scrollWidth") == 390
    ink, paper = phone.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    lightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert lightness[0] > 500 and lightness[1] < 150
    phone.screenshot(path=tmp_path / "phone.png", full_page=False)
    wide = open_page(board)
    wide.screenshot(path=tmp_path / "wide.png", full_page=False)
    assert wide.evaluate("document.documentElement.scrollWidth") == 1440


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page, board, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = open_page(board, fragment="#group=zero-shot", color_scheme=scheme)
    page.locator("details.note summary").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_without_a_script_the_accuracies_are_there(browser, board):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(board.as_uri())
    assert page.locator("noscript tbody tr").first.inner_text().split()[:2] == ["MMed-Llama", "3.1"]
    context.close()


def test_a_long_board_has_all_its_rows_in_order(open_page, tmp_path):
    rows = [
        Row(f"model {number}", scores={MMEDBENCH: {ACCURACY: {AVERAGE: [number / 10, None, None]}}})
        for number in range(250)
    ]
    write_page(rows, tmp_path, "Long")
    page = open_page(tmp_path / "index.html")
    page.wait_for_function("document.querySelectorAll('tbody tr').length === 250")
    assert names(page) == [f"model {number}" for number in reversed(range(250))]
    assert column(page, 0) == [str(rank) for rank in range(1, 251)]
    page.get_by_label("Model").fill("model 24")  # before the rest of an earlier table is drawn
    page.get_by_label("Model").fill("model 249")
    page.wait_for_timeout(200)
    assert names(page) == ["model 249"]


def test_an_empty_board_is_a_page_too(open_page, tmp_path):
    write_page([], tmp_path, "Nothing")
    assert open_page(tmp_path / "index.html").get_by_role("heading", name="Nothing").is_visible()
    assert "0 rows" in render([], "Nothing")


# Submissions


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """Six questions of the sample in each of two languages, the references of two of them checked by people."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "Test").mkdir()
    for name in ("English", "French"):
        lines = (SAMPLE / "mmedbench" / "Test" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:6]
        rows = [json.loads(line) | {"human_check_passed": int(n < 2)} for n, line in enumerate(lines)]
        rows.append(rows[0] | {"answer_idx": "A OR D"})  # as one of the real test set
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "Test" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def complete(test_set):
    """A file's rows that answer every test question, with rationale."""
    failed = FailedItems()
    questions = [q for path in find_files(test_set, "Test").values() for q in read_questions(path, "Test", failed)]
    return [
        {
            "id": q.id,
            "lang": q.lang,
            "kind": "with_rationale",
            "question": q.question,
            "options": q.options,
            "output": f"### Rationale: because\n\n### Answer: {q.answers[0]}",
            "gold": list(q.answers),
            "rationale": q.rationale,
            "human_check_passed": q.human_check_passed,
        }
        for q in questions
    ]


def check(rows, path, data, capsys):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code = check_submission(path, data)
    text = capsys.readouterr().out
    return code, json.loads(text.splitlines()[-1]), text


def test_a_complete_submission_passes(complete, test_set, tmp_path, capsys):
    code, said, text = check(complete, tmp_path / "predictions.jsonl", test_set, capsys)
    assert (code, said["complete"], said["well_formed"]) == (0, True, True), text
    more = [*complete, complete[0] | {"id": "Test/English/00007"}]  # the row without a usable key may be answered too
    assert check(more, tmp_path / "predictions.jsonl", test_set, capsys)[1] == said
    assert said["num_test"] == 12 and not said["published_test_set"] and "which has 8,518" in text


def test_what_a_submission_lacks_is_named(complete, test_set, tmp_path, capsys):
    passed = next(row for row in complete if row["human_check_passed"])
    rows = [row for row in complete if row is not passed] + [{**passed, "kind": "answer_only"}]
    rows[3] = rows[3] | {"gold": ["B"] if rows[3]["gold"] == ["A"] else ["A"]}
    rows[8] = rows[8] | {"id": "Test/English/99999"}
    rows.append(rows[6])
    code, said, text = check(rows, tmp_path / "predictions.jsonl", test_set, capsys)
    assert code == ExitCode.FAILED_ITEMS and not said["complete"] and not said["well_formed"]
    assert (said["num_unanswered"], said["num_references_missing"], said["num_wrong"]) == (2, 1, 3)
    for wanted in (
        f"{passed['id']}: no with rationale answer",
        "99999 (with_rationale): no such test question",
        "gold not as in the test set",
        "occurs twice",
    ):
        assert wanted in text
