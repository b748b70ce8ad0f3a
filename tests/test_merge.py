"""Existing sets by mappings, and their union with folders of documents."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import EnvironmentFailure, FailedItems, MissingInputError, SettingsError
from data_collection.sources import corpus_files, small_corpora
from data_collection.sources.mappings import MAPPINGS, CorpusMapping, read_mapping
from data_collection.sources.merging import find_merge_shards, merge_shard
from data_collection.sources.small_corpora import find_mapped_shards

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "data_collection" / "merge.py"


def write(path, text, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", **how)
    return path


def merge(*words, env, **how):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], env=env, capture_output=True, text=True, **how
    )


def documents(output, part="kept"):
    rows = [row for path in sorted((output / part).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


def read(name, path, failed=None):
    """The documents that a mapping makes of a path, as (id, lang, source, licence, text)."""
    mapping = name if isinstance(name, CorpusMapping) else read_mapping(MAPPINGS / f"{name}.yaml")
    label = "set" if isinstance(name, CorpusMapping) else name
    failed = FailedItems() if failed is None else failed
    return [
        (made.id, made.lang, made.source, made.licence, made.text)
        for shard in find_mapped_shards(label, mapping, str(path))
        for made in shard.documents(failed, Counter())
    ]


# --- the mappings that are shipped, each with a tiny file of our own in the layout of its set


def medquad(folder):
    pair = '<QAPair pid="{0}"><Question qid="7_1-{0}" qtype="causes">Why {0}?</Question><Answer>{1}</Answer></QAPair>'
    pairs = pair.format(1, "Since &lt;two&gt;.") + pair.format(2, "")
    write(
        folder / "1_Some_QA" / "7_1.xml",
        f'<?xml version="1.0"?><Document id="7_1" source="Some" url="https://e.org/7"><Focus>X</Focus><QAPairs>{pairs}</QAPairs></Document>',
    )
    return [
        ("7_1-1", "en", "MedQuAD", "CC BY 4.0", "Why 1?\nSince <two>."),
        ("7_1-2", "en", "MedQuAD", "CC BY 4.0", ""),
    ]


def e3c(folder):
    write(
        folder / "French" / "layer1" / "FR1.xml",
        '<?xml version="1.0" encoding="UTF-8"?><xmi:XMI xmlns:xmi="http://www.omg.org/XMI" xmlns:cas="http:///uima/cas.ecore" '
        'xmlns:custom="http:///webanno/custom.ecore" xmlns:t="http:///t"><t:Token xmi:id="3" begin="0" end="2"/>'
        '<custom:METADATA xmi:id="1" docSource="A journal" docLanguage="fr" docLicense="CC BY" docName="FR1" docUrl=""/>'
        '<cas:Sofa xmi:id="2" sofaString="Un cas &quot;rare&quot;."/></xmi:XMI>',
    )
    return [("FR1", "fr", "E3C A journal", "CC BY", 'Un cas "rare".')]


def tico19(folder):
    unit = '<tu tuid="{}"><prop type="note">x</prop><tuv xml:lang="en"><seg>E{}</seg></tuv><tuv xml:lang="es-LA"><seg>{}</seg></tuv></tu>'
    units = unit.format("wiki_9:1", 1, "Uno.") + unit.format("wiki_9:2", 2, "Dos.") + unit.format("CMU_1:1", 3, "Tres.")
    write(folder / "all.en-es-LA.tmx", f'<tmx version="1.4"><header/><body>{units}</body></tmx>')
    return [("wiki_9", "es", "TICO-19", "CC0", "Uno. Dos."), ("CMU_1", "es", "TICO-19", "CC0", "Tres.")]


def morfitt(folder):
    write(
        folder / "dev.tsv",
        'identifier\tabstract\tlabels\nab12\t La "fièvre. \tvirology|surgery\ncd34\tDeux.\tsurgery\n',
    )
    return [
        ("ab12", "fr", "MORFITT", "CC BY-SA 4.0", 'La "fièvre.'),
        ("cd34", "fr", "MORFITT", "CC BY-SA 4.0", "Deux."),
    ]


def jmed_llm(folder):
    write(folder / "datasets" / "nrner.csv", "tag,question,answer\nd,\"表現は？\n「「痛い」\n転倒した。」\",['痛い']\n")
    write(folder / "datasets" / "crade.csv", 'tag,question,answer\nd,"分類は？\n「症例。」",A\n')
    write(folder / "datasets" / "jcsts.csv", "sentence1,sentence2\na,b\n")
    return [
        ("jmed_llm/datasets/crade.csv:3", "ja", "JMED-LLM CRADE", "CC BY 4.0", "症例。"),
        ("jmed_llm/datasets/nrner.csv:4", "ja", "JMED-LLM NRNER", "CC BY-NC-SA 4.0", "「痛い」\n転倒した。"),
    ]


def nerel_bio(folder):
    write(folder / "train" / "12_ru.txt", "Цель.\r\nМетоды.", newline="")
    write(folder / "train" / "12_ru.ann", "T1\tX 0 2\tЦе")
    return [("12_ru", "ru", "NEREL-BIO", "", "Цель.\nМетоды.")]


def bionne_l(folder):
    write(folder / "data" / "texts" / "en" / "dev" / "5_en.txt", "Aim.")
    return [("5_en", "en", "BioNNE-L", "", "Aim.")]


def cmexam(folder):
    write(folder / "train.csv", '\ufeffQuestion,Options,Answer,Explanation\n厚度是,"A 一\nB 二",B,"约为,0.2mm"\n')
    return [("cmexam/train.csv:3", "zh", "CMExam", "Apache-2.0", "厚度是\n约为,0.2mm")]


def bentsao(folder):
    write(folder / "llama_data.json", '{"instruction": "发热？", "input": "", "output": "休息。"}\n')
    return [("bentsao/llama_data.json:1", "zh", "BenTsao", "Apache-2.0", "发热？\n休息。")]


def xquad(folder):
    content = {
        "version": "1.1",
        "data": [{"title": "A", "paragraphs": [{"context": "Uno", "qas": []}, {"context": "Dos"}]}],
    }
    write(folder / "xquad.es.json", json.dumps(content))
    return [(f"xquad/xquad.es.json:{n}", "es", "XQuAD", "CC BY-SA 4.0", text) for n, text in ((1, "Uno"), (2, "Dos"))]


def ntrex128(folder):
    write(folder / "NTREX-128" / "newstest2019-ref.fra-CA.txt", "Une.\nDeux.\n")
    write(folder / "NTREX-128" / "newstest2019-ref.amh.txt", "x\n")
    return [("ntrex128/NTREX-128/newstest2019-ref.fra-CA.txt", "fr", "NTREX-128", "CC BY-SA 4.0", "Une.\nDeux.")]


def lingua(folder):
    write(folder / "sentences" / "ja.txt", "一つ。\n")
    return [("lingua/sentences/ja.txt", "ja", "lingua test sentences", "Apache-2.0", "一つ。")]


LAYOUTS = [medquad, e3c, tico19, morfitt, jmed_llm, nerel_bio, bionne_l, cmexam, bentsao, xquad, ntrex128, lingua]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_shipped_mapping_reads_the_layout_of_its_set(layout, tmp_path):
    assert read(layout.__name__, tmp_path if (expected := layout(tmp_path)) else "") == expected


def test_every_shipped_mapping_is_tested_and_every_source_of_the_labelled_documents_has_one():
    shipped = {path.stem for path in MAPPINGS.glob("*.yaml")}
    assert shipped == {layout.__name__ for layout in LAYOUTS} | {"culturax"}
    labelled = ROOT.parent / "shared" / "data" / "documents"
    if not labelled.is_dir():
        pytest.skip("no ../shared/data")
    begins = (
        "MedQuAD",
        "E3C",
        "TICO-19",
        "MORFITT",
        "JMED-LLM",
        "NEREL-BIO",
        "BioNNE-L",
        "CMExam",
        "BenTsao",
        "XQuAD",
        "NTREX-128",
        "lingua",
    )
    for path in labelled.glob("*.jsonl"):
        with open(path, encoding="utf-8") as file:
            assert all(json.loads(line)["source"].startswith(begins) for line in file)


# --- mappings


def mapping(**values):
    return CorpusMapping(**{"format": "jsonl", "text": ["{text}"], "lang": "en", "source": "S"} | values)


def test_templates_paths_patterns_and_tables_of_values(tmp_path):
    rows = [
        {"a": "", "b": "two", "inner": {"x": ["p", "q"]}, "language": "French", "n": 7},
        {"a": "one", "inner": {}, "language": "es-LA", "n": 8.5},
    ]
    path = write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    made = mapping(
        text=["{a|b}!", "{inner.x}", {"from": "{n}", "pattern": r"^\d+$", "values": {"7": "seven"}}],
        lang="{language}",
        id="row-{n}",
    )
    assert read(made, path) == [("row-7", "fr", "S", "", "two!\np\nq\nseven"), ("row-8.5", "es", "S", "", "one!")]


def test_rows_of_a_group_are_joined_by_language(tmp_path):
    rows = [("1", "en", "a"), ("1", "fr", "b"), ("1", "en", "c"), ("2", "en", "d"), ("", "fr", "e"), ("1", "fr", "f")]
    path = write(tmp_path / "x.csv", "g,l,text\n" + "".join(f"{g},{lang},{t}\n" for g, lang, t in rows))
    made = mapping(format="csv", lang="{l}", group="{g}", id="{g}", joined_by=" ")
    found = {(lang, text) for _, lang, _, _, text in read(made, path)}
    assert found == {("en", "a c"), ("en", "d"), ("fr", "e"), ("fr", "b f")}
    made.languages = ["French", "ara"]  # as a row may state its language
    assert {lang for _, lang, *_ in read(made, path)} == {"fr"}


def test_one_mapping_for_two_folders_gives_each_document_an_id_of_its_own(tmp_path):
    write(tmp_path / "m.yaml", 'format: text\ntext: ["{text}"]\nlang: en\nsource: S\n')
    given = []
    for name in ("a", "b"):
        write(tmp_path / name / "x.txt", name)
        write(tmp_path / name / ".cache" / "x.txt", name)  # hidden folders hold copies
        given.append(f"{tmp_path / 'm.yaml'}={tmp_path / name}")
    shards = find_merge_shards(given, [])
    made = [document.id for shard in shards for document in shard.documents(FailedItems(), Counter())]
    assert (made, [shard.name for shard in shards]) == (["m/x.txt", "m-2/x.txt"], ["m.00000", "m-2.00000"])


def test_a_wrong_mapping_is_refused_with_everything_that_is_wrong(tmp_path):
    path = write(
        tmp_path / "m.yaml", 'format: xml\ntext: [{from: "{a}", patern: x}]\nlang: {pattern: "("}\nsourec: S\n'
    )
    with pytest.raises(SettingsError) as error:
        read_mapping(path)
    assert "sourec" in str(error.value) and "near: source" in str(error.value)
    path = write(
        tmp_path / "m.yaml",
        'format: xml\ntext: [{from: "{a}", patern: x}]\nlang: {from: "{a}", pattern: "("}\nsource: S\n',
    )
    with pytest.raises(SettingsError) as error:
        read_mapping(path)
    assert all(word in str(error.value) for word in ("records", "patern", "lang:"))
    with pytest.raises(MissingInputError, match="there is no mapping"):
        find_merge_shards(["no_such_set=x"], [])
    with pytest.raises(MissingInputError, match="no files of the set medquad"):
        find_merge_shards([f"medquad={tmp_path / 'nowhere'}"], [])


def test_broken_files_and_rows_are_failed_items_and_the_rest_is_read(tmp_path):
    failed = FailedItems()
    path = write(tmp_path / "x.jsonl", '{"text": "good"}\nnot json\n[1]\n{"text": "fine"}\n')
    assert [text for *_, text in read(mapping(), path, failed)] == ["good", "fine"]
    assert [item["where"] for item in failed.items] == [f"{path}:2", f"{path}:3"]
    for name, form, content in (
        ("x.json", "json", "[" * 100_000),
        ("y.json", "json", '["text", {"text": "a"}]'),
        ("x.xml", "xml", "<r><t>one</t><t>two"),
        ("bomb.xml", "xml", '<!DOCTYPE r [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><r><t>&b;</t></r>'),
        ("x.parquet", "parquet", "PAR1"),
    ):
        failed = FailedItems()
        made = mapping(format=form, records="t" if form == "xml" else "", text=["{t}" if form == "xml" else "{text}"])
        texts = [text for *_, text in read(made, write(tmp_path / form / name, content), failed)]
        assert texts == {"y.json": ["a"], "x.xml": ["one"], "bomb.xml": ["&b;"]}.get(name, [])
        assert len(failed) == (name != "bomb.xml"), failed.items
    secret = write(tmp_path / "secret.txt", "secret")
    hostile = write(tmp_path / "e.xml", f'<!DOCTYPE r [<!ENTITY s SYSTEM "file://{secret}">]><r><t>&s;</t></r>')
    assert "secret" not in str(read(mapping(format="xml", records="t", text=["{t}"]), hostile))


def test_a_line_field_or_record_without_end_is_a_failed_item(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "MAX_TABLE_CHARACTERS", 200)
    monkeypatch.setattr(corpus_files, "MAX_RECORD_BYTES", 70_000)
    near = "<t>one</t>" + "<x/>" * 15_000  # 60 kB from one record to the next
    for form, content, texts in (
        ("csv", "text\ngood\n" + "x" * 300 + "\nlost\n", ["good"]),
        ("tsv", 'text\ngood\n"' + "x\n" * 300, ["good"]),
        ("xml", f"<r>{near}{near}{near}</r>", ["one"] * 3),
        ("xml", f"<r>{near}{'<x/>' * 30_000}<t>two</t></r>", ["one"]),
    ):
        failed = FailedItems()
        made = mapping(format=form, records="t" if form == "xml" else "", text=["{t}" if form == "xml" else "{text}"])
        path = write(tmp_path / f"x.{form}", content)
        assert [text for *_, text in read(made, path, failed)] == texts
        assert len(failed) == (len(texts) == 1), failed.items


def test_what_records_of_xml_share_stays_and_what_is_read_does_not(tmp_path):
    flat = "<r><s>A</s>" + "".join(f"<x/><t>{n}</t><!-- -->" for n in range(3)) + "</r>"
    books = "".join(f"<book><s>{n}</s><body><t>{n}</t><t>{n}'</t></body></book>" for n in range(3))
    nested = f"<r><all>Z</all>{books}</r>"
    made = mapping(format="xml", records="t", text=["{t}"], source="{all|s} {s}")
    found = [
        [(source, text) for _, _, source, _, text in read(made, write(tmp_path / "x.xml", content))]
        for content in (flat, nested)
    ]
    assert found[0] == [("A A", str(n)) for n in range(3)]
    assert found[1] == [(f"Z {n}", text) for n in range(3) for text in (str(n), f"{n}'")]
    for _, row in corpus_files.READERS["xml"](tmp_path / "x.xml", "x.xml", made, FailedItems()):
        book = next(row._element.iterancestors("book"))
        assert len(list(book.itersiblings(preceding=True))) <= 2  # what is for all, and the book before


# --- the command


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    tico19(folder / "tm")
    medquad(folder / "medquad")
    draw = random.Random(0)
    for number in range(6):
        rows = [{"text": f"{number} {row} " + "x" * draw.randrange(500), "lang": "fr"} for row in range(300)]
        write(folder / "docs" / f"d{number}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(folder / "more" / "d0.jsonl", '{"text": "of another folder"}\nbroken\n')
    return folder


def words(sources):
    sets = ("--mapping", f"medquad={sources / 'medquad'}", f"tico19={sources / 'tm'}")
    return (*sets, "--input", sources / "docs", sources / "more")


def test_sources_join_in_one_corpus(sources, tmp_path, script_env):
    answer = merge(*words(sources), "--output_dir", tmp_path / "o", env=script_env)
    assert answer.returncode == 5, answer.stderr
    kept, rejected = documents(tmp_path / "o"), documents(tmp_path / "o", "rejected")
    result = json.loads(answer.stdout)
    assert result["read"] == len(kept) + len(rejected) == 2 + 2 + 1800 + 1 and result["failed"] == 1
    assert [row["id"] for row in rejected] == ["7_1-2"] and rejected[0]["reason"] == "no_text"
    assert {row["source"] for row in kept} == {"MedQuAD", "TICO-19", ""}
    assert "of another folder" in {row["text"] for row in kept}
    statistics = json.loads((tmp_path / "o" / "stats.json").read_text())
    assert statistics["kept_by_licence"] == {"(not stated)": 1801, "CC0": 2, "CC BY 4.0": 1}
    assert statistics["passed_over"] == {"other language": 3}
    again = merge(*words(sources), "--output_dir", tmp_path / "o", env=script_env)
    assert again.returncode == 5 and "already done" in again.stderr
    other = merge("--input", sources / "docs", "--output_dir", tmp_path / "o", env=script_env)
    assert other.returncode == 2 and "other settings or other input" in other.stderr


def test_killed_and_started_again_gives_the_same(sources, tmp_path, script_env):
    merge(*words(sources), "--output_dir", tmp_path / "whole", env=script_env)
    command = [
        sys.executable,
        str(SCRIPT),
        *map(str, words(sources)),
        "--num_processes",
        "1",
        "--output_dir",
        tmp_path / "cut",
    ]
    draw = random.Random(1)
    for _ in range(4):
        process = subprocess.Popen(
            command, env=script_env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(draw.uniform(0.5, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=script_env, capture_output=True).returncode == 5
    for part in ("kept", "rejected"):
        assert documents(tmp_path / "cut", part) == documents(tmp_path / "whole", part)
    assert not list((tmp_path / "cut").rglob(".*"))


def test_wrong_arguments_are_said(tmp_path, script_env):
    answer = merge("--output_dir", tmp_path, env=script_env)
    assert answer.returncode == 2 and "nothing to unite" in answer.stderr


# --- Hugging Face datasets as streams


@pytest.fixture
def streamed(tmp_path):
    """A local folder of Parquet files as a dataset of the hub has them, and a mapping for it."""
    for part in range(4):
        table = pa.table(
            {
                "text": [f"part {part} row {row}" for row in range(50)],
                "url": ["https://e.org"] * 50,
                "source": ["mC4"] * 50,
            }
        )
        (tmp_path / "hub").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "hub" / f"en_part_{part:05d}.parquet")
    path = write(
        tmp_path / "like_culturax.yaml",
        f'format: dataset\ndataset: {tmp_path / "hub"}\ntext: ["{{text}}"]\nlang: en\nsource: "CulturaX {{source}}"\nmeta: [url]\n',
    )
    return path


@pytest.mark.parametrize("kind", ["read", "connect", "hub"])
def test_a_connection_that_breaks_is_said(monkeypatch, tmp_path, kind):
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    answer = httpx.Response(503, request=httpx.Request("GET", "https://hub.example"))
    broken = {
        "read": ConnectionError("Server Disconnected"),  # what datasets makes of it while it reads
        "connect": httpx.ConnectError("no route"),
        "hub": HfHubHTTPError("503", response=answer),
    }[kind]

    class Stream:
        def shard(self, num_shards, index):
            yield {"text": "one"}
            raise broken

    monkeypatch.setattr(small_corpora, "_stream", lambda *_: Stream())
    shard = small_corpora.DatasetShard("set.00000", mapping(format="dataset", dataset="d"), "d", "", 0, 1)
    with pytest.raises(EnvironmentFailure, match=r"hub broke\n  where: set.00000, after row 1"):
        merge_shard(shard, FailedItems(), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_dataset_is_streamed_a_file_a_shard(streamed, tmp_path, script_env):
    command = ("--mapping", streamed, "--output_dir", tmp_path / "o", "--num_processes", "1")
    answer = merge(*command, env=script_env)
    assert answer.returncode == 0, answer.stderr
    kept = documents(tmp_path / "o")
    assert sorted(row["text"] for row in kept) == sorted(f"part {p} row {r}" for p in range(4) for r in range(50))
    assert {(row["source"], row["meta"]["url"], row["lang"]) for row in kept} == {
        ("CulturaX mC4", "https://e.org", "en")
    }
    assert len({row["id"] for row in kept}) == 200
    shards = sorted((tmp_path / "o" / "kept").iterdir())
    assert [path.name for path in shards] == [f"like_culturax.{n:05d}.parquet" for n in range(4)]
    for path in (shards[2], tmp_path / "o" / "run.json"):  # as when the step was killed before its end
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    assert merge(*command, env=script_env).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before and documents(tmp_path / "o") == kept


def test_the_shipped_mapping_of_culturax_reads_a_repository_of_its_layout(tmp_path, script_env):
    """A card that names the languages as configurations, Parquet files in a folder each: a clone of the hub's."""
    repository, languages = tmp_path / "CulturaX", read_mapping(MAPPINGS / "culturax.yaml").subsets
    card = "".join(f"- config_name: {lang}\n  data_files: {lang}/*.parquet\n" for lang in languages)
    write(repository / "README.md", f"---\nconfigs:\n{card}---\n# CulturaX\n")
    for lang in languages:
        (repository / lang).mkdir()
        for part in range(1 + (lang == "fr")):
            columns = {"text": [f"{lang} {part} one", f"{lang} {part} two"], "timestamp": ["2020/01/01 00:00:00"] * 2}
            table = pa.table(columns | {"url": ["https://e.org"] * 2, "source": ["mC4", "OSCAR-2019"]})
            pq.write_table(table, repository / lang / f"{lang}_part_{part:05d}.parquet")
    words = ("--mapping", f"culturax={repository}", "--output_dir", tmp_path / "o", "--num_processes", "1")
    answer = merge(*words, env=script_env)
    assert answer.returncode == 0, answer.stderr
    shards = sorted(path.stem for path in (tmp_path / "o" / "kept").iterdir())
    assert shards == sorted([f"culturax.{lang}.00000" for lang in languages] + ["culturax.fr.00001"])
    rows = {row["text"]: row for row in documents(tmp_path / "o")}
    assert len(rows) == 2 * (len(languages) + 1) and all(row["lang"] == text[:2] for text, row in rows.items())
    assert (
        rows["fr 1 two"]["source"] == "CulturaX OSCAR-2019"
        and rows["fr 1 two"]["licence"] == "mC4 (ODC-BY) and OSCAR (CC0)"
    )
    assert rows["fr 1 two"]["meta"] == {"url": "https://e.org", "timestamp": "2020/01/01 00:00:00"}


def test_without_a_hub_the_step_says_what_to_do(tmp_path, script_env):
    answer = merge("--mapping", "culturax", "--output_dir", tmp_path / "o", env=script_env, timeout=120)
    assert answer.returncode == 4, answer.stderr
    assert "the dataset uonlp/CulturaX cannot be read" in answer.stderr and "HF_TOKEN" in answer.stderr
    with pytest.raises(EnvironmentFailure):
        find_mapped_shards("x", mapping(format="dataset", dataset=str(tmp_path / "empty")), "")
