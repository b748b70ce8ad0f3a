"""The work of train.py: settings to a fine-tuned model or adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
from finetune.examples import (
    PackedExamples,
    Segment,
    conversation_segments,
    find_benchmark,
    leave_out_test_questions,
    read_train,
    split_dev,
    to_segments,
)
from finetune.mixtures import mixing_order, parse_mixture, read_source
from finetune.prompts import KINDS, check_prompt, prompt_record, save_prompt, taught_style
from finetune.styles import Style, StyleName, find_style
from pretrain.attention import can_be_packed
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
from pretrain.running import already_done, run_training
from pretrain.training import PackedTrainer, TrainSettings


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

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if 0 <= self.dev_share < 1 else [f"dev_share {self.dev_share}: wanted 0 to 1"]
        found += [] if self.lora_rank > 0 else [f"lora_rank {self.lora_rank}: wanted 1 or more"]
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
    per_device_eval_batch_size: int = setting(4, "blocks a device in evaluation")


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
    rows = _read_rows(settings, data, failed)
    num_read = sum(map(len, rows))
    if not settings.keep_contaminated:
        rows = [leave_out_test_questions(of_source, data, failed) for of_source in rows]
    num_contaminated = num_read - sum(map(len, rows))
    rows, dev_questions = _without_dev(rows, settings.dev_share)
    languages = sorted({row.lang for of_source in rows for row in of_source if isinstance(row, Question)})
    identity = training_identity(
        args,
        **{k: v for k, v in asdict(settings).items() if k not in _NOT_IDENTITY},
        rows=fingerprint([[_content(row) for row in of_source] for of_source in rows]),
        dev=fingerprint([question.content_hash for question in dev_questions]),
        model=[model_identity(model_path), model_identity(base_of(model_path))],
        prompt=prompt_record(style, languages),
    )
    log.info(f"questions {data}, model {model_path}, prompt style {style.name}")
    method = "LoRA" if settings.with_adapter else "full"
    done = already_done(args, "finetune", f"{Path(model_path).name}-{method.lower()}", identity)
    if done is not None:
        return done
    config = load_config(base_of(model_path))[0]
    packed = can_be_packed(config.model_type)
    examples = _examples(rows, settings, args.seed, tokenizer, style, packed, failed)
    log.info(
        f"{sum(map(len, rows)):,} training rows, {len(dev_questions):,} dev; "
        f"{len(examples.segments):,} examples of {examples.num_tokens:,} tokens in {len(examples):,} blocks of "
        f"{settings.block_size}{'' if packed else ' (an example each: this architecture cannot be packed)'}; "
        f"{len(failed)} rows left out, {num_contaminated} of them for a test question in them"
    )
    if args.dry_run:
        model = empty_model(config)
        if settings.with_adapter:
            model = _with_adapter(model, settings, args)
        print(plan(args, model, model_path, settings.block_size, len(examples), f"{data}: {len(examples):,} blocks"))
        return failed.exit_code

    if args.attention_is_ours:
        args.attn_implementation = attention_of(model_path, args.attn_implementation)

    def make_trainer() -> PackedTrainer:
        if rank() == 0:
            save_prompt(Path(args.output_dir), style, languages)
        return PackedTrainer(
            model=_model_to_train(model_path, settings, args),
            args=args,
            train_dataset=examples,
            evaluation=_dev_blocks(dev_questions, settings, tokenizer, style, packed, failed),
            block_size=settings.block_size,
            pad_token_id=tokenizer.pad_token_id,
            processing_class=tokenizer,
            label="finetune",
        )

    described = {**args.to_dict(), **asdict(settings), "data": str(data), "model_name_or_path": model_path}
    result = {
        "data": str(data.resolve()) if _has_test_questions(data) else None,
        "model_name_or_path": model_path,
        "method": method,
        "prompt_style": style.name,
        "num_rows": sum(map(len, rows)),
        "num_contaminated": num_contaminated,
    }
    return run_training(args, "finetune", identity, described, make_trainer, result, failed)


# Where things lie, and what shows in the rows that are trained on.
_NOT_IDENTITY = ("data", "model_name_or_path", "keep_contaminated", "languages", "prompt_style")
Row = Question | Conversation


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
        SettingsError: all weights of an adapter are to be trained.
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
    if settings.qlora and not is_plan:  # which may be for another machine
        adapters.four_bit(torch.bfloat16)


def _style(model_path: str, asked: StyleName | None, tokenizer: Any) -> Style:
    """The prompt's style: the one asked for, else the one that the model was taught, else plain."""
    taught = taught_style(Path(model_path))
    style = find_style(asked or taught or "plain", tokenizer)
    if asked is None and taught:
        check_prompt(Path(model_path), style)  # what it goes on with must be what it was taught
    return style


def _read_rows(settings: FinetuneSettings, data: Path, failed: FailedItems) -> list[list[Row]]:
    """The training rows of each data set of the mixture, or of the benchmark alone."""
    if not settings.mixture:
        return [list(read_train(data, settings.languages, failed))]
    return [list(read_source(source, settings.languages, failed)) for source in parse_mixture(settings.mixture)]


def _without_dev(rows: list[list[Row]], dev_share: float) -> tuple[list[list[Row]], list[Question]]:
    """The rows of each data set without the dev questions, and these, each once."""
    questions = [row for of_source in rows for row in of_source if isinstance(row, Question)]
    dev = split_dev(questions, dev_share)[1]
    held_out = {question.content_hash for question in dev}
    train = [
        [row for row in of_source if not (isinstance(row, Question) and row.content_hash in held_out)]
        for of_source in rows
    ]
    return train, list({question.content_hash: question for question in dev}.values())


def _content(row: Row) -> Any:
    return row.messages if isinstance(row, Conversation) else [row.content_hash, row.answers, row.rationale]


def _segments(
    rows: list[Row], settings: FinetuneSettings, tokenizer: Any, style: Style, failed: FailedItems
) -> list[Segment]:
    """Examples of the rows of one data set, which are all questions or all conversations."""
    kinds = KINDS if settings.kinds == "both" else (settings.kinds,)
    questions = [row for row in rows if isinstance(row, Question)]
    conversations = [row for row in rows if isinstance(row, Conversation)]
    return to_segments(questions, tokenizer, settings.block_size, failed, style, kinds) + conversation_segments(
        conversations, tokenizer, settings.block_size, failed, style
    )


def _examples(
    rows: list[list[Row]],
    settings: FinetuneSettings,
    seed: int,
    tokenizer: Any,
    style: Style,
    packed: bool,
    failed: FailedItems,
) -> PackedExamples:
    """All training examples; those of a mixture with priorities in the order of its draw."""
    segments = [_segments(of_source, settings, tokenizer, style, failed) for of_source in rows]
    if not settings.mixture:
        return PackedExamples(segments[0], settings.block_size, packed=packed)
    sources = parse_mixture(settings.mixture)
    order = mixing_order([len(of_source) for of_source in segments], sources, seed)
    in_order = len({source.priority for source in sources}) > 1
    mixed = [segments[source][row] for source, row in order.tolist()]
    return PackedExamples(mixed, settings.block_size, _ORDERED_WINDOW if in_order else None, packed)


_ORDERED_WINDOW = 1000  # examples packed among themselves where order matters: the padding stays under a percent


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
        return _with_adapter(model, settings, args)
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    return model


def _with_adapter(model: Any, settings: FinetuneSettings, args: FinetuneArguments) -> Any:
    """The model, frozen, with a fresh adapter."""
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


def _dev_blocks(
    questions: list[Question],
    settings: FinetuneSettings,
    tokenizer: Any,
    style: Style,
    packed: bool,
    failed: FailedItems,
) -> dict[str, PackedExamples]:
    blocks = {}
    for lang in dict.fromkeys(question.lang for question in questions):
        of_language = [question for question in questions if question.lang == lang]
        segments = _segments(of_language, settings, tokenizer, style, failed)
        if segments:
            blocks[lang] = PackedExamples(segments, settings.block_size, packed=packed)
    return blocks
