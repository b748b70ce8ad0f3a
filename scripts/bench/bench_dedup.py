"""Removal of duplicates: MinHash engines compared, and the recall curve (bench_memory.py measures the whole command).

    python scripts/bench/bench_dedup.py --output_dir runs/bench-dedup [--data ../shared/data] [--parts curve]

engines: MB of UTF-8 a second of processor time from text to signature, and the error of the similarity estimated from
it, for every engine that is installed (rensa, datasketch and datatrove are not among the requirements).
curve: edited copies planted among real documents; how many pairs of each similarity share a band, and how many the
command removes. Similarities are computed in plain Python.
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

import importlib.util
import json
import random
import re
import shutil
import subprocess
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MissingInputError
from configs.files import REPOSITORY, write_json
from configs.languages import LANGUAGES
from configs.progress import log
from configs.settings import parse, setting

PARTS = ("engines", "curve")
MIN_SIMILARITY = 0.8
BINS = [(0.4 + 0.05 * step, 0.45 + 0.05 * step) for step in range(12)]


@dataclass
class BenchSettings:
    """Settings of the benchmark."""

    output_dir: Path = setting(help="folder of the generated files, results.json and recall.png")
    data: Path = setting(Path("../shared/data"), help="folder with documents/LANG.medical.jsonl")
    langs: list[str] = setting([], help="languages; none: all that have documents")
    parts: list[str] = setting(list(PARTS), help=f"what to measure: {', '.join(PARTS)}")
    num_documents: int = setting(400, help="documents a language to measure engines on")
    num_pairs: int = setting(1500, help="edited copies a language for the curve, at most")

    def problems(self) -> list[str]:
        return [f"parts wants {', '.join(PARTS)}, found {part}" for part in self.parts if part not in PARTS]


def read_texts(data: Path, lang: str) -> list[str]:
    """The texts of a language's real documents."""
    from configs.errors import FailedItems
    from data_collection.corpus.documents import find_shards, read_shard

    shards = find_shards([data / "documents" / f"{lang}.{kind}.jsonl" for kind in ("medical", "general")])
    return [document.text for shard in shards for document in read_shard(shard, FailedItems(), lang)]


def plain_shingles(text: str, lang: str) -> set[tuple[str, ...]]:
    """Five words or characters in a row, by regular expressions on strings: the independent reading."""
    text = unicodedata.normalize("NFKC", text).lower()
    units = re.findall(r"[^\W_]+" if LANGUAGES[lang].spaced else r"[^\W_]", text)
    return {tuple(units[at : at + 5]) for at in range(len(units) - 4)}


def similarity(left: set, right: set) -> float:
    return len(left & right) / len(left | right) if left or right else 0.0


def edited(text: str, lang: str, share: float, draw: random.Random) -> str:
    """The text with a share of its words (characters in zh and ja) dropped or replaced by others of it."""
    units = text.split() if LANGUAGES[lang].spaced else list(text)
    kept = []
    for unit in units:
        if draw.random() >= share:
            kept.append(unit)
        elif draw.random() < 0.5:
            kept.append(draw.choice(units))
    return (" " if LANGUAGES[lang].spaced else "").join(kept)


def engines() -> dict[str, Callable[[str, str, int], Any]]:
    """Name: function of (text, language, number of values) that gives a signature."""
    import numpy as np

    from data_collection.overlaps.minhash import read_shingles, signature

    def strings(text: str, lang: str) -> list[str]:
        return [" ".join(shingle) for shingle in plain_shingles(text, lang)]

    found: dict[str, Callable[[str, str, int], Any]] = {
        "own kernels": lambda text, lang, size: signature(read_shingles(text, LANGUAGES[lang].spaced).hashes, size)
    }
    if importlib.util.find_spec("rensa"):
        import rensa

        def rensa_on_hashes(text: str, lang: str, size: int) -> Any:
            hashes = read_shingles(text, LANGUAGES[lang].spaced).hashes.astype(np.uint64)
            ends = np.array([0, len(hashes)], np.uint64)
            return rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, size, 42).to_rows()[0]

        def rensa_on_strings(kind: Any) -> Callable[[str, str, int], Any]:
            return lambda text, lang, size: kind.digests_from_token_sets([strings(text, lang)], size, 42)[0]

        found["own shingles, rensa R-MinHash"] = rensa_on_hashes
        found["rensa R-MinHash"] = rensa_on_strings(rensa.RMinHash)
        found["rensa C-MinHash"] = rensa_on_strings(rensa.CMinHash)
    if importlib.util.find_spec("datasketch"):
        from datasketch import MinHash

        def datasketch(text: str, lang: str, size: int) -> Any:
            sketch = MinHash(num_perm=size)
            sketch.update_batch([shingle.encode() for shingle in strings(text, lang)])
            return sketch.hashvalues

        found["datasketch"] = datasketch
    if importlib.util.find_spec("datatrove"):
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

        config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=6)
        step = MinhashDedupSignature("unused", config, language="ace_Arab")  # white space: no tokenizer to install

        def datatrove(text: str, lang: str, size: int) -> Any:
            # Its own word tokenizers are left out: they need spaCy, and would make it slower still.
            hashed = [[step._hash_func(shingle.encode())] for shingle in strings(text, lang)]
            return np.concatenate(step.get_signature(np.array(hashed, np.uint64)))

        found["datatrove"] = datatrove
    return found


def measure_engines(settings: BenchSettings, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Speed and error of each engine, of signatures of 96 values."""
    import numpy as np

    size = 96
    draw = random.Random(0)  # noqa: S311 - no secrets here
    results: dict[str, Any] = {}
    chosen = {lang: draw.sample(all_, min(settings.num_documents, len(all_))) for lang, all_ in texts.items()}
    pairs = [
        (text, edited(text, lang, draw.random() * 0.06, draw), lang)
        for lang, some in chosen.items()
        for text in some[:60]
        if len(plain_shingles(text, lang)) > 100
    ]
    truth = np.array([similarity(plain_shingles(a, lang), plain_shingles(b, lang)) for a, b, lang in pairs])
    expected = float(np.sqrt((truth * (1 - truth) / size).mean()))
    for name, engine in engines().items():
        speeds = {}
        engine("one two three four five six seven", "en", size)
        for lang, some in chosen.items():
            start = time.process_time()
            for text in some:
                engine(text, lang, size)
            speeds[lang] = round(sum(len(text.encode()) for text in some) / 1e6 / (time.process_time() - start), 1)
        estimates = [
            np.mean(np.array(engine(a, lang, size)) == np.array(engine(b, lang, size))) for a, b, lang in pairs
        ]
        error = float(np.sqrt(((np.array(estimates) - truth) ** 2).mean()))
        results[name] = {"mb_per_cpu_second": speeds, "error_of_similarity": round(error, 4)}
        log.info(f"{name}: {results[name]}")
    return {"pairs": len(pairs), "error_expected": round(expected, 4), "engines": results}


def measure_curve(settings: BenchSettings, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Recall by similarity, of candidates and of removals, and what was removed wrongly; draws recall.png."""
    from configs.errors import FailedItems
    from data_collection.corpus.documents import find_shards, read_shard
    from data_collection.overlaps.minhash import NUM_BANDS, band_hashes, read_shingles, rows_per_band

    folder = settings.output_dir / "curve"
    shutil.rmtree(folder, ignore_errors=True)
    draw = random.Random(1)  # noqa: S311 - no secrets here
    rows = rows_per_band(MIN_SIMILARITY)
    pairs: list[tuple[str, str, float, bool]] = []
    all_texts: dict[str, tuple[str, str]] = {}
    lines, exact = [], []

    def add(name: str, text: str, lang: str) -> None:
        all_texts[name] = (text, lang)
        lines.append(json.dumps({"id": name, "text": text, "lang": lang}, ensure_ascii=False) + "\n")

    for lang, all_ in texts.items():
        spaced = LANGUAGES[lang].spaced
        for number, text in enumerate(all_):
            add(f"{lang}-{number}", text, lang)
        chosen = draw.sample(range(len(all_)), len(all_))  # each original has one copy, so that pairs do not mix
        for number in chosen[:100]:
            add(f"{lang}-{number}-copy", f" {all_[number]}\n\n", lang)
            exact.append((f"{lang}-{number}", f"{lang}-{number}-copy"))
        long = [number for number in chosen[100:] if len(plain_shingles(all_[number], lang)) >= 30]
        for number in long[: settings.num_pairs]:
            name, text = f"{lang}-{number}-edited", edited(all_[number], lang, draw.random() * 0.17, draw)
            true = similarity(plain_shingles(all_[number], lang), plain_shingles(text, lang))
            left, right = (band_hashes(read_shingles(t, spaced).hashes, rows) for t in (all_[number], text))
            pairs.append((f"{lang}-{number}", name, true, bool((left == right).any())))
            add(name, text, lang)
    draw.shuffle(lines)
    (folder / "in").mkdir(parents=True)
    for part in range(4):
        (folder / "in" / f"{part}.jsonl").write_text("".join(lines[part::4]), encoding="utf-8")
    command = [sys.executable, str(REPOSITORY / "data_collection" / "dedup.py"), "--input", str(folder / "in")]
    subprocess.run([*command, "--output_dir", str(folder / "out")], check=True, stdout=sys.stderr)
    gone = {
        document.id: document.meta["duplicate_of"]
        for shard in find_shards(sorted((folder / "out" / "rejected").glob("*.parquet")))
        for document in read_shard(shard, FailedItems())
    }
    wrong = 0
    for name, twin in gone.items():
        (text, lang), (other, _) = all_texts[name], all_texts[twin]
        same = text.split() == other.split()
        wrong += not same and similarity(plain_shingles(text, lang), plain_shingles(other, lang)) < MIN_SIMILARITY
    bins = []
    for low, high in BINS:
        inside = [pair for pair in pairs if low <= pair[2] < high or (high > 0.999 and pair[2] == 1)]
        middle = (low + high) / 2
        bins.append(
            {
                "similarity": f"{low:.2f}-{high:.2f}",
                "pairs": len(inside),
                "candidates": round(sum(pair[3] for pair in inside) / max(1, len(inside)), 4),
                "expected": round(1 - (1 - middle**rows) ** NUM_BANDS, 4),
                "removed": round(sum(bool({pair[0], pair[1]} & set(gone)) for pair in inside) / max(1, len(inside)), 4),
            }
        )
    similar = [pair for pair in pairs if pair[2] >= MIN_SIMILARITY]
    by_lang = {}
    for lang in texts:
        own = [pair for pair in similar if pair[0].startswith(f"{lang}-")]
        by_lang[lang] = {"pairs": len(own), "found": sum(bool({pair[0], pair[1]} & set(gone)) for pair in own)}
    draw_curve(bins, rows, settings.output_dir / "recall.png")
    return {
        "documents": len(all_texts),
        "removed": len(gone),
        "removed_wrongly": wrong,
        "exact": {"planted": len(exact), "found": sum(bool(set(pair) & set(gone)) for pair in exact)},
        "similar_pairs": {"planted": len(similar), "found": sum(part["found"] for part in by_lang.values())},
        "by_lang": by_lang,
        "bins": bins,
    }


def draw_curve(bins: list[dict[str, Any]], rows: int, path: Path) -> None:
    from matplotlib.figure import Figure

    from data_collection.overlaps.minhash import NUM_BANDS

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    line = [0.4 + 0.005 * step for step in range(121)]
    axes.plot(line, [1 - (1 - s**rows) ** NUM_BANDS for s in line], "--", color="gray", label="share a band, in theory")
    middles = [sum(map(float, part["similarity"].split("-"))) / 2 for part in bins]
    axes.plot(middles, [part["candidates"] for part in bins], "o", label="share a band, measured")
    axes.plot(middles, [part["removed"] for part in bins], "s-", label=f"removed at {MIN_SIMILARITY}")
    axes.set(xlabel="Jaccard similarity of 5-grams", ylabel="share of planted pairs", ylim=(-0.02, 1.02))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    settings = parse(__doc__, BenchSettings)[0]
    folder = settings.data / "documents"
    langs = settings.langs or [code for code in LANGUAGES if (folder / f"{code}.medical.jsonl").exists()]
    if not langs:
        raise MissingInputError("no documents were found", where=folder, todo="give their folder to --data")
    texts = {lang: read_texts(settings.data, lang) for lang in langs}
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    path = settings.output_dir / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    measures = {"engines": measure_engines, "curve": measure_curve}
    for part in settings.parts:
        results[part] = measures[part](settings, texts)
        write_json(path, results)
    print(json.dumps(results, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    run(main)
