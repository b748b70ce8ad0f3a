"""The work of train.py: settings to a fine-tuned model or adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs import records
from configs.errors import FailedItems
from configs.files import fingerprint
from configs.progress import log, rank
from configs.settings import setting
from data_collection.questions.mmedbench import find_files
from finetune.examples import (
    PackedExamples,
    find_benchmark,
    leave_out_test_questions,
    read_train,
    split_dev,
    to_segments,
)
from finetune.prompts import prompt_record, save_prompt
from pretrain.checkpoints import remove_all
from pretrain.launching import code_when_stopped, leave_group
from pretrain.models import find_model, load_model, load_tokenizer, model_identity, refuse_adapter
from pretrain.pretraining import recorded, training_identity
from pretrain.training import PackedTrainer, TrainSettings, prepare_to_start, save_result, train


@dataclass
class FinetuneSettings:
    """Settings of finetune/train.py beside TrainingArguments."""

    lora: bool = setting(False, "train a low-rank adapter and not all weights")
    lora_rank: int = setting(16, "rank of the adapter")
    lora_alpha: int = setting(32, "scale of the adapter, as PEFT's lora_alpha")
    lora_dropout: float = setting(0.05, "dropout on the adapter's input")
    lora_target_modules: list[str] = setting(["all-linear"], "modules that get an adapter, as PEFT names them")
    data: Path | None = setting(None, "folder of questions; data/mmedbench or else the sample by default")
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
        return found + ([] if self.lora_rank > 0 else [f"lora_rank {self.lora_rank}: wanted 1 or more"])


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
        args.learning_rate = 2e-4 if settings.lora else 1e-5
    data = find_benchmark(settings.data)
    model_path = find_model(settings.model_name_or_path or _newest_pretrained())
    refuse_adapter(model_path)
    tokenizer = load_tokenizer(model_path)
    failed = FailedItems()
    questions = read_train(data, settings.languages, failed)
    num_read = len(questions)
    if not settings.keep_contaminated:
        questions = leave_out_test_questions(questions, data, failed)
    num_contaminated = num_read - len(questions)
    train_questions, dev_questions = split_dev(questions, settings.dev_share)
    identity = training_identity(
        args,
        **{k: v for k, v in asdict(settings).items() if k not in ("data", "model_name_or_path", "keep_contaminated")},
        questions=fingerprint([[q.content_hash, q.answers, q.rationale] for q in questions]),
        model=model_identity(model_path),
        prompt=prompt_record(),
    )
    name = f"{Path(model_path).name}-{'lora' if settings.lora else 'full'}-{fingerprint(identity)[:8]}"
    args.output_dir = args.output_dir or str(records.RUNS / "finetune" / name)
    if rank() == 0:
        log.info(f"questions {data}, model {model_path}, output {args.output_dir}")
    done = records.already_done(Path(args.output_dir), identity)
    if done:
        log.info(f"already done: {args.output_dir}")
        leave_group()
        return records.exit_code(done)
    examples = PackedExamples(to_segments(train_questions, tokenizer, settings.block_size, failed), settings.block_size)
    log.info(
        f"{len(train_questions):,} training questions, {len(dev_questions):,} dev; "
        f"{len(examples.segments):,} examples of {examples.num_tokens:,} tokens in {len(examples):,} blocks of "
        f"{settings.block_size}; {len(failed)} rows left out, {num_contaminated} of them for a test question in them"
    )
    if args.dry_run:
        return failed.exit_code
    described = {**args.to_dict(), **asdict(settings), "data": str(data), "model_name_or_path": model_path}
    with recorded(args.output_dir, "finetune", described, identity) as record:
        checkpoint = prepare_to_start(args)
        trainer = PackedTrainer(
            model=_model_to_train(model_path, settings, args),
            args=args,
            train_dataset=examples,
            evaluation=_dev_blocks(dev_questions, tokenizer, settings.block_size, failed),
            block_size=settings.block_size,
            pad_token_id=tokenizer.pad_token_id,
            processing_class=tokenizer,
            label="finetune",
        )
        status, result = train(trainer, checkpoint)
        if status == "finished":
            save_result(trainer)
        if rank() == 0:
            result["num_contaminated"] = num_contaminated
            _finish(record, status, failed, settings, data, model_path, len(train_questions), result)
        leave_group()
        if status == "finished" and rank() == 0:
            remove_all(Path(args.output_dir))
            print(args.output_dir)
    return failed.exit_code if status == "finished" else code_when_stopped()


def _finish(
    record: Any,
    status: str,
    failed: FailedItems,
    settings: FinetuneSettings,
    data: Path,
    model_path: str,
    num_questions: int,
    result: dict[str, Any],
) -> None:
    output_dir = record.path.parent
    save_prompt(output_dir)
    failed.write(output_dir / "failures.jsonl")
    try:
        test_files = find_files(data, "Test")
    except records.UserError:
        test_files = {}
    record.finish(
        status,
        len(failed),
        data=str(data.resolve()) if test_files else None,
        model_name_or_path=model_path,
        method="LoRA" if settings.lora else "full",
        num_questions=num_questions,
        **result,
    )


def _newest_pretrained() -> str | None:
    newest = records.newest_finished("pretrain")
    return str(newest) if newest else None


def _model_to_train(model_path: str, settings: FinetuneSettings, args: FinetuneArguments) -> Any:
    """The model with float32 weights, or with a fresh adapter on weights of the training precision."""
    if not settings.lora:
        return load_model(model_path, torch.float32)
    from peft import LoraConfig, get_peft_model

    targets = settings.lora_target_modules
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(args.seed)  # the adapter's first weights are drawn here
    model = get_peft_model(load_model(model_path, torch.bfloat16 if args.bf16 else torch.float32), config)
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    return model


def _dev_blocks(questions: list, tokenizer: Any, block_size: int, failed: FailedItems) -> dict[str, PackedExamples]:
    blocks = {}
    for lang in dict.fromkeys(question.lang for question in questions):
        segments = to_segments([q for q in questions if q.lang == lang], tokenizer, block_size, failed)
        if segments:
            blocks[lang] = PackedExamples(segments, block_size)
    return blocks
