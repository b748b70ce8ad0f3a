"""The settings of a chain's or an ablation's stages, looked at before the first of them begins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from configs.files import REPOSITORY
from configs.settings import CHECK_SETTINGS

# The command of each stage, with a word for what it cannot do without and gets later.
_COMMANDS = {
    "prepare": ("pretrain/prepare.py", "--input", "-", "--output_dir", "-"),
    "pretrain": ("pretrain/train.py",),
    "finetune": ("finetune/train.py",),
    "eval": ("inference/eval.py",),
}


def check_settings(given: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Have each stage look at its own settings, names and types; of those that need no GPU the values too.

    Args:
        given: name of the stage and the words that set it, such as ("eval", ("--config", "eval.yaml")).

    Raises:
        SystemExit: some are wrong; what each stage says of its own stands on stderr, and the code is the first one's.
    """
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as threads:  # each imports torch
        answers = list(threads.map(_look, dict.fromkeys(given)))
    refused = [answer for answer in answers if answer.returncode]
    for answer in refused:
        print(answer.stderr[max(0, answer.stderr.find("error: ")) :], end="", file=sys.stderr)
    if refused:
        sys.exit(refused[0].returncode)


def _look(given: tuple[str, tuple[str, ...]]) -> subprocess.CompletedProcess[str]:
    stage, words = given
    script, *needed = _COMMANDS[stage]
    command = [sys.executable, str(REPOSITORY / script), *words, *needed, CHECK_SETTINGS]
    return subprocess.run(command, capture_output=True, text=True)
