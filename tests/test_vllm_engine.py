"""vLLM in this process: what it is given and what becomes of its answers. vLLM itself wants a GPU: a stand-in with the
part of its interface that is used writes greedily with transformers."""

import sys

import pytest
import torch
from transformers import LlamaConfig

from configs.errors import EnvironmentFailure, SettingsError
from data_collection.questions.question import Question
from inference.engines import Asking, LocalEngine
from inference.vllm_engine import VllmEngine, parallel_size
from pretrain.models import load_model

STAND_IN = """
import types

made = []

class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids):
        assert temperature == 0
        self.max_tokens, self.ends = max_tokens, stop_token_ids

class LLM:
    def __init__(self, model, tokenizer, dtype, tensor_parallel_size, trust_remote_code):
        assert not trust_remote_code and tensor_parallel_size == 1
        made.append(self)
        self.calls = []

    def generate(self, prompts, parameters, *, use_tqdm, lora_request):
        self.calls.append(len(prompts))
        found = []
        for prompt in prompts:
            ids, new = list(prompt["prompt_token_ids"]), []
            while len(new) < parameters.max_tokens and not (new and new[-1] in parameters.ends):
                new.append(int(MODEL(torch.tensor([ids + new])).logits[0, -1].argmax()))
            reason = "stop" if new[-1] in parameters.ends else "length"
            found.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=new, finish_reason=reason)]))
        return found
"""
QUESTIONS = [Question(f"q{n}", "en", f"Is {n} odd?", {"A": "Yes", "B": "No"}, ("A",), "R") for n in range(5)]


@pytest.mark.parametrize(
    ("num_heads", "num_pairs", "num_gpus", "wanted"),
    [
        (32, 8, 8, 8),  # Llama 3 8B
        (64, 8, 16, 16),  # two GPUs to a key and value head
        (9, 3, 8, 3),  # SmolLM2-135M: vLLM refuses 8
        (28, 4, 8, 4),  # Qwen 2.5 7B: 7 would cut key and value heads
        (16, 16, 6, 4),
        (16, 16, 0, 1),
    ],
)
def test_as_many_gpus_as_the_heads_can_be_shared_out_over(num_heads, num_pairs, num_gpus, wanted):
    config = LlamaConfig(hidden_size=64 * num_heads, num_attention_heads=num_heads, num_key_value_heads=num_pairs)
    assert parallel_size(config, num_gpus) == wanted


def test_without_vllm_it_is_said_what_to_do(tiny_model):
    with pytest.raises(EnvironmentFailure, match="vLLM is not installed"):
        VllmEngine(str(tiny_model), None)


def test_the_answers_are_those_of_the_same_prompts(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("inference.vllm_engine.ROUND", 2)
    engine = VllmEngine(str(tiny_model), None, "float32")
    import vllm

    vllm.MODEL, vllm.torch = load_model(str(tiny_model), torch.float32).eval(), torch
    asking, found, wanted = Asking("answer_only", 7, 1.0), [], []
    engine.ask(QUESTIONS, asking, frozenset({1}), found.extend, lambda at: None)
    LocalEngine(str(tiny_model), 1, None, "float32").ask(
        QUESTIONS, asking, frozenset({1}), wanted.extend, lambda at: None
    )
    shown = [(a.index, a.text, a.num_prompt_tokens, a.num_new_tokens, a.hit_limit) for a in found]
    assert shown == sorted((a.index, a.text, a.num_prompt_tokens, a.num_new_tokens, a.hit_limit) for a in wanted)
    assert vllm.made[0].calls == [2, 2] and len(vllm.made) == 1
    with pytest.raises(SettingsError, match="repetition penalty"):
        engine.ask(QUESTIONS, Asking("with_rationale", 7, 1.1), frozenset(), found.extend, lambda at: None)
    sys.modules.pop("vllm")
