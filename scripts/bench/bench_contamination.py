"""Test questions in other texts: how many planted ones are found, what is found wrongly, and the speed of the search.

    python scripts/bench/bench_contamination.py --output_dir runs/bench-contamination [--data ../shared/data]

planted: the test questions with their options, each put into a real document, with a share of their words replaced
(characters in zh and ja, at half the rate), and the bare questions without options. documents: hits in the real
documents of all test and training questions, to be read by a person: none of these was planted. speed: MB of UTF-8 a
second of processor time, for the test questions.
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
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import FailedItems
from configs.files import write_json
from configs.languages import language
from configs.progress import log
from configs.settings import parse, setting
from scripts.bench.bench_dedup import read_texts

SPEED_MEGABYTES = 3


@dataclass
class BenchContaminationSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/ and mmedbench/")
    rates: list[float] = setting([0.0, 0.05, 0.1], help="shares of the words of planted questions that are replaced")
    ngram_words: int = setting(3, help="n of the n-grams of words")
    ngram_characters: int = setting(5, help="n of the n-grams of characters, in zh and ja")


def with_other_words(text: str, lang: str, rate: float, draw: random.Random) -> str:
    """The text with a share of its words (characters in zh and ja, half of it) replaced by a word that is in none."""
    spaced = language(lang).spaced
    parts, rate = (text.split(), rate) if spaced else (list(text), rate / 2)
    return (" " if spaced else "").join("某" if draw.random() < rate else part for part in parts)


def main() -> int:
    settings = parse(__doc__, BenchContaminationSettings)[0]
    from data_collection.overlaps.contamination import (
        ContaminationRules,
        TestQuestions,
        question_text,
        read_test_questions,
    )
    from data_collection.questions.mmedbench import find_files, read_questions

    rules = ContaminationRules(ngram_words=settings.ngram_words, ngram_characters=settings.ngram_characters)
    test = read_test_questions([settings.data], FailedItems())
    files = find_files(settings.data, "Train").values()
    train = [question for path in files for question in read_questions(path, "Train", FailedItems())]
    langs = list(dict.fromkeys(question.lang for question in test))
    texts = {lang: read_texts(settings.data, lang) for lang in langs}
    questions, everything = TestQuestions(test, rules), TestQuestions(test + train, rules)

    def found(rate: float, bare: bool) -> dict[str, int]:
        draw = random.Random(0)  # noqa: S311 - no secrets here
        counts: Counter[str] = Counter()
        for question in test:
            body = with_other_words(question.question if bare else question_text(question), question.lang, rate, draw)
            text = draw.choice(texts[question.lang])
            at = draw.randrange(len(text))
            hits = questions.find([f"{text[:at]}\n{body}\n{text[at:]}"])[0]
            counts[question.lang] += question.id in [hit.question for hit in hits]
        return {lang: counts[lang] for lang in langs}

    results: dict[str, Any] = {
        "questions": dict(Counter(question.lang for question in test)),
        "planted": {f"{rate:g}": found(rate, bare=False) for rate in settings.rates},
        "bare": found(0.0, bare=True),
        "documents": {"looked for": len(test + train)},
        "speed": {},
    }
    for lang, some in texts.items():
        hits = [[hit.question for hit in of_text] for of_text in everything.find(some) if of_text]
        results["documents"][lang] = {"of": len(some), "hits": hits}
        size, much = sum(len(text.encode()) for text in some), []
        while sum(map(len, much)) < SPEED_MEGABYTES * 10**6:
            much += some
        start = time.process_time()
        questions.find(much)
        seconds = time.process_time() - start
        results["speed"][lang] = round(size * (len(much) // len(some)) / 1e6 / seconds, 1)
        log.info(f"{lang}: {len(hits)} hits in {len(some)} documents, {results['speed'][lang]} MB a second")
    write_json(settings.output_dir / "results.json", results)
    print(json.dumps(results, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    run(main)
