"""Questions to other languages and back: what is asked, what is refused, and the command against a server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.llm.translating import Translated, parts_of, read_parts, similarity
from data_collection.questions.mmedbench import read_questions
from data_collection.questions.question import Question

ROOT = Path(__file__).parents[1]
ENGLISH = {
    "question": "Which drug is not given with 5 mg of warfarin a day?",
    "A": "Aspirin",
    "B": "Paracetamol",
    "rationale": "Aspirin keeps platelets from clumping, so that together with warfarin it makes bleeding likely.",
}
FRENCH = {
    "question": "Quel médicament ne se donne pas avec 5 mg de warfarine par jour ?",
    "A": "Aspirine",
    "B": "Paracétamol",
    "rationale": "L'aspirine empêche les plaquettes de s'agréger et fait donc saigner quand on prend de la warfarine.",
}
QUESTION = Question(
    "Train/English/00001",
    "en",
    ENGLISH["question"],
    {"A": ENGLISH["A"], "B": ENGLISH["B"]},
    ("A",),
    ENGLISH["rationale"],
    human_checked=True,
    meta={"source": "ours", "licence": "Apache-2.0"},
)
ITEM = Translated("Train", QUESTION, "fr", 500)


def marked(parts, **changes):
    return "\n".join(f"[{mark}] {changes.get(mark, text)}" for mark, text in parts.items())


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_request_holds_each_part_with_its_mark_in_the_target_language(lang):
    (message,) = Translated("Train", QUESTION, lang, 500).request(0, []).messages
    assert message["content"].endswith("\n\n" + marked(ENGLISH))
    (back,) = ITEM.request(0, [FRENCH]).messages
    assert back["content"].startswith("Translate") and back["content"].endswith("\n\n" + marked(FRENCH))


def test_parts_are_read_as_they_were_written():
    assert read_parts(marked(ENGLISH)) == ENGLISH == parts_of(QUESTION)
    loose = "Sure:\n**[question]** Why?\nOr not? [A]\n\n[A]\nyes [B]\n[B] no\n[B] again"
    assert read_parts(loose) == {"question": "Why?\nOr not? [A]", "A": "yes [B]", "B": "no"}
    assert read_parts("no marks") == {}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (marked(FRENCH), ""),
        (f"Voici :\n{marked(FRENCH)}", ""),
        (marked(ENGLISH), "in another language"),
        (marked(FRENCH, B=""), "without [B]"),
        (marked(FRENCH) + "\n[C] Fer", "with [C]"),
        ("Je suis désolé, je ne peux pas répondre.", "a refusal"),
        (marked(FRENCH, question="Quel médicament se donne avec 5 mg de warfarine par jour ?"), "a negation that was"),
        (marked(FRENCH, question="Quel médicament ne se donne pas avec 5 g de warfarine par jour ?"), "another unit"),
        (
            marked(FRENCH, question="Quel médicament ne se donne pas avec la warfarine chaque jour ?"),
            "a number that was",
        ),
        (marked(FRENCH, A="Insuline"), "a name"),
        (marked(FRENCH, B="Paracétamol 500"), "a number"),
    ],
)
def test_what_is_wrong_with_a_translation(reply, problem):
    found, said = ITEM.check(reply, False, [])
    assert said.startswith(problem) if problem else not said and found == FRENCH
    assert ITEM.check(reply, True, [])[1] == "cut at the limit"


def test_the_translation_back_is_compared_with_the_original():
    result, problem = ITEM.check(marked(ENGLISH), False, [FRENCH])
    assert not problem and result["chrf"] == 1
    other = marked(ENGLISH, question="Which remedy must never be taken by those who have 5 mg of warfarin daily?")
    assert not ITEM.check(other, False, [FRENCH])[1]
    assert "negation" in ITEM.check(marked(ENGLISH, question="Which drug is given with 5 mg of warfarin a day?"), False, [FRENCH])[1]  # fmt: skip
    strange = marked({"question": "Who must not go out with 5 mg warfarin?", "A": "aspirin", "B": "paracetamol", "rationale": "Hm, warfarin or aspirin."})  # fmt: skip
    assert "not alike" in Translated("Train", QUESTION, "fr", 500, 0.9).check(strange, False, [FRENCH])[1]
    assert 0 <= similarity("wholly else", "zzz") < 0.1 < similarity("服用阿司匹林", "服用阿司匹林片") < 1


def test_from_questions_to_translations_with_where_they_come_from(tmp_path, http, script_env):
    folder = tmp_path / "in" / "Train"
    folder.mkdir(parents=True)
    doses = [str(3 + number) for number in range(6)]
    row = {"options": {"A": "Aspirin", "B": "Paracetamol"}, "answer_idx": "A", "rationale": ENGLISH["rationale"]}
    rows = [{**row, "question": ENGLISH["question"].replace("5", dose), "source": "ours"} for dose in doses]
    (folder / "English.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = []

    def reply(request):
        instruction, text = request["messages"][0]["content"].split("\n\n")
        number = next(dose for dose in doses if f" {dose} mg" in text)
        there = instruction.startswith("Traduisez")
        with http.lock:
            asked.append((number, there))
            times = asked.count((number, there))
        if (number, there) == ("4", False) and times == 1:  # lost on the way back: both are asked for again
            return marked(ENGLISH).replace("5 mg", "4 mg").replace("not given", "given")
        if number == "6" and there:
            return marked(FRENCH).replace("5 mg", "6 g")
        return marked(FRENCH if there else ENGLISH).replace("5 mg", f"{number} mg")

    http.reply, http.finish_reason = reply, "stop"
    command = [
        sys.executable,
        ROOT / "data_collection" / "translate.py",
        "--input",
        tmp_path / "in",
        "--to",
        "fr",
        "en",
    ]
    command += ["--output_dir", tmp_path / "out", "--max_attempts", "2", "--api_key_variable", "A_KEY"]
    command += ["--server_url", f"http://127.0.0.1:{http.server_address[1]}/v1"]
    done = subprocess.run(command, env={**script_env, "A_KEY": "the-key"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    made = list(read_questions(tmp_path / "out" / "Train" / "French.jsonl", "Train", FailedItems()))
    assert [question.question for question in made] == [
        FRENCH["question"].replace("5", dose) for dose in doses if dose != "6"
    ]
    assert made[1].options == {"A": "Aspirine", "B": "Paracétamol"} and made[1].answers == ("A",)
    origin = {"original_id": "Train/English/00002", "original_language": "en", "translation_model": "tiny"}
    assert made[1].meta == {**origin, "source": "ours", "back_translation_chrf": 1.0}
    assert {pair: asked.count(pair) for pair in set(asked)} == {
        **{(dose, there): 1 for dose in doses for there in (True, False) if dose not in "46"},
        **{("4", True): 2, ("4", False): 2, ("6", True): 2},
    }
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert "00004>fr" in failure and "another unit" in failure and "[question]" in failure
    record = json.loads((tmp_path / "out" / "run.json").read_text())["result"]
    assert record["written"] == {"fr": 5} and record["asked"] == 6 and record["requests"] == len(asked)
