"""How fast the filter is: the published way, reading and writing alone, and ours, on the same text in the same run.

    python scripts/bench/bench_filter.py --output_dir runs/bench-filter [--data ../shared/data] [--langs en zh]

Takes the documents of DATA/documents, repeated to `--megabytes` of UTF-8 a language; every way reads one Parquet file
and writes the kept documents to others, by keywords alone, each in a process of its own on one core. Speeds are MB of
UTF-8 a second of processor time, without the start (Python, its imports, the tables of the keywords), which is given
apart.

The second table is of the search alone, on the medical documents and on the general ones: ours with all that the filter
needs of it, and Hyperscan (`pip install hyperscan`; left out where it is not there) with less: the same terms as
literals, upper and lower case alike in ASCII only, without looking at the ends of words or counting anything. With it
goes reading the medical JSON lines, as documents and as columns.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n  what to do: source .venv/bin/activate "
        "(bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

import json
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from configs.errors import MissingInputError
from configs.files import REPOSITORY, write_json
from configs.languages import LANGUAGES, language
from configs.progress import log
from configs.settings import parse, setting

NUM_PUBLISHED_KEYWORDS = 200
LABELS = ("medical", "general")


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated files and of results.json")
    data: Path = setting(Path("../shared/data"), help="folder with documents/LANG.medical.jsonl and LANG.general.jsonl")
    langs: list[str] = setting([], help="languages; none: all that have documents")
    megabytes: int = setting(100, help="size of the text, in MB of UTF-8")
    published_megabytes: int = setting(10, help="size of the text for the published way, in MB")
    repeats: int = setting(3, help="runs of each way; the fastest counts")
    two_processes: bool = setting(True, help="also time one run of two processes against two runs of one")
    way: str = setting("", help="for the benchmark's own processes: published, copy, ours or parts")

    def problems(self) -> list[str]:
        return [
            f"{name} wants 1 or more, found {value}"
            for name in ("megabytes", "published_megabytes", "repeats")
            if (value := getattr(self, name)) < 1
        ]


def write_texts(data: Path, lang: str, path: Path, num_bytes: int) -> int:
    """Write a language's documents, repeated, to one Parquet file; return the bytes of their texts."""
    from configs.errors import FailedItems
    from data_collection.corpus.documents import DocumentWriter, find_shards, read_shard

    shards = find_shards([data / "documents" / f"{lang}.{kind}.jsonl" for kind in LABELS])
    documents = [document for shard in shards for document in read_shard(shard, FailedItems(), lang)]
    written = 0
    with DocumentWriter(path, {}) as writer:
        while written < num_bytes:
            for document in documents:
                writer.write(document)
                written += len(document.text.encode())
                if written >= num_bytes:
                    break
    return written


def published_filter(texts: list[str], keywords: list[str], spaced: bool, thresholds: tuple[int, float]) -> list[bool]:
    """Which texts MMedC's filter keeps: one pass a keyword, density as the sum over all hits."""
    kept = []
    for text in texts:
        text = text.lower()
        words = text.split() if spaced else []
        num_found, covered = 0, 0
        for keyword in keywords:
            anywhere = not spaced or len(keyword) > 10 or (len(keyword) > 5 and " " in keyword)
            count = text.count(keyword) if anywhere else words.count(keyword)
            num_found += count > 0
            covered += count * len(keyword)
        kept.append(num_found >= thresholds[0] and covered >= thresholds[1] * max(1, len(text)))
    return kept


def do_one_way(way: str, path: Path, output_dir: Path, lang: str) -> None:
    """Filter the file in this process, and print seconds, peak memory and how many documents were kept."""
    import pyarrow as pa

    from configs.errors import FailedItems
    from data_collection.corpus.documents import DocumentWriter, find_shards, read_batches
    from data_collection.selection.filtering import FilterRules, filter_shard
    from data_collection.selection.keywords import read_keywords
    from data_collection.selection.thresholds import Thresholds

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    row = language(lang)
    rules = FilterRules(row.code, Thresholds.of(row.code), row.keywords_file, language_check=False, quality_check=False)
    (shard,) = find_shards([path])
    rules.matcher().match("")  # what is imported or made at first use belongs to the start, in all ways alike
    start = time.process_time()
    if way == "ours":
        num_kept = filter_shard(shard, FailedItems(), output_dir, rules)["kept"]
    else:
        keywords = read_keywords(row.keywords_file)
        keywords = keywords[:: max(1, len(keywords) // NUM_PUBLISHED_KEYWORDS)][:NUM_PUBLISHED_KEYWORDS]
        thresholds = (row.paper_min_keywords, row.paper_min_density)
        with DocumentWriter(output_dir / f"{way}.parquet", {}) as writer:
            for batch in read_batches(shard, FailedItems()):
                if way == "published":
                    texts = batch["text"].to_pylist()
                    batch = batch.filter(pa.array(published_filter(texts, keywords, row.spaced, thresholds)))
                writer.write_batch(batch)
        num_kept = writer.num_documents
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "start": start, "peak_mib": round(peak), "kept": num_kept}))


def search_and_read_alone(data: Path, lang: str, repeats: int) -> None:
    """Print MB/s of searching the real documents, by engine and label, and of reading the medical JSON lines."""
    import pyarrow as pa

    from configs.errors import FailedItems
    from data_collection.corpus.documents import find_shards, read_batches, read_shard
    from data_collection.selection.keywords import KeywordMatcher, read_keywords

    try:
        import hyperscan
    except ModuleNotFoundError:
        hyperscan = None
    matcher = KeywordMatcher(read_keywords(language(lang).keywords_file), lang)
    if hyperscan:
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        terms = [keyword.encode() for keyword in matcher.keywords]
        database.compile(terms, list(range(len(terms))), len(terms), hyperscan.HS_FLAG_CASELESS, literal=True)

    def take_no_notice(*match):
        return None

    found = {}
    for label in LABELS:
        (shard,) = find_shards([data / "documents" / f"{lang}.{label}.jsonl"])
        texts = [document.text for document in read_shard(shard, FailedItems(), lang)]
        encoded = [text.encode() for text in texts]
        column, joined = pa.array(texts), b"\n".join(encoded)
        ways = {"ours": lambda column=column: matcher.match_array(column)}
        if hyperscan:
            ways["documents"] = lambda encoded=encoded: [database.scan(text, take_no_notice) for text in encoded]
            ways["column"] = lambda joined=joined: database.scan(joined, take_no_notice)
        if label == "medical":
            ways["read documents"] = lambda shard=shard: list(read_shard(shard, FailedItems()))
            ways["read columns"] = lambda shard=shard: list(read_batches(shard, FailedItems()))
        for way, do in ways.items():
            seconds = []
            for _ in range(5 * repeats):
                start = time.process_time()
                do()
                seconds.append(time.process_time() - start)
            found[f"{way}, {label}"] = round(len(joined) / min(seconds) / 1e6)
    print(json.dumps(found))


def measure(way: str, path: Path, num_bytes: int, settings: BenchSettings, lang: str) -> dict:
    """The fastest of several runs, each in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--data", str(path), "--langs", lang]
    runs = []
    for number in range(settings.repeats):
        words = [*command, "--output_dir", str(settings.output_dir / f"{way}-{number}")]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
    fastest = min(runs, key=lambda found: found["seconds"])
    return {**fastest, "megabytes_per_second": round(num_bytes / fastest["seconds"] / 1e6, 1)}


def measure_two_processes(path: Path, settings: BenchSettings, lang: str) -> float:
    """Wall time of two runs of one process side by side, over that of one run of two processes on the same files."""
    folder = settings.output_dir / "two"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in (1, 2):
            link = folder / name / f"{number}.parquet"
            link.unlink(missing_ok=True)
            link.hardlink_to(path)

    def command(*arguments: str) -> list[str]:
        script = str(REPOSITORY / "data_collection" / "filter.py")
        options = ["--lang", lang, "--language_check", "false", "--quality_check", "false"]
        return [sys.executable, script, *options, *arguments]

    def wall(commands: list[list[str]]) -> float:
        start = time.monotonic()
        processes = [
            subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for words in commands
        ]
        for process in processes:
            assert process.wait() == 0, process.args
        return time.monotonic() - start

    ratios = []
    for number in range(settings.repeats):
        out = [str(folder / f"out-{number}-{name}") for name in ("a", "b", "both")]
        alone = [
            command("--input", str(folder / name), "--output_dir", where, "--num_processes", "1")
            for name, where in zip(("a", "b"), out, strict=False)
        ]
        both = command("--input", str(folder / "a"), str(folder / "b"), "--output_dir", out[2], "--num_processes", "2")
        independent = wall(alone)
        ratios.append(independent / wall([both]))
    return round(sorted(ratios)[len(ratios) // 2], 2)


def main() -> int:
    settings = parse(__doc__, BenchSettings)[0]
    if settings.way == "parts":
        search_and_read_alone(settings.data, settings.langs[0], settings.repeats)
        return 0
    if settings.way:
        do_one_way(settings.way, settings.data, settings.output_dir, settings.langs[0])
        return 0
    there = [lang for lang in LANGUAGES if (settings.data / "documents" / f"{lang}.medical.jsonl").exists()]
    langs = [language(lang).code for lang in settings.langs] or there
    if not langs:
        raise MissingInputError(
            "no documents", where=settings.data, wanted="documents/LANG.medical.jsonl", todo="--data"
        )
    results = {}
    print(
        "| language | published | reading and writing alone | ours | ours / published | ours / alone "
        "| peak, MiB | start, s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for lang in langs:
        path, small = (settings.output_dir / f"{lang}.{size}.parquet" for size in ("large", "small"))
        num_bytes = write_texts(settings.data, lang, path, settings.megabytes * 10**6)
        num_small = write_texts(settings.data, lang, small, settings.published_megabytes * 10**6)
        found = {
            "published": measure("published", small, num_small, settings, lang),
            "copy": measure("copy", path, num_bytes, settings, lang),
            "ours": measure("ours", path, num_bytes, settings, lang),
        }
        results[lang] = found
        published, copy, ours = (found[way]["megabytes_per_second"] for way in ("published", "copy", "ours"))
        cells = (
            *(lang, published, copy, ours, f"{ours / published:.1f}", f"{ours / copy:.2f}"),
            *(found["ours"]["peak_mib"], f"{found['ours']['start']:.1f}"),
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(
        "\n| language | ours: medical | general | Hyperscan, a document at a time | | over the column | "
        "| JSON lines as documents | as columns |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for lang in langs:
        words = ["--way", "parts", "--data", settings.data, "--langs", lang, "--output_dir", settings.output_dir]
        command = [sys.executable, __file__, *map(str, words), "--repeats", str(settings.repeats)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        results[lang]["parts"] = found
        names = [f"{way}, {label}" for way in ("ours", "documents", "column") for label in LABELS]
        cells = (found.get(name, "") for name in (*names, "read documents, medical", "read columns, medical"))
        print(f"| {lang} | " + " | ".join(map(str, cells)) + " |", flush=True)
    if settings.two_processes:
        lang = langs[0]
        results["two_processes"] = measure_two_processes(settings.output_dir / f"{lang}.large.parquet", settings, lang)
        print(f"two processes, of what two independent runs reach together ({lang}): {results['two_processes']}")
    write_json(settings.output_dir / "results.json", results)
    log.info(f"bench_filter: see {settings.output_dir}/results.json")
    return 0


if __name__ == "__main__":
    run(main)
