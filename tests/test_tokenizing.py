"""Texts to tokens: as the model's tokenizer has it, but no text can write a special token; what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
from tokenizers import AddedToken

from configs.errors import SettingsError
from configs.files import read_json, write_json
from configs.progress import printable
from pretrain.models import load_tokenizer
from pretrain.token_blocks import tokenizing
from pretrain.token_blocks.tokenizing import text_encoder, tokenizer_hash

TEXTS = ["The heart.\nA valve, 1,5 mg/kg\n\n(p < 0.05)", "心脏瓣膜", "x", "à et é   \n", "🩺 \u200b\u0301"]


def encoder_of(model, folder):
    encoder, content = text_encoder(load_tokenizer(str(model)), str(model), folder / "tokenizer.json")
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    return encoder


def split(tokens, lengths):
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def test_tokens_are_the_tokenizers_own_with_one_end_token(tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(tiny_model))
    encoder = encoder_of(tiny_model, tmp_path)
    tokens, lengths = encoder.encode(TEXTS)
    assert split(tokens, lengths) == [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    assert tokens.dtype == np.dtype("<u2") and encoder.start == (tokenizer.bos_token_id,)
    assert encoder.hash == tokenizer_hash(load_tokenizer(str(tiny_model)))


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_an_end_token(tiny_model, tmp_path):
    def drop(definition):
        definition["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
        definition["post_processor"] = None

    encoder = encoder_of(changed(tiny_model, tmp_path, drop), tmp_path)
    tokens, lengths = encoder.encode(["x", "\u200b", "x"])
    assert lengths.tolist() == [2, 1, 2] and tokens[[1, 2, 4]].tolist() == [encoder.end] * 3


def test_a_text_cannot_write_special_tokens(tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(tiny_model))
    text = "before <end> between <start>after <end>"
    assert tokenizer(text)["input_ids"].count(tokenizer.eos_token_id) == 2, "this test wants a text that can"
    tokens, _ = encoder_of(tiny_model, tmp_path).encode([text])
    assert tokens.tolist().count(tokenizer.eos_token_id) == tokens.tolist().count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(tokens[1:-1]) == text


def changed(model, tmp_path, change):
    """A copy of the model whose tokenizer.json went through `change`."""
    copy = shutil.copytree(model, tmp_path / "changed")
    definition = read_json(copy / "tokenizer.json")
    change(definition)
    write_json(copy / "tokenizer.json", definition)
    return copy


def test_truncation_and_padding_that_a_tokenizer_remembers_are_forgotten(tiny_model, tmp_path):
    def remember(definition):
        definition["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        definition["padding"] = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None}
        definition["padding"] |= {"pad_id": 1, "pad_type_id": 0, "pad_token": "<end>"}

    (tmp_path / "plain").mkdir()
    wanted = encoder_of(tiny_model, tmp_path / "plain").encode(TEXTS)
    model = changed(tiny_model, tmp_path, remember)
    encoder = encoder_of(model, tmp_path)
    assert [part.tolist() for part in encoder.encode(TEXTS)] == [part.tolist() for part in wanted]
    assert encoder.hash == tokenizer_hash(load_tokenizer(str(model)))


def test_a_very_long_text_is_tokenized_in_parts_that_lose_nothing(tiny_model, tmp_path, monkeypatch):
    encoder = encoder_of(tiny_model, tmp_path)
    lines = "the heart is\nof 1,5 mg\nrenal\n" * 10
    wanted = encoder.encode([lines])[0].tolist()
    monkeypatch.setattr(tokenizing, "_PART_CHARACTERS", 25)
    assert encoder.encode([lines])[0].tolist() == wanted, "parts end with lines, where tokens end as well"
    without_lines = "心脏瓣膜 of the heart " * 20
    tokens = encoder.encode([without_lines, "x"])
    decoded = [load_tokenizer(str(tiny_model)).decode(ids[1:-1]) for ids in split(*tokens)]
    assert decoded == [without_lines, "x"]


def test_a_tokenizer_without_an_end_token_is_refused(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    settings = read_json(model / "tokenizer_config.json")
    write_json(model / "tokenizer_config.json", {k: v for k, v in settings.items() if k != "eos_token"})
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(SettingsError, match="has no end token") as refused:
        encoder_of(model, tmp_path)
    assert refused.value.where == str(model)


def test_ids_that_the_model_does_not_know_are_refused(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = load_tokenizer(str(model))
    tokenizer.add_tokens([AddedToken("zebra", normalized=False)])
    tokenizer.save_pretrained(model)
    encoder = encoder_of(model, tmp_path)
    encoder.encode(TEXTS)
    with pytest.raises(SettingsError, match="an id that the model does not know") as refused:
        encoder.encode(["a zebra"])
    config = read_json(model / "config.json")
    assert refused.value.found == str(len(tokenizer) - 1) and str(config["vocab_size"]) in refused.value.wanted
    write_json(model / "config.json", {**config, "vocab_size": 1})
    with pytest.raises(SettingsError, match="the model lacks"):
        encoder_of(model, tmp_path)


def test_large_vocabularies_are_stored_whole(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = read_json(model / "config.json")
    for size, dtype in ((65536, "<u2"), (65537, "<u4")):
        write_json(model / "config.json", {**config, "vocab_size": size})
        assert encoder_of(model, tmp_path).encode(["x"])[0].dtype == np.dtype(dtype)


def test_the_preview_shows_what_the_model_sees(tiny_model, tmp_path, monkeypatch, capsys):
    from pretrain import prepare, preview

    rows = [{"text": f"number {i} " + "heart " * i, "lang": "en", "source": "s"} for i in range(20)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--input", tmp_path / "d.jsonl", "--output_dir", tmp_path / "blocks", "--model_name_or_path", tiny_model]
    words += ["--block_size", "40", "--overlap", "8", "--validation_share", "0"]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    prepare.main()
    capsys.readouterr()

    def shown(*words):
        monkeypatch.setattr(sys, "argv", ["preview.py", "--data", str(tmp_path / "blocks"), *words])
        preview.main()
        return capsys.readouterr().out

    said = shown("--block", "0", "--number", "99")
    assert all(f"]]number {row} " in said or f"[[<start>]]number {row} " in said for row in range(20))
    assert "[[<start>]]number 3 heart heart heart <end>" in said
    assert said.count("=== train, block ") == said.count("--- segment 1: places 0-")
    header, *lines = shown("--block", "0", "--tokens").splitlines()[1:]
    assert header.split() == ["place", "position", "id", "sees", "loss", "text"] and len(lines) == 40
    assert lines[0].split() == ["0", "0", "0", "0-0", "no", "'<start>'"]
    with pytest.raises(SettingsError, match="no such block"):
        shown("--split", "validation.en")
    spaced = "«\u202ffièvre\u00a0» 頭痛\u3000発熱 क्\u200dष\n\t"  # which Python calls not printable
    assert printable(spaced) == spaced
    assert printable("\x1b[2J\r\u202e\x9b") == "\ufffd[2J\ufffd\ufffd\ufffd"
