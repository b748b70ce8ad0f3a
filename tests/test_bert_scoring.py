"""BERTScore: against plain loops over one text at a time, on a small random encoder."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from configs.errors import MissingInputError, SettingsError
from inference import score
from inference.scores.bert_scoring import bert_score

WORDS = ["fever", "cough", "rash", "pain", "the", "patient", "has", "no", "acute", "chronic", "."]
PAIRS = [
    ("the patient has fever .", "the patient has no fever ."),
    ("acute pain", "chronic rash and cough . the patient has fever . no pain ."),
    ("no rash .", "no rash ."),
    ("fever", ""),
    ("fever " * 40, "fever"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def rows():
    return [
        {"id": str(i), "kind": "with_rationale", "rationale": reference, "output": f"{candidate}\n\n### Answer: A"}
        for i, (reference, candidate) in enumerate(PAIRS)
    ]


def plain_f(reference, candidate, model, tokenizer, layer):
    """Equations of section 3 by loops, each text alone and without padding."""

    def vectors(text):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer][0].numpy()
        return states / np.linalg.norm(states, axis=1, keepdims=True)

    of_reference, of_candidate = vectors(reference), vectors(candidate)
    # The first and the last token are [CLS] and [SEP]: they may be matched, but do not count.
    precision = np.mean([max(c @ r for r in of_reference) for c in of_candidate[1:-1]])
    recall = np.mean([max(r @ c for c in of_candidate) for r in of_reference[1:-1]])
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [None, 1, 4])
def test_is_what_plain_loops_give(encoder, layer):
    found = bert_score(rows(), encoder, layer)
    assert found["about"]["layer"] == (layer or 3)
    assert found["about"]["num_texts_cut"] == 1
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    for number, (reference, candidate) in enumerate(PAIRS):
        if candidate:
            wanted = plain_f(reference, candidate, model, tokenizer, layer or 3)
            assert found["f"][str(number), None] == pytest.approx(wanted, abs=1e-5)
    assert found["f"]["2", None] == pytest.approx(1, abs=1e-5) and found["f"]["3", None] == 0
    assert found["f"]["0", None] < 0.9999


def test_what_is_not_there_is_said(encoder, tmp_path):
    with pytest.raises(MissingInputError, match=str(tmp_path)):
        bert_score(rows(), tmp_path)
    with pytest.raises(SettingsError, match="layers 1 to 4"):
        bert_score(rows(), encoder, 5)


def test_the_command_adds_it_to_the_scores(encoder, tmp_path, monkeypatch):
    row = {"lang": "en", "options": {"A": "x", "B": "y"}, "gold": ["A"]}
    with open(tmp_path / "predictions.jsonl", "w") as file:
        file.writelines(json.dumps(row | of) + "\n" for of in rows())
    arguments = ["--input", tmp_path, "--output_dir", tmp_path / "out", "--bert_model", encoder, "--bert_layer", 2]
    monkeypatch.setattr("sys.argv", ["score.py", *map(str, arguments)])
    assert score.main() == 0
    run = json.loads((tmp_path / "out" / "scores.json").read_text())["runs"][0]
    wanted = bert_score(rows(), encoder, 2)["f"].values()
    assert run["languages"]["with_rationale"]["en"]["bert_score_f"] == pytest.approx(sum(wanted) / 5, abs=1e-5)
    assert run["bert_score"]["layer"] == 2
    settings = score.ScoreSettings([tmp_path], tmp_path, bert_layer=2)
    assert settings.problems() == ["bert_layer: no bert_model is given"]
