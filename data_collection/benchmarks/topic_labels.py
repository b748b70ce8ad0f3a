"""The work of topics.py: learning a classifier of topics, and giving topics to questions by it or by a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import Journal, atomic_open, file_identity, fingerprint, read_json, sha256_file
from configs.languages import language
from configs.locks import hold
from configs.progress import Progress, log
from data_collection.benchmarks.topic_classifier import (
    BITS,
    COST,
    RECORD_FILE,
    WEIGHTS_FILE,
    EncoderFeatures,
    TopicClassifier,
    WordFeatures,
    encoder_files,
    heldout_figures,
)
from data_collection.benchmarks.topic_names import TOPICS, read_topic, topic_prompt, topic_text
from data_collection.llm.asking import LATER_TEMPERATURE, Attempts, ask_until_good, model_of_finished, sampling
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.question import Question
from data_collection.questions.question_figures import NOTICE, TOPIC, TOPIC_BY, TOPIC_NOTE
from data_collection.questions.question_files import QuestionFiles, write_questions
from data_collection.questions.source_sets import find_set_files, read_source_set

LABELLED_SET, LABELLED_LANGUAGE = "medmcqa", "en"  # whose labels are learned
HELD_OUT = 5  # one question in so many is held out, by hash
BATCH = 512
CLASSIFIER_STAGE, STAGE = "topic_classifier", "topics"


def learn_topics(settings: Any) -> int:
    """Learn on four fifths and measure on the rest, then learn on all and save; returns the exit code."""
    import numpy as np

    failed = FailedItems()
    identity = {
        "files": [[path.name, sha256_file(path)] for path in find_set_files(LABELLED_SET, settings.input)],
        "encoder": [file_identity(path) for path in encoder_files(settings.encoder)] if settings.encoder else None,
        "method": [COST, BITS, HELD_OUT],
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    questions = list(read_source_set(LABELLED_SET, settings.input, failed))
    labelled = [question for question in questions if question.meta.get("subject") in TOPICS]
    held_out = np.array([int(question.content_hash, 16) % HELD_OUT == 0 for question in labelled])
    labels = np.array([question.meta["subject"] for question in labelled])
    if len(set(labels[~held_out])) < 2 or not held_out.any():
        raise MissingInputError(
            "there are too few questions with a subject",
            where=settings.input,
            found=f"{len(labelled):,} of {len(questions):,} questions have one",
            wanted="MedMCQA's files (their field subject_name) with questions of several subjects",
            todo="give the folder that holds MedMCQA's original files to --input",
        )
    with records.run_record(settings.output_dir, CLASSIFIER_STAGE, records.plain(settings), identity) as record:
        features = EncoderFeatures(settings.encoder) if settings.encoder else WordFeatures()
        rows = features.rows([topic_text(question) for question in labelled])
        measured = TopicClassifier.fit(rows[~held_out], labels[~held_out], features)
        majority = Counter(labels[~held_out]).most_common(1)[0][0]
        figures = heldout_figures(labels[held_out].tolist(), measured.predict(rows[held_out]), majority)
        log.info(f"held out: accuracy {figures['accuracy']:.1%}, macro F1 {figures['macro_f1']:.3f}; learning on all")
        about = {
            "note": TOPIC_NOTE,
            "learned_on": {"set": LABELLED_SET, "lang": LABELLED_LANGUAGE, "questions": len(labelled)},
            "without_subject": len(questions) - len(labelled),
            "languages": None if settings.encoder else [LABELLED_LANGUAGE],
            "held_out": figures,
        }
        TopicClassifier.fit(rows, labels, features).save(settings.output_dir, **about)
        with atomic_open(settings.output_dir / "accuracy.md") as file:
            file.write(describe_accuracy(figures))
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), held_out=figures, questions=len(labelled))
    print(describe_accuracy(figures))
    return failed.exit_code


def describe_accuracy(figures: dict[str, Any]) -> str:
    """accuracy.md: how right the classifier was on the questions held out."""
    lines = [
        f"{figures['questions']:,} questions held out: accuracy {figures['accuracy']:.1%} "
        f"({figures['accuracy_low']:.1%} to {figures['accuracy_high']:.1%}; the most frequent topic for all: "
        f"{figures['majority_accuracy']:.1%}), macro F1 {figures['macro_f1']:.3f}.",
        "",
        "The classifier saved has learned from all questions, those held out too.",
        "",
        "| topic | questions held out | precision | recall | F1 |",
        "|---|---|---|---|---|",
    ]
    for name, row in sorted(figures["topics"].items(), key=lambda item: -item[1]["questions"]):
        lines.append(
            f"| {name} | {row['questions']:,} | {row['precision']:.2f} | {row['recall']:.2f} | {row['f1']:.2f} |"
        )
    return "\n".join([*lines, "", TOPIC_NOTE, NOTICE, ""])


def label_topics(settings: Any, server_settings: ServerSettings) -> int:
    """Give each question a topic, by the classifier of `settings.model` or else by a server; returns the exit code."""
    failed = FailedItems()
    files = QuestionFiles(settings.input, settings.languages, failed, settings.output_dir)
    if settings.model is not None:
        server_settings.refuse_unused("leave --model out")
        return _by_classifier(settings, files, failed)
    return _by_server(settings, server_settings, files, failed)


def _by_classifier(settings: Any, files: QuestionFiles, failed: FailedItems) -> int:
    weights = settings.model / WEIGHTS_FILE
    about = read_json(settings.model / RECORD_FILE)
    identity = {"questions": files.identity, "classifier": sha256_file(weights) if weights.is_file() else None}
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    classifier = TopicClassifier.load(settings.model, settings.encoder)
    languages = about.get("languages") or list(files.numbers)
    left_out = {lang: number for lang, number in files.numbers.items() if lang not in languages}
    if len(left_out) == len(files.numbers):
        raise MissingInputError(
            "this classifier knows none of the languages",
            where=settings.input,
            found=", ".join(language(lang).name for lang in left_out),
            wanted=", ".join(language(lang).name for lang in languages),
            todo="learn one with --encoder FOLDER, a multilingual encoder, or ask a server (without --model)",
        )
    for lang, number in left_out.items():
        log.info(
            f"{language(lang).name}: {number:,} questions get no topic, this classifier does not know the language"
        )
    with records.run_record(settings.output_dir, STAGE, records.plain(settings), identity) as record:
        topics: dict[str, str] = {}

        def take(row: dict[str, Any], _: int) -> None:
            topics[row["id"]] = row["topic"]

        num_wanted = sum(files.numbers[lang] for lang in files.numbers if lang in languages)
        path = settings.output_dir / "topics.jsonl"
        with hold(path), closing(Journal(path, take)) as journal:
            progress = Progress("topics", num_wanted, "questions", done=len(topics))
            wanted = (q for _, q in files.read() if q.lang in languages and q.id not in topics)
            for batch in _batches(wanted):
                found = classifier.topics([topic_text(question) for question in batch])
                journal.append([{"id": q.id, "topic": topic} for q, topic in zip(batch, found, strict=True)])
                progress.advance(len(batch))
            progress.close()
        _write(files, settings.output_dir, topics.get, "classifier")
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), topics=Counter(topics.values()), without_topic=left_out, note=TOPIC_NOTE)
    print(settings.output_dir)
    return failed.exit_code


def _batches(questions: Iterator[Question]) -> Iterator[list[Question]]:
    batch: list[Question] = []
    for question in questions:
        batch.append(question)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True)
class _Asked:
    """A question as something to ask a topic for (`asking.Item`)."""

    question: Question
    max_new_tokens: int

    @property
    def id(self) -> str:
        return self.question.id

    def request(self, attempt: int, earlier: list[Any]) -> Request:
        message = {"role": "user", "content": topic_prompt(self.question)}
        return Request(self.id, [message], self.max_new_tokens, sampling(attempt))

    def check(self, text: str, hit_limit: bool, earlier: list[Any]) -> tuple[str | None, str]:
        topic = None if hit_limit else read_topic(text)
        return topic, "" if topic else "cut at the limit" if hit_limit else "is no topic"


def _by_server(settings: Any, server_settings: ServerSettings, files: QuestionFiles, failed: FailedItems) -> int:
    server = None
    model = model_of_finished(settings.output_dir, server_settings.server_model)
    if model is None:
        server = Server(server_settings)
        model = server.model
    sample = Question("", "en", "?", {"A": "1", "B": "2"}, ())
    identity = {
        "questions": files.identity,
        "prompt": fingerprint([topic_prompt(sample), LATER_TEMPERATURE, settings.max_new_tokens]),
        **server_settings.identity(model),
        "max_attempts": settings.max_attempts,
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    server = server or Server(server_settings)
    described = {**records.plain(settings), **records.plain(server_settings)}

    def items() -> Iterator[_Asked]:
        return (_Asked(question, settings.max_new_tokens) for _, question in files.read())

    with (
        records.run_record(settings.output_dir, STAGE, described, identity) as record,
        closing(Attempts(settings.output_dir / "attempts.jsonl")) as attempts,
    ):
        num_good = sum(attempts.is_good(item.id) for item in items())
        most = server.estimate(item.request(0, []) for item in items() if not attempts.is_good(item.id))
        log.info(
            f"{files.numbers.total() - num_good:,} topics to ask {server.model} for"
            + (f", about {most:.2f} at most when each is good at the first attempt" if most else "")
        )
        progress = Progress("topics", files.numbers.total(), "questions", done=num_good)
        ask_until_good(server, items, attempts, settings.max_attempts, progress)
        topics: Counter[str] = Counter()

        def topic_of(question_id: str) -> str | None:
            results = attempts.results(question_id)
            return results[0] if results else None

        for item in items():
            topic = topic_of(item.id)
            if topic:
                topics[topic] += 1
            else:
                tried = f"no topic in {settings.max_attempts} attempts"
                failed.add(item.id, f"{tried}; the last: {attempts.last_problem(item.id)}")
        _write(files, settings.output_dir, topic_of, f"server: {server.model}")
        failed.write(settings.output_dir / "failures.jsonl")
        figures = {"model": server.model, "attempts": attempts.num_rows, "problems": dict(attempts.problems)}
        cost = round(attempts.cost, 6)
        record.finish("finished", len(failed), topics=topics, cost=cost, note=TOPIC_NOTE, **figures)
    print(settings.output_dir)
    return failed.exit_code


def _write(files: QuestionFiles, output_dir: Path, topic_of: Callable[[str], str | None], by: str) -> None:
    def labelled(question: Question) -> Question:
        topic = topic_of(question.id)
        if topic is None:
            return question
        return replace(question, meta={**question.meta, TOPIC: topic, TOPIC_BY: by})

    write_questions(((split, labelled(question)) for split, question in files.read()), output_dir)
