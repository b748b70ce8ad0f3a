"""A linear classifier of topics: counts of words and letters, or the vectors of a multilingual encoder, weighted.

Saved as arrays (safetensors) and JSON. Learned from labels in one language, it holds for others only where the encoder
puts equal meanings of all languages in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.errors import MissingInputError, SettingsError
from configs.files import atomic_path, fingerprint, read_json, sha256_file, write_json
from configs.progress import track

# Looked at on a fifth of MedMCQA's development questions on which the reported accuracy is not measured: words alone
# have a macro F1 of .43, letters .46, both .47, at costs of .05 to .5 within .01; with explanations beside the
# questions .49, but on another fifth no gain, so they are left out.
COST = 0.2
BITS = 17  # of each hash; 2 x 2^17 columns
MAX_ENCODER_TOKENS = 512
ENCODER_BATCH = 16
FORMAT = 1
WEIGHTS_FILE, RECORD_FILE = "topics.safetensors", "topics.json"


class Features(Protocol):
    """Texts as rows of numbers."""

    def describe(self) -> dict[str, Any]:
        """What makes the columns; equal descriptions give equal columns."""

    def rows(self, texts: Sequence[str]) -> Any:
        """A matrix (texts, columns), sparse or dense."""


class WordFeatures:
    """Counts of hashed words, pairs of words, and three to five letters within words: 1 + log(count)."""

    def describe(self) -> dict[str, Any]:
        return {"kind": "words", "words": [1, 2], "letters": [3, 5], "bits": BITS}

    def rows(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import HashingVectorizer

        plain = {"n_features": 1 << BITS, "alternate_sign": False, "norm": None, "dtype": np.float32}
        words = HashingVectorizer(ngram_range=(1, 2), **plain).transform(texts)
        letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **plain).transform(texts)
        counts = hstack([words, letters]).tocsr()
        counts.data = 1 + np.log(counts.data)
        return counts


class EncoderFeatures:
    """Mean of an encoder's last hidden states over a text's tokens, of length 1.

    Args:
        folder: a Hugging Face folder with safetensors; nothing is fetched and no code of it is run.
    """

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModel, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise MissingInputError(
                "the encoder is not there", where=folder, wanted="a folder with config.json", todo="--encoder FOLDER"
            )
        torch.manual_seed(0)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self._model = model.to(self._device).eval()
        self._identity = fingerprint([sha256_file(path) for path in encoder_files(folder)])

    def describe(self) -> dict[str, Any]:
        return {"kind": "encoder", "encoder": self._identity, "max_tokens": MAX_ENCODER_TOKENS}

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        batches = [by_length[first : first + ENCODER_BATCH] for first in range(0, len(texts), ENCODER_BATCH)]
        for batch in track(batches, "encoding", unit="batches"):
            tokens = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=MAX_ENCODER_TOKENS,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(self._device)
            with torch.inference_mode():
                hidden = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            found[batch] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return found


def encoder_files(folder: Path) -> list[Path]:
    """What makes an encoder's vectors: its weights, settings and tokenizer."""
    return sorted(path for pattern in ("*.safetensors", "*.json", "*.model") for path in folder.glob(pattern))


class TopicClassifier:
    """Names and, for each, a weight a column and a bias; the topic is the one with the largest score.

    Args:
        names: the topics, (n).
        weights: (n, columns).
        bias: (n).
        scale: (columns): what each column is multiplied by before a row is brought to length 1 (inverse document
            frequency of words); None for rows that are as they should be.
        features: what makes the columns.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: np.ndarray,
        bias: np.ndarray,
        scale: np.ndarray | None,
        features: Features,
    ):
        self.names, self.weights, self.bias, self.scale, self.features = tuple(names), weights, bias, scale, features

    @classmethod
    def fit(cls, rows: Any, labels: Sequence[str], features: Features) -> TopicClassifier:
        """Learn from rows (of `features.rows`) and their topics: a linear support vector machine for each topic against
        the rest (liblinear), rare topics weighted up."""
        from sklearn.svm import LinearSVC

        scale = None
        if isinstance(features, WordFeatures):
            in_how_many = np.asarray((rows != 0).sum(axis=0)).ravel()
            scale = (np.log((1 + rows.shape[0]) / (1 + in_how_many)) + 1).astype(np.float32)
        found = LinearSVC(C=COST, class_weight="balanced", random_state=0).fit(_scaled(rows, scale), labels)
        weights, bias = found.coef_.astype(np.float32), found.intercept_.astype(np.float32)
        if len(found.classes_) == 2:  # one row for both
            weights, bias = np.vstack([-weights, weights]), np.concatenate([-bias, bias])
        return cls(list(map(str, found.classes_)), weights, bias, scale, features)

    def predict(self, rows: Any) -> list[str]:
        """The topic of each row."""
        scores = _scaled(rows, self.scale) @ self.weights.T + self.bias
        return [self.names[index] for index in np.asarray(scores).argmax(axis=1)]

    def topics(self, texts: Sequence[str]) -> list[str]:
        """The topic of each text."""
        return self.predict(self.features.rows(texts)) if texts else []

    def save(self, folder: Path, **record: Any) -> None:
        """Write topics.safetensors, then topics.json with the names, the features and `record`."""
        from safetensors.numpy import save_file

        arrays = {"weights": self.weights, "bias": self.bias}
        if self.scale is not None:
            arrays["scale"] = self.scale
        with atomic_path(folder / WEIGHTS_FILE) as path:  # the library would write columns as rows, silently
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        described = {"format": FORMAT, "names": list(self.names), "features": self.features.describe()}
        write_json(folder / RECORD_FILE, {**described, **record})

    @classmethod
    def load(cls, folder: Path, encoder: Path | None) -> TopicClassifier:
        """Read what `save` wrote.

        Raises:
            MissingInputError: it is not there or not whole.
            SettingsError: it was learned with another encoder, or with one where none is given, or the reverse.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        record = read_json(folder / RECORD_FILE)
        try:
            arrays = load_file(folder / WEIGHTS_FILE)
            names, kind = record["names"], record["features"]["kind"]
            whole = arrays["weights"].shape[0] == arrays["bias"].shape[0] == len(names)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            whole, kind, found = False, "", error
        else:
            found = f"{len(names)} names, weights {arrays['weights'].shape}"
        if not whole:
            raise MissingInputError(
                "this is no classifier of topics",
                where=folder,
                found=found,
                wanted=f"{RECORD_FILE} and {WEIGHTS_FILE} that belong together",
                todo="python data_collection/topics.py --train --input MEDMCQA --output_dir FOLDER makes one",
            )
        if (kind == "encoder") != (encoder is not None):
            raise SettingsError(
                "the classifier and --encoder do not belong together",
                where=folder,
                found="--encoder" if encoder else "no --encoder",
                wanted="the encoder that it was learned with" if kind == "encoder" else "none: it counts words",
                todo="give --encoder as when it was learned",
            )
        features: Features = EncoderFeatures(encoder) if encoder else WordFeatures()
        if features.describe() != record["features"]:
            raise SettingsError(
                "the classifier was learned with other features",
                where=folder,
                found=features.describe(),
                wanted=record["features"],
                todo="give the same encoder, or learn it again",
            )
        return cls(names, arrays["weights"], arrays["bias"], arrays.get("scale"), features)


def _scaled(rows: Any, scale: np.ndarray | None) -> Any:
    if scale is None:
        return rows
    from scipy.sparse import diags
    from sklearn.preprocessing import normalize

    return normalize(rows @ diags(scale))


def heldout_figures(labels: Sequence[str], predicted: Sequence[str], majority: str) -> dict[str, Any]:
    """How right predictions on held-out questions are.

    Args:
        labels, predicted: topics, (n).
        majority: the most frequent topic of the training questions, for comparison.

    Returns:
        questions, accuracy, its 95 % interval (Wilson's: Journal of the American Statistical Association 22, 1927,
        209-212), majority_accuracy, macro_f1 (mean over the topics of `labels`), topics: name to precision, recall, f1,
        questions.
    """
    from sklearn.metrics import precision_recall_fscore_support

    names = sorted(set(labels))
    columns = precision_recall_fscore_support(labels, predicted, labels=names, zero_division=0)
    topics = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "questions": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    }
    number = len(labels)
    accuracy = sum(map(str.__eq__, labels, predicted)) / number
    z = 1.959964
    centre, half = (
        accuracy + z**2 / (2 * number),
        z * (accuracy * (1 - accuracy) / number + (z / (2 * number)) ** 2) ** 0.5,
    )
    return {
        "questions": number,
        "accuracy": accuracy,
        "accuracy_low": (centre - half) / (1 + z**2 / number),
        "accuracy_high": (centre + half) / (1 + z**2 / number),
        "majority_accuracy": sum(label == majority for label in labels) / number,
        "macro_f1": sum(row["f1"] for row in topics.values()) / len(topics),
        "topics": topics,
    }
