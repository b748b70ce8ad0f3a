"""Options in other orders, and the scores of several orders, against numbers worked by hand."""

from dataclasses import replace

import pytest

from configs.errors import MissingInputError
from data_collection.questions.question import Question
from inference.fewshot import draw_examples
from inference.kinds import setting_name
from inference.orders import shuffle_options
from inference.scoring import score


def question(number, lang="en", text=None, **fields):
    options = {"A": "iron", "B": "zinc", "C": "gold", "D": "lead"}
    text = (
        text or f"Which metal number {number} is stored in the liver of a patient with this rare disease of metabolism?"
    )
    return Question(f"Train/{lang}/{number}", lang, text, options, ("B",), "Because.", **fields)


def test_orders_are_seeded_permutations_that_move_the_answers_along():
    seen = set()
    for order in range(40):
        shown, letters = shuffle_options(question(1), 0, order)
        assert shuffle_options(question(1), 0, order) == (shown, letters)
        assert sorted(shown.options.values()) == ["gold", "iron", "lead", "zinc"]
        assert [shown.options[letter] for letter in shown.answers] == ["zinc"]
        assert letters["ABCD".index(shown.answers[0])] == "B"
        seen.add(letters)
    assert len(seen) > 15 and shuffle_options(question(1), 1, 0) != shuffle_options(question(1), 0, 0)


def shuffled(number, order, letters, chosen, kind="answer_only", **fields):
    """A row whose gold is the original option A, and whose answer is the shown letter `chosen`."""
    options = {shown: "abcd"["ABCD".index(old)] + "-option" for shown, old in zip("ABCD", letters, strict=True)}
    gold = [shown for shown, old in zip("ABCD", letters, strict=True) if old == "A"]
    row = {"id": f"Test/English/{number:05d}", "lang": "en", "kind": kind, "output": f" {chosen}", "rationale": ""}
    row |= {"human_check_passed": False, "hit_limit": False, "seconds": 0.5, **fields}
    return row | {"options": options, "gold": gold, "order": order, "original_letters": letters, "parsed": [chosen]}


def test_scores_of_several_orders_are_means_and_a_question_counts_once():
    rows = [
        shuffled(0, 0, "ABCD", "A"), shuffled(0, 1, "BACD", "B"), shuffled(0, 2, "DCBA", "D"),  # right in every order
        shuffled(1, 0, "ABCD", "A"), shuffled(1, 1, "BACD", "A"), shuffled(1, 2, "DCBA", "A"),  # always the first letter
        shuffled(2, 0, "ABCD", "C"), shuffled(2, 1, "BACD", "C"), shuffled(2, 2, "DCBA", "B"),  # always C, wrong
    ]  # fmt: skip
    found = score(rows)["languages"]["answer_only"]["en"]
    assert found["num_questions"] == 3 and found["num_orders"] == 3
    assert found["accuracy_by_order"] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert found["accuracy"] == pytest.approx(4 / 9)  # (1 + 1/3 + 0) / 3
    assert found["accuracy_order_sd"] == pytest.approx((1 / 27) ** 0.5)  # variance ((2/9)^2 + 2 (1/9)^2) / 2
    assert (found["accuracy_order_min"], found["accuracy_order_max"]) == pytest.approx((1 / 3, 2 / 3))
    assert found["order_consistency"] == pytest.approx(2 / 3)  # the second question's answers are A, B and D
    # Over questions, not rows: values 1, 1/3, 0.
    deviations = [(value - 4 / 9) ** 2 for value in (1, 1 / 3, 0)]
    assert found["accuracy_standard_error"] == pytest.approx((sum(deviations) / 3) ** 0.5 / 3**0.5)
    average = score(rows)["average"]["answer_only"]
    assert average["accuracy_order_sd"] == pytest.approx(found["accuracy_order_sd"]) and average["num_orders"] == 3


def test_rationales_of_several_orders_are_all_in_the_corpus_score():
    text = "Iron is stored in the liver by ferritin."
    rows = [
        shuffled(0, order, "ABCD", "A", kind="with_rationale", rationale=text)
        | {"output": f"{said}\n\n### Answer: A", "parsed": ["A"]}
        for order, said in enumerate((text, "No word of it here."))
    ]
    found = score(rows)["languages"]["with_rationale"]["en"]
    assert found["num_references"] == 1 and found["rouge_1_f"] == pytest.approx(0.5, abs=0.2)
    alone = score(rows[:1])["languages"]["with_rationale"]["en"]
    assert 0 < found["bleu_4_corpus"] < alone["bleu_4_corpus"] == pytest.approx(1)


def test_examples_hold_no_test_question_and_depend_on_the_seed_alone():
    test = [question(100 + i) for i in range(3)]
    train = [question(i, text=f"Metal {i}? " + "long unlike words " * 5 + str(i) * 30) for i in range(6)]
    train += [question(200 + i, text=test[i].question) for i in range(3)]  # two of three of these would be drawn often
    for seed in range(12):
        (drawn,) = draw_examples(train, test, 4, seed).values()
        assert len({q.id for q in drawn}) == 4 and {q.question for q in drawn}.isdisjoint(q.question for q in test)
        assert draw_examples(train, test, 4, seed)["en"] == drawn
    assert len({tuple(q.id for q in draw_examples(train, test, 2, seed)["en"]) for seed in range(12)}) > 4
    with pytest.raises(MissingInputError, match="not enough"):
        draw_examples(train[:3], test, 4, 0)
    with pytest.raises(MissingInputError, match="not enough"):  # a question that Train has twice is shown once
        draw_examples([train[0], train[1], replace(train[1], id="again")], test, 3, 0)


@pytest.mark.parametrize(
    ("label", "kind", "setting", "name"),
    [
        ("base", "answer_only", None, "base, answer only"),
        ("base", "answer_only", ("zero-shot", 0, "plain", False), "base, answer only, zero-shot"),
        ("zero-shot", "letter_likelihood", ("zero-shot", 0, "chat", False), "zero-shot, letter likelihood, chat template"),
        ("3-shot", "answer_only", ("few-shot", 3, "plain", False), "3-shot, answer only"),
        ("X", "answer_only", ("fine-tuned (LoRA)", 3, "published", True),
         "X, answer only, fine-tuned (LoRA), 3-shot, published prompt, options shuffled"),
    ],
)  # fmt: skip
def test_every_score_names_its_setting(label, kind, setting, name):
    names = ("adaptation", "num_fewshot", "prompt_style", "shuffled")
    assert setting_name(label, kind, setting and dict(zip(names, setting, strict=True))) == name
