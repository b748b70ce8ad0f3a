"""The checks of rewritten and translated texts on real texts: how often they are wrong, and how often they see.

    python scripts/bench/bench_faithfulness.py --output_dir runs/bench-faithfulness [--data ../shared/data]

answers: conclusions of PubMedQA beside their own abstract and another one; sentences of abstracts, sound and with one
number, one "not" more, or one "not" less. translations: Spanish exam questions (CasiMedicos) beside the published
English and French translations. similarity: chrF of questions of MMedBench that have nothing to do with each other.
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
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.files import write_json
from configs.settings import parse, setting


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with sources/ and mmedbench/")
    number: int = setting(250, help="abstracts, and questions of a language, that are looked at")


def answers(data: Path, number: int) -> dict[str, Any]:
    """Conclusions and sentences beside abstracts."""
    from data_collection.llm.faithfulness import share_from, unfaithful
    from data_collection.llm.rewriting import MIN_SHARE

    path = data / "sources" / "PubMedQA" / "ori_pqal.json"
    rows = list(json.loads(path.read_text(encoding="utf-8")).values())[:number]
    abstracts = [" ".join(row["CONTEXTS"]) for row in rows]
    others = [*abstracts[7:], *abstracts[:7]]
    conclusions = [row["LONG_ANSWER"] for row in rows]
    changes: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for abstract in abstracts:
        for sentence in re.split(r"(?<=[.])\s+", abstract)[:4]:
            spoilt = {"sound": sentence}
            if figure := re.search(r"(?<![\d.,])\d+(?![\d.,])", sentence):
                spoilt["another number"] = f"{sentence[: figure.start()]}{figure[0]}7{sentence[figure.end() :]}"
            if " not " in sentence:
                spoilt["a lost not"] = sentence.replace(" not ", " ", 1)
            elif " was " in sentence:
                spoilt["a not more"] = sentence.replace(" was ", " was not ", 1)
            changes.update(spoilt.keys())
            seen.update(name for name, text in spoilt.items() if unfaithful(text, abstract, "en"))
    pairs = list(zip(conclusions, abstracts, others, strict=True))
    return {
        "conclusions": len(pairs),
        "found unfaithful": sum(bool(unfaithful(text, own, "en")) for text, own, _ in pairs),
        "not from its own abstract": sum(share_from(text, own, "en") < MIN_SHARE for text, own, _ in pairs),
        "not from another abstract": sum(share_from(text, other, "en") < MIN_SHARE for text, _, other in pairs),
        "sentences found unfaithful": {name: f"{seen[name]} of {count}" for name, count in changes.items()},
    }


def translations(data: Path, number: int) -> dict[str, Any]:
    """Questions and options beside their translations by others."""
    from configs.errors import FailedItems
    from data_collection.llm.faithfulness import changed
    from data_collection.questions.source_sets import read_source_set

    questions = list(read_source_set("casimedicos", data / "sources" / "CasiMedicos", FailedItems()))
    by_lang = {lang: {q.id.rsplit("/", 1)[1]: q for q in questions if q.lang == lang} for lang in ("es", "en", "fr")}
    found: dict[str, Any] = {}
    for lang in ("en", "fr"):
        counts: Counter[str] = Counter()
        for place, source in list(by_lang["es"].items())[:number]:
            target = by_lang[lang].get(place)
            if not target or len(target.options) != len(source.options):
                continue
            texts = [("questions", source.question, target.question)]
            texts += [("options", text, target.options[letter]) for letter, text in source.options.items()]
            for part, before, after in texts:
                counts[part] += 1
                if problem := changed(after, lang, before, "es", polarity=True):
                    counts[f"{part}: {re.sub('[:(].*', '', problem)}"] += 1
        found[f"es to {lang}"] = dict(sorted(counts.items()))
    return found


def unrelated(data: Path, number: int) -> dict[str, Any]:
    """chrF between questions drawn at random, with options and rationale: median, and what 95 of 100 do not reach."""
    from configs.languages import LANGUAGES
    from data_collection.llm.translating import similarity

    random.seed(0)
    found = {}
    for row in LANGUAGES.values():
        path = data / "mmedbench" / "Test" / f"{row.name}.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        texts = ["\n".join([r["question"], *map(str, r["options"].values()), r["rationale"]]) for r in rows]
        scores = sorted(similarity(*random.sample(texts, 2)) for _ in range(number))
        found[row.code] = [round(scores[int(len(scores) * share)], 2) for share in (0.5, 0.95)]
    return found


def main() -> int:
    settings = parse(__doc__, BenchSettings)[0]
    parts = {"answers": answers, "translations": translations, "similarity": unrelated}
    results = {name: part(settings.data, settings.number) for name, part in parts.items()}
    write_json(settings.output_dir / "results.json", results)
    print(json.dumps(results, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    run(main)
