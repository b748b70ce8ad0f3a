"""The work of train.py: settings to a fine-tuned model or adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from configs import records
from configs.errors import FailedItems, SettingsError, UserError
from configs.files import fingerprint, read_json
from configs.progress import log, rank
from configs.settings import setting
from data_collection.questions.mmedbench import find_files
from data_collection.questions.question import Question
from finetune import adapters
from finetune.conversations import Conversation
from finetune.development import FinetuneTrainer
from finetune.examples import (
    PackedExamples,
    Segment,
    find_benchmark,
    segments_of,
)
from finetune.mixtures import mixing_order, parse_mixture
from finetune.prompts import KINDS, check_prompt, prompt_record, save_prompt, taught_style
from finetune.rows import read_rows, write_contaminated
from finetune.styles import Style, StyleName, find_style
from pretrain.models import (
    attention_of,
    base_of,
    empty_model,
    find_model,
    is_adapter,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
)
from pretrain.planning import plan
from pretrain.pretraining import training_identity
from pretrain.training.attention import can_be_packed
from pretrain.training.running import already_done, run_training
from pretrain.training.train_settings import TrainSettings


@dataclass
class FinetuneSettings:
    """Settings of finetune/train.py beside TrainingArguments."""

    lora: bool = setting(False, "train a low-rank adapter and not all weights")
    qlora: bool = setting(False, "the same on a base model in 4 bits; needs a GPU and bitsandbytes")
    lora_rank: int = setting(16, "rank of the adapter")
    lora_alpha: int = setting(32, "scale of the adapter, as PEFT's lora_alpha")
    lora_dropout: float = setting(0.05, "dropout on the adapter's input")
    lora_target_modules: list[str] = setting(
        ["all-linear"], "modules that get an adapter: all-linear, query-value, or names"
    )
    lora_rslora: bool = setting(False, "scale the adapter by alpha / sqrt(rank)")
    lora_dora: bool = setting(False, "learn magnitude and direction of each weight apart")
    data: Path | None = setting(None, "folder of questions; data/mmedbench or else the sample by default")
    mixture: dict | None = setting(
        None, "data sets to train on instead of data's Train: PATH: {weight: ..., priority: ...} (YAML only)"
    )
    kinds: Literal["both", "with_rationale", "answer_only"] = setting("both", "examples made of each question")
    prompt_style: Literal["plain", "chat", "published"] | None = setting(
        None, "layout of the prompt; the one that the model was taught, or plain, by default"
    )
    languages: list[str] | None = setting(None, "codes of the languages to train on; all that are there by default")
    model_name_or_path: str | None = setting(
        None, "newest pretrained model under runs/, else the demo model, by default"
    )
    block_size: int = setting(2048, "tokens a block; a longer example is left out and listed")
    keep_contaminated: bool = setting(False, "train also on questions that hold a question of the Test split")
    dev_share: float = setting(0.02, "share of each language's training questions held out, by their hash")
    max_dev_questions_per_language: int = setting(
        100, "dev questions asked, answer only, at each evaluation of --eval_strategy; 0 for their loss alone"
    )

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if 0 <= self.dev_share < 1 else [f"dev_share {self.dev_share}: wanted 0 to 1"]
        limit = self.max_dev_questions_per_language
        found += [] if limit >= 0 else [f"max_dev_questions_per_language {limit}: wanted 0 or more"]
        found += [] if self.lora_rank > 0 else [f"lora_rank {self.lora_rank}: wanted 1 or more"]
        found += [] if 0 <= self.lora_dropout < 1 else [f"lora_dropout {self.lora_dropout}: wanted 0 to less than 1"]
        return found + (["lora and qlora: give one of the two"] if self.lora and self.qlora else [])

    @property
    def with_adapter(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.lora or self.qlora


@dataclass
class FinetuneArguments(TrainSettings):
    """Published settings (MMedLM, section "Training Details") but for the learning rates, which are ours."""

    learning_rate: float | None = setting(None, "highest learning rate; 2e-4 with --lora, 1e-5 without, by default")
    warmup_steps: float = setting(0.03, "warm-up, in steps, or below 1 as a share of them")
    num_train_epochs: float = setting(3.0, "passes over the questions, where max_steps is not given")
    per_device_train_batch_size: int = setting(4, "blocks a device and micro-batch")

    def __post_init__(self) -> None:
        if self.load_best_model_at_end or self.early_stopping_patience:
            self.metric_for_best_model = self.metric_for_best_model or "accuracy"
        super().__post_init__()


def finetune(settings: FinetuneSettings, args: FinetuneArguments) -> int:
    """Train on the questions; returns the exit code (5 when some rows could not be used)."""
    if args.learning_rate is None:
        args.learning_rate = 2e-4 if settings.with_adapter else 1e-5
    data = find_benchmark(settings.data)
    model_path = find_model(settings.model_name_or_path or _newest_pretrained())
    _check_method(model_path, settings, args.dry_run)
    settings = _inherited(settings, model_path)
    tokenizer = load_tokenizer(model_path)
    style = _style(model_path, settings.prompt_style, tokenizer)
    failed = FailedItems()
    rows = read_rows(
        data,
        settings.mixture,
        settings.languages,
        failed,
        keep_contaminated=settings.keep_contaminated,
        dev_share=settings.dev_share,
    )
    asked = _dev_questions_asked(rows.dev, settings, args)
    languages = sorted({row.lang for of_source in rows.train for row in of_source if isinstance(row, Question)})
    identity = training_identity(
        args,
        **{k: v for k, v in asdict(settings).items() if k not in _NOT_IDENTITY},
        rows=fingerprint([[_content(row) for row in of_source] for of_source in rows.train]),
        dev=fingerprint([question.content_hash for question in rows.dev]),
        model=[model_identity(model_path), model_identity(base_of(model_path))],
        prompt=prompt_record(style, languages),
        **({"dev_questions_asked": len(asked)} if args.metric_for_best_model else {}),
    )
    log.info(f"questions {data}, model {model_path}, prompt style {style.name}")
    method = "LoRA" if settings.with_adapter else "full"
    done = already_done(args, "finetune", f"{Path(model_path).name}-{method.lower()}", identity)
    if done is not None:
        return done
    config = load_config(base_of(model_path))[0]
    packed = can_be_packed(config.model_type)
    kinds = KINDS if settings.kinds == "both" else (settings.kinds,)
    making = partial(
        segments_of, tokenizer=tokenizer, block_size=settings.block_size, failed=failed, style=style, kinds=kinds
    )
    examples = _examples(list(map(making, rows.train)), settings, args.seed, packed)
    log.info(
        f"{rows.num_train:,} training rows, {len(rows.dev):,} dev ({len(asked):,} asked at evaluations); "
        f"{len(examples.segments):,} examples of {examples.num_tokens:,} tokens in {len(examples):,} blocks of "
        f"{settings.block_size}{'' if packed else ' (an example each: this architecture cannot be packed)'}; "
        f"left out: {len(failed)} that cannot be used, {len(rows.contaminated)} for a test question in them"
    )
    if args.dry_run:
        model = empty_model(config)
        if settings.with_adapter:
            model = _with_adapter(model, model_path, settings, args)
        print(plan(args, model, model_path, settings.block_size, len(examples), f"{data}: {len(examples):,} blocks"))
        return failed.exit_code

    if args.attention_is_ours:
        args.attn_implementation = attention_of(model_path, args.attn_implementation)

    def make_trainer() -> FinetuneTrainer:
        if rank() == 0:
            save_prompt(Path(args.output_dir), style, languages)
            write_contaminated(rows.contaminated, Path(args.output_dir) / "contaminated.jsonl")
        return FinetuneTrainer(
            dev_questions=asked,
            style=style,
            model=_model_to_train(model_path, settings, args),
            args=args,
            train_dataset=examples,
            evaluation=_dev_blocks(rows.dev, making, settings.block_size, packed),
            block_size=settings.block_size,
            pad_token_id=tokenizer.eos_token_id,  # nothing sees it; a pad token may have no embedding
            processing_class=tokenizer,
            label="finetune",
        )

    described = {**args.to_dict(), **asdict(settings), "data": str(data), "model_name_or_path": model_path}
    result = {
        "data": str(data.resolve()) if _has_test_questions(data) else None,
        "model_name_or_path": model_path,
        "method": method,
        "prompt_style": style.name,
        "num_rows": rows.num_train,
        "num_contaminated": len(rows.contaminated),
    }
    return run_training(args, "finetune", identity, described, make_trainer, result, failed)


# Where things lie, and what shows in the rows that are trained on.
_NOT_IDENTITY = (
    "data",
    "model_name_or_path",
    "keep_contaminated",
    "languages",
    "prompt_style",
    "max_dev_questions_per_language",
)


def _inherited(settings: FinetuneSettings, model_path: str) -> FinetuneSettings:
    """The settings, with those of the adapter that training goes on from, which cannot be changed."""
    if not is_adapter(model_path):
        return settings
    config = read_json(Path(model_path) / "adapter_config.json")
    targets = config["target_modules"]
    own = {
        "lora_rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "lora_dropout": config["lora_dropout"],
        "lora_rslora": config.get("use_rslora", False),
        "lora_dora": config.get("use_dora", False),
        "lora_target_modules": sorted(targets) if isinstance(targets, list) else [targets],
    }
    log.info("going on from an adapter: " + ", ".join(f"{name} {value}" for name, value in own.items()))
    return replace(settings, **own)


def _check_method(model_path: str, settings: FinetuneSettings, is_plan: bool) -> None:
    """Whether the model can be trained this way.

    Raises:
        SettingsError: all weights of an adapter are to be trained, or it is none of LoRA.
        EnvironmentFailure: 4 bits without a GPU or bitsandbytes.
    """
    if is_adapter(model_path) and not settings.with_adapter:
        raise SettingsError(
            "an adapter has no weights of its own to train in full",
            where=model_path,
            found="an adapter",
            wanted="a whole model, or --lora to train the adapter further",
            todo=f"--lora, or python finetune/merge.py --input {model_path} --output_dir DIR and train that",
        )
    if is_adapter(model_path):
        adapters.check_adapter(model_path, only_lora=True)
    if settings.qlora and not is_plan:  # which may be for another machine
        adapters.four_bit(torch.bfloat16)


def _style(model_path: str, asked: StyleName | None, tokenizer: Any) -> Style:
    """The prompt's style: the one asked for, else the one that the model was taught, else plain."""
    taught = taught_style(Path(model_path))
    style = find_style(asked or taught or "plain", tokenizer)
    if asked is None and taught:
        check_prompt(Path(model_path), style)  # what it goes on with must be what it was taught
    return style


def _dev_questions_asked(dev: list[Question], settings: FinetuneSettings, args: FinetuneArguments) -> list[Question]:
    """The dev questions that are asked at evaluations, those with the smallest content hashes of each language.

    Raises:
        SettingsError: the best checkpoint is to be found by accuracy, or by any figure, and there is nothing to ask.
    """
    asked: list[Question] = []
    if args.eval_strategy != "no" and settings.kinds != "with_rationale":
        for lang in dict.fromkeys(question.lang for question in dev):
            of_language = sorted((q for q in dev if q.lang == lang and q.answers), key=lambda q: q.content_hash)
            asked += of_language[: settings.max_dev_questions_per_language]
    by = args.metric_for_best_model or ""
    if by and (not dev or ("accuracy" in by and not asked)):
        raise SettingsError(
            "there are no dev questions to find the best checkpoint by",
            where=f"metric_for_best_model {by}",
            found=f"{len(dev)} dev questions, eval_strategy {args.eval_strategy.value}, kinds {settings.kinds}, "
            f"max_dev_questions_per_language {settings.max_dev_questions_per_language}",
            wanted="answers alone taught and asked" if dev else "some",
            todo="--metric_for_best_model loss needs no answers" if dev else "a larger --dev_share, or more questions",
        )
    return asked


def _content(row: Question | Conversation) -> Any:
    return row.messages if isinstance(row, Conversation) else [row.content_hash, row.answers, row.rationale]


def _examples(segments: list[list[Segment]], settings: FinetuneSettings, seed: int, packed: bool) -> PackedExamples:
    """All training examples; those of a mixture with priorities in the order of its draw."""
    if not settings.mixture:
        return PackedExamples(segments[0], settings.block_size, packed=packed)
    sources = parse_mixture(settings.mixture)
    order = mixing_order([len(of_source) for of_source in segments], sources, seed)
    in_order = len({source.priority for source in sources}) > 1
    mixed = [segments[source][row] for source, row in order.tolist()]
    return PackedExamples(mixed, settings.block_size, _ORDERED_WINDOW if in_order else None, packed)


_ORDERED_WINDOW = 1000  # examples packed among themselves where order matters: the padding stays under a percent


def _dev_blocks(
    dev: list[Question], making: Callable[[list[Question]], list[Segment]], block_size: int, packed: bool
) -> dict[str, PackedExamples]:
    """Blocks of each language's dev questions."""
    blocks = {}
    for lang in dict.fromkeys(question.lang for question in dev):
        segments = making([question for question in dev if question.lang == lang])
        if segments:
            blocks[lang] = PackedExamples(segments, block_size, packed=packed)
    return blocks


def _has_test_questions(data: Path) -> bool:
    try:
        return bool(find_files(data, "Test"))
    except UserError:
        return False


def _newest_pretrained() -> str | None:
    newest = records.newest_finished("pretrain")
    return str(newest) if newest else None


def _model_to_train(model_path: str, settings: FinetuneSettings, args: FinetuneArguments) -> Any:
    """The model with float32 weights, or with an adapter, fresh or given, on a frozen base."""
    if not settings.with_adapter:
        return load_model(model_path, torch.float32, args.attn_implementation)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    quantization = adapters.four_bit(dtype) if settings.qlora else None
    model = load_model(model_path, dtype, args.attn_implementation, quantization, adapter_is_trainable=True)
    if not is_adapter(model_path):
        return _with_adapter(model, model_path, settings, args)
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    return model


def _with_adapter(model: Any, model_path: str, settings: FinetuneSettings, args: FinetuneArguments) -> Any:
    """The model, frozen, with a fresh adapter; of the kind that `model_path` is, where it is one."""
    if is_adapter(model_path):
        config = adapters.saved_config(model_path)
    else:
        config = adapters.lora_config(
            model,
            rank=settings.lora_rank,
            alpha=settings.lora_alpha,
            dropout=settings.lora_dropout,
            targets=settings.lora_target_modules,
            rslora=settings.lora_rslora,
            dora=settings.lora_dora,
        )
    return adapters.add_adapter(
        model, config, seed=args.seed, activation_checkpointing=bool(args.activation_checkpointing)
    )
