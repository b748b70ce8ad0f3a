"""Give each question a medical topic: by a classifier that works offline, or by a language-model server.

    python data_collection/topics.py --train --input FOLDER/MedMCQA --output_dir models/topics
    python data_collection/topics.py --input data/mmedbench --model models/topics --output_dir DIR
    python data_collection/topics.py --input data/mmedbench --server_url http://127.0.0.1:8000/v1 --output_dir DIR

The topics are the subjects of MedMCQA, from whose labels the classifier learns (topics.json, topics.safetensors, and
accuracy.md: how right it is on questions held out). It counts words and knows English; with --encoder FOLDER, a
multilingual encoder, given each time, it takes any language that the encoder knows. Without --model a server is asked,
whose key comes from the environment. Writes Train/ and Test/LANGUAGE.jsonl with the fields medical_topic and
medical_topic_by, statistics.json, .md and .csv, failures.jsonl, run.json, and topics.jsonl or attempts.jsonl (what is
known so far; the same command goes on from there).
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n"
        "  what to do: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

from dataclasses import dataclass
from pathlib import Path

from configs.settings import parse, setting
from data_collection.llm.server_settings import ServerSettings


@dataclass
class TopicSettings:
    """Settings of data_collection/topics.py, beside those of the server."""

    input: Path = setting(help="folder of questions in MMedBench's layout; with --train that of MedMCQA's files")
    output_dir: Path = setting(help="folder of the questions with topics; with --train that of the classifier")
    train: bool = setting(False, "learn a classifier")
    model: Path | None = setting(None, "folder of the classifier; without one the server is asked")
    encoder: Path | None = setting(None, "folder of a multilingual encoder, as transformers loads it")
    languages: list[str] | None = setting(None, "codes of the languages; all that are there by default")
    max_new_tokens: int = setting(64, "limit of a server's answer; models that think first want more")
    max_attempts: int = setting(3, "answers asked of the server before a question is given up")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("max_new_tokens", "max_attempts")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        if self.train and self.model:
            found.append("model: wanted without --train, which makes one")
        if self.encoder and not self.train and not self.model:
            found.append("encoder: wanted with --train or --model")
        if self.train and self.languages:
            found.append("languages: wanted without --train, which learns from all questions that bear a topic")
        return found


def main() -> int:
    settings, server = parse(__doc__, TopicSettings, ServerSettings)
    from data_collection.benchmarks.topic_labels import label_topics, learn_topics

    return learn_topics(settings) if settings.train else label_topics(settings, server)


if __name__ == "__main__":
    run(main)
