"""Token blocks: what prepare.py stores, how it goes on after a kill, what it refuses; what a model learns from them."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import records
from configs.errors import ExitCode, MissingInputError, SettingsError, UserError
from configs.files import read_json, write_json
from pretrain import prepare, pretraining
from pretrain.blocks import DOCUMENT, IGNORED, Collator, TokenBlocks
from pretrain.models import load_model, load_tokenizer
from pretrain.tokenizing import split_documents

WORDS = [
    "heart",
    "valve",
    "fever",
    "renal",
    "心脏",
    "瓣膜",
    "dose",
    "of",
    "the",
    "is",
    "was",
    "foie",
    "rein",
    "douleur",
    "à",
    "et",
    "1,5",
    "mg/kg",
    "(p",
    "<",
    "0.05)",
]


def write_documents(folder: Path) -> list[dict]:
    """Three shards: two of three languages with unequal texts, one whose only row is broken. Returns the good rows."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(1)
    rows = []
    for shard in ("a", "b"):
        with open(folder / f"{shard}.jsonl", "w", encoding="utf-8") as file:
            for number in range(16):
                text = " ".join(draw.choice(WORDS, size=int(draw.integers(1, 60))))
                text = "the same text twice" if number == 7 else text
                rows.append({"text": text, "lang": ("en", "zh", "fr")[number % 3], "source": f"source {number % 2}"})
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    (folder / "c.jsonl").write_text("{broken\n")
    return rows


def run_prepare(monkeypatch, documents: Path, output_dir: Path, model: Path, *more: str) -> int:
    words = ["--input", documents, "--output_dir", output_dir, "--model_name_or_path", model, "--block_size", "64"]
    monkeypatch.setattr(records, "_git", lambda *_: "")  # seconds saved, in a test that prepares dozens of times
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words), "--validation_share", "0.2", *more])
    return prepare.main()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_model):
    """(folder of documents, their rows, folder of their blocks)."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = write_documents(folder / "documents")
    with pytest.MonkeyPatch.context() as monkeypatch:
        code = run_prepare(monkeypatch, folder / "documents", folder / "blocks", tiny_model)
    assert code == ExitCode.FAILED_ITEMS
    return folder / "documents", rows, folder / "blocks"


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", "uncommitted.diff")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_tokens_stored_are_those_of_the_documents_each_in_one_block_or_cut_where_it_must_be(prepared, tiny_model):
    _, rows, folder = prepared
    tokenizer = load_tokenizer(str(tiny_model))
    wanted = [[*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id] for row in rows]
    blocks = TokenBlocks(folder)
    assert [line.count("c.jsonl:1") for line in (folder / "failures.jsonl").read_text().splitlines()] == [1]
    stored = [np.fromfile(folder / "tokens" / f"{shard}.bin", dtype=blocks.index["dtype"]) for shard in "abc"]
    tables = [np.load(folder / "tokens" / f"{shard}.npy") for shard in "abc"]
    documents = [
        tokens[row["start"] : row["start"] + row["length"]].tolist()
        for tokens, table in zip(stored, tables, strict=True)
        for row in table
    ]
    assert documents == wanted
    assert all(tokens.itemsize <= 4 for tokens in stored)
    assert sum(map(len, stored)) == sum(map(len, wanted)) == blocks.index["num_tokens"]
    # The blocks of all splits give every document back whole, and no other token.
    names = list(blocks.index["splits"])
    assert names[0] == "train" and blocks.validation_languages == ["en", "fr", "zh"]
    segments = [ids.tolist() for name in names for block in map(list, blocks.split(name)) for ids, _ in block]
    whole = [ids for ids in wanted if len(ids) <= 64]
    assert len(whole) > 5 and len(whole) < len(wanted), "this test wants short and long documents"
    assert all(segments.count(ids) >= whole.count(ids) for ids in whole)
    assert sorted(token for ids in segments for token in ids) == sorted(token for ids in wanted for token in ids)
    for name, split in blocks.index["splits"].items():
        tokens = [sum(len(ids) for ids, _ in block) for block in map(list, blocks.split(name))]
        assert (len(tokens), sum(tokens)) == (split["num_blocks"], split["num_tokens"]) and max(tokens) <= 64
    assert sum(blocks.index["num_tokens_by_language"].values()) == sum(map(len, wanted))
    assert list(blocks.index["num_tokens_by_source"]) == ["source 0", "source 1"]


def test_collator_restarts_positions_and_gives_the_first_token_of_a_segment_no_label():
    first, second = np.array([5, 6, 7]), np.array([8])
    batch = Collator(6, pad_token_id=0)([[(first, first), (second, second)], [(first, np.array([IGNORED, 6, 7]))]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 0, 0], [5, 6, 7, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, *[IGNORED] * 3], [IGNORED, 6, 7, *[IGNORED] * 3]]


def loss_and_gradients(model, batches):
    """Token-weighted mean loss over batches, and its gradient as one vector."""
    model.zero_grad()
    num_targets = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        targets = batch["labels"][:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum") / num_targets
        loss.backward()
        total += loss.item()
    return total, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_a_packed_block_teaches_what_its_documents_teach_one_by_one(tiny_model):
    model = load_model(str(tiny_model), torch.float32)
    draw = np.random.default_rng(3)
    lengths = [[40], [17, 1, 20], [2, 2, 30, 5], [1]]
    blocks = [[(ids, ids) for ids in (draw.integers(2, 700, size=n) for n in block)] for block in lengths]
    alone = [
        {"input_ids": ids[None], "labels": ids[None], "position_ids": torch.arange(len(ids))[None]}
        for block in blocks
        for ids in (torch.from_numpy(segment) for segment, _ in block)
        if len(ids) > 1
    ]
    wanted, wanted_gradients = loss_and_gradients(model, alone)
    packed = Collator(40, pad_token_id=1)(blocks)
    loss, gradients = loss_and_gradients(model, [packed])
    assert loss == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-4, atol=1e-5)
    # The loss that the model itself computes, as in training, is the same number.
    model.zero_grad()
    own = model(**packed, use_cache=False).loss
    own.backward()
    assert own.item() == pytest.approx(wanted, rel=1e-5)
    own_gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    torch.testing.assert_close(own_gradients, wanted_gradients, rtol=1e-4, atol=1e-5)


def random_documents(count, languages, seed):
    documents = np.zeros(count, dtype=DOCUMENT)
    draw = np.random.default_rng(seed)
    documents["hash"] = draw.integers(0, 2**60, size=count)
    documents["length"] = draw.integers(1, 100, size=count)
    documents["lang"] = draw.choice(languages, size=count)
    return documents


@pytest.mark.parametrize("seed", range(20))
def test_validation_is_chosen_by_hash(seed):
    old, elsewhere, more = (
        random_documents(300, languages, seed + i) for i, languages in enumerate(([0, 1], [2], [0]))
    )
    old["hash"][:40] = old["hash"][40:80]  # equal texts
    old["lang"][:40] = old["lang"][40:80]
    held_out = split_documents(old, 0.1, 10**9)
    for code in (0, 1):
        mine = old["lang"] == code
        share = held_out[mine].mean()
        assert 0.05 < share < 0.15
        assert old["hash"][mine & held_out].max() < old["hash"][mine & ~held_out].min()
    # Documents of another language change nothing; those of the same move the border, but mix no old sides.
    assert np.array_equal(split_documents(np.concatenate([elsewhere, old]), 0.1, 10**9)[300:], held_out)
    after = split_documents(np.concatenate([old, more]), 0.1, 10**9)[:300]
    assert np.array_equal(after[old["lang"] == 1], held_out[old["lang"] == 1])
    assert not (after & ~held_out).any() or not (held_out & ~after).any()


def test_validation_is_small_and_never_takes_the_last_documents_of_a_language():
    documents = random_documents(100, [0], 0)
    assert documents["length"][split_documents(documents, 0.5, 300)].sum() <= 300
    assert split_documents(documents, 0.001, 1).sum() == 1
    assert not split_documents(documents, 0.0, 1).any()
    assert not split_documents(documents[:4], 0.5, 10**9).any()


def test_the_same_command_says_already_done_and_other_settings_are_refused(prepared, tiny_model, monkeypatch):
    documents, _, folder = prepared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run_prepare(monkeypatch, documents, folder, tiny_model) == ExitCode.FAILED_ITEMS
    with pytest.raises(SettingsError) as refused:
        run_prepare(monkeypatch, documents, folder, tiny_model, "--block_size", "32")
    assert (refused.value.found, refused.value.wanted) == ("block_size was 64", "block_size 32")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_lost_index_is_written_again(prepared, tiny_model, monkeypatch, tmp_path):
    documents, _, folder = prepared
    copy = shutil.copytree(folder, tmp_path / "blocks")
    (copy / "index.json").unlink()
    (copy / "tokens" / "b.json").unlink()
    run_prepare(monkeypatch, documents, copy, tiny_model)
    assert contents(copy) == contents(folder)


def test_killed_before_any_of_its_renames_the_same_command_ends_with_the_same_bytes(
    prepared, tiny_model, monkeypatch, tmp_path
):
    documents, _, folder = prepared
    replace, left = os.replace, [0]

    class Killed(BaseException):
        """What no handler of the program stops, as SIGKILL."""

    def replace_until_killed(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        replace(*paths)

    killed = True
    for number in range(99):
        left[0], killed = number, False
        output_dir = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_until_killed)
            try:
                run_prepare(patch, documents, output_dir, tiny_model)
            except Killed:
                killed = True
        if not killed:
            break
        assert not (output_dir / "run.json").exists() or read_json(output_dir / "run.json")["status"] == "running"
        assert run_prepare(monkeypatch, documents, output_dir, tiny_model) == ExitCode.FAILED_ITEMS
        assert contents(output_dir) == contents(folder)
    assert number > 15 and not killed, "a run makes more than 15 renames, and less than 99"


def flip_a_byte(folder):
    data = bytearray((folder / "tokens/b.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tokens/b.bin").write_bytes(data)
    return "tokens/b.bin"


def remove_a_shard(folder):
    (folder / "tokens/a.bin").unlink()
    return "tokens/a.bin"


def truncate_the_index(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text[: len(text) // 2])
    return "index.json"


def remove_the_index(folder):
    (folder / "index.json").unlink()
    return ""


def take_another_format(folder):
    write_json(folder / "index.json", {**read_json(folder / "index.json"), "format": 0})
    return "index.json"


@pytest.mark.parametrize(
    "damage", [flip_a_byte, remove_a_shard, truncate_the_index, remove_the_index, take_another_format]
)
def test_damaged_blocks_are_refused_before_a_model_is_loaded(damage, prepared, tiny_model, monkeypatch, tmp_path):
    folder = shutil.copytree(prepared[2], tmp_path / "blocks")
    named = damage(folder)
    with pytest.raises(MissingInputError) as refused:
        train(folder, tiny_model, monkeypatch, tmp_path)
    assert Path(refused.value.where) == folder / named and refused.value.exit_code == ExitCode.MISSING_INPUT


def test_blocks_of_another_tokenizer_are_refused_before_a_model_is_loaded(prepared, tiny_model, monkeypatch, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    definition = read_json(other / "tokenizer.json")
    definition["pre_tokenizer"]["add_prefix_space"] = True
    write_json(other / "tokenizer.json", definition)
    with pytest.raises(SettingsError, match="tokenizer") as refused:
        train(prepared[2], other, monkeypatch, tmp_path)
    assert str(prepared[2]) in refused.value.where and str(other) in refused.value.where
    assert refused.value.found not in refused.value.wanted and refused.value.exit_code == ExitCode.SETTINGS


def train(folder, model, monkeypatch, tmp_path):
    """`pretrain` on the blocks in `folder`, failing the test if it comes as far as loading the model."""
    monkeypatch.setattr(pretraining, "load_model", lambda *_: pytest.fail("the model was loaded"))
    settings = pretraining.PretrainArguments(output_dir=str(tmp_path / "run"), deepspeed=None, report_to="none")
    choice = type("Settings", (), {"model_name_or_path": str(model), "attn_implementation": None})
    try:
        pretraining.pretrain(choice, settings, folder)
    except UserError:
        assert not (tmp_path / "run").exists()
        raise
