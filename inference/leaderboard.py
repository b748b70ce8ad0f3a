"""One HTML page that compares models: our scores and the published ones, to be sorted and filtered; or check an entry.

  python inference/leaderboard.py RUNS... --output_dir DIR
  python inference/leaderboard.py --check_submission predictions.jsonl [--data DIR]

RUNS are scores.json files or folders with some below them; without any the page has the published rows alone. Writes
DIR/index.html, which needs no network and no other file and can be hosted as it is, and DIR/leaderboard.csv.
--check_submission says whether a file of predictions is well formed and holds all that the page's scores need, and what
is missing; it ends with 0 or 5.
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

from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import FailedItems
from configs.files import sha256_file
from configs.records import run_record
from configs.settings import parse, setting


@dataclass
class LeaderboardSettings:
    """Settings of inference/leaderboard.py."""

    runs: list[Path] = setting([], "scores.json files, or folders that hold some", positional=True)
    output_dir: Path | None = setting(None, "where to write the page")
    title: str = setting("Multilingual medical question answering: leaderboard", "the page's title")
    published: bool = setting(True, "show the published rows too")
    check_submission: Path | None = setting(None, "a predictions.jsonl to check; no page is written")
    data: Path | None = setting(
        None, "of --check_submission: folder with the full test set; data/mmedbench, else the sample, by default"
    )

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = []
        if self.check_submission and (self.runs or self.output_dir):
            found.append("check_submission: goes without RUNS and output_dir, since it writes nothing")
        if not self.check_submission and self.output_dir is None:
            found.append("output_dir is missing: where to write the page")
        if not self.check_submission and not self.published and not self.runs:
            found.append("published false: without RUNS there is nothing to show")
        return found


def main() -> int:
    (settings,) = parse(__doc__, LeaderboardSettings)
    if settings.check_submission:
        from inference.board.submissions import check_submission

        return check_submission(settings.check_submission, settings.data)
    from inference.board.leaderboard_page import write_page
    from inference.board.leaderboard_rows import published_rows
    from inference.board.leaderboard_runs import run_rows

    failed = FailedItems()
    ours = run_rows(settings.runs, failed)
    rows = [*ours, *(published_rows() if settings.published else [])]
    # No identity: the page is cheap, so the same command draws it anew from what the folders hold by then.
    with run_record(settings.output_dir, "leaderboard", asdict(settings), {}) as record:
        paths = write_page(rows, settings.output_dir, settings.title)
        failed.write(settings.output_dir / "failures.jsonl")
        files = {path.name: sha256_file(path) for path in paths}
        record.finish("finished", len(failed), num_rows=len(rows), num_ours=len(ours), files=files)
    print(paths[0])
    return failed.exit_code


if __name__ == "__main__":
    run(main)
