"""Asking a model: log-likelihoods against lm-evaluation-harness, generation against the published loop.

    python scripts/bench/bench_inference.py --output_dir runs/bench-inference [--data ../shared/data] [--model MODEL]
    python scripts/bench/bench_inference.py --output_dir DIR --part likelihood --languages en es --max_questions 50
    python scripts/bench/bench_inference.py --output_dir DIR --part generation --max_questions 4
    python scripts/bench/bench_inference.py --output_dir DIR --part costs --precision bfloat16

likelihood: the letters of the single-answer test questions, as eval.py's letter_likelihood and as the harness with our
task files has them, or with --kind text_likelihood the options' texts after the question alone; same model, prompts,
precision and batch size, in one process, one after the other. Choices are compared question by question; where they
differ, how far apart the best two letters were. Times are from the questions read and the model loaded to the
log-likelihoods, tokenization included, by processor and by the clock.

generation: answers with rationale to the same questions, batched as eval.py does it and one at a time as the published
script does it, the same limit of new tokens; what is written the same is counted. Larger batches and longer
answers gain more: an answer's tokens share what a batch costs, the prompts' tokens do not.

costs: what a call of the model costs beside its tokens, and what a token kept from before costs each later one, in the
time of a prompt's token: the figures that finetune/generation.py plans batches with.
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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import EnvironmentFailure, FailedItems
from configs.files import REPOSITORY, write_json
from configs.languages import LANGUAGES
from configs.progress import log
from configs.settings import parse, setting
from data_collection.questions.mmedbench import find_files, read_questions
from data_collection.questions.question import Question

TASKS = REPOSITORY / "inference" / "lm_eval_tasks"


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with mmedbench/Test/")
    model: Path = setting(REPOSITORY / "models" / "smollm2-135m", help="the model that is asked")
    part: Literal["likelihood", "generation", "costs", "all"] = setting("all", "what to measure")
    kind: Literal["letter_likelihood", "text_likelihood"] = setting("letter_likelihood", "of the log-likelihoods")
    languages: list[str] | None = setting(None, "codes; all that are there by default")
    max_questions: int | None = setting(None, "the first so many of each language; all by default")
    batch_size: int = setting(8, "of log-likelihoods, ours and the harness's")
    generation_batch_size: int = setting(32, "of generation, ours")
    published_questions: int | None = setting(
        None, "generation: one at a time only so many, evenly drawn, as their speed is that of all; all by default"
    )
    max_new_tokens: int = setting(64, "limit of an answer in generation")
    precision: Literal["float32", "bfloat16"] = setting("float32", "of the weights, for all")


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What the work returns, and its seconds by processor and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = work()
    return result, {"cpu_seconds": time.process_time() - cpu, "clock_seconds": time.perf_counter() - clock}


def read_test(settings: BenchSettings) -> list[Question]:
    """The first test questions of each language."""
    files = find_files(settings.data, "Test", settings.languages).values()
    return [q for path in files for q in list(read_questions(path, "Test", FailedItems()))[: settings.max_questions]]


def load_engine(settings: BenchSettings) -> Any:
    """The model as eval.py loads it."""
    from inference.engines import LocalEngine

    engine = LocalEngine(str(settings.model), settings.batch_size, "plain", settings.precision)
    engine.model()
    return engine


def likelihood(settings: BenchSettings) -> dict[str, Any]:
    """Choices and times of both, on the single-answer questions."""
    try:
        import lm_eval  # noqa: F401
    except ModuleNotFoundError:
        raise EnvironmentFailure(
            "lm-evaluation-harness is missing", where="this Python environment", todo="pip install lm_eval==0.4.13"
        ) from None
    questions = [question for question in read_test(settings) if len(question.answers) == 1]
    ours, our_time = timed(_ours(settings, questions))
    theirs, their_time = timed(_harness(settings, questions))
    differing = []
    for question in questions:
        first, second = ours[question.id], theirs[question.id]
        if max(first, key=first.get) != max(second, key=second.get):
            best = sorted(first.values())[-2:]
            differing.append({"id": question.id, "best_two_apart": best[1] - best[0]})
    right = [sum([max(of[q.id], key=of[q.id].get)] == list(q.answers) for q in questions) for of in (ours, theirs)]
    largest = max(abs(ours[q.id][letter] - theirs[q.id][letter]) for q in questions for letter in q.options)
    return {
        "num_questions": len(questions),
        "num_by_language": {code: sum(q.lang == code for q in questions) for code in LANGUAGES},
        "identical_share": 1 - len(differing) / len(questions),
        "differing": differing,
        "largest_difference_of_log_likelihoods": largest,
        "our_accuracy": right[0] / len(questions),
        "harness_accuracy": right[1] / len(questions),
        "ours": our_time,
        "harness": their_time,
        "times_as_fast_cpu": their_time["cpu_seconds"] / our_time["cpu_seconds"],
        "times_as_fast_clock": their_time["clock_seconds"] / our_time["clock_seconds"],
    }


def _ours(settings: BenchSettings, questions: list[Question]) -> Callable[[], dict[str, dict[str, float]]]:
    from inference.kinds import PROMPT_OF

    engine = load_engine(settings)

    def work() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}

        def take(batch: list[Any]) -> None:
            found.update({questions[scores.index].id: scores.log_likelihoods for scores in batch})

        engine.score_options(questions, PROMPT_OF[settings.kind], {}, frozenset(), take)
        return found

    return work


def _harness(settings: BenchSettings, questions: list[Question]) -> Callable[[], dict[str, dict[str, float]]]:
    """The same questions through the harness's own model class."""
    import torch
    from lm_eval.models.huggingface import HFLM

    of_letters = settings.kind == "letter_likelihood"
    requests = _letter_requests(settings, questions) if of_letters else _text_requests(questions)
    keys = list(requests)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(
        pretrained=str(settings.model), dtype=settings.precision, device=device, batch_size=settings.batch_size
    )

    def work() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        answers = model.loglikelihood(list(requests.values()), disable_tqdm=True)
        for (key, letter), (value, _) in zip(keys, answers, strict=True):
            found.setdefault(key, {})[letter] = value
        return found

    return work


def _letter_requests(settings: BenchSettings, questions: list[Question]) -> dict[tuple[str, str], Any]:
    """(question id, letter) to the request that the harness makes of our task files."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data": str(settings.data)})
    wanted = {question.id for question in questions}
    requests: dict[tuple[str, str], Any] = {}
    for code in dict.fromkeys(question.lang for question in questions):
        name = f"mmedbench_{LANGUAGES[code].name.lower()}"
        task = manager.load([name])["tasks"][name]
        for place, doc in enumerate(task.test_docs()):
            key = f"Test/{LANGUAGES[code].name}/{doc['row']:05d}"
            if key in wanted:
                made = task.construct_requests(doc, task.fewshot_context(doc, 0), metadata=(name, place, 1))
                requests |= {(key, letter): request for letter, request in zip(doc["letters"], made, strict=True)}
    return requests


def _text_requests(questions: list[Question]) -> dict[tuple[str, str], Any]:
    """(question id, letter) to a request of the option's text; the task files ask for letters only."""
    from lm_eval.api.instance import Instance

    from finetune.prompts import render_options, render_prompt

    return {
        (question.id, letter): Instance("loglikelihood", {}, (render_prompt(question, "cloze"), text), place)
        for place, question in enumerate(questions)
        for letter, text in render_options(question, as_text=True).items()
    }


def generation(settings: BenchSettings) -> dict[str, Any]:
    """Questions a minute, batched and one at a time."""
    from finetune.encoding import encode_prompts
    from finetune.generation import generate
    from finetune.styles import PLAIN
    from pretrain.models import load_tokenizer

    questions = read_test(settings)
    model = load_engine(settings).model()
    tokenizer = load_tokenizer(str(settings.model))
    prompts = encode_prompts(questions, "with_rationale", PLAIN, tokenizer)

    def answers(batch_size: int) -> Callable[[], dict[int, str]]:
        batches = generate(model, tokenizer, prompts, settings.max_new_tokens, batch_size)
        return lambda: {answer.index: answer.text for batch in batches for answer in batch}

    ours, our_time = timed(answers(settings.generation_batch_size))
    # Prompts of every length have their share in the time: each n-th of all by length.
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    asked = by_length[:: max(1, len(prompts) // (settings.published_questions or len(prompts)))]
    one_by_one = [prompts[index] for index in asked]
    published, published_time = timed(lambda: published_loop(model, tokenizer, one_by_one, settings.max_new_tokens))
    same = sum(ours[index] == text for index, text in zip(asked, published, strict=True))
    fewer = len(asked) / len(questions)
    return {
        "num_questions": len(questions),
        "num_published": len(asked),
        "same_text_share": same / len(asked),
        "ours": {**our_time, "questions_a_minute": 60 * len(questions) / our_time["clock_seconds"]},
        "published": {**published_time, "questions_a_minute": 60 * len(asked) / published_time["clock_seconds"]},
        "times_as_fast_cpu": published_time["cpu_seconds"] / fewer / our_time["cpu_seconds"],
        "times_as_fast_clock": published_time["clock_seconds"] / fewer / our_time["clock_seconds"],
    }


def published_loop(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """One question after another through transformers' own generate, greedily: the published way."""
    import torch

    texts = []
    for ids in prompts:
        with torch.no_grad():
            written = model.generate(
                input_ids=torch.tensor([ids], device=model.device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts.append(tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))
    return texts


def costs(settings: BenchSettings) -> dict[str, float]:
    """A step of writing as a call + rows * (a token + kept tokens * a kept one), in the time of a prompt's token."""
    import numpy as np
    import torch
    from transformers import DynamicCache

    from finetune.kept_states import make_room

    model = load_engine(settings).model()
    shapes, seconds, prompt_tokens, prompt_seconds = [], [], 0, 0.0
    for rows, kept in [(1, 100), (1, 800), (8, 100), (8, 800), (32, 100), (32, 800)]:
        ids, cache = torch.randint(1000, (rows, kept), device=model.device), DynamicCache(config=model.config)
        mask = torch.ones(rows, kept + 8, dtype=torch.long, device=model.device)
        mask[:, 0] = 0  # padding, as batches have it: attention takes another way without

        def call(ids: torch.Tensor, seen: int, cache: DynamicCache = cache, mask: torch.Tensor = mask) -> float:
            start = time.perf_counter()
            with torch.inference_mode():
                output = model(input_ids=ids, attention_mask=mask[:, :seen], past_key_values=cache, logits_to_keep=1)
            output.logits.float().sum().item()  # waits for the device
            return time.perf_counter() - start

        prompt_seconds += call(ids, kept)
        prompt_tokens += ids.numel()
        make_room(cache)
        steps = [call(ids[:, :1], kept + place) for place in range(1, 9)]
        shapes.append([1, rows, rows * kept])
        seconds.append(float(np.median(steps)))
    one_call, _, one_kept = np.linalg.lstsq(np.array(shapes, float), np.array(seconds))[0]
    token = prompt_seconds / prompt_tokens
    return {"prompt_token_seconds": token, "call_in_tokens": one_call / token, "kept_token_in_tokens": one_kept / token}


def main() -> int:
    (settings,) = parse(__doc__, BenchSettings)
    found: dict[str, Any] = {"kind": settings.kind, "batch_size": settings.batch_size, "precision": settings.precision}
    for name, work in (("likelihood", likelihood), ("generation", generation), ("costs", costs)):
        if settings.part in (name, "all"):
            found[name] = work(settings)
            if name != "costs":
                log.info(f"{name}: {found[name]['times_as_fast_cpu']:.2f} times as fast by processor time")
    write_json(settings.output_dir / "results.json", found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    run(main)
