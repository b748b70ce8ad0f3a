"""The card of a model: what it is for, what it was trained on, what was removed, how it scored; from records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.files import read_json
from configs.languages import LANGUAGES
from configs.progress import duration
from finetune.prompts import beside
from inference.board.leaderboard_rows import MMEDBENCH, NUM_TEST
from inference.scores.score_tables import AVERAGE, percent
from inference.visible_text import clean_line
from scripts import report_models, report_sections
from scripts.cards import Ready, made_with, render, table, text
from scripts.lineage import source_folder, stage_of
from scripts.report_reading import Evaluation, Stage, find_stages, items, number, read_evaluations

Metadata = dict[str, Any]
# Score: the hub's name of the metric, ours.
_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "bleu_1_sentence": ("bleu", "BLEU-1"),
    "rouge_1_f": ("rouge", "ROUGE-1"),
}
_NAMES = {"pretrain": "pretraining", "finetune": "fine-tuning"}
_ANSWERS = "fine-tuned to answer medical examination questions, with a rationale or without"
_DOES = {"finetune": _ANSWERS, "merge": _ANSWERS}
_SCORES = ["Asked", "Language", "Questions", "Accuracy, %", "95 % interval", "Chance, %", "Unparsed, %"]
_SCORES += ["BLEU-1, %", "ROUGE-1, %"]


def evaluations_of(folder: Path, given: Sequence[Path], roots: Sequence[Path]) -> list[Evaluation]:
    """The finished evaluations to put into a card: those given, or all under the roots that asked this very model."""
    found: dict[Path, Stage] = {}
    for root in given or [root for root in roots if root.is_dir()]:
        for path in [root] if given else sorted(path.parent for path in root.rglob("scores.json")):
            for stage in find_stages(path) if given else [stage_of(path)]:
                asked = stage and str(stage.get("settings", "model_name_or_path") or "")
                mine = given or (asked and source_folder(stage, asked) == folder.resolve())
                if stage and stage.name == "eval" and stage.status == "finished" and mine:
                    found[stage.folder.resolve()] = stage
    return [evaluation for evaluation in read_evaluations(list(found.values())) if evaluation.scores]


def metadata(
    repo: str, stages: Sequence[Stage], base: str | None, licence: str, evaluations: Sequence[Evaluation]
) -> Metadata:
    """The block at the top of the card, as the hub reads it."""
    adapter = (stages[-1].folder / "adapter_config.json").is_file()
    values: Metadata = {
        "language": languages_of(stages),
        "license": licence,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "multilingual", *(["lora"] if adapter else [])],
        "datasets": data_sets(stages),
        "base_model": base,
        "base_model_relation": ("adapter" if adapter else "finetune") if base else None,
        "metrics": sorted({name for name, _ in _METRICS.values()}) if evaluations else None,
        "model_name": repo.split("/")[-1],
        "eval_results": [result for evaluation in evaluations for result in _results(evaluation)] or None,
    }
    return {name: value for name, value in values.items() if value}


def languages_of(stages: Sequence[Stage]) -> list[str]:
    """Codes of the languages of the training data, in the table's order."""
    found: set[str] = set()
    for stage in stages:
        for after in ("before", "after"):
            found |= set(items(stage.get("result", after, "perplexity")))
        found |= set(items(stage.get("result", "num_tokens_by_language")))
    return [code for code in LANGUAGES if code in found]


def data_sets(stages: Sequence[Stage]) -> list[str]:
    """Hub ids of the data sets that scripts/download.py fetched and a stage read."""
    from scripts.fetching import DATASETS

    found = {}
    for stage in stages:
        folder = source_folder(stage, stage.get("result", "data") or stage.get("settings", "data"))
        path = folder / "download.json" if folder else None
        name = items(read_json(path)).get("name") if path and path.is_file() else None
        if name in DATASETS:
            found[DATASETS[name]] = None
    return list(found)


def _benchmark(evaluation: Evaluation) -> tuple[str, str]:
    """The set of questions for the hub: type and name. MMedBench is only what has as many questions as its Test."""
    name = clean_line(evaluation.stage.get("settings", "benchmark") or MMEDBENCH, 40)
    if name != MMEDBENCH:
        return name, name
    kinds = evaluation.scores["languages"].values()
    if all(of["num_questions"] == NUM_TEST.get(code) for languages in kinds for code, of in languages.items()):
        return name, "MMedBench"
    return f"{name}-layout", "Questions in MMedBench's layout, not its test set"


def _results(evaluation: Evaluation) -> list[Any]:
    from huggingface_hub import EvalResult

    found = []
    set_type, set_name = _benchmark(evaluation)
    for kind, languages in evaluation.scores["languages"].items():
        for metric, (name, label) in _METRICS.items():
            for code, scores in languages.items():
                if scores.get(metric) is not None:
                    found.append(
                        EvalResult(
                            task_type="text-generation",
                            dataset_type=set_type,
                            dataset_name=set_name,
                            dataset_config=LANGUAGES[code].name,
                            dataset_split="test",
                            dataset_args={"num_questions": scores["num_questions"]},
                            metric_type=name,
                            metric_name=f"{label}, {kind.replace('_', ' ')}, %",
                            metric_value=round(100 * scores[metric], 2),
                        )
                    )
    return found


def model_card(
    repo: str, stages: Sequence[Stage], base: str | None, licence: str, evaluations: Sequence[Evaluation]
) -> str:
    """The card of the model that the last of the stages made.

    Args:
        repo: ORGANISATION/NAME on the hub.
        stages: what `lineage` gives.
        base: hub id of the model it was trained from, where that is known.
        licence: as the hub writes it.
        evaluations: of this model.
    """
    from huggingface_hub import ModelCardData

    stage = stages[-1]
    prompt = beside(stage.folder, "prompt.json")
    values = {
        "repo": repo,
        "name": repo.split("/")[-1],
        "is_adapter": (stage.folder / "adapter_config.json").is_file(),
        "what": _DOES.get(stage.name, "trained further on medical text"),
        "base": base,
        "languages": ", ".join(LANGUAGES[code].name for code in languages_of(stages)),
        "licence": licence,
        "style": items(read_json(prompt)).get("style") if prompt else None,
        "training": _training(stages),
        "conditions": report_models.conditions(list(stages)),
        "documents": documents_table(stages),
        "tokens": [_tokens(blocks) for blocks in report_sections.tokens(list(stages))],
        "questions": [line for of in stages if of.name == "finetune" for line in _questions(of)],
        "evaluations": [_scores(evaluation) for evaluation in evaluations],
        "perplexities": list(_perplexities(stages)),
        **made_with(stage),
    }
    data = ModelCardData(**metadata(repo, stages, base, licence, evaluations))
    return render("model_card.md", data, **values)


def _training(stages: Sequence[Stage]) -> Ready:
    rows = []
    for stage in stages:
        if stage.name in _NAMES:
            settings = items(stage.get("settings"))
            half = [name for name, key in (("bfloat16", "bf16"), ("float16", "fp16")) if settings.get(key)]
            rows.append(
                [
                    _NAMES[stage.name],
                    stage.get("result", "num_steps"),
                    stage.get("identity", "global_batch_size"),
                    stage.get("result", "block_size") or settings.get("block_size"),
                    settings.get("learning_rate"),
                    settings.get("lr_scheduler_type"),
                    *(half or ["float32"]),
                    duration(number(stage.get("wall_seconds")) or 0),
                ]
            )
    headings = ["Stage", "Steps", "Batch, blocks", "Tokens a block", "Learning rate", "Schedule", "Precision", "Time"]
    return table(headings, rows)


def _tokens(blocks: dict[str, Any]) -> Ready:
    rows = [[row["language"], row["tokens"], percent(row["share"])] for row in blocks["languages"]]
    return table(["Language", "Tokens", "%"], rows)


def documents_table(stages: Sequence[Stage]) -> Ready | None:
    """Documents read, kept and removed, step by step, with the reasons; None where no record tells."""
    names = ("step", "language", "reasons", "read", "kept", "rejected")
    rows = [[row[name] for name in names] for row in report_sections.documents(list(stages))]
    return table(["Step", "Language", "Why removed", "Read", "Kept", "Removed"], rows, 3) if rows else None


def _questions(stage: Stage) -> Iterator[str]:
    asked, removed = (number(stage.get("result", name)) for name in ("num_questions", "num_contaminated"))
    if asked is not None:
        yield f"Fine-tuned on {asked:,} questions."
    if stage.get("settings", "keep_contaminated"):
        yield "Training questions that hold a test question were not left out."
    elif removed is not None:
        yield f"Training questions left out because they hold a test question: {removed:,}."


def _scores(evaluation: Evaluation) -> Ready:
    """One evaluation: accuracy with its interval, chance, unparsed answers and word scores, by language."""
    rows = []
    scores = evaluation.scores
    for kind, languages in scores["languages"].items():
        named = {LANGUAGES[code].name: of for code, of in languages.items()} | {AVERAGE: scores["average"][kind]}
        for language, of in named.items():
            ends = [of.get(f"accuracy_{end}") for end in ("low", "high")]
            interval = "–" if None in ends else " to ".join(map(percent, ends))
            names = ("chance_level", "unparsed_share", "bleu_1_sentence", "rouge_1_f")
            shares = [percent(of.get(name)) for name in names]
            asked = kind.replace("_", " ")
            rows.append([asked, language, of["num_questions"], percent(of["accuracy"]), interval, *shares])
    caption = text(": ".join(filter(None, [_benchmark(evaluation)[1], evaluation.caption])))
    return Ready(
        f"{table(_SCORES, rows, 2)}\n{caption}. Accuracy: the exact set of letters; unparsed answers are wrong."
    )


def _perplexities(stages: Sequence[Stage]) -> Iterator[tuple[str, Ready]]:
    for training in report_models.trainings(list(stages)):
        ends = ("before", "after")
        if rows := [[row["language"], *(_two_digits(row[end]) for end in ends)] for row in training["perplexity"]]:
            yield _NAMES[training["stage"]], table(["Language", "Before", "After"], rows)


def _two_digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
