"""The work of verify.py: which rationales are checked by whom, serving the page, and writing what the marks say."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import EnvironmentFailure, ExitCode, FailedItems, MissingInputError, SettingsError
from configs.files import atomic_open, fingerprint, read_json, write_json
from configs.languages import LANGUAGES, language
from configs.progress import log
from data_collection.checking.agreement import RULE, Marks, agreement, is_complete, passes, verdict
from data_collection.checking.marks import COMMENT, MarkStore
from data_collection.questions.question import Question
from data_collection.questions.question_figures import NOTICE
from data_collection.questions.question_files import QuestionFiles, write_questions

MARKS_FILE = "marks.sqlite"
STAGE, EXPORT_STAGE = "verification", "verified"


def verify(settings: Any) -> int:
    """Serve the page, or write what its marks say; returns the exit code."""
    failed = FailedItems()
    files = QuestionFiles(settings.input, None, failed)
    wanted = {language(name).code for name in settings.languages or LANGUAGES}
    questions = [q for split, q in files.read() if split == settings.split and q.lang in wanted and q.rationale]
    chosen = choose(questions, settings.number, settings.overlap)
    if not chosen:
        raise MissingInputError(
            f"there are no {settings.split} questions with a rationale",
            where=settings.input,
            wanted=f"{settings.split}/LANGUAGE.jsonl in {', '.join(code for code in LANGUAGES if code in wanted)}",
            todo="python data_collection/rationales.py writes rationales; --split Train takes the other split",
        )
    identity = {
        "questions": fingerprint([[q.id, q.question, q.options, q.answers, q.rationale] for q, _ in chosen]),
        "split": settings.split,
        "number": settings.number,
        "overlap": settings.overlap,
    }
    records.already_done(settings.output_dir, identity)  # refuses the marks of other questions
    if settings.export is None:
        return _serve(settings, identity, chosen)
    return _export(settings, chosen, files, failed)


def choose(questions: list[Question], number: int | None, overlap: float) -> list[tuple[Question, bool]]:
    """What is checked, in the order in which it is given out, and whether every checker gets it.

    Of each language the `number` questions with the smallest hashes of their ids (all when None); of these the share
    `overlap`, at least one where it is above 0, goes to every checker. The order is by hash, so what is shared is
    spread, and nobody can tell which it is.
    """
    chosen: list[tuple[Question, bool]] = []
    for code in LANGUAGES:
        own = sorted((q for q in questions if q.lang == code), key=lambda q: fingerprint(["checked", q.id]))[:number]
        num_shared = max(1, round(overlap * len(own))) if overlap and own else 0
        by_other_hash = sorted(own, key=lambda q: fingerprint(["shared", q.id]))
        shared = {question.id for question in by_other_hash[:num_shared]}
        chosen += [(question, question.id in shared) for question in own]
    return sorted(chosen, key=lambda item: fingerprint(["order", item[0].id]))


def _serve(settings: Any, identity: Any, chosen: list[tuple[Question, bool]]) -> int:
    from data_collection.checking.verification_page import VerificationServer, access_key

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    with records.run_record(settings.output_dir, STAGE, records.plain(settings), identity) as record:
        store = MarkStore(settings.output_dir / MARKS_FILE)
        key = access_key(settings.output_dir)
        try:
            server = VerificationServer((settings.host, settings.port), store, chosen, key, settings.hosts)
        except OSError as error:
            raise EnvironmentFailure(
                "the page cannot be served at this address",
                where=f"{settings.host}:{settings.port}",
                found=error.strerror or error,
                wanted="an address of this machine and a free port",
                todo="--port with another number; 0 takes a free one",
            ) from None
        num_shared = sum(shared for _, shared in chosen)
        log.info(f"{len(chosen):,} rationales to check, {num_shared:,} of them by every checker")
        print(f"open {server.link}", flush=True)
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.serve_forever()
        except SystemExit as ended:
            log.info(f"stopped; the marks are in {store.path}, the same command goes on")
            record.finish("stopped", checkers=len(store.checkers()), questions=len(chosen))
            return int(str(ended.code))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            server.server_close()
    raise AssertionError("serve_forever ends by a signal only")


def _export(settings: Any, chosen: list[tuple[Question, bool]], files: QuestionFiles, failed: FailedItems) -> int:
    if not (settings.output_dir / MARKS_FILE).is_file():
        raise MissingInputError(
            "there are no marks",
            where=settings.output_dir / MARKS_FILE,
            todo="run the same command without --export, and check rationales in the page",
        )
    _check_folder(settings.export, settings.input)
    store = MarkStore(settings.output_dir / MARKS_FILE)
    numbers = {name: f"checker {number}" for number, name in enumerate(store.checkers(), 1)}
    marks = {
        question: {numbers[checker]: own for checker, own in found.items()}
        for question, found in store.all_marks().items()
    }
    complete = {
        question: own
        for question, found in marks.items()
        if (own := {checker: fields for checker, fields in found.items() if is_complete(fields)})
    }
    described = records.plain(settings)
    with records.run_record(settings.export, EXPORT_STAGE, described, {"marks": fingerprint(marks)}) as record:
        result = summary([question for question, _ in chosen], complete)
        with atomic_open(settings.export / "marks.jsonl") as file:
            for question, found in marks.items():
                for checker, fields in found.items():
                    comment = {COMMENT: fields[COMMENT]} if fields.get(COMMENT) else {}
                    own = {field: value for field, value in fields.items() if field != COMMENT}
                    row = {"id": question, "checker": checker, **own, **comment, "complete": is_complete(fields)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        write_json(settings.export / "agreement.json", result)
        with atomic_open(settings.export / "agreement.md") as file:
            file.write(describe(result))
        flagged = ((split, with_flags(question, complete)) for split, question in files.read())
        write_questions(flagged, settings.export)
        failed.write(settings.export / "failures.jsonl")
        record.finish("finished", len(failed), **{name: result[name] for name in ("questions", "checked", "passed")})
    print(describe(result))
    return failed.exit_code if failed else ExitCode.DONE


def _check_folder(folder: Path, source: Path) -> None:
    """Refuse to write into the input or over what is no earlier export; an earlier export is written anew.

    Raises:
        SettingsError: the folder is one of these.
    """
    record = folder / "run.json"
    is_ours = record.is_file() and read_json(record).get("stage") == EXPORT_STAGE
    if folder.resolve() == source.resolve() or (folder.is_dir() and any(folder.iterdir()) and not is_ours):
        raise SettingsError(
            "the export would be written over something else",
            where=folder,
            wanted="a new folder, or one of an earlier export",
            todo="give another folder to --export",
        )


def with_flags(question: Question, complete: Mapping[str, Mapping[str, Marks]]) -> Question:
    """The question with `human_checked` and `human_check_passed` by its complete marks; without any, as it was."""
    if question.id not in complete:
        return question
    passed = verdict(list(complete[question.id].values()))
    return replace(question, human_checked=True, human_check_passed=passed)


def summary(questions: list[Question], complete: Mapping[str, Mapping[str, Marks]]) -> dict[str, Any]:
    """agreement.json: how many were checked and passed, by language and checker, and how far checkers agree.

    Args:
        questions: what was to be checked.
        complete: question to checker to complete marks.
    """
    ids: dict[str, list[str]] = {}
    for question in questions:
        ids.setdefault(question.lang, []).append(question.id)

    def counted(of: list[str]) -> dict[str, int]:
        checked = [complete[one] for one in of if one in complete]
        passed = sum(verdict(list(found.values())) for found in checked)
        return {"questions": len(of), "checked": len(checked), "passed": passed}

    checkers = sorted({checker for found in complete.values() for checker in found}, key=lambda name: (len(name), name))
    by_checker = {checker: [found[checker] for found in complete.values() if checker in found] for checker in checkers}
    return {
        "notice": NOTICE,
        "rule": RULE,
        **counted([question.id for question in questions]),
        "by_language": {code: counted(ids[code]) for code in LANGUAGES if code in ids},
        "by_checker": {
            checker: {"checked": len(own), "passed": sum(map(passes, own))} for checker, own in by_checker.items()
        },
        "agreement": agreement(complete),
    }


def describe(result: Mapping[str, Any]) -> str:
    """agreement.md: the tables of what `summary` returns."""
    lines = [f"{result['checked']:,} of {result['questions']:,} rationales checked, {result['passed']:,} passed.", ""]
    lines += [f"{result['rule'][0].upper()}{result['rule'][1:]}.", "", "| language | to check | checked | passed |"]
    lines += ["|---|---|---|---|"]
    for code, row in result["by_language"].items():
        lines.append(f"| {language(code).name} | {row['questions']:,} | {row['checked']:,} | {row['passed']:,} |")
    lines += ["", "| checker | checked | passed |", "|---|---|---|"]
    lines += [f"| {name} | {row['checked']:,} | {row['passed']:,} |" for name, row in result["by_checker"].items()]
    lines += [
        "",
        "Rationales that two checkers or more have marked; a kappa is not defined where all marks are equal:",
        "",
    ]
    lines += [
        "| criterion | rationales | pairs that agree | Fleiss' kappa | Cohen's kappa, by pair |",
        "|---|---|---|---|---|",
    ]
    for criterion, row in result["agreement"].items():
        pairs = (
            f"{' and '.join(name.removeprefix('checker ') for name in pair['checkers'])}: {_number(pair['kappa'])} "
            f"({pair['questions']:,})"
            for pair in row["cohen_kappa"]
        )
        observed = "–" if row["observed"] is None else f"{row['observed']:.1%}"
        lines.append(
            f"| {criterion} | {row['questions']:,} | {observed} | {_number(row['fleiss_kappa'])} | {'; '.join(pairs)} |"
        )
    return "\n".join([*lines, "", NOTICE, ""])


def _number(kappa: float | None) -> str:
    return "–" if kappa is None else f"{kappa:.3f}"
