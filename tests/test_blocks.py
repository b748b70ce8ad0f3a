"""Token blocks: what prepare.py stores, how it goes on after a kill, what it refuses; what a model learns from them."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import records
from configs.errors import ExitCode, FailedItems, MissingInputError, SettingsError, UserError
from configs.files import fingerprint, read_json, write_json
from configs.languages import LANGUAGES
from pretrain import prepare, pretraining
from pretrain.models import load_model, load_tokenizer
from pretrain.token_blocks import block_files
from pretrain.token_blocks.block_files import DOCUMENT
from pretrain.token_blocks.blocks import IGNORED, Collator, TokenBlocks
from pretrain.token_blocks.indexing import is_held_out, last_held_out
from scripts.bench.bench_pretrain import NOTHING

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


def in_this_process(job, items, num_processes=None):
    """What `data_collection.corpus.jobs.do_shards` does, without its processes."""
    for item in items:
        if not job.is_done(item):
            failed = FailedItems()
            numbers = job.work(item, failed)
            identity = job.identity(item)
            marker = {"fingerprint": fingerprint(identity), "identity": identity, **numbers, "failed": failed.items}
            write_json(job.marker_path(item), marker)


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
    tables = [np.fromfile(folder / "documents" / f"{shard}.bin", dtype=DOCUMENT) for shard in "abc"]
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
        assert split["num_padding_tokens"] == 64 * len(tokens) - sum(tokens) and split["num_repeated_tokens"] == 0
        labels = Collator(64, pad_token_id=1)([blocks.split(name)[i] for i in range(len(tokens))])["labels"]
        assert split["num_targets"] == int((labels != IGNORED).sum())
    assert sum(blocks.index["num_tokens_by_language"].values()) == sum(map(len, wanted))
    assert list(blocks.index["num_tokens_by_source"]) == ["source 0", "source 1"]


def test_a_dataset_reads_the_same_with_few_files_open_and_in_another_process(prepared, monkeypatch):
    train = TokenBlocks(prepared[2]).split("train")
    wanted = [[ids.tolist() for ids, _ in block] for block in map(train.__getitem__, range(len(train)))]
    monkeypatch.setattr(block_files, "_MAX_MAPPED", 1)
    packed = pickle.dumps(train)
    assert len(packed) < 2000, "what is mapped must not travel"
    again = pickle.loads(packed)
    assert [[ids.tolist() for ids, _ in again[i]] for i in range(len(again))] == wanted
    with pytest.raises(IndexError):
        again[len(again)]


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


def test_the_published_rows_of_the_benchmark_are_padded_to_a_block_and_lone_examples_to_the_longest():
    segment = (np.arange(10), np.arange(10))
    assert Collator(48, 1)([[segment]])["input_ids"].shape == (1, 10)
    batch = Collator(48, 1)([[segment, NOTHING]])
    assert batch["input_ids"].shape == (1, 48) and int((batch["labels"] != IGNORED).sum()) == 9


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


def held_out_of(documents, share, max_tokens):
    return is_held_out(documents, last_held_out(documents, share, max_tokens))


@pytest.mark.parametrize("seed", range(20))
def test_validation_is_chosen_by_hash(seed):
    old, elsewhere, more = (
        random_documents(300, languages, seed + i) for i, languages in enumerate(([0, 1], [2], [0]))
    )
    old["hash"][:40] = old["hash"][40:80]  # equal texts
    old["lang"][:40] = old["lang"][40:80]
    held_out = held_out_of(old, 0.1, 10**9)
    for code in (0, 1):
        mine = old["lang"] == code
        share = held_out[mine].mean()
        assert 0.05 < share < 0.15
        assert old["hash"][mine & held_out].max() < old["hash"][mine & ~held_out].min()
    # Documents of another language change nothing; those of the same move the border, but mix no old sides.
    assert np.array_equal(held_out_of(np.concatenate([elsewhere, old]), 0.1, 10**9)[300:], held_out)
    after = held_out_of(np.concatenate([old, more]), 0.1, 10**9)[:300]
    assert np.array_equal(after[old["lang"] == 1], held_out[old["lang"] == 1])
    assert not (after & ~held_out).any() or not (held_out & ~after).any()


def test_validation_is_small_and_never_takes_the_last_documents_of_a_language():
    documents = random_documents(100, [0], 0)
    assert documents["length"][held_out_of(documents, 0.5, 300)].sum() <= 300
    assert held_out_of(documents, 0.001, 1).sum() == 1
    assert not held_out_of(documents, 0.0, 1).any()
    assert not held_out_of(documents[:4], 0.5, 10**9).any()
    documents["hash"][7] = 2**64 - 1
    assert held_out_of(documents[7:12], 0.99, 10**9).sum() == 4, "the greatest hash of all is one like others"


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
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    copy = shutil.copytree(folder, tmp_path / "blocks")
    (copy / "index.json").unlink()
    (copy / "shards" / "b.json").unlink()
    run_prepare(monkeypatch, documents, copy, tiny_model)
    assert contents(copy) == contents(folder)


def test_killed_before_any_of_its_renames_the_same_command_ends_with_the_same_bytes(
    prepared, tiny_model, monkeypatch, tmp_path
):
    documents, _, folder = prepared
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
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
    assert number > 20 and not killed, "a run makes more than 20 renames, and less than 99"


def test_killed_by_the_system_while_shards_are_tokenized(tiny_model, tmp_path, monkeypatch, script_env):
    documents = tmp_path / "documents"
    write_documents(documents)
    for number in range(6):  # so that some are done and some are not when it is killed
        (documents / f"d{number}.jsonl").write_bytes((documents / "a.jsonl").read_bytes() * 200)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["--input", documents, "--output_dir", killed, "--model_name_or_path", tiny_model, "--block_size", "64"]
    command = [sys.executable, "pretrain/prepare.py", *map(str, words), "--validation_share", "0.2"]
    root = Path(prepare.__file__).parents[1]
    quiet = {"env": script_env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--num_processes", "2"], cwd=root, **quiet)
    while not list(killed.glob("shards/*.json")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "index.json").exists()
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    for folder in (killed, whole):
        assert run_prepare(monkeypatch, documents, folder, tiny_model) == ExitCode.FAILED_ITEMS
    assert contents(killed) == contents(whole)
    assert not [path for path in killed.rglob(".*.tmp")]


def test_tasks_of_an_array_share_the_shards_and_the_last_packs_them(prepared, tiny_model, monkeypatch, tmp_path):
    documents, _, folder = prepared
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    output_dir = tmp_path / "blocks"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert run_prepare(monkeypatch, documents, output_dir, tiny_model) == ExitCode.DONE
    assert 0 < len(list(output_dir.glob("shards/*.json"))) < 3 and not (output_dir / "run.json").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert run_prepare(monkeypatch, documents, output_dir, tiny_model) == ExitCode.FAILED_ITEMS
    assert contents(output_dir) == contents(folder)


def test_windows_overlap_and_bear_loss_on_every_token_once(prepared, tiny_model, monkeypatch, tmp_path):
    documents, rows, plain = prepared
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    run_prepare(monkeypatch, documents, tmp_path / "blocks", tiny_model, "--overlap", "24")
    blocks, tokenizer = TokenBlocks(tmp_path / "blocks"), load_tokenizer(str(tiny_model))
    assert (tmp_path / "blocks" / "tokens" / "a.bin").read_bytes() == (plain / "tokens" / "a.bin").read_bytes()
    wanted = []
    for row in rows:
        ids = [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]
        wanted += [ids[:64]] + [ids[start : start + 64] for start in range(40, len(ids) - 24, 40)]
    segments = [
        segment for name in blocks.index["splits"] for block in map(list, blocks.split(name)) for segment in block
    ]
    assert sorted(ids.tolist() for ids, _ in segments) == sorted(wanted)
    counts = blocks.index["splits"].values()
    assert sum(split["num_tokens"] for split in counts) == sum((labels != IGNORED).sum() for _, labels in segments)
    assert sum(split["num_repeated_tokens"] for split in counts) == 24 * (len(wanted) - len(rows)) > 0
    # In a batch a repeated window has the loss of the tokens that follow the context, the first of them included.
    window = next((ids, labels) for ids, labels in segments if labels[0] == IGNORED)
    labels = Collator(64, pad_token_id=0)([[window]])["labels"][0]
    assert labels[:24].tolist() == [IGNORED] * 24
    assert labels[24 : len(window[0])].tolist() == window[0][24:].tolist()


def test_sources_are_mixed_as_the_settings_say(prepared, tiny_model, monkeypatch, tmp_path):
    documents, _, plain = prepared
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    general = tmp_path / "general"
    write_documents(general)
    words = ["--input", f"general={general}", "--epochs", "source 0=2.5", "--shares", "general=0.2"]
    run_prepare(monkeypatch, documents, tmp_path / "blocks", tiny_model, *words)
    blocks = TokenBlocks(tmp_path / "blocks")
    by_source = {}
    for row in blocks.index["mixture"]:
        for name in ("num_tokens", "num_validation_tokens", "num_training_tokens", "num_training_documents"):
            by_source.setdefault(row["source"], {}).setdefault(name, 0)
            by_source[row["source"]][name] += row[name]
    assert list(by_source) == ["source 0", "source 1", "general"]
    before = TokenBlocks(plain).index["num_tokens_by_source"]
    assert {name: by_source[name]["num_tokens"] for name in before} == before
    once = {name: row["num_tokens"] - row["num_validation_tokens"] for name, row in by_source.items()}
    assert by_source["source 1"]["num_training_tokens"] == once["source 1"]
    assert 2 * once["source 0"] < by_source["source 0"]["num_training_tokens"] < 3 * once["source 0"]
    total = sum(row["num_training_tokens"] for row in by_source.values())
    assert by_source["general"]["num_training_tokens"] / total == pytest.approx(0.2, abs=0.1)
    train = blocks.split("train")
    assert (
        total
        == blocks.index["splits"]["train"]["num_tokens"]
        == sum(len(ids) for block in map(list, train) for ids, _ in block)
    )
    # No block has a document twice, and blocks of every source and language are known.
    for number in range(len(train)):
        pieces = train.pieces(number)
        assert len(np.unique(pieces[["item", "start"]])) == len(pieces)
    found = set()
    for number in train.one_of_each_source():
        for piece in train.pieces(number):
            table = np.fromfile(
                tmp_path / "blocks/documents" / Path(blocks.index["shards"][piece["item"]]).name, DOCUMENT
            )
            document = table[np.searchsorted(table["start"], piece["start"], side="right") - 1]
            found.add(("general" if piece["item"] >= 3 else f"source {document['source']}", int(document["lang"])))
    rows = [row for row in blocks.index["mixture"] if row["num_training_documents"]]
    assert found == {(row["source"], list(LANGUAGES).index(row["language"])) for row in rows}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "nowhere=2"], "'nowhere'"),
        (["--shares", "source 0=0.5", "source 1=0.2"], "'source 0', 'source 1'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_and_the_tokenized_shards_stay(
    words, said, prepared, tiny_model, monkeypatch, tmp_path
):
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    with pytest.raises(SettingsError) as refused:
        run_prepare(monkeypatch, prepared[0], tmp_path, tiny_model, *words)
    assert refused.value.found == said
    (tmp_path / "run.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tokens/*")}
    assert run_prepare(monkeypatch, prepared[0], tmp_path, tiny_model) == ExitCode.FAILED_ITEMS
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tokens/*")} == times


def test_wrong_settings_are_all_named(tmp_path, monkeypatch):
    words = ["--block_size", "64", "--overlap", "64", "--epochs", "a", "b=2", "--shares", "b=0.4", "c=0.6", "d=-1"]
    more = ["--language_temperature", "0", "--input", "a=b.txt"]
    with pytest.raises(SettingsError) as refused:
        run_prepare(monkeypatch, tmp_path / "x", tmp_path / "y", tmp_path, *words, *more)
    lines = refused.value.found.strip().splitlines()
    assert len(lines) == 7 and not (tmp_path / "y").exists()
    for part in ("overlap 64", "'a'", "'d=-1'", "name 'b'", "language_temperature 0", "a=b.txt", "sum to"):
        assert part in refused.value.found


def test_nothing_to_pack(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("data_collection.corpus.jobs.do_shards", in_this_process)
    (tmp_path / "documents").mkdir()
    with pytest.raises(MissingInputError, match="no documents were found"):
        run_prepare(monkeypatch, tmp_path / "documents", tmp_path / "blocks", tiny_model)
    (tmp_path / "documents" / "a.jsonl").write_text('{"text": " \\n", "lang": "en"}\n{"text": "x", "lang": "xx"}\n')
    with pytest.raises(MissingInputError, match="there is no usable document"):
        run_prepare(monkeypatch, tmp_path / "documents", tmp_path / "blocks", tiny_model)
    assert len((tmp_path / "blocks" / "failures.jsonl").read_text().splitlines()) == 2
    write_documents(tmp_path / "more")
    with pytest.raises(MissingInputError, match="no document is left for training"):
        words = ["--epochs", "source 0=0", "source 1=0"]
        run_prepare(monkeypatch, tmp_path / "more", tmp_path / "none", tiny_model, *words)
    assert not (tmp_path / "none" / "index.json").exists()


def flip_a_byte(folder):
    data = bytearray((folder / "tokens/b.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tokens/b.bin").write_bytes(data)
    return "tokens/b.bin"


def remove_a_shard(folder):
    (folder / "tokens/a.bin").unlink()
    return "tokens/a.bin"


def cut_a_shard(folder):
    (folder / "tokens/a.bin").write_bytes((folder / "tokens/a.bin").read_bytes()[:-2])
    return "tokens/a.bin"


def flip_a_byte_of_the_pieces(folder):
    data = bytearray((folder / "train.pieces.bin").read_bytes())
    data[8] ^= 1
    (folder / "train.pieces.bin").write_bytes(data)
    return "train.pieces.bin"


def change_a_number_of_the_index(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"block_size": 64', '"block_size": 65'))
    return "index.json"


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


DAMAGES = [flip_a_byte, flip_a_byte_of_the_pieces, remove_a_shard, cut_a_shard, truncate_the_index]
DAMAGES += [change_a_number_of_the_index, remove_the_index, take_another_format]


@pytest.mark.parametrize("damage", DAMAGES)
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


def test_a_start_says_that_blocks_are_longer_than_what_the_model_has_read(prepared, tiny_model, monkeypatch, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    known = TokenBlocks(prepared[2], verify=False).block_size
    said = []
    monkeypatch.setattr(pretraining.log, "warning", said.append)
    monkeypatch.setattr(pretraining, "already_done", lambda *_: 0)  # as far as it is to come
    for num_positions, wanted in ((known, 0), (known - 1, 1)):
        config = read_json(other / "config.json")
        write_json(other / "config.json", {**config, "max_position_embeddings": num_positions})
        train(prepared[2], other, monkeypatch, tmp_path)
        assert len(said) == wanted
    assert f"{known - 1:,} positions only, of {known:,}" in said[0]


def train(folder, model, monkeypatch, tmp_path):
    """`pretrain` on the blocks in `folder`, failing the test if it comes as far as loading the model."""
    monkeypatch.setattr(pretraining, "load_model", lambda *_: pytest.fail("the model was loaded"))
    settings = pretraining.PretrainArguments(output_dir=str(tmp_path / "run"), deepspeed=None, report_to="none")
    choice = type("Settings", (), {"model_name_or_path": str(model), "block_size": None})
    try:
        pretraining.pretrain(choice, settings, folder)
    except UserError:
        assert not (tmp_path / "run").exists()
        raise
