"""BLEU and ROUGE: worked numbers, parity with nltk, rouge-score and sacrebleu, and with a second, plain implementation."""

import math
import random

import pytest

from inference.scores.overlap import MAX_ORDER, overlap
from inference.scores.words import words
from inference.scoring import RATIONALE_SCORES, corpus_bleu, rationale_scores

TEXTS = {
    "en": 'The patient has pneumonia. It\'s viral, e.g. influenza A; the dose is 2.5 mg ("twice a day").',
    "zh": "患者出现发热和咳嗽，因此最可能的诊断是肺炎。应给予 2.5 mg 的药物（每日两次）。",
    "ja": "患者は発熱と咳嗽を認める。したがって、最も考えられるのは肺炎である。SpO2は95％だった。",
    "fr": "L'examen montre une pneumonie. C’est l'option juste, car la fièvre dure : 2,5 mg suffisent !",
    "ru": "У больного пневмония. Ответ верен, так как лихорадка длится более 3 дней.",
    "es": "¿Qué tiene el paciente? Una neumonía, por la fiebre. ¡Hay que tratarla!",
    "ar": "هل لديك حمى؟ نعم، سعال.",
    "hi": "बुखार है। खांसी नहीं।",
}


def scores(reference, candidate):
    return rationale_scores(overlap(reference, candidate))


@pytest.mark.parametrize("lang", TEXTS)
def test_identical_text_scores_one_and_foreign_text_zero(lang):
    own, other = words(TEXTS[lang], lang), words("☃ ☂ ☃ ☂ ☁", lang)
    assert set(scores(own, own)) | {"bert_score_f"} == set(RATIONALE_SCORES)
    # A text of one, two or three words too, which has no n-grams of the higher orders.
    for length in (1, 2, 3, len(own)):
        assert set(scores(own[:length], own[:length]).values()) == {1.0}
    assert set(scores(own, other).values()) == set(scores(own, []).values()) == set(scores([], own).values()) == {0.0}
    assert corpus_bleu([overlap(own, own)]) == pytest.approx(1, rel=1e-12)


def test_worked_numbers():
    reference, candidate = ["the", "cat", "sat", "on", "the", "mat"], ["the", "cat", "the", "the"]
    found = scores(reference, candidate)
    # BLEU-1: "the" counts twice of three times, "cat" once, 3 of 4; 4 words for 6: brevity e^(1 - 6/4).
    assert found["bleu_1_sentence"] == pytest.approx(0.75 * math.exp(-0.5), rel=1e-12)
    # Of the pairs "the cat", "cat the", "the the" one is there: sqrt(3/4 * 1/3).
    assert found["bleu_2_sentence"] == pytest.approx(0.5 * math.exp(-0.5), rel=1e-12)
    assert found["bleu_3_sentence"] == found["bleu_4_sentence"] == 0
    # ROUGE-1: P 3/4, R 3/6. ROUGE-2: P 1/3, R 1/5. ROUGE-L: "the cat the", P 3/4, R 3/6.
    assert found["rouge_1_f"] == found["rouge_l_f"] == pytest.approx(0.6, rel=1e-12)
    assert found["rouge_2_f"] == pytest.approx(0.25, rel=1e-12)
    # A longer candidate has no brevity penalty: 6 of 8.
    assert scores(reference, [*reference, "and", "slept"])["bleu_1_sentence"] == pytest.approx(0.75, rel=1e-12)


def plain_scores(reference, candidate):
    """A second implementation, by lists and a table."""

    def grams(of, order):
        return [tuple(of[place : place + order]) for place in range(len(of) - order + 1)]

    def common(order):
        left, num = grams(reference, order), 0
        for gram in grams(candidate, order):
            if gram in left:
                left.remove(gram)
                num += 1
        return num

    def f(num, order):
        precision, recall = num / max(1, len(grams(candidate, order))), num / max(1, len(grams(reference, order)))
        return 2 * precision * recall / (precision + recall) if num else 0.0

    found, product = {}, 1.0
    for order in range(1, MAX_ORDER + 1):
        product *= common(order) / max(1, len(grams(candidate, order)))
        brevity = min(1.0, math.exp(1 - len(reference) / len(candidate)))
        found[f"bleu_{order}_sentence"] = product ** (1 / order) * brevity
    table = [[0] * (len(candidate) + 1) for _ in range(len(reference) + 1)]
    for i, a in enumerate(reference):
        for j, b in enumerate(candidate):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return found | {"rouge_1_f": f(common(1), 1), "rouge_2_f": f(common(2), 2), "rouge_l_f": f(table[-1][-1], 1)}


@pytest.mark.parametrize("lang", ["zh", "ja", "ru", "en"])
def test_parity_with_a_plain_implementation(lang):
    draw = random.Random(lang)
    pool = words(TEXTS[lang], lang)
    for _ in range(60):
        reference = draw.choices(pool, k=draw.randint(MAX_ORDER, 80))
        # Parts of the reference among other words, so that every order has matches.
        start = draw.randrange(len(reference))
        candidate = draw.choices([*pool, "×"], k=draw.randint(1, 40)) + reference[start : start + 12]
        assert scores(reference, candidate) == pytest.approx(plain_scores(reference, candidate), abs=1e-12)


def english_pairs(num, longest):
    draw = random.Random(0)
    pool = ["fever", "cough", "rash", "pain", "in", "the", "a", "of", "patient", "acute", "with", "without", "and"]
    for _ in range(num):
        reference = draw.choices(pool, k=draw.randint(MAX_ORDER, longest))
        yield (
            reference,
            draw.choices(pool, k=draw.randint(1, longest // 2)) + reference[: draw.randint(0, longest // 2)],
        )


@pytest.mark.filterwarnings("ignore::UserWarning")  # nltk's, where no n-gram of an order matches
def test_parity_with_nltk_and_rouge_score_on_english():
    from nltk.translate.bleu_score import sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for reference, candidate in english_pairs(150, 60):
        wanted = {
            f"bleu_{order}_sentence": sentence_bleu([reference], candidate, weights=[1 / order] * order)
            for order in range(1, MAX_ORDER + 1)
        }
        theirs = rouge.score(" ".join(reference), " ".join(candidate))
        wanted |= {f"rouge_{name[-1].lower()}_f": value.fmeasure for name, value in theirs.items()}
        assert scores(reference, candidate) == pytest.approx(wanted, abs=1e-9)


def test_corpus_bleu_is_sacrebleus():
    from sacrebleu.metrics import BLEU

    pairs = list(english_pairs(40, 30))
    references, candidates = ([" ".join(text) for text in of] for of in zip(*pairs, strict=True))
    theirs = BLEU(tokenize="none").corpus_score(candidates, [references]).score / 100
    assert corpus_bleu([overlap(*pair) for pair in pairs]) == pytest.approx(theirs, abs=1e-12)
    assert 0.1 < theirs < 0.9
    # Without a match of order 3 the score is smoothed, not zero.
    assert 0 < corpus_bleu([overlap(list("abcde"), list("abxde"))]) < 0.5
    assert corpus_bleu([]) is None


def test_long_texts_are_counted_too():
    draw = random.Random(1)
    reference = draw.choices("abcdefghij", k=5000)
    candidate = [word for word in reference if draw.random() < 0.8]
    # What is left out of a text is a subsequence of it.
    assert overlap(reference, candidate).common_subsequence == len(candidate)
    assert scores(reference, reference * 2)["bleu_1_sentence"] == 0.5
