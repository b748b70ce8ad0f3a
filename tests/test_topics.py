"""Topics of questions: read strictly from a server, learned by a classifier, written into rows; statistics of both."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.errors import MissingInputError, SettingsError
from data_collection.benchmarks.topic_classifier import EncoderFeatures, TopicClassifier, WordFeatures, heldout_figures
from data_collection.benchmarks.topic_labels import label_topics, learn_topics
from data_collection.benchmarks.topic_names import TOPICS, read_topic, topic_prompt
from data_collection.llm.server_settings import ServerSettings
from data_collection.questions.question import Question
from data_collection.questions.question_figures import Figures, text_length, topics_by_language
from data_collection.questions.question_plots import draw_figure
from data_collection.topics import TopicSettings

ROOT = Path(__file__).parents[1]
MEDMCQA = ROOT.parent / "shared" / "data" / "sources" / "MedMCQA"
WORDS = {"Dental": "molar enamel crown gum", "Skin": "rash dermis acne itch", "ENT": "ear tinnitus larynx sinus"}


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("Surgery", "Surgery"),
        ("  **gynaecology &  obstetrics**.\n", "Gynaecology & Obstetrics"),
        ("20. Surgery", "Surgery"),
        ("20", "Surgery"),
        ("`ENT`", "ENT"),
        ("19. Surgery", None),  # the number is another one's
        ("21", None),
        ("0", None),
        ("Surgery or Skin", None),
        ("The subject is Surgery", None),
        ("Cardiology", None),
        ("", None),
    ],
)
def test_an_answer_is_one_topic_or_none(text, topic):
    assert read_topic(text) == topic


def test_the_prompt_names_every_topic_and_withholds_the_answer():
    asked = topic_prompt(Question("1", "fr", "Où ?", {"A": "ici", "B": "là"}, ("B",), "Parce que."))
    assert all(f"{number}. {name}\n" in asked + "\n" for number, name in enumerate(TOPICS, 1))
    assert "Où ?\nici\nlà" in asked and "Parce que" not in asked


def medmcqa_rows(number, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        subject = list(WORDS)[index % 3]
        words = rng.choice(WORDS[subject].split(), 3)
        row = {"id": str(index), "question": f"What of {' and '.join(words)}, case {index}?", "cop": 1}
        rows.append(row | dict(zip(("opa", "opb", "opc", "opd"), "wxyz", strict=True)) | {"subject_name": subject})
    return [*rows, {**rows[0], "id": "u", "question": "Whose?", "subject_name": "Unknown"}]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    write_rows(folder / "MedMCQA" / "dev.json", medmcqa_rows(120))
    assert learn_topics(TopicSettings(folder / "MedMCQA", folder / "model", train=True)) == 0
    return folder / "model"


@pytest.fixture
def benchmark(tmp_path):
    english = [
        {
            "question": f"{WORDS[subject].split()[n % 4]} {n}?",
            "options": {"A": "w", "B": "x"},
            "answer_idx": "A",
            "n": n,
        }
        for n, subject in enumerate([*WORDS] * 3)
    ]
    write_rows(tmp_path / "in" / "Test" / "English.jsonl", english)
    french = {**english[0], "question": "Une molaire ?", "answer_idx": ["A", "B"]}
    write_rows(tmp_path / "in" / "Train" / "French.jsonl", [french])
    return tmp_path / "in"


def test_a_classifier_learns_measures_itself_and_is_saved_without_code(classifier, capsys):
    assert sorted(path.name for path in classifier.iterdir() if path.name != "uncommitted.diff") == [
        "accuracy.md",
        "run.json",
        "topics.json",
        "topics.safetensors",
    ]
    record = json.loads((classifier / "topics.json").read_text())
    assert record["names"] == sorted(WORDS) and record["without_subject"] == 1 and record["languages"] == ["en"]
    assert record["held_out"]["accuracy"] == record["held_out"]["macro_f1"] == 1.0 and "MedMCQA" in record["note"]
    assert 10 <= record["held_out"]["questions"] <= 40
    loaded = TopicClassifier.load(classifier, None)
    assert loaded.topics(["An itch and a rash?", "tinnitus"]) == ["Skin", "ENT"] and loaded.topics([]) == []


def test_learned_saved_and_loaded_is_the_same(tmp_path):
    texts = [row["question"] for row in medmcqa_rows(60)[:-1]]
    labels = [row["subject_name"] for row in medmcqa_rows(60)[:-1]]
    features = WordFeatures()
    for names in (set(labels), {"Dental", "Skin"}):  # two topics are one row of weights to the library
        rows = [(text, label) for text, label in zip(texts, labels, strict=True) if label in names]
        learned = TopicClassifier.fit(features.rows([text for text, _ in rows]), [label for _, label in rows], features)
        learned.save(tmp_path)
        loaded = TopicClassifier.load(tmp_path, None)
        found = learned.topics([text for text, _ in rows])
        assert found == loaded.topics([text for text, _ in rows]) and set(found) == names
        assert np.mean([one == label for one, (_, label) in zip(found, rows, strict=True)]) > 0.95


def test_figures_of_held_out_questions():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(3)
    labels, predicted = (rng.choice(["a", "b", "c"], 100).tolist() for _ in range(2))
    found = heldout_figures(labels, predicted, "b")
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert (
        found["accuracy"] == np.mean(np.array(labels) == predicted)
        and found["majority_accuracy"] == labels.count("b") / 100
    )
    ten = heldout_figures(["a"] * 9 + ["b"], ["a"] * 10, "a")  # 9 of 10: Wilson's interval is .596 to .982
    assert (ten["accuracy_low"], ten["accuracy_high"]) == pytest.approx((0.5958, 0.9821), abs=1e-4)


def test_topics_by_a_classifier_stopped_and_gone_on(classifier, benchmark, tmp_path, script_env):
    def label(output_dir):
        command = [
            sys.executable,
            ROOT / "data_collection" / "topics.py",
            "--input",
            benchmark,
            "--output_dir",
            output_dir,
        ]
        return subprocess.run(
            [*command, "--model", classifier], env=script_env, capture_output=True, text=True, timeout=120
        )

    done = label(tmp_path / "out")
    assert done.returncode == 0 and "French: 1 questions get no topic" in done.stderr, done.stderr
    rows = rows_of(tmp_path / "out" / "Test" / "English.jsonl")
    assert [row["medical_topic"] for row in rows] == [*WORDS] * 3 and [row["n"] for row in rows] == list(range(9))
    assert {row["medical_topic_by"] for row in rows} == {"classifier"}
    assert "medical_topic" not in rows_of(tmp_path / "out" / "Train" / "French.jsonl")[0]
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert [(g["lang"], g["topics"].get("Skin", 0), g["without_topic"]) for g in statistics["groups"]] == [
        ("en", 3, 0),
        ("fr", 0, 1),
    ]
    assert "already done" in label(tmp_path / "out").stderr

    journal = (tmp_path / "out" / "topics.jsonl").read_bytes()
    (tmp_path / "again").mkdir()
    marked = journal.splitlines(keepends=True)
    marked[0] = marked[0].replace(b"Dental", b"Surgery")  # what is known is not worked out again
    (tmp_path / "again" / "topics.jsonl").write_bytes(b"".join(marked[:4]) + marked[4][:9])
    settings = TopicSettings(benchmark, tmp_path / "again", model=classifier)
    assert label_topics(settings, ServerSettings()) == 0
    topics = [row["medical_topic"] for row in rows_of(tmp_path / "again" / "Test" / "English.jsonl")]
    assert topics == ["Surgery", *([*WORDS] * 3)[1:]] and len(rows_of(tmp_path / "again" / "topics.jsonl")) == 9


def test_what_a_classifier_cannot_do_is_refused(classifier, benchmark, tmp_path, tiny_model):
    with pytest.raises(SettingsError, match="do not belong together"):
        label_topics(TopicSettings(benchmark, tmp_path / "a", model=classifier, encoder=tiny_model), ServerSettings())
    with pytest.raises(MissingInputError, match="knows none of the languages"):
        label_topics(TopicSettings(benchmark, tmp_path / "a", model=classifier, languages=["fr"]), ServerSettings())
    with pytest.raises(MissingInputError, match="a file is missing"):
        label_topics(TopicSettings(benchmark, tmp_path / "a", model=tmp_path), ServerSettings())
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "topics.json").write_text((classifier / "topics.json").read_text())
    (broken / "topics.safetensors").write_bytes((classifier / "topics.safetensors").read_bytes()[:5000])
    with pytest.raises(MissingInputError, match="no classifier of topics"):
        TopicClassifier.load(broken, None)
    write_rows(tmp_path / "few" / "dev.json", medmcqa_rows(1))
    with pytest.raises(MissingInputError, match="too few questions with a subject"):
        learn_topics(TopicSettings(tmp_path / "few", tmp_path / "b", train=True))
    wrong = TopicSettings(tmp_path, tmp_path, train=True, model=tmp_path, max_attempts=0)
    assert len(wrong.problems()) == 2 and TopicSettings(tmp_path, tmp_path, encoder=tmp_path).problems()


def test_an_encoder_gives_the_mean_over_each_text_whatever_stands_beside_it(tiny_model):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["One short question?", "糖尿病的首选药物是什么？" * 5, "Q?", "A much longer question about the heart " * 8]
    found = EncoderFeatures(tiny_model).rows(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model).eval()
    for text, row in zip(texts, found, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].float()
        mean = hidden.mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_with_an_encoder_every_language_gets_a_topic(benchmark, tmp_path, tiny_model):
    write_rows(tmp_path / "MedMCQA" / "dev.json", medmcqa_rows(40))
    settings = TopicSettings(tmp_path / "MedMCQA", tmp_path / "model", train=True, encoder=tiny_model)
    assert learn_topics(settings) == 0
    with pytest.raises(SettingsError, match="do not belong together"):
        TopicClassifier.load(tmp_path / "model", None)
    label_topics(
        TopicSettings(benchmark, tmp_path / "out", model=tmp_path / "model", encoder=tiny_model), ServerSettings()
    )
    for path in (tmp_path / "out" / "Test" / "English.jsonl", tmp_path / "out" / "Train" / "French.jsonl"):
        assert all(row["medical_topic"] in WORDS for row in rows_of(path))


def test_topics_by_a_server_that_chats(http, benchmark, tmp_path):
    http.finish_reason = "stop"
    answers = Counter()

    def reply(request):
        text = request["messages"][-1]["content"]
        answers[text] += 1
        if "rash" in text:
            return "I would say that this is about the skin."
        return "It is hard to say." if answers[text] == 1 else "7. Gynaecology & Obstetrics"

    http.reply = reply
    server = ServerSettings(server_url=f"http://127.0.0.1:{http.server_port}/v1", api_key_variable="A_KEY")
    settings = TopicSettings(benchmark, tmp_path / "out", max_new_tokens=100, max_attempts=2)
    assert label_topics(settings, server) == 5  # some questions got no topic
    rows = rows_of(tmp_path / "out" / "Test" / "English.jsonl")
    by_rule = [None if "rash" in row["question"] else "Gynaecology & Obstetrics" for row in rows]
    assert [row.get("medical_topic") for row in rows] == by_rule and by_rule.count(None) == 1
    assert {row.get("medical_topic_by") for row in rows} == {None, "server: tiny"}
    (failure,) = rows_of(tmp_path / "out" / "failures.jsonl")
    assert failure["where"] == "Test/English/00005" and "is no topic" in failure["reason"]
    assert set(answers.values()) == {2}
    assert {request["max_tokens"] for request in http.requests} == {100}
    asked = sum(answers.values())
    assert label_topics(settings, server) == 5 and sum(answers.values()) == asked
    assert rows_of(tmp_path / "out" / "Train" / "French.jsonl")[0]["medical_topic"] == "Gynaecology & Obstetrics"
    assert "the-key" not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json*"))


@pytest.mark.skipif(not MEDMCQA.is_dir(), reason="../shared/data is absent (MedMCQA)")
def test_real_medmcqa(tmp_path):
    assert learn_topics(TopicSettings(MEDMCQA, tmp_path, train=True)) == 0
    held_out = json.loads((tmp_path / "topics.json").read_text())["held_out"]
    assert held_out["questions"] == 837 and len(held_out["topics"]) == 20
    assert held_out["accuracy_low"] > 0.5 and held_out["majority_accuracy"] < 0.35 and held_out["macro_f1"] > 0.45


# Statistics


def test_statistics_count_what_there_is(tmp_path):
    figures = Figures()
    meta = {"source": "s", "licence": "MIT", "medical_topic": "Skin", "medical_topic_by": "classifier"}
    rows = [
        ("Test", Question("1", "zh", "什 么？", {"A": "一二三", "B": "四"}, ("A", "B"), "因为。", True, True, meta)),
        ("Test", Question("2", "zh", "谁", {"A": "甲", "B": "乙"}, ("A",), "", False, False, {"source": ["odd"]})),
        ("Train", Question("3", "zh", "谁", {"A": "甲", "B": "乙"}, ("A",), "", True, False, meta)),
        ("Test", Question("4", "en", "Who was it?", {"A": "you two", "B": "I"}, ("A",), "As he said.", meta=meta)),
    ]
    for split, question in rows:
        figures.add(split, question)
    record = figures.record()
    assert [(g["lang"], g["split"]) for g in record["groups"]] == [("en", "Test"), ("zh", "Train"), ("zh", "Test")]
    assert record["questions"] == 4 and record["splits"] == {"Train": 1, "Test": 3}
    chinese, english = record["groups"][2], record["groups"][0]
    assert chinese["answers"] == {"1": 1, "2": 1} and chinese["options"] == {"2": 2}
    assert (chinese["human_checked"], chinese["human_check_passed"], chinese["with_rationale"]) == (1, 1, 1)
    assert (chinese["length_unit"], chinese["lengths"]["question"]["mean"]) == ("characters", 2)  # 什么？ and 谁
    assert chinese["lengths"]["option"]["max"] == 3 and chinese["lengths"]["rationale"]["median"] == 3
    assert (
        chinese["topics"] == {"Skin": 1} and chinese["without_topic"] == 1 and chinese["topics_by"] == {"classifier": 1}
    )
    assert chinese["sources"] == {"['odd']": 1, "s": 1} and chinese["licences"] == {"": 1, "MIT": 1}
    assert english["lengths"]["option"] == {
        "mean": 1.5,
        "p10": 1.1,
        "p25": 1.25,
        "median": 1.5,
        "p75": 1.75,
        "p90": 1.9,
        "max": 2,
    }
    assert topics_by_language(record) == {"Skin": {"English": 1, "Chinese": 2}}
    first = [path.read_bytes() for path in draw_figure(record, tmp_path)]
    assert first[0].startswith(b"<?xml") and first[1].startswith(b"\x89PNG")
    assert [path.read_bytes() for path in draw_figure(record, tmp_path)] == first
    record["groups"][0]["topics"] = {"$\\frac$": 1}  # a row's own words, no formula
    assert b"frac" in draw_figure(record, tmp_path)[0].read_bytes()
    assert text_length(" a  b\n", "en") == 2 and text_length("甲 乙\n", "ja") == 2


def test_describing_a_folder(benchmark, tmp_path, script_env):
    command = [
        sys.executable,
        ROOT / "data_collection" / "describe.py",
        "--input",
        benchmark,
        "--output_dir",
        tmp_path / "out",
    ]
    done = subprocess.run(command, env=script_env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "| French | Train | 1 | 1 (100%) |" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "out").glob("statistics.*")} == {
        f"statistics.{end}" for end in ("json", "md", "csv", "svg", "png")
    }
    header, *lines = (tmp_path / "out" / "statistics.csv").read_text().splitlines()
    assert [dict(zip(header.split(","), line.split(","), strict=True))["several_answers"] for line in lines] == [
        "0",
        "1",
    ]
    again = subprocess.run(command, env=script_env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "already done" in again.stderr
