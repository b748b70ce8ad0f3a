"""How long a leaderboard page of many rows takes to open in Chromium, and to be sorted.

    python scripts/bench/bench_leaderboard.py --output_dir runs/bench-leaderboard

Rows have every metric in six languages. `thread` is the processor time of the page's own thread until all rows stand
(scripts, style, layout and the rest), `loaded` the wall time from the start of the navigation to its load event, when
the first hundred rows stand. Other work on the cores moves the wall time, hardly the processor time.
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
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from configs.errors import EnvironmentFailure
from configs.files import write_json
from configs.settings import parse, setting
from inference.board.leaderboard_page import write_page
from inference.board.leaderboard_rows import ACCURACY, AVERAGE, MMEDBENCH, PASSED, Row
from inference.scoring import RATIONALE_SCORES

_COLUMNS = (AVERAGE, "English", "Chinese", "Japanese", "French", "Russian", "Spanish")


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the page and of results.json")
    num_rows: int = setting(500, help="rows of the page")
    repeats: int = setting(7, help="times it is opened, each in a new window; the median counts")


def make_rows(num_rows: int) -> list[Row]:
    """Rows with all metrics and intervals, drawn at random."""
    draw = random.Random(0)  # noqa: S311
    rows = []
    for number in range(num_rows):
        size = number % 70 + 1
        row = Row(f"lab-{number % 37}/model-{number}", f"{size}B", size, "2026.1", "zero-shot", "with rationale")
        row.data, row.notes = "MMedBench Test, 8,518 questions, version 0123456789abcdef", ["a note"]
        for metric in (ACCURACY, *RATIONALE_SCORES, *(f"{PASSED}{name}" for name in RATIONALE_SCORES)):
            for column in _COLUMNS:
                value = draw.uniform(5, 90)
                row.add(MMEDBENCH, metric, column, [value, value - 3, value + 3])
        rows.append(row)
    return rows


def open_times(browser, address: str, num_rows: int) -> dict[str, float]:
    """Milliseconds until the page stands, and until its first rows stand in another order."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(address)
    page.wait_for_function("wanted => document.querySelectorAll('tbody tr').length === wanted", arg=num_rows)
    metrics = {of["name"]: of["value"] for of in session.send("Performance.getMetrics")["metrics"]}
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    sort = "() => { const start = performance.now(); document.querySelectorAll('thead button')[3].click(); "
    sorting = page.evaluate(f"{sort}document.body.offsetHeight; return performance.now() - start; }}")
    context.close()
    return {"thread": 1000 * metrics["TaskDuration"], "loaded": loaded, "sort": sorting}


def main() -> int:
    (settings,) = parse(__doc__, BenchSettings)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise EnvironmentFailure("Chromium is not installed", where="PATH", todo="apt-get install chromium")
    from playwright.sync_api import sync_playwright

    path, _ = write_page(make_rows(settings.num_rows), settings.output_dir, "Benchmark")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        runs = [open_times(browser, path.resolve().as_uri(), settings.num_rows) for _ in range(settings.repeats)]
        browser.close()
    milliseconds = {name: round(statistics.median(run[name] for run in runs)) for name in runs[0]}
    result = {"num_rows": settings.num_rows, "num_bytes": path.stat().st_size, "milliseconds": milliseconds}
    write_json(settings.output_dir / "results.json", result | {"runs": runs})
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run(main)
