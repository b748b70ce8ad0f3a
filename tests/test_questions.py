"""Questions: the quirks of MMedBench's files, as made files and as real ones."""

import json
from pathlib import Path

import pytest

from configs.errors import FailedItems, MissingInputError
from configs.languages import LANGUAGES
from data_collection.questions.mmedbench import find_files, read_questions, to_question
from data_collection.questions.question import Question, chance_level, is_correct

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there (real MMedBench rows)")


def source_row(**changes):
    """A row as the benchmark has it: 4 options, an answer as text."""
    options = {"A": "fever", "B": "cough", "C": "rash", "D": "pain"}
    return {"question": "Which?", "options": options, "answer_idx": "B", "answer": "cough", "rationale": "R"} | changes


def read(tmp_path, *lines, name="English"):
    """The questions of a file with these lines (rows or bytes), and the failures: (line, reason)."""
    path = tmp_path / "Test" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    raw = [line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    failed = FailedItems()
    questions = list(read_questions(path, "Test", failed))
    return questions, [(int(item["where"].rpartition(":")[2]), item["reason"]) for item in failed.items]


def one(tmp_path, **changes):
    (question,), failures = read(tmp_path, source_row(**changes))
    assert not failures
    return question


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("B", "B"),
        (["B"], "B"),
        (["D", "A"], "AD"),
        (["A", "A"], "A"),
        ("A,C", "AC"),
        ("A, C", "AC"),
        ("A、C", "AC"),
        ("ACD", "ACD"),
        (" B ", "B"),
        (["A,B", "D"], "ABD"),
    ],
)
def test_answers_as_text_and_as_lists(tmp_path, answer, letters):
    assert one(tmp_path, answer_idx=answer).answers == tuple(letters)


@pytest.mark.parametrize(
    "answer", ["A OR D", "a or d", ["A or B"], "", [], None, 1, [None], "E", "AE", "yes", {"A": 1}]
)
def test_answers_that_are_none(tmp_path, answer):
    questions, failures = read(tmp_path, source_row(answer_idx=answer), source_row())
    assert len(questions) == 1 and [line for line, _ in failures] == [1]
    assert "answer" in failures[0][1]


def test_options_out_of_order_are_asked_in_order(tmp_path):
    question = one(tmp_path, options={"A": "a", "C": "c", "B": "b", "D": "d"}, answer_idx="C")
    assert (
        list(question.options) == ["A", "B", "C", "D"] and question.options["C"] == "c" and question.answers == ("C",)
    )


def test_two_to_eight_options(tmp_path):
    for count in (2, 8):
        options = {letter: letter.lower() for letter in "ABCDEFGHI"[:count]}
        assert len(one(tmp_path, options=options).options) == count
    for letters in ("A", "ABCDEFGHI", "ABD", "BCD", ""):
        questions, failures = read(tmp_path, source_row(options={x: x.lower() for x in letters}, answer_idx="A"))
        assert not questions and failures[0][1].startswith(("option", f"{len(letters)} options")), failures


def test_an_empty_option_goes_when_it_is_the_last_and_nobody_means_it(tmp_path):
    options = {"A": "a", "B": "b", "C": "c", "D": " "}
    assert list(one(tmp_path, options=options).options) == ["A", "B", "C"]
    assert list(one(tmp_path, options=options | {"C": ""}).options) == ["A", "B"]
    for changes in ({"answer_idx": "D"}, {"options": {"A": "a", "B": "b", "C": "", "D": "d"}}):
        questions, failures = read(tmp_path, source_row(**{"options": options} | changes))
        assert not questions and "is empty" in failures[0][1]


def test_rows_that_cannot_be_read_are_failures_with_their_line(tmp_path):
    good = source_row()
    bad = [
        (b'{"question": "cut', "broken JSON"),
        ("вопрос".encode("cp1251"), "not UTF-8"),
        (b"[1, 2]", "wanted an object"),
        (b"null", "wanted an object"),
        ({k: v for k, v in good.items() if k != "options"}, "options"),
        ({k: v for k, v in good.items() if k != "answer_idx"}, "answer_idx"),
        (source_row(question="  "), "question is empty"),
        (source_row(question=None), "question wants text"),
        (source_row(options=["a", "b"]), "options an object"),
    ]
    questions, failures = read(tmp_path, good, *(line for line, _ in bad), b"", good)
    assert [question.id for question in questions] == ["Test/English/00001", f"Test/English/{len(bad) + 3:05d}"]
    assert [line for line, _ in failures] == list(range(2, len(bad) + 2))
    for (_, reason), (_, wanted) in zip(failures, bad, strict=True):
        assert wanted in reason


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    line = json.dumps(source_row()).encode()
    questions, failures = read(tmp_path, b"\xef\xbb\xbf" + line + b"\r", line + b"\r")
    assert len(questions) == 2 and not failures


def test_other_fields_are_kept(tmp_path):
    question = one(
        tmp_path, human_checked=1, human_check_passed=0, meta_info="step1", problem_id="116B2", rationale=None
    )
    assert question.human_checked is True and question.human_check_passed is False and question.rationale == ""
    assert question.meta == {"meta_info": "step1", "problem_id": "116B2"}
    assert question.lang == "en"


def test_the_same_question_has_the_same_hash_wherever_it_stands():
    first, again, other, french = (
        to_question(source_row(**changes), LANGUAGES[code], name)
        for code, name, changes in (
            ("en", "Test/1", {}),
            ("en", "Train/2", {"question": " Which? ", "rationale": "another", "answer_idx": "C"}),
            ("en", "Test/3", {"question": "Who?"}),
            ("fr", "Test/4", {}),
        )
    )
    shuffled = to_question(
        source_row(options={"A": "pain", "B": "rash", "C": "cough", "D": "fever"}), LANGUAGES["en"], "Test/5"
    )
    assert first.content_hash == again.content_hash == shuffled.content_hash
    assert len({first.content_hash, other.content_hash, french.content_hash}) == 3


def test_the_dataclass_holds_its_rules():
    options = {"A": "a", "B": "b"}
    for changes in (
        {"question": ""},
        {"options": {"A": "a"}},
        {"options": {"B": "b", "A": "a"}},
        {"options": {"A": "a", "B": ""}},
        {"answers": ("C",)},
        {"answers": ("B", "A")},
        {"answers": ("A", "A")},
    ):
        with pytest.raises(ValueError):
            Question(**{"id": "1", "lang": "en", "question": "Q", "options": options, "answers": ("A",)} | changes)


def test_right_is_the_exact_set_and_chance_counts_the_subsets():
    assert is_correct(("A", "C"), ("A", "C")) and is_correct(["C", "A"], ("A", "C"))
    assert not any(is_correct(parsed, ("A", "C")) for parsed in (("A",), ("A", "B", "C"), (), None))
    assert not is_correct((), ()) and not is_correct(None, ())
    assert [chance_level(n, several_possible=False) for n in (2, 4)] == [0.5, 0.25]
    assert [chance_level(n, several_possible=True) for n in (2, 5)] == [1 / 3, 1 / 31]


def test_find_files(tmp_path):
    for name in ("French", "English"):
        read(tmp_path, source_row(), name=name)
    assert list(find_files(tmp_path, "Test")) == ["en", "fr"]
    assert list(find_files(tmp_path, "Test", ["French"])) == ["fr"]
    (tmp_path / "outer").mkdir()
    (tmp_path / "Test").rename(tmp_path / "outer" / "Test")
    (tmp_path / "outer").rename(tmp_path / "mmedbench")
    assert list(find_files(tmp_path, "Test")) == ["en", "fr"]
    for arguments in (("Train",), ("Test", ["fr", "ru"])):
        with pytest.raises(MissingInputError):
            find_files(tmp_path, *arguments)


@needs_shared
@pytest.mark.parametrize(
    ("name", "num_rows", "num_failed"),
    [("Japanese", 1590, 2), ("French", 2171, 0), ("Russian", 1052, 0), ("Spanish", 2657, 0)],
)
def test_real_training_rows_in_are_questions_out_and_failures(name, num_rows, num_failed):
    failed = FailedItems()
    path = SHARED / "mmedbench" / "Train" / f"{name}.jsonl"
    questions = list(read_questions(path, "Train", failed))
    assert (len(questions) + len(failed), len(failed)) == (num_rows, num_failed)
    assert path.read_bytes().count(b"\n") == num_rows
    assert len({question.id for question in questions}) == len(questions)
    assert all(question.answers and question.rationale for question in questions)


@needs_shared
def test_the_two_japanese_rows_that_fail_say_why():
    failed = FailedItems()
    list(read_questions(SHARED / "mmedbench" / "Train" / "Japanese.jsonl", "Train", failed))
    first, second = failed.items
    assert "OR" in first["reason"] and "empty" in second["reason"]


@needs_shared
def test_real_test_rows_are_all_read():
    failed = FailedItems()
    for code, path in find_files(SHARED, "Test").items():
        questions = list(read_questions(path, "Test", failed))
        assert len(questions) == 100 and {question.lang for question in questions} == {code}
        several = any(len(question.answers) > 1 for question in questions)
        assert several == (code in ("ja", "fr"))
    assert not failed.items


def test_the_sample_is_read_without_a_failure():
    failed = FailedItems()
    for split in ("Train", "Test"):
        files = find_files(ROOT / "assets" / "sample", split)
        assert list(files) == ["en", "zh", "ja", "fr", "ru", "es"]
        for path in files.values():
            assert len(list(read_questions(path, split, failed))) >= 20
    assert not failed.items
