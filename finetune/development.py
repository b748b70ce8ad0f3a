"""Training that is watched on questions held out: how many are answered right, language by language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from data_collection.questions.answers import parse_answer
from data_collection.questions.question import Question, is_correct
from finetune.encoding import encode_prompts
from finetune.generation import generate
from finetune.styles import Style
from pretrain.training.attention import BY_SEGMENT
from pretrain.training.labelled_logits import can_leave_out_logits, loss_of_labelled, with_labelled_logits
from pretrain.training.trainer import PackedTrainer

MAX_NEW_TOKENS = 16  # of an answer without rationale, as inference/eval.py asks by default


class FinetuneTrainer(PackedTrainer):
    """`PackedTrainer` that has the model answer dev questions at each evaluation, as inference will ask them.

    Training computes the logits of the tokens that are taught alone, where the model can be asked for these.

    Args:
        dev_questions: asked answer only, greedily, their answers read by inference's strict parser; may be empty.
        style: the prompt's.
        arguments: `PackedTrainer`'s.
    """

    def __init__(self, *, dev_questions: Sequence[Question], style: Style, **arguments: Any):
        self.dev_questions, self.style = dev_questions, style
        args = arguments["args"]
        # Liger's kernels never hold logits, and label smoothing is the Trainer's own.
        if not args.use_liger_kernel and not args.label_smoothing_factor and can_leave_out_logits(arguments["model"]):
            arguments["compute_loss_func"] = loss_of_labelled
        super().__init__(**arguments)
        self._prompts = encode_prompts(dev_questions, "answer_only", style, self.processing_class)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **more: Any) -> Any:
        """See `PackedTrainer`."""
        if self.compute_loss_func:
            inputs = with_labelled_logits(inputs)
        return super().compute_loss(model, inputs, *arguments, **more)

    def measure(self, model: Any) -> dict[str, float]:
        """Loss and perplexity by language, and the share of right and of unreadable answers.

        `eval_accuracy` is the mean over languages, as in the paper's tables (exact-set match).
        """
        metrics = super().measure(model)
        if not self.dev_questions:
            return metrics
        languages = list(dict.fromkeys(question.lang for question in self.dev_questions))
        counts = torch.zeros(len(languages), 3, dtype=torch.float64)  # right, unreadable, asked
        for question, text in self._answers():
            parsed = parse_answer(text, question.options)
            right = is_correct(parsed, question.answers)
            counts[languages.index(question.lang)] += torch.tensor([right, parsed is None, True])
        if self.args.world_size > 1:
            counts = counts.to(self.args.device)
            torch.distributed.all_reduce(counts)
        accuracies = (counts[:, 0] / counts[:, 2]).tolist()
        metrics |= {f"eval_accuracy_{lang}": value for lang, value in zip(languages, accuracies, strict=True)}
        metrics["eval_accuracy"] = sum(accuracies) / len(accuracies)
        metrics["eval_unparsed"] = (counts[:, 1].sum() / counts[:, 2].sum()).item()
        return metrics

    def _answers(self) -> list[tuple[Question, str]]:
        """This rank's share of the dev questions, with what the model wrote.

        Every rank asks the same number of questions in batches of the same size, repeating some whose answers are not
        taken, and `generate` goes on on all ranks until the last has its end tokens: under ZeRO 3, which gathers
        weights in each forward pass, no rank waits for one that has no more to do.
        """
        number, world = len(self._prompts), self.args.world_size
        mine = range(self.args.process_index, -(-number // world) * world, world)
        longest = max(map(len, self._prompts)) + MAX_NEW_TOKENS
        with ready_to_generate(self.accelerator.unwrap_model(self.model)) as model:
            answers = generate(
                model,
                self.processing_class,
                [self._prompts[place % number] for place in mine],
                MAX_NEW_TOKENS,
                # As many tokens as a batch of evaluation has.
                max(1, self.args.per_device_eval_batch_size * self.block_size // longest),
                end_tokens=frozenset({self.style.end_token_id(self.processing_class)}),
            )
            return [
                (self.dev_questions[mine[answer.index]], answer.text)
                for batch in answers
                for answer in batch
                if mine[answer.index] < number
            ]


@contextmanager
def ready_to_generate(model: Any) -> Iterator[Any]:
    """A model in training, to generate with and then go on training as if nothing had been.

    Flex attention, made for blocks of one size, would be compiled anew for every length that an answer grows to, and
    attention by segment wants packed rows.
    """
    attention = model.config._attn_implementation
    of_blocks = attention in ("flex_attention", BY_SEGMENT)
    if of_blocks:
        model.set_attn_implementation("sdpa")
    try:
        yield model
    finally:
        if of_blocks:
            model.set_attn_implementation(attention)
