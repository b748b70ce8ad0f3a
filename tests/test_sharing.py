"""Shares of a set of everything: deterministic, nested, of everything something, and never over the set itself."""

import gzip

import pyarrow as pa
import pytest

from configs.errors import FailedItems, MissingInputError, SettingsError
from configs.settings import parse
from data_collection.corpus.documents import find_shards, read_shard
from scripts.sharing import take_share
from scripts.take_share import ShareSettings


def test_a_larger_share_holds_every_smaller_one_in_the_files_order(tmp_path):
    data = tmp_path / "data"
    for name, number in (("documents/en.medical.jsonl", 40), ("mmedbench/Test/English.jsonl", 3)):
        path = data / name
        path.parent.mkdir(parents=True)
        path.write_text("".join(f'{{"text": "{i}"}}\n' for i in range(number)))
    (data / "pdf" / "pages" / "en").mkdir(parents=True)
    for i in range(4):
        (data / "pdf" / "pages" / "en" / f"{i}.pdf").write_bytes(b"%PDF")
    shares = [take_share(data, share, tmp_path / str(share)) for share in (0.1, 0.5, 1)]
    assert shares[0] == {"documents": 4, "questions": 1, "PDFs": 1}
    assert shares[2] == {"documents": 40, "questions": 3, "PDFs": 4}

    def lines(share):
        return (tmp_path / str(share) / "documents" / "en.medical.jsonl").read_text().splitlines()

    whole = lines(1)
    assert whole == (data / "documents" / "en.medical.jsonl").read_text().splitlines()
    assert set(lines(0.1)) < set(lines(0.5)) and lines(0.5) == [line for line in whole if line in lines(0.5)]


def test_packed_documents_give_the_share_of_the_same_lines_unpacked(tmp_path):
    rows = b"".join(b'{"text": "%d"}\n' % number for number in range(40))
    packed = {"": rows, ".gz": gzip.compress(rows), ".zst": pa.Codec("zstd").compress(rows, asbytes=True)}
    texts = []
    for suffix, content in packed.items():
        path = tmp_path / f"data{suffix}" / "documents" / f"en.medical.jsonl{suffix}"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        share = tmp_path / f"share{suffix}"
        assert take_share(path.parent.parent, 0.2, share)["documents"] == 8
        (shard,) = find_shards([share / "documents"])
        assert shard.paths[0].name == path.name
        texts.append([document.text for document in read_shard(shard, FailedItems(), "en")])
    assert len(texts[0]) == 8 and texts[0] == texts[1] == texts[2]
    (tmp_path / "data.gz" / "documents" / "en.medical.jsonl.gz").write_bytes(packed[".gz"][:-20])
    with pytest.raises(MissingInputError, match="cannot be read to its end"):
        take_share(tmp_path / "data.gz", 0.2, tmp_path / "share.gz")


def test_a_share_goes_over_nothing(tmp_path):
    words = ["--data", str(tmp_path), "--share", "0.5", "--output_dir", str(tmp_path / "x" / "..")]
    with pytest.raises(SettingsError, match="another folder than data"):
        parse("A test.", ShareSettings, argv=words)
