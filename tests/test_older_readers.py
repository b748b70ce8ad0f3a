"""What is saved is read by transformers 4 as by 5: the rotary embedding, the tokenizer's class."""

import json

import pytest
from transformers import AutoConfig, AutoTokenizer, Gemma3TextConfig, GlmConfig, LlamaConfig, Qwen3Config

from configs.files import read_json, write_json
from pretrain.older_readers import write_for_older_readers

SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIGS = {
    "llama": (LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}), (100_000.0, None, 1.0)),
    "qwen3": (Qwen3Config(rope_theta=1_000_000.0), (1_000_000.0, None, 1.0)),
    "scaled": (
        LlamaConfig(max_position_embeddings=131_072, rope_parameters=dict(SCALED)),
        (500_000.0, {name: value for name, value in SCALED.items() if name != "rope_theta"}, 1.0),
    ),
    "partial": (GlmConfig(partial_rotary_factor=0.25), (10_000.0, None, 0.25)),
}


def as_version_4_reads_it(folder):
    """Base, scaling and share of the rotary embedding by the defaults and names of transformers 4.57."""
    config = json.loads((folder / "config.json").read_text())
    return config.get("rope_theta", 10_000.0), config.get("rope_scaling"), config.get("partial_rotary_factor", 1.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_version_4_finds_the_rotary_embedding_and_version_5_the_same_as_before(tmp_path, name):
    config, wanted = CONFIGS[name]
    config.save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path)
    assert as_version_4_reads_it(tmp_path) != wanted or name == "partial"  # or there would be nothing to do
    write_for_older_readers(tmp_path)
    assert as_version_4_reads_it(tmp_path) == wanted
    after = AutoConfig.from_pretrained(tmp_path)
    assert after.to_dict() == before.to_dict() and after.rope_parameters == config.rope_parameters
    once = read_json(tmp_path / "config.json")
    write_for_older_readers(tmp_path)
    assert read_json(tmp_path / "config.json") == once


def test_what_version_4_has_no_common_names_for_stays(tmp_path):
    Gemma3TextConfig().save_pretrained(tmp_path)
    before = read_json(tmp_path / "config.json")
    assert {"full_attention", "sliding_attention"} <= before["rope_parameters"].keys()
    write_for_older_readers(tmp_path)
    assert read_json(tmp_path / "config.json") == before
    write_for_older_readers(tmp_path / "adapter")  # without either file
    assert not (tmp_path / "adapter").exists()


def test_the_tokenizer_has_a_class_that_both_versions_know(tmp_path, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    assert read_json(tmp_path / "tokenizer_config.json")["tokenizer_class"] == "TokenizersBackend"
    write_for_older_readers(tmp_path)
    assert read_json(tmp_path / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    text = "Fièvre <end> 発熱"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer"})
    write_for_older_readers(tmp_path)
    assert read_json(tmp_path / "tokenizer_config.json") == {"tokenizer_class": "GemmaTokenizer"}
