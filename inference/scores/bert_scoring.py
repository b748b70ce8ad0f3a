"""BERTScore of rationales by an encoder in a folder (Zhang et al. 2020, "BERTScore"), without importance weights.

Written on transformers rather than taken from the package bert-score: that wants pandas and matplotlib at import, knows
layers by the names of hub models and not by folder, and for an empty text calls a method that transformers 5 dropped.
Where both run they agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from configs.errors import MissingInputError, SettingsError
from configs.progress import track
from inference.scoring import Row, extract_rationale
from pretrain.models import model_identity

PAIRS_PER_BATCH = 16


def bert_score(rows: list[Row], model: Path, layer: int | None = None) -> dict[str, Any]:
    """BERTScore of every rationale that has a reference.

    Args:
        rows: rows of predictions.jsonl.
        model: folder of an encoder with its tokenizer.
        layer: whose outputs are compared, 1 the first; None takes three quarters of the depth, near the authors'
            choices for BERT and RoBERTa.

    Returns:
        `f`: (question id, order of its options or None) to F measure (0 for an empty rationale), `about`: model, layer,
            and texts that were cut.

    Raises:
        MissingInputError: there is no such folder.
        SettingsError: the model has no such layer.
    """
    if not (model / "config.json").is_file():
        raise MissingInputError(
            "there is no model for BERTScore",
            where=model,
            wanted="a folder with config.json, weights and tokenizer of an encoder",
            todo="python scripts/download.py google-bert/bert-base-multilingual-cased puts one under models/",
        )
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    encoder = AutoModel.from_pretrained(model, local_files_only=True, dtype=torch.float32, use_safetensors=True).eval()
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    depth = encoder.config.num_hidden_layers
    layer = round(depth * 3 / 4) if layer is None else layer
    if not 1 <= layer <= depth:
        raise SettingsError(
            f"bert_layer {layer}: the model has layers 1 to {depth}", where=model, todo="give one of these, or none"
        )
    # A tokenizer saved without a limit names one of 1e30.
    longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    asked = [row for row in rows if row["kind"] == "with_rationale" and row["rationale"].strip()]
    texts = {(row["id"], row.get("order")): (row["rationale"], extract_rationale(row["output"])) for row in asked}
    scores = {name: 0.0 for name, (_, candidate) in texts.items() if not candidate}
    # Texts of like length together, for little padding.
    names = sorted(texts.keys() - scores.keys(), key=lambda name: (len(texts[name][0]), name[0], name[1] or 0))
    num_cut = 0
    for start in track(range(0, len(names), PAIRS_PER_BATCH), "BERTScore", unit="batches"):
        batch = names[start : start + PAIRS_PER_BATCH]
        both = [text for name in batch for text in texts[name]]
        num_cut += sum(len(ids) > longest for ids in tokenizer(both)["input_ids"])
        vectors = _vectors(both, tokenizer, encoder, layer, longest)
        scores |= {name: _f(*vectors[2 * i : 2 * i + 2]) for i, name in enumerate(batch)}
    about = {"model": model_identity(str(model)), "layer": layer, "num_texts_cut": num_cut}
    return {"f": scores, "about": about}


def _vectors(
    texts: list[str], tokenizer: Any, encoder: Any, layer: int, longest: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each text its tokens' unit vectors (tokens, width), and which of them are no special tokens (tokens,)."""
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=longest, return_special_tokens_mask=True, return_tensors="pt"
    ).to(encoder.device)
    special = inputs.pop("special_tokens_mask").bool()
    with torch.inference_mode():
        states = normalize(encoder(**inputs, output_hidden_states=True).hidden_states[layer], dim=-1)  # (B, T, D)
    there = inputs["attention_mask"].bool()
    return [(s[mask], ~of[mask]) for s, mask, of in zip(states, there, special, strict=True)]


def _f(reference: tuple[torch.Tensor, torch.Tensor], candidate: tuple[torch.Tensor, torch.Tensor]) -> float:
    """F measure of greedy matching: each token with the most similar one of the other text (section 3).

    Special tokens may be matched, but do not count themselves, as in the authors' code.
    """
    similarity = candidate[0] @ reference[0].T  # (candidate tokens, reference tokens)
    if not candidate[1].any() or not reference[1].any():
        return 0.0
    precision = similarity.amax(1)[candidate[1]].mean()
    recall = similarity.amax(0)[reference[1]].mean()
    return float(2 * precision * recall / (precision + recall))
