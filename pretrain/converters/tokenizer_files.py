"""Tokenizers that ship as data for a class of their own, turned into tokenizer.json: SentencePiece's and tiktoken's.

Both are byte-pair encoding. SentencePiece merges the pair whose result has the highest score, tiktoken the pair whose
result has the lowest rank; tokenizer.json lists the pairs in that order. Whether the result is the same is tried on
`PROBES` with the original's own rules before it is saved.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError, SettingsError
from configs.files import read_json
from pretrain.older_readers import write_for_older_readers

# What has told two tokenizers apart before: scripts, runs of spaces, digits, line ends, rare characters, composition.
PROBES = (
    "The patient's temperature was 38.5 °C; C-reactive protein 120 mg/l.",
    "患者，男，45岁，因“胸痛2小时”入院。血压：150/95 mmHg。",
    "糖尿病は、インスリンの作用不足によって起こる病気です。ﾊﾝｶｸ、①②③",
    "Le traitement de l’hypertension artérielle — à vie — dépend de l'âge.",
    "Острый инфаркт миокарда: боль за грудиной, одышка, ёлка.",
    "¿Cuál es el diagnóstico más probable? La niña está pálida.",
    "  two spaces in front,   three inside, a tab\tand the end  ",
    "line one\nline two\r\n\n\nline five\n",
    "1234567890 3.14159 1,000,000 x^2 + y_1 == {'a': [1, 2]}",
    "मधुमेह السكري 당뇨병 🩺👩‍⚕️ \u200bzero \u3000wide café cafe\u0301",
    "don't WE'LL I'm THEY'RE 's\u00a0hard",
    "",
)
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_END = "<|endoftext|>"
_QWEN_SPECIAL = (_QWEN_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def convert_tokenizer(source: Path, output_dir: Path, model_type: str, vocab_size: int) -> Any:
    """Write tokenizer.json and tokenizer_config.json for a model of `model_type`; returns the tokenizer.

    Raises:
        MissingInputError: the original's tokenizer is not in `source`.
        SettingsError: it is of a kind that this cannot convert, it does not come out the same, or it has more tokens
            than the model has embeddings.
    """
    name, make = ("qwen.tiktoken", from_tiktoken) if model_type == "qwen" else ("tokenizer.model", from_sentencepiece)
    if not (source / name).is_file():
        raise MissingInputError(
            "the tokenizer is missing", where=source, wanted=name, todo="fetch all files of the original model"
        )
    tokenizer = make(source / name)
    if len(tokenizer) > vocab_size:
        raise SettingsError(
            "the tokenizer has more tokens than the model has embeddings",
            where=source / name,
            found=len(tokenizer),
            wanted=f"{vocab_size} or fewer",
            todo="give the tokenizer of this model",
        )
    with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=output_dir) as folder:
        tokenizer.save_pretrained(folder)
        write_for_older_readers(Path(folder))
        for path in Path(folder).iterdir():
            os.replace(path, output_dir / path.name)
    return tokenizer


def _wrapped(tokenizer: Any, **special: str) -> Any:
    """The tokenizer as transformers' plain fast one, which needs no class of its own."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _check(path: Path, tokenizer: Any, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> None:
    """Refuse a result that gives other ids or another text than the original for any of `PROBES`."""
    for text in PROBES:
        wanted = encode(text)
        found = tokenizer.encode(text, add_special_tokens=False).ids
        texts = tokenizer.decode(wanted, skip_special_tokens=False), decode(wanted)
        if found != wanted or texts[0] != texts[1]:
            raise SettingsError(
                "the converted tokenizer is not the same as the original",
                where=path,
                found=f"{text!r}: {found}, {texts[0]!r}",
                wanted=f"{wanted}, {texts[1]!r}",
                todo="report it with this file; the model cannot be used without its tokenizer",
            )


def _unconvertible(path: Path, found: object, wanted: str) -> SettingsError:
    return SettingsError(
        "this tokenizer cannot be converted",
        where=path,
        found=found,
        wanted=wanted,
        todo="give the tokenizer of an original InternLM or Qwen 1",
    )


def merges_by_score(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs that SentencePiece's byte-pair encoding merges, in the order in which it prefers them.

    Args:
        scores: of the pieces that a merge can make or use, in the order of their ids.
    """
    number = {piece: index for index, piece in enumerate(scores)}
    merges = []
    for piece, score in scores.items():
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in cuts if pair[0] in number and pair[1] in number]
        merges += [(-score, *pair) for pair in sorted(pairs, key=lambda pair: (number[pair[0]], number[pair[1]]))]
    return [(left, right) for _, left, right in sorted(merges, key=lambda merge: merge[0])]


def from_sentencepiece(path: Path) -> Any:
    """InternLM's tokenizer.model as a fast tokenizer.

    Chat models give new names to unused pieces in tokenizer_config.json (`added_tokens_decoder`), which are kept.

    Raises:
        SettingsError: no byte-pair encoding of SentencePiece, or the result is not the same.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise _unconvertible(path, error, "a SentencePiece model") from None
    trainer, rules, kind = proto.trainer_spec, proto.normalizer_spec, proto.SentencePiece
    if trainer.model_type != trainer.BPE or trainer.treat_whitespace_as_suffix:
        raise _unconvertible(path, trainer.ModelType.Name(trainer.model_type), "BPE with leading spaces")
    settings = path.parent / "tokenizer_config.json"
    added = read_json(settings).get("added_tokens_decoder", {}) if settings.is_file() else {}
    renamed = {int(number): token for number, token in added.items()}
    pieces = [renamed[number]["content"] if number in renamed else p.piece for number, p in enumerate(proto.pieces)]
    mergeable = {p.piece: p.score for p in proto.pieces if p.type in (kind.NORMAL, kind.USER_DEFINED, kind.UNUSED)}
    unknown, start, end = (pieces[number] for number in (trainer.unk_id, trainer.bos_id, trainer.eos_id))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges_by_score(mergeable),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    )
    steps = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend("▁")] if rules.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, *([decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else [])])
    original = SentencePieceProcessor(model_file=str(path))
    _check(path, tokenizer, original.encode, original.decode)
    for number, piece in enumerate(proto.pieces):
        if piece.type in (kind.CONTROL, kind.USER_DEFINED) and number not in renamed:
            tokenizer.add_tokens([AddedToken(piece.piece, special=piece.type == kind.CONTROL, normalized=False)])
    for number, token in sorted(renamed.items()):
        tokenizer.add_tokens([AddedToken(token["content"], special=token.get("special", True), normalized=False)])
        if tokenizer.token_to_id(token["content"]) != number:
            raise _unconvertible(
                settings, f"{token['content']} as token {number}", "added tokens without gaps or doubles"
            )
    # The originals begin a text with the start token and leave its end open.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, trainer.bos_id)]
    )
    return _wrapped(tokenizer, unk_token=unknown, bos_token=start, eos_token=end, pad_token=end)


def merge_bytes(text: bytes, ranks: dict[bytes, int], below: int | None = None) -> list[bytes]:
    """tiktoken's byte-pair encoding: merge the neighbours whose result has the lowest rank, the first of equal ones.

    Args:
        text: bytes of one word.
        ranks: rank of every token.
        below: use only tokens of lower ranks, which tells what the token of this rank is merged from.
    """
    parts = [text[index : index + 1] for index in range(len(text))]
    while len(parts) > 1:
        candidates = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        lowest = min(candidates)
        if lowest >= (len(ranks) if below is None else below):
            break
        index = candidates.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def from_tiktoken(path: Path) -> Any:
    """Qwen 1's qwen.tiktoken (lines of base64 token and rank) as a fast tokenizer.

    Raises:
        SettingsError: not such a file, a token that no two others make, or the result is not the same.
    """
    import regex
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise _unconvertible(path, error, "lines of base64 token and rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise _unconvertible(path, f"{len(ranks)} tokens", "ranks from 0 without a gap, and all single bytes")
    letters = bytes_to_letters()
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = merge_bytes(token, ranks, below=rank)
            if len(parts) != 2:
                raise _unconvertible(path, f"{token!r} of rank {rank} is made of {len(parts)}", "tokens made of two")
            merges.append(tuple("".join(letters[byte] for byte in part) for part in parts))
    vocab = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {rank: token for token, rank in ranks.items()}

    def encode(text: str) -> list[int]:
        words = regex.findall(_QWEN_PATTERN, unicodedata.normalize("NFC", text))
        return [ranks[part] for word in words for part in merge_bytes(word.encode(), ranks)]

    _check(path, tokenizer, encode, lambda ids: b"".join(tokens[i] for i in ids).decode("utf-8", "replace"))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _QWEN_SPECIAL])
    return _wrapped(tokenizer, eos_token=_QWEN_END, pad_token=_QWEN_END)


def bytes_to_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level tokenizer.json: itself where it prints, else one above 255.

    GPT-2's table (Radford et al. 2019), which tokenizers' ByteLevel uses.
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + index) for index, byte in enumerate(others)}
