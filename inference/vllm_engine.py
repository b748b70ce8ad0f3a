"""Answers by vLLM in this process, where it is installed: transformers' prompts, vLLM's own batching and kernels.

Its numerics are its own, so that greedy answers differ from transformers' where two tokens are nearly as likely.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.errors import EnvironmentFailure, SettingsError
from configs.files import read_json
from data_collection.questions.question import Question
from finetune.adapters import check_adapter
from finetune.generation import Generation
from finetune.styles import StyleName
from inference.engines import Asking, FolderEngine, Precision
from pretrain.models import base_of, is_adapter, load_config

ROUND = 512  # questions handed over together; what a kill costs, and little beside what vLLM works on at once


class VllmEngine(FolderEngine):
    """A model folder or adapter through vLLM, over the GPUs that this process sees (tensor parallel).

    Raises:
        EnvironmentFailure: vLLM is not installed.
    """

    def __init__(self, model_path: str, prompt_style: StyleName | None, precision: Precision = "auto"):
        if importlib.util.find_spec("vllm") is None:
            raise EnvironmentFailure(
                "vLLM is not installed",
                where="this Python environment",
                todo="pip install vllm in an environment for your GPUs, or --engine transformers; or a vLLM that runs "
                "elsewhere: bash scripts/serve.sh MODEL and --engine server",
            )
        super().__init__(model_path, prompt_style, precision)
        if is_adapter(model_path):
            check_adapter(model_path, only_lora=True)
        self._adapter: Any = None

    def ask(
        self,
        questions: Sequence[Question],
        asking: Asking,
        skip: frozenset[int],
        on_answers: Callable[[list[Generation]], None],
        on_token: Callable[[int], None],
    ) -> None:
        """See `Engine`.

        Raises:
            SettingsError: a repetition penalty is asked for; vLLM's counts the prompt's tokens too, ours does not.
        """
        from vllm import SamplingParams

        if asking.repetition_penalty != 1:
            raise SettingsError(
                "vLLM has another repetition penalty, which counts the prompt's tokens too",
                where="--repetition_penalty",
                found=asking.repetition_penalty,
                wanted=1,
                todo="leave it out, or --engine transformers",
            )
        prompts = self._prompts(questions, asking.kind, asking.examples)
        left = [index for index in range(len(prompts)) if index not in skip]
        parameters = SamplingParams(
            temperature=0.0, max_tokens=asking.max_new_tokens, stop_token_ids=sorted(self._ends)
        )
        for start in range(0, len(left), ROUND):
            indices, began = left[start : start + ROUND], time.monotonic()
            given = [{"prompt_token_ids": prompts[index]} for index in indices]
            outputs = self.model().generate(given, parameters, use_tqdm=False, lora_request=self._adapter)
            seconds = (time.monotonic() - began) / len(indices)
            answers = []
            for index, output in zip(indices, outputs, strict=True):
                ids = [token for token in output.outputs[0].token_ids if token not in self._ends]
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                hit_limit = output.outputs[0].finish_reason == "length"
                answers.append(Generation(index, text, len(prompts[index]), len(ids), hit_limit, seconds))
            on_answers(answers)

    def model(self) -> Any:
        """vLLM with the model, loaded at the first call; an adapter beside its base."""
        if self._model is None:
            from vllm import LLM

            options: dict[str, Any] = {}
            if is_adapter(self.name):
                from vllm.lora.request import LoRARequest

                rank = read_json(Path(self.name) / "adapter_config.json")["r"]
                options = {"enable_lora": True, "max_lora_rank": max(8, 1 << (rank - 1).bit_length())}  # it has steps
                self._adapter = LoRARequest("adapter", 1, self.name)
            self._model = LLM(
                model=base_of(self.name),
                tokenizer=self._tokenizer.name_or_path,  # the base model's, where an adapter has none
                dtype=self._precision,
                tensor_parallel_size=parallel_size(load_config(base_of(self.name))[0], torch.cuda.device_count()),
                trust_remote_code=False,
                **options,
            )
        return self._model


def parallel_size(config: Any, num_gpus: int) -> int:
    """The most of the GPUs that can share a model's attention heads out, as vLLM does: no head is cut.

    Each has as many query heads, and as many key and value heads or, of fewer of those than GPUs, one of them.
    """
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    num_pairs = getattr(text, "num_key_value_heads", None) or num_heads
    fitting = [
        size
        for size in range(1, num_gpus + 1)
        if num_heads % size == 0 and (num_pairs % size == 0 or size % num_pairs == 0)
    ]
    return max(fitting, default=1)
