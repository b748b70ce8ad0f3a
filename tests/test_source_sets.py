"""Readers of the published question sets: real files where they are, made-up damage everywhere."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError, SettingsError
from data_collection.questions.mmedbench import read_questions
from data_collection.questions.source_sets import SOURCE_SETS, read_source_set, source_set

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
real = pytest.mark.skipif(not (SHARED / "sources").is_dir(), reason="../shared/data is absent (original question sets)")

# folder, rows by another way of counting, and failed rows by reason
REAL = {
    "medqa": ("MedQA", 1272, 0),
    "medmcqa": ("MedMCQA", 4183, 0),
    "pubmedqa": ("PubMedQA", 1000, 0),
    "mmlu": ("MMLU", 153, 0),
    "cmmlu": ("CMMLU", 35, 0),
    "xmedbench": ("XMedBench", 1114, 0),
    "cmexam": ("CMExam", 6811, 4),
    "frenchmedmcqa": ("FrenchMedMCQA", 2483, 0),
    "igakuqa": ("IgakuQA", 1200, 9),
    "rumeddanet": ("RuMedDaNet", 1308, 0),
    "rumeddanet_with_context": ("RuMedDaNet", 1308, 0),
    "headqa": ("HEAD-QA", 4023, 0),
    "casimedicos": ("CasiMedicos", 1143, 0),
}


def counted(folder):
    """Rows of a set by counting lines, keys or headings, not by our readers."""
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl" and "metadata" not in path.name:
            total += sum(1 for line in path.read_text("utf-8").split("\n") if line.strip())
        elif path.suffix == ".json":
            text = path.read_text("utf-8")
            if '"exams"' in text[:100]:
                total += sum(len(exam["data"]) for exam in json.loads(text)["exams"].values())
            elif text.count("\n{") > 100 and not text.lstrip().startswith("["):
                total += len(text.splitlines())
            else:
                total += len(json.loads(text))
        elif path.suffix == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as file:
                header = int("Question" in file.readline())
                file.seek(0)
                total += len(list(csv.reader(file))) - header
        elif path.suffix == ".tsv":
            total += path.read_text("utf-8").count("QUESTION")
        elif path.suffix == ".xlsx":
            import openpyxl

            total += openpyxl.load_workbook(path, read_only=True).worksheets[0].max_row - 1
    return total


@real
@pytest.mark.parametrize("name", REAL)
def test_every_row_of_a_real_set_is_a_question_or_listed(name):
    folder, num_rows, num_failed = REAL[name]
    failed = FailedItems()
    questions = list(read_source_set(name, SHARED / "sources" / folder, failed))
    assert (len(questions) + len(failed), len(failed)) == (num_rows, num_failed)
    assert counted(SHARED / "sources" / folder) == num_rows
    assert len({question.id for question in questions}) == len(questions)
    assert all(question.answers for question in questions)
    if not SOURCE_SETS[name].several_possible:
        assert {len(question.answers) for question in questions} == {1}


@real
def test_french_and_russian_training_questions_agree_with_mmedbench_row_by_row():
    """MMedBench made its French set of FrenchMedMCQA and its Russian one of RuMedDaNet."""
    for name, folder, language, num_rows in (
        ("frenchmedmcqa", "FrenchMedMCQA", "French", 2171),
        ("rumeddanet", "RuMedDaNet", "Russian", 1052),
    ):
        ours = read_source_set(name, SHARED / "sources" / folder, FailedItems(), split="train")
        theirs = read_questions(SHARED / "mmedbench" / "Train" / f"{language}.jsonl", "Train", FailedItems())
        rows = [[(q.question, tuple(q.options.values()), q.answers) for q in questions] for questions in (ours, theirs)]
        assert len(rows[0]) == num_rows
        assert rows[0] == rows[1]


@real
def test_context_is_given_with_the_question_or_kept_aside():
    plain, with_context = (
        next(read_source_set(name, SHARED / "sources" / "RuMedDaNet", FailedItems()))
        for name in ("rumeddanet", "rumeddanet_with_context")
    )
    assert with_context.question == f"{plain.meta['context']}\n{plain.question}"


FRENCH = {"question": "Q?", "answers": {"a": "u", "b": "v", "c": "w"}, "correct_answers": ["a", "c"], "id": "1"}
MEDMCQA = {"question": "Q?", "opa": "u", "opb": "v", "opc": "w", "opd": "x", "cop": 3, "id": "1", "exp": "why"}
CMB = {"id": 7, "question": "问?", "option": {"A": "甲", "B": "乙", "C": ""}, "answer": "AB", "exam_type": "医师"}
MEDQA = {"question": "Q?", "options": {"B": "v", "A": "u"}, "answer": "v", "answer_idx": "B", "meta_info": "step1"}
IGAKU = {"problem_id": "1A1", "problem_text": "Q?", "choices": ["u", "v"], "text_only": True, "answer": ["b"]}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "row", "options", "answers", "rationale"),
    [
        ("frenchmedmcqa", FRENCH, "u v w", "AC", ""),
        ("medmcqa", MEDMCQA, "u v w x", "C", "why"),
        ("cmb", CMB, "甲 乙", "AB", ""),
        ("medqa", MEDQA, "u v", "B", ""),
        ("igakuqa", IGAKU, "u v", "B", ""),
    ],
)
def test_one_row_of_each_kind(tmp_path, name, row, options, answers, rationale):
    (question,) = read_source_set(name, write(tmp_path / "train.jsonl", [row]), FailedItems())
    assert list(question.options.values()) == options.split()
    assert question.answers == tuple(answers) and question.rationale == rationale
    assert question.lang == SOURCE_SETS[name].languages[0] and question.id.startswith(f"{name}/train/")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("frenchmedmcqa", {**FRENCH, "correct_answers": []}, "is no letters"),
        ("frenchmedmcqa", {**FRENCH, "correct_answers": ["d"]}, "not among the options"),
        ("frenchmedmcqa", {**FRENCH, "answers": {"a": "u", "c": "w"}}, "options a, c"),
        ("frenchmedmcqa", {"question": "Q?"}, "missing field 'answers'"),
        ("medmcqa", {**MEDMCQA, "cop": 0}, "no number of an option"),
        ("medmcqa", {**MEDMCQA, "cop": None}, "no number of an option"),
        ("medmcqa", {**MEDMCQA, "question": " "}, "question is empty"),
        ("medmcqa", {**MEDMCQA, "opb": ""}, "option B is empty"),
        ("medqa", {**MEDQA, "options": ["u", "v"]}, "items"),
        ("medqa", {**MEDQA, "question": "哪一种药?"}, "in Chinese or Japanese, wanted English"),
        ("igakuqa", {**IGAKU, "choices": []}, "a number is asked for"),
        ("igakuqa", {**IGAKU, "answer": ["a or b"]}, "leaves open"),
        ("igakuqa", {**IGAKU, "choices": list("abcdefghi")}, "9 options"),
        ("cmb", ["a", "list"], "a list, wanted an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_listed_and_the_rest_is_read(tmp_path, name, row, reason):
    good = {"frenchmedmcqa": FRENCH, "medmcqa": MEDMCQA, "cmb": CMB, "medqa": MEDQA, "igakuqa": IGAKU}[name]
    path = write(tmp_path / "train.jsonl", [good, row, good])
    failed = FailedItems()
    assert len(list(read_source_set(name, path, failed))) == 2
    (item,) = failed.items
    assert reason in item["reason"] and item["where"] == f"{path}:2"


def test_broken_lines_and_files(tmp_path):
    path = write(tmp_path / "train.jsonl", [MEDMCQA, MEDMCQA])
    path.write_text(path.read_text().replace("\n", '\n{"question": \n', 1))
    failed = FailedItems()
    assert len(list(read_source_set("medmcqa", path, failed))) == 2
    assert [item["where"] for item in failed.items] == [f"{path}:2"]
    (tmp_path / "dev.json").write_bytes(b"\xff\xfe\x00 no text at all \x81")
    (tmp_path / "test.json").write_text("")
    (tmp_path / "val.json").write_text('[{"question": 1')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / ".cache").mkdir()  # hidden folders hold copies
    write(tmp_path / ".cache" / "train.jsonl", [MEDMCQA])
    with open(path, "a") as file:
        file.write('{"question": ' + "[" * 100_000 + "\n")
    failed = FailedItems()
    assert len(list(read_source_set("medmcqa", tmp_path, failed))) == 2
    assert Counter(Path(item["where"].split(":")[0]).name for item in failed.items) == {
        "train.jsonl": 2,
        "deep.json": 1,
        "dev.json": 1,
        "test.json": 1,
        "val.json": 1,
    }


def test_line_ends_within_strings_cut_no_row_and_damaged_tables_end_nothing(tmp_path):
    rows = [{**MEDMCQA, "question": f"Which{end}one?"} for end in "\u2028\u2029\u0085\x0b"]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    failed = FailedItems()
    assert len(list(read_source_set("medmcqa", path, failed))) == 3 + (not failed)
    (tmp_path / "val.xlsx").write_bytes(b"no table")
    (tmp_path / "~$val.xlsx").write_bytes(b"a note of Excel's")
    (tmp_path / "test.csv").write_text('Question,Options,Answer\n"' + "x" * 2_000_000)
    failed = FailedItems()
    assert not list(read_source_set("cmexam", tmp_path, failed))
    assert sorted(Path(item["where"]).name for item in failed.items) == ["test.csv", "val.xlsx"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_chinese_tables_in_the_encodings_that_they_come_in(tmp_path, encoding):
    rows = [["", "Question", "A", "B", "C", "D", "Answer"], ["0", "属于右心房的结构，是", "甲", "乙", "丙", "丁", "D"]]
    rows.append(["1", "少一列", "甲", "乙", "丙"])
    with open(tmp_path / "anatomy.csv", "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    failed = FailedItems()
    (question,) = read_source_set("cmmlu", tmp_path, failed)
    assert question.question == "属于右心房的结构，是" and question.answers == ("D",)
    assert [item["reason"].startswith("5 cells, wanted 7") for item in failed.items] == [True]


def test_options_in_one_string(tmp_path):
    for lang, options in (("en", "(A) u (B).\n(B) v\nw.\n(C) x"), ("zh", "(B) v\n(C) x")):
        row = {"question": "Q", "options": options, "answer": "(AC)", "source": "s", "context": "first"}
        (tmp_path / f"{lang}.json").write_text(json.dumps([row]))
    failed = FailedItems()
    (question,) = read_source_set("xmedbench", tmp_path, failed)
    assert question.options == {"A": "u (B).", "B": "v\nw.", "C": "x"} and question.answers == ("A", "C")
    assert question.question == "first\nQ" and len(failed) == 1
    (tmp_path / "xx.json").write_text("[]")
    with pytest.raises(MissingInputError, match="language"):
        list(read_source_set("xmedbench", tmp_path, failed))


def test_a_case_is_read_out_of_labelled_tokens(tmp_path):
    lines = (
        "QUESTION O/TYPE: O/HEART O//CLINICAL O/CASE: O//A B-Premise X/man I-Premise Y//Which? O//1- O/Rest. B-Claim//"
    )
    lines += "2- O/Surgery. O//CORRECT O/ANSWER: O/2 O//Answer B/1 I/is I/wrong. I//"
    folder = tmp_path / "EN"
    folder.mkdir()
    (folder / "train.tsv").write_text(lines.replace("/", "\r\n"))
    (question,) = read_source_set("casimedicos", tmp_path, FailedItems())
    assert question.question == "A man Which?" and question.options == {"A": "Rest.", "B": "Surgery."}
    assert question.answers == ("B",) and question.rationale == "Answer 1 is wrong." and question.lang == "en"


def test_unknown_sets_and_missing_files_are_told(tmp_path):
    with pytest.raises(SettingsError, match="medmcqa"):
        source_set("medmcqua")
    write(tmp_path / "train.jsonl", [MEDMCQA])
    with pytest.raises(MissingInputError, match="dev"):
        list(read_source_set("medmcqa", tmp_path, FailedItems(), split="dev"))
    assert len(list(read_source_set("medmcqa", tmp_path, FailedItems(), split="train"))) == 1
