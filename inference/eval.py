"""Ask a model the benchmark's questions, answer only and with rationale, and score what it says.

  python inference/eval.py                               newest fine-tuned model and the test questions of its run
  python inference/eval.py --model_name_or_path M --data DIR --output_dir DIR
  sbatch inference/run.sh --model_name_or_path M
  python inference/eval.py --engine server --server_url http://127.0.0.1:8000/v1
  python inference/eval.py --model_name_or_path M --benchmark medmcqa --data FOLDER --split dev
  python inference/eval.py --model_name_or_path M --kinds letter_likelihood text_likelihood --num_fewshot 3
  python inference/eval.py --model_name_or_path M --kinds answer_only --shuffle_options 5

Writes predictions.jsonl (journal: the same command goes on), scores.json, tables (table.*, details.md, published.*) and
plots.
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
from typing import Literal

from configs.settings import parse, setting
from data_collection.llm.server_settings import ServerSettings
from finetune.prompts import KINDS
from inference.kinds import LIKELIHOOD_KINDS, AskedKind


@dataclass
class EvalSettings:
    """Settings of inference/eval.py."""

    model_name_or_path: str | None = setting(None, "model or adapter; the newest fine-tuned one under runs/ by default")
    data: Path | None = setting(
        None, "folder of questions; that of the model's run, data/mmedbench or the sample by default"
    )
    benchmark: str = setting("mmedbench", "or a published set (data_collection/benchmarks/README.md lists them)")
    split: str | None = setting(None, "of a published set: only files with this word in their name or folder")
    engine: Literal["transformers", "vllm", "server"] = setting(
        "transformers", "a model in this process, by vLLM where it is installed, or a server's"
    )
    prompt_style: Literal["plain", "chat", "published"] | None = setting(
        None, "layout of the prompt; the one that the model was taught, or plain, by default"
    )
    output_dir: Path | None = setting(None, "folder of the run; runs/eval/NAME by default")
    label: str | None = setting(None, "name of the model in the table; its method by default")
    languages: list[str] | None = setting(None, "codes of the languages to ask in; all that are there by default")
    max_questions_per_language: int | None = setting(None, "the first so many by hash; all by default")
    kinds: list[AskedKind] = setting(
        list(KINDS), "how to ask: with_rationale, answer_only, letter_likelihood, text_likelihood"
    )
    num_fewshot: int = setting(0, "examples from training before each question")
    fewshot_seed: int = setting(0, "of the draw of the examples")
    fewshot_split: str = setting("train", "of a published set: the files to draw examples from (MMedBench: Train)")
    shuffle_options: int = setting(0, "ask with the options in so many random orders, 0 as they are")
    shuffle_seed: int = setting(0, "of the orders")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of a model in this process; bfloat16 where the device has it by default"
    )
    batch_size: int = setting(32, "questions answered together, by each process")
    num_processes: int | None = setting(
        None, "that answer at once, each with the whole model: one a GPU by default, one without"
    )
    max_new_tokens: int = setting(512, "limit of an answer with rationale")
    max_new_tokens_answer_only: int = setting(16, "limit of an answer without rationale")
    repetition_penalty: float = setting(1.0, "on tokens that a rationale has already; 1 for plain greedy")

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("batch_size", "max_new_tokens", "max_new_tokens_answer_only")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        wrong_penalty = f"repetition_penalty {self.repetition_penalty}: wanted above 0"
        found += [] if self.repetition_penalty > 0 else [wrong_penalty]
        most = self.max_questions_per_language
        found += [] if most is None or most >= 1 else [f"max_questions_per_language {most}: wanted 1 or more"]
        num = self.num_processes
        found += [] if num is None or num >= 1 else [f"num_processes {num}: wanted 1 or more"]
        names = ("num_fewshot", "shuffle_options")
        found += [f"{name} {getattr(self, name)}: wanted 0 or more" for name in names if getattr(self, name) < 0]
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            found.append(f"kinds {' '.join(self.kinds)}: wanted one or more, each once")
        if self.num_fewshot and self.benchmark != "mmedbench" and self.split == self.fewshot_split:
            found.append(f"fewshot_split {self.fewshot_split}: wanted another than --split, which is asked")
        if self.engine != "transformers" and set(self.kinds) & set(LIKELIHOOD_KINDS):
            found.append("kinds: likelihoods want --engine transformers; servers give none of a text")
        if self.benchmark != "mmedbench" and self.data is None:
            found.append(f"benchmark {self.benchmark}: wanted with --data FOLDER, the set's original files")
        if self.engine == "server" and self.model_name_or_path:
            found.append("model_name_or_path: a server's model is named by --server_model")
        if self.engine == "server" and self.prompt_style not in (None, "chat"):
            found.append(f"prompt_style {self.prompt_style}: a server has its model's chat template")
        return found


def main() -> int:
    settings, server_settings = parse(__doc__, EvalSettings, ServerSettings)
    from inference.evaluation import evaluate

    return evaluate(settings, server_settings)


if __name__ == "__main__":
    run(main)
