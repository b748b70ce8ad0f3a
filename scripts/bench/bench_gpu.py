"""What one GPU does with this code and with its rivals, part by part; scripts/bench/gpu.sh runs all of it.

    bash scripts/bench/gpu.sh [--quick] [--part NAME]
    python scripts/bench/bench_gpu.py --part matmul --output_dir runs/bench-gpu

Models are random weights of real shapes; documents and questions are those of `--data`. Ours is what users run; the
rivals are the published way, trl and lm-evaluation-harness, on the same machine in the same part. A part is a folder
with a run.json that holds its figures; a measure that fails is recorded there and costs no other (exit code 5), and the
same command goes on where it was ended. `--quick` runs the same code on small shapes, also without a GPU: it proves the
benchmark and measures nothing.
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

from collections.abc import Callable, Mapping
from functools import partial

from configs.errors import EnvironmentFailure, SettingsError
from configs.settings import parse
from scripts.bench.gpu.asking import SHAPES, asking
from scripts.bench.gpu.checking import check, matmul
from scripts.bench.gpu.finetuning import FINETUNING, finetuning
from scripts.bench.gpu.materials import GpuBenchSettings, described, has_gpu
from scripts.bench.gpu.measures import Measure, run_measures
from scripts.bench.gpu.page import report
from scripts.bench.gpu.pretraining import PRETRAINING, pretraining
from scripts.bench.gpu.profiling import profiling
from scripts.bench.gpu.real import real

# In the order in which gpu.sh runs them.
PARTS: dict[str, Callable[[GpuBenchSettings], Mapping[str, Measure]]] = {
    "check": lambda settings: {"packed as alone": partial(check, settings)},
    "matmul": lambda settings: {"product": partial(matmul, settings)},
    **dict.fromkeys(PRETRAINING, pretraining),
    "profile": profiling,
    **dict.fromkeys(FINETUNING, finetuning),
    **dict.fromkeys(SHAPES, asking),
    "real": real,
}


def main() -> int:
    (settings,) = parse(__doc__, GpuBenchSettings)
    if settings.part not in (*PARTS, "report"):
        raise SettingsError(
            "there is no such part", found=settings.part, wanted=", ".join((*PARTS, "report")), todo="give one"
        )
    if settings.part == "report":
        page = report(settings, list(PARTS))
        print(page.read_text(encoding="utf-8"))
        print(page)
        return 0
    if not settings.quick and not has_gpu():
        raise EnvironmentFailure("there is no GPU", wanted="one GPU", todo="--quick runs the same on small shapes")
    folder = settings.output_dir / settings.part
    return run_measures(folder, settings, described(settings), PARTS[settings.part](settings))


if __name__ == "__main__":
    run(main)
