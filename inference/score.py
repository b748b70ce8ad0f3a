"""Score predictions again, without a model: scores, table and plots from one or more predictions.jsonl.

  python inference/score.py --input runs/eval/A/predictions.jsonl --output_dir DIR
  python inference/score.py --input runs/eval/A runs/eval/B --labels "before" "after" --output_dir DIR

Writes scores.json, table.md/.csv/.tex, details.md, published.md/.csv/.tex (the published figures of MMedBench beside
ours), accuracy.svg/.png and rationale.svg/.png. Of several inputs each later one is compared with the first,
question by question.
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

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import FailedItems
from configs.records import already_done, exit_code, run_record
from configs.settings import parse, setting
from inference import scoring
from inference.scores import comparison
from inference.scores.runs import problems_of, read_runs, scoring_identity, shared_questions
from inference.scores.score_files import write_all
from pretrain.models import model_identity


@dataclass
class ScoreSettings:
    """Settings of inference/score.py."""

    input: list[Path] = setting(help="predictions.jsonl files, or folders that hold one")
    output_dir: Path = setting(help="where to write scores, tables and plots")
    labels: list[str] = setting([], "name of each input in the table; the names of their folders by default")
    caption: str = setting("", "a line under the table: steps, lengths, limits")
    bert_model: Path | None = setting(None, "folder of an encoder, to add BERTScore of the rationales")
    bert_layer: int | None = setting(None, "its layer to take; three quarters up by default")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = problems_of(self.input, self.labels)
        if self.bert_layer is not None and self.bert_model is None:
            found.append("bert_layer: no bert_model is given")
        return found


def main() -> int:
    (settings,) = parse(__doc__, ScoreSettings)
    failed = FailedItems()
    runs, hashes = read_runs(settings.input, settings.labels, failed)
    labels, rows = list(runs), list(runs.values())
    identity = {
        "input": hashes,
        "caption": settings.caption,
        "scoring": scoring_identity(),
        **({"bert": [model_identity(str(settings.bert_model)), settings.bert_layer]} if settings.bert_model else {}),
    }
    if done := already_done(settings.output_dir, identity):
        print(f"already done: {settings.output_dir}", file=sys.stderr)
        print(json.dumps(done["result"]["average"], ensure_ascii=False))
        return exit_code(done)
    with run_record(settings.output_dir, "score", asdict(settings), identity) as record:
        labelled, comparisons = score_all(rows, labels, settings, failed)
        is_mmedbench = all(row["id"].startswith("Test/") for of_run in rows for row in of_run)
        write_all(labelled, settings.output_dir, settings.caption, comparisons, is_mmedbench=is_mmedbench)
        averages = {label: scores["average"] for label, scores in labelled}
        failed.write(settings.output_dir / "failures.jsonl")
        record.finish("finished", len(failed), average=averages)
    print((settings.output_dir / "table.md").read_text(encoding="utf-8"))
    print(json.dumps(averages, ensure_ascii=False))
    return failed.exit_code


def score_all(
    rows: list[list[scoring.Row]], labels: list[str], settings: ScoreSettings, failed: FailedItems
) -> tuple[list, list]:
    """(label, scores) of each input, and the comparisons of the later ones with the first.

    Questions that have one id in two inputs and are not the same are not compared and go to `failed`.
    """
    labelled, marked = [], []
    for label, of_file in zip(labels, rows, strict=True):
        bert: dict[str, Any] = {}
        if settings.bert_model:
            from inference.scores.bert_scoring import bert_score  # torch, which nothing else here needs

            bert = bert_score(of_file, settings.bert_model, settings.bert_layer)
        marked.append(scoring.mark(of_file, bert.get("f")))
        about = {"bert_score": bert["about"]} if bert else {}
        labelled.append((label, scoring.summarise(of_file, marked[-1]) | about))
    comparisons = []
    for label, of_file, marks in zip(labels[1:], rows[1:], marked[1:], strict=True):
        shared, _ = shared_questions({labels[0]: rows[0], label: of_file}, failed)
        same = {(pair[label]["kind"], pair[label]["id"]) for pair in shared}
        kinds = comparison.compare([mark for mark in marked[0] if (mark["kind"], mark["id"]) in same], marks)
        about = {"first": labels[0], "second": label, "definitions": comparison.DEFINITIONS}
        comparisons.append({**about, "kinds": kinds})
    return labelled, comparisons


if __name__ == "__main__":
    run(main)
