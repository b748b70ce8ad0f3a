"""Scoring against the published way: answers, BLEU and ROUGE of as many pairs as MMedBench has test rows.

    python scripts/bench/bench_scoring.py --output_dir runs/bench-scoring [--data ../shared/data]

Pairs are made from real training rationales: each is the reference of one row, and with some of its sentences replaced
by those of another rationale of its language, the answer of a model. The published way (nltk's `sentence_bleu` a pair,
and package `rouge`, which is not among the requirements) computes BLEU-4 and ROUGE-1, 2, L; ours reads the answers and
computes BLEU-1 to 4 and ROUGE-1, 2, L of the same words, split before. nltk and rouge-score do the latter too, as the
libraries to compare with. Then ours is timed from the texts on, each split
once. One process, processor time, the best of `--repeats`.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import json
import random
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import EnvironmentFailure, FailedItems
from configs.files import write_json
from configs.progress import log
from configs.settings import parse, setting
from data_collection.questions.answers import parse_answer
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question, is_correct
from inference import scoring
from inference.scores.overlap import overlap
from inference.scores.words import words


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with mmedbench/Train/")
    num_pairs: int = setting(8518, help="pairs; MMedBench has 8,518 test rows")
    repeats: int = setting(3, help="times each way is measured; the fastest counts")


def make_pairs(data: Path, num_pairs: int) -> list[tuple[Question, str]]:
    """Questions and outputs, languages in the proportion of the training files that are there."""
    draw = random.Random(0)  # noqa: S311
    questions: dict[str, list[Question]] = {}
    for path in find_files(data, "Train").values():
        rows = [q for q in read_questions(path, "Train", FailedItems()) if q.rationale]
        questions[rows[0].lang] = rows
    everything = [question for of in questions.values() for question in of]
    draw.shuffle(everything)
    pairs = []
    for index in range(num_pairs):
        question = everything[index % len(everything)]
        other = _sentences(draw.choice(questions[question.lang]).rationale)
        mixed = [draw.choice(other) if draw.random() < 0.5 else own for own in _sentences(question.rationale)]
        letter = draw.choice(list(question.options))
        pairs.append((question, f"{''.join(mixed)}\n\n### Answer: {letter}"))
    return pairs


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.。!?！？])", text.strip())[:-1] or [text]


def published_way(texts: list[tuple[list[str], list[str]]]) -> Callable[[], int]:
    """nltk's sentence BLEU and package rouge on words joined by blanks, a pair at a time."""
    try:
        from rouge import Rouge
    except ModuleNotFoundError:
        raise EnvironmentFailure(
            "the package of the published way is missing",
            where="this Python environment",
            found="no module rouge",
            todo="pip install rouge==1.0.1 for the time of the measurement",
        ) from None
    from nltk.translate.bleu_score import sentence_bleu

    joined = [(" ".join(reference), " ".join(candidate)) for reference, candidate in texts]

    def score() -> int:
        rouge = Rouge()
        for (reference, candidate), (reference_text, candidate_text) in zip(texts, joined, strict=True):
            sentence_bleu([reference], candidate)
            rouge.get_scores(candidate_text, reference_text)
        return len(texts)

    return score


def library_way(texts: list[tuple[list[str], list[str]]]) -> Callable[[], int]:
    """nltk's BLEU-1 to 4 in one call and rouge-score's ROUGE-1, 2, L, with our words for its tokenizer, a pair at a
    time: what the best libraries do with the same words."""
    from nltk.translate.bleu_score import sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer

    class Split:
        def tokenize(self, text: str) -> list[str]:
            return text.split("\x00")

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Split())
    orders = [tuple([1 / order] * order) for order in range(1, 5)]

    def score() -> int:
        for reference, candidate in texts:
            sentence_bleu([reference], candidate, orders)
            scorer.score("\x00".join(reference), "\x00".join(candidate))
        return len(texts)

    return score


def our_way(texts: list[tuple[list[str], list[str]]]) -> Callable[[], int]:
    """Every score of `scoring.rationale_scores` on the same words."""
    return lambda: len([scoring.rationale_scores(overlap(*pair)) for pair in texts])


def answers_only(pairs: list[tuple[Question, str]]) -> Callable[[], int]:
    """Accuracy: reading each answer and comparing it."""
    return lambda: sum(is_correct(parse_answer(output, q.options), q.answers) for q, output in pairs)


def whole_way(pairs: list[tuple[Question, str]]) -> Callable[[], int]:
    """`scoring.score` as the commands use it: answers, splitting, scores, languages, intervals."""
    rows = [
        {
            "id": str(number), "lang": q.lang, "kind": "with_rationale", "output": output, "options": q.options,
            "gold": list(q.answers), "rationale": q.rationale, "human_check_passed": False, "hit_limit": False,
            "seconds": 0.0,
        }
        for number, (q, output) in enumerate(pairs)
    ]  # fmt: skip
    return lambda: scoring.score(rows)["num_rows"]


def seconds(way: Callable[[], int], repeats: int) -> float:
    """Least processor time of one run."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        way()
        times.append(time.process_time() - start)
    return min(times)


def main() -> int:
    (settings,) = parse(__doc__, BenchSettings)
    warnings.simplefilter("ignore")  # nltk warns of every pair without a common n-gram
    pairs = make_pairs(settings.data, settings.num_pairs)
    split: dict[str, float] = {}
    texts = []
    for question, output in pairs:
        start = time.process_time()
        texts.append(
            (words(question.rationale, question.lang), words(scoring.extract_rationale(output), question.lang))
        )
        split[question.lang] = split.get(question.lang, 0) + time.process_time() - start
    found: dict[str, Any] = {
        "num_pairs": len(pairs),
        "num_words": sum(len(reference) + len(candidate) for reference, candidate in texts),
        "published_way_seconds": seconds(published_way(texts), settings.repeats),
        "libraries_seconds": seconds(library_way(texts), settings.repeats),
        "our_scores_seconds": seconds(our_way(texts), settings.repeats),
        "our_answers_seconds": seconds(answers_only(pairs), settings.repeats),
        "our_splitting_seconds": sum(split.values()),
        "our_splitting_seconds_by_language": split,
    }
    ours = found["our_scores_seconds"] + found["our_answers_seconds"]
    found["share_of_the_published_way"] = ours / found["published_way_seconds"]
    found["share_of_the_libraries"] = found["our_scores_seconds"] / found["libraries_seconds"]
    # References are remembered between runs, so this one is measured once.
    found["whole_scoring_seconds"] = seconds(whole_way(pairs), 1)
    write_json(settings.output_dir / "results.json", found)
    log.info(f"ours {ours:.2f} s, published way {found['published_way_seconds']:.1f} s")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    run(main)
