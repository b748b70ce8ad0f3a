"""A classifier of topics on questions of another kind than those it learned from: clinical cases of CasiMedicos.

    python scripts/bench/bench_topics.py --model models/topics --input ../shared/data/sources/CasiMedicos

CasiMedicos names the specialty of each case; those that have a counterpart among MedMCQA's subjects are taken (the
specialties of internal medicine are "Medicine"). Prints how many are right, by topic.
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

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.errors import FailedItems
from configs.settings import parse, setting

# What a specialty begins with, and its topic. Surgery, oncology, critical care and mixed ones have none that is clear.
SPECIALTIES = {
    "PEDIATRICS": "Pediatrics",
    "PSYCHIATRY": "Psychiatry",
    "DERMATOLOGY": "Skin",
    "OPHTHALMOLOGY": "Ophthalmology",
    "OTORHINOLARYNGOLOGY": "ENT",
    "OTOLARYNGOLOGY": "ENT",
    "GYNECOLOGY": "Gynaecology & Obstetrics",
    "OBSTETRICS": "Gynaecology & Obstetrics",
    "TRAUMATOLOGY": "Orthopaedics",
    "ORTHOPEDIC": "Orthopaedics",
    "ANESTHESIOLOGY": "Anaesthesia",
    "PHARMACOLOGY": "Pharmacology",
    "MICROBIOLOGY": "Microbiology",
    "PREVENTIVE": "Social & Preventive Medicine",
    "EPIDEMIOLOGY": "Social & Preventive Medicine",
    **dict.fromkeys(
        ("CARDIOLOGY", "PNEUMOLOGY", "PULMONOLOGY", "NEPHROLOGY", "ENDOCRINOLOGY", "DIGESTIVE", "HEMATOLOGY"),
        "Medicine",
    ),
    **dict.fromkeys(("RHEUMATOLOGY", "INFECTIOUS", "INFECTOLOGY", "NEUROLOGY"), "Medicine"),
}


@dataclass
class BenchTopicsSettings:
    """Settings of the benchmark."""

    input: Path = setting(help="folder of CasiMedicos' original files")
    model: Path = setting(help="folder of a classifier (data_collection/topics.py --train)")
    encoder: Path | None = setting(None, "the encoder that it was learned with, if any")


def main() -> int:
    (settings,) = parse(__doc__, BenchTopicsSettings)
    from data_collection.benchmarks.topic_classifier import TopicClassifier
    from data_collection.benchmarks.topic_names import topic_text
    from data_collection.questions.source_sets import read_source_set

    cases = [
        (question, topic)
        for question in read_source_set("casimedicos", settings.input, FailedItems())
        for beginning, topic in SPECIALTIES.items()
        if question.lang == "en" and question.meta["subject"].startswith(beginning)
    ]
    found = TopicClassifier.load(settings.model, settings.encoder).topics(
        [topic_text(question) for question, _ in cases]
    )
    right = Counter(topic for (_, topic), given in zip(cases, found, strict=True) if given == topic)
    asked = Counter(topic for _, topic in cases)
    print(f"{right.total():,} of {len(cases):,} right ({right.total() / len(cases):.1%})")
    for topic, number in asked.most_common():
        print(f"  {topic}: {right[topic]:,} of {number:,}")
    return 0


if __name__ == "__main__":
    run(main)
