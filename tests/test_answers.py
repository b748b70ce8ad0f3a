"""What is, and what is no answer: texts as models write them, in every language, with the traps seen in real ones."""

import time
from pathlib import Path

import pytest
import yaml

from configs.errors import FailedItems
from configs.languages import LANGUAGES
from data_collection.questions.answer_words import WORDS as WORDS_OF_ANSWERS
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.mmedbench import find_files, read_questions

OUTPUTS = yaml.safe_load((Path(__file__).parent / "data" / "answers.yaml").read_text(encoding="utf-8"))
SHARED = Path(__file__).parents[1].parent / "shared" / "data"
EN = {"A": "Fever", "B": "Dry cough", "C": "Rash", "D": "Joint pain", "E": "Coma"}
GERMS = {"A": "E. coli", "B": "S. aureus", "C": "H. pylori", "D": "B. cereus", "E": "K. pneumoniae"}
YES = {"A": "да", "B": "нет"}
ZH = {"A": "发热", "B": "咳嗽", "C": "皮疹", "D": "关节痛", "E": "昏迷"}
JA = {"A": "発熱", "B": "咳嗽", "C": "皮疹", "D": "関節痛", "E": "昏睡"}
FR = {"A": "Fièvre", "B": "Toux", "C": "Éruption", "D": "Douleur", "E": "Coma"}
ES = {"A": "Fiebre", "B": "Tos", "C": "Exantema", "D": "Dolor"}
WORDS = {"A": "AD", "B": "BCG", "C": "ACE", "D": "Vitamin D"}

# (what the model wrote, the options, the letters it chose; "" for none)
CASES = [
    # The layout that is taught, after a prompt that ends with its marker.
    (" B", EN, "B"),
    (" A, C", EN, "AC"),
    (" C, A", EN, "AC"),
    (" A, A", EN, "A"),
    ("B.", EN, "B"),
    ("Cough and rash come together here.\n\n### Answer: B", EN, "B"),
    ("Not A, and never C.\n\n### Answer: B, D", EN, "BD"),
    ("So the correct answer is C.\n\n### Answer: B", EN, "B"),
    # What small models write on: the next question, and their own answer to it.
    (" B\n\nAnswer this medical question.\n\nWhich sign?\nA. Pulse\nB. Pallor\n\n### Answer: D", EN, "B"),
    (" B. Dry cough\n\nA 45-year-old man.\nA. One\nB. Two\nC. Three", EN, "B"),
    ("Because of X.\n\n### Answer: B\n\n### Question: next?\nA. One\n\n### Answer: D", EN, "B"),
    (" B\nB\nB\nB", EN, "B"),
    (" A\nC", EN, "AC"),
    (" E\n\nA patient is seen later. The answer is A.", EN, "E"),
    # The published layout.
    ("###Rationale: text. ###Answer: OPTION A,B IS CORRECT.", EN, "AB"),
    ("###Answer: OPTION C IS CORRECT.", EN, "C"),
    ("OPTION A, D ARE CORRECT", EN, "AD"),
    ("After thought, OPTION E IS CORRECT. That is all.", EN, "E"),
    # English.
    ("The answer is B.", EN, "B"),
    ("The correct answer is (D).", EN, "D"),
    ("**Answer:** C", EN, "C"),
    ("**Final answer**: **B. Dry cough**", EN, "B"),
    ("Answer:\n\nB", EN, "B"),
    ("Answer - B is likely", EN, ""),
    ("(B) Dry cough", EN, "B"),
    ("b) dry cough", EN, "B"),
    ("B - the cough is typical", EN, "B"),
    ("B, because the cough is dry", EN, "B"),
    ("Option C is correct, as the skin shows.", EN, "C"),
    ("Therefore, option B is the correct answer.", EN, "B"),
    ("The correct options are A, C, and D.", EN, "ACD"),
    ("Answer: A and C", EN, "AC"),
    ("Answer: A & C", EN, "AC"),
    ("Answer: ACD", EN, "ACD"),
    (r"The final result is \boxed{D}.", EN, "D"),
    (r"$\boxed{\text{D}}$", EN, "D"),
    ("I choose B.", EN, "B"),
    ("First I said the answer is A. On reflection, the correct answer is C.", EN, "C"),
    ("The answer is A. A is chosen since B is a symptom of another illness.", EN, "A"),
    # Negations, articles and other letters that choose nothing.
    ("A is wrong", EN, ""),
    ("A is not correct.", EN, ""),
    ("The answer is not A.", EN, ""),
    ("The correct answer is B. The answer is not A.", EN, "B"),
    ("The wrong answer is A", EN, ""),
    ("The incorrect options are A and C.", EN, ""),
    ("Incorrect answers: A, B", EN, ""),
    ("B is not the correct answer", EN, ""),
    ("A patient with fever needs rest", EN, ""),
    ("Answer: A patient needs rest", EN, ""),
    ("A, B and C are incorrect", EN, ""),
    ("Vitamin B is low in this patient.", EN, ""),
    ("The answer depends on the age of the patient.", EN, ""),
    ("Option A, a common sign, is seen early. Option B, too.", EN, ""),
    ("I cannot give medical advice.", EN, ""),
    # Choices left open, and lists of everything.
    ("either A or B", EN, ""),
    ("A or B", EN, ""),
    ("Answer: A or B", EN, ""),
    ("The answer is A, or perhaps B", EN, "A"),
    ("The answer is A, B, or C", EN, ""),
    ("A. Fever\nB. Dry cough\nC. Rash\nD. Joint pain\nE. Coma", EN, ""),
    ("A. Fever B. Dry cough C. Rash D. Joint pain E. Coma", EN, ""),
    ("A. Fever\nC. Rash", EN, "AC"),
    ("A. This sign is common. B. This one is rare.", EN, ""),
    ("A. Fever: seen in most. C. Rash: seen in some.", EN, ""),
    ("A. Fever B. Dry cough C. Rash. The answer is C.", EN, "C"),
    # Letters that no option bears.
    ("F", EN, ""),
    ("Answer: A, H", EN, ""),
    (" C", YES, ""),
    ("Z", EN, ""),
    # An option's own words.
    ("Dry cough", EN, "B"),
    ("Answer: dry cough.", EN, "B"),
    ("The answer is Joint pain", EN, "D"),
    ("Fever, as in most infections", EN, ""),
    ("cough", EN, ""),
    # Letters that belong to words.
    ("E. coli", GERMS, "A"),
    ("The answer is E. coli.", GERMS, "A"),
    ("Answer: B. cereus", GERMS, "D"),
    ("E. K. pneumoniae", GERMS, "E"),
    ("A. E. coli", GERMS, "A"),
    ("E. coli is the most common cause", GERMS, ""),
    ("Answer: BCG", WORDS, "B"),
    ("ACE", WORDS, "C"),
    ("AD", EN, "AD"),
    ("DEAD", EN, ""),
    ("BAD", EN, ""),
    # Chinese.
    ("答案：B", ZH, "B"),
    ("正确答案是Ｃ。", ZH, "C"),
    ("故选D。", ZH, "D"),
    ("A選項錯誤，C也不對，故選D。", ZH, "D"),  # traditional characters
    ("不正確的答案是B", ZH, ""),
    ("答案：瘧原蟲", {"A": "流感病毒", "B": "疟原虫"}, "B"),
    ("正解：選択肢B", ZH, "B"),  # Japanese without kana
    ("因此，本题选择 A、C。", ZH, "AC"),
    ("答案为ACD", ZH, "ACD"),
    ("（Ｂ）咳嗽", ZH, "B"),
    ("选项B正确地说明了症状，选项C也是", ZH, ""),
    ("不选A", ZH, ""),
    ("不应选A，应选B。", ZH, "B"),
    ("错误答案是A", ZH, ""),
    ("答案是A或B", ZH, ""),
    ("B选项是正确答案，因为干咳。", ZH, "B"),
    ("咳嗽", ZH, "B"),
    ("理由如上。\n\n### 答案：B、E", ZH, "BE"),
    ("答案是B选项", ZH, "B"),
    # Japanese.
    ("正解はBです。", JA, "B"),
    ("答え：Ａ、Ｄ", JA, "AD"),
    ("正解はAとCである。", JA, "AC"),
    ("したがって、選択肢Eが正解です。", JA, "E"),
    ("選択肢Bが正解ではありません", JA, ""),
    ("正解はAではなく、別の所見です", JA, ""),
    ("不正解はA", JA, ""),
    ("正しい選択肢はcです", JA, "C"),
    ("A、またはB", JA, ""),
    ("関節痛", JA, "D"),
    # French.
    ("Réponse : B", FR, "B"),
    ("Réponse(s) : A, C et E", FR, "ACE"),
    ("La bonne réponse est la D.", FR, "D"),
    ("Les réponses correctes sont A, B, D et E.", FR, "ABDE"),
    ("La réponse correcte est l'option C, car elle est typique.", FR, "C"),
    ("La réponse B est correcte car la toux est sèche. La réponse E est également exacte.", FR, ""),
    ("L'option A, la fièvre, est fréquente", FR, ""),
    ("D'abord, il faut un examen", FR, ""),
    ("A été vu aux urgences", FR, ""),
    ("La mauvaise réponse est A", FR, ""),
    ("A ou B", FR, ""),
    ("B et D", FR, "BD"),
    ("Toux", FR, "B"),
    # Russian.
    ("Ответ: B", YES, "B"),
    ("Правильный ответ — A.", YES, "A"),
    ("Ответ: да", YES, "A"),
    ("Нет", YES, "B"),
    ("Да, это верно.", YES, "A"),
    ("Ответ: А", YES, "A"),  # a Cyrillic letter
    ("Правильный ответ - В", YES, "B"),  # a Cyrillic В: there is no third option
    ("Ответ: В", EN, ""),  # B by its looks, C by its place
    ("А также важно помнить", YES, ""),
    ("Неправильный ответ: A", YES, ""),
    ("Ответ зависит от возраста", YES, ""),
    ("Обоснование.\n\n### Ответ: B", YES, "B"),
    # Spanish.
    ("Respuesta: C", ES, "C"),
    ("La respuesta correcta es la B, porque la tos es seca.", ES, "B"),
    ("La opción correcta es D: Dolor", ES, "D"),
    ("Las respuestas correctas son A y C.", ES, "AC"),
    ("La respuesta incorrecta es A", ES, ""),
    ("La opción C, el exantema, es poco frecuente", ES, ""),
    ("A menudo hay fiebre", ES, ""),
    ("A o B", ES, ""),
    ("Por tanto, la correcta es la A", ES, "A"),
    # Nothing.
    ("", EN, ""),
    (" \n\n ", EN, ""),
    ("### Answer:", EN, ""),
    ("### Answer:\n\n### Answer: B", EN, "B"),
    ("### Answer: I do not know, although the answer is B to some", EN, ""),
    ("The answer is B.\n\n### Answer: unclear", EN, ""),
]


@pytest.mark.parametrize(("text", "options", "wanted"), CASES, ids=[repr(text)[:60] for text, _, _ in CASES])
def test_reads_what_is_said(text, options, wanted):
    assert parse_answer(text, options) == (tuple(wanted) or None)


@pytest.mark.parametrize("group", OUTPUTS, ids=[f"{group['language']}-{len(group['options'])}" for group in OUTPUTS])
def test_reads_what_models_write(group):
    read = [("".join(parse_answer(text, group["options"]) or ()), text) for _, text in group["outputs"]]
    assert read == [(letters, text) for letters, text in group["outputs"]]


def test_outputs_are_many_and_each_says_something_else():
    texts = [(str(group["options"]), text) for group in OUTPUTS for _, text in group["outputs"]]
    assert len(texts) == len(set(texts)) >= 200
    assert list(WORDS_OF_ANSWERS) == list(LANGUAGES)
    for lang in WORDS_OF_ANSWERS:
        answers = [letters for group in OUTPUTS if group["language"] == lang for letters, _ in group["outputs"]]
        # Neither a parser that always reads something nor one that reads nothing comes far.
        assert min(answers.count(""), len(answers) - answers.count("")) >= 15, lang


def test_thoughts_are_neither_rationale_nor_answer():
    assert split_answer("<think>The answer is B.</think>Because.\n\n### Answer: A") == ("Because.\n\n", [" A"])
    assert parse_answer("<think>The answer is B. But then", EN) is None


@pytest.mark.parametrize(
    "heading",
    [
        "### Antwort:",
        "### Richtige Antwort:",
        "### الإجابة:",
        "### \u200fالإجابة الصحيحة\u200f:",
        "### उत्तर:",
        "### सही उत्तर:",
    ],
)
def test_headings_end_the_rationale_in_the_languages_of_the_exams(heading):
    assert split_answer(f"Because.\n\n{heading} B") == ("Because.\n\n", [" B"])
    # Without a heading the last line that begins so ends it.
    line = heading.removeprefix("### ").rstrip(":")
    assert split_answer(f"Because.\n{line}: B") == ("Because.\n", [])


@pytest.mark.parametrize("mark", ["\u200f", "\u200e", "\u202b", "\u2067", "\u061c", "\ufeff"])
def test_marks_of_direction_change_nothing(mark):
    marked = mark.join(["الإجابة", " الصحيحة", " هي", " (", "B", ")."])
    assert parse_answer(marked, EN) == ("B",)


def test_lower_case_keeps_the_length_of_an_option():
    """ß in upper case is two letters, and one in lower case: after "A. Gefäßriß" stands what is said of it."""
    options = {"A": "Gefäßriß", "B": "Thrombose"}
    assert parse_answer("A. Gefäßriß ist falsch, da der Druck hält.", options) is None
    assert parse_answer("Antwort: A. Gefäßriß, C. Größe", {**options, "C": "Größe"}) == ("A", "C")


def test_every_prefix_of_a_long_text_is_read_without_an_error():
    text = "".join(text + "\n" for text, _, _ in CASES)
    for end in range(0, len(text), 7):
        letters = parse_answer(text[end : end + 300], EN)
        assert letters is None or (set(letters) <= set(EN) and list(letters) == sorted(letters))


HOSTILE = (
    "a", " ", "\n", "A", "*", "(", "#", "选", "A, ", "A\n", "A. B. ", "answer ", "Answer: ", "answer is ", "answer is\n",
    "Answer: A,", "the answer is A, or ", "不选", "选A", "réponse correcte est ", "la ", "неправильный ", "правильный ответ ",
    "неправильн", "OPTION A,", "A is the ", "A - верн", "\\boxed{", "### Answer: ", "  Answer ", "\t\x0b\x0c", " \n", "- ", "ы",
    "A (x x) and ", "A (x ", "AのBと", "正解はAの", "<think>", "</think>", "ليست ", "الإجابة A وB ",
    "सही उत्तर ", "सही उत्तर A ", "उत्तर A और B ", "B नहीं ", "nicht die richtige Antwort ", "Antwort ist A oder ", "Die Antwort ist (A) nicht ", "„",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE, ids=[repr(piece) for piece in HOSTILE])
@pytest.mark.parametrize("before", ["", "The answer is"])
def test_takes_time_linear_in_the_text(piece, before):
    text = before + piece * (100_000 // len(piece)) + "x"
    start = time.process_time()
    parse_answer(text, EN)
    split_answer(text)
    assert time.process_time() - start < 5  # linear: under 1 s here; a quadratic pattern took 150 s


def test_what_reference_rationales_say_is_the_answer_they_explain():
    """Rationales end without the taught answer line, as outputs do that hit the limit: little is read, and that is right."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there (real MMedBench rows)")
    num_read = num_right = 0
    for split in ("Train", "Test"):
        for path in find_files(SHARED, split).values():
            for question in read_questions(path, split, FailedItems()):
                letters = parse_answer(question.rationale, question.options)
                num_read += letters is not None
                num_right += letters == question.answers
    # What is left are rationales that explain another answer than the one given with them.
    assert num_read > 1000
    assert num_right / num_read > 0.97
