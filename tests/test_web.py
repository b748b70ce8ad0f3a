"""Web pages: text, address, licence and encoding of a page; WARC archives; hostile pages; the command."""

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import FailedItems, MissingInputError
from data_collection.sources.html_text import decode_page, extract_page
from data_collection.sources.web_pages import Page, PageParser, WebRules, find_web_shards, read_pages

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "data_collection" / "web.py"
MAX_BYTES = 2**20
SENTENCES = [
    f"Le patient numéro {n} avait de la fièvre et fut traité par du paracétamol pendant {n} jours." for n in range(12)
]


def page(head="", body=None, lang="fr"):
    paragraphs = "".join(f"<p>{sentence}</p>" for sentence in body or SENTENCES)
    return (
        f'<!DOCTYPE html><html lang="{lang}"><head><title>La fièvre</title>{head}</head><body>'
        f'<nav><a href="/">Accueil</a> <a href="/m">Menu</a></nav><article><h1>La fièvre</h1>{paragraphs}</article>'
        "<footer>Tous droits réservés</footer></body></html>"
    )


def extract(html, url="", **headers):
    html = html.encode() if isinstance(html, str) else html
    return extract_page(html, url, {name.replace("_", "-"): value for name, value in headers.items()}, MAX_BYTES)


def write_warc(path, records, compressed=True):
    """A WARC file of (url, payload, HTTP headers, status); records one after the other, each compressed by itself."""
    with open(path, "wb") as file:
        for url, payload, headers, status in records:
            head = (
                f"HTTP/1.1 {status} OK\r\n"
                + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                + "\r\n"
            )
            block = head.encode() + payload
            record = (
                (
                    f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
                    f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{abs(zlib.crc32(url.encode())):012d}>\r\n"
                    f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
                ).encode()
                + block
                + b"\r\n\r\n"
            )
            file.write(gzip.compress(record) if compressed else record)
    return path


HTML = {"Content-Type": "text/html; charset=utf-8"}


# --- one page


def test_the_main_text_and_what_the_page_says_of_itself(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # nothing may be fetched
    head = (
        '<link rel="canonical" href="https://example.org/fievre"><meta name="date" content="2020-03-04">'
        '<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/deed.fr">'
    )
    found = extract(page(head))
    assert all(sentence in found["text"] for sentence in SENTENCES)
    assert "Menu" not in found["text"] and "droits" not in found["text"]
    assert (found["url"], found["licence"]) == ("https://example.org/fievre", "CC BY-SA 4.0")
    assert found["meta"]["title"] == "La fièvre" and found["meta"]["date"] == "2020-03-04"
    assert extract(page(head), "https://archived.org/x")["url"] == "https://archived.org/x"


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ('<link rel="license" href="http://creativecommons.org/publicdomain/zero/1.0/">', "CC0 1.0"),
        ('<meta name="DC.rights" content="Open Government Licence v3.0">', "Open Government Licence v3.0"),
        ('<meta name="dcterms.license" content="https://creativecommons.org/licenses/by/3.0/us/">', "CC BY 3.0"),
        (
            '<script type="application/ld+json">{"license": "https://creativecommons.org/licenses/by-nc/4.0/"}</script>',
            "CC BY-NC 4.0",
        ),
        ('<span property="dct:license">MIT</span>', "MIT"),
        ('<a href="https://creativecommons.org/licenses/by/4.0/">x</a>', "CC BY 4.0"),
        (
            '<a href="https://creativecommons.org/licenses/by/4.0/">x</a><a href="//creativecommons.org/licenses/by-nc/4.0/">y</a>',
            "",
        ),
        ('<a rel="license" href="/terms">Our  terms</a><meta name="rights" content="all">', "Our terms"),
        ('<meta name="copyright" content="2020">', ""),
        ("", ""),
    ],
)
def test_the_licence_is_what_the_page_states(head, licence):
    assert extract(page(head))["licence"] == licence


CHINESE, RUSSIAN, JAPANESE = (
    "患者发热三天，服药后好转。",
    "Больной лихорадил три дня и получал парацетамол.",
    "患者は三日間発熱した。",
)


@pytest.mark.parametrize(
    ("text", "encoding", "header", "meta"),
    [
        ("La fièvre", "utf-8", "", ""),
        ("La fièvre", "utf-8", "text/html; charset=gbk", ""),  # a wrong declaration
        ("La fièvre", "utf-16", "", ""),
        ("La fièvre – « aiguë »", "cp1252", "", "iso-8859-1"),
        ("La fièvre", "cp1252", "", ""),
        (CHINESE, "gb18030", "", "gb2312"),
        ("癌症、裏面、恒春的銹", "cp950", "", "Big5"),  # the signs of ETEN and of Hong Kong as browsers read them
        ("喺醫院、鰂魚涌", "big5hkscs", "text/html; charset=big5", ""),
        (RUSSIAN, "cp1251", "text/html; charset=windows-1251", "utf-8"),
        (RUSSIAN * 3, "cp1251", "", ""),
        (JAPANESE, "cp932", "", "Shift_JIS"),
        ("①Ⅱ度の熱傷、体重60㎏", "euc_jis_2004", "", "EUC-JP"),
        (JAPANESE, "iso-2022-jp", "", "iso-2022-jp"),
        ("La fièvre", "utf-8", "", "no-such-encoding"),
    ],
)
def test_encodings(text, encoding, header, meta):
    html = f'<html><head><meta charset="{meta}"></head><body><p>{text}</p></body></html>'
    assert decode_page(html.encode(encoding), header) == html


def test_damaged_and_binary_pages():
    assert decode_page(page().encode()[:700] + b"\xc3", "") == page().encode()[:700].decode() + "\ufffd"
    assert decode_page(b"a\0b<p>c\0</p>" + b"x" * 400, "") == "ab<p>c</p>" + "x" * 400
    assert decode_page(random.Random(0).randbytes(10_000), "") is None
    assert extract(b"") == extract(b" \n") == {"failure": "the page is empty"}


def test_transfer_and_content_encodings():
    plain = page().encode()
    chunked = b"".join(
        b"%x;ext=1\r\n%s\r\n" % (len(plain[i : i + 500]), plain[i : i + 500]) for i in range(0, len(plain), 500)
    )
    whole = extract(plain)
    assert extract(chunked + b"0\r\n\r\n", transfer_encoding="chunked") == whole
    assert extract(plain, transfer_encoding="chunked") == whole  # joined by who saved it
    assert extract(gzip.compress(plain), content_encoding="gzip") == extract(gzip.compress(plain)) == whole
    bomb = gzip.compress(b"<p>" + b"0" * (20 * MAX_BYTES))
    assert "compressed" in extract(bomb, content_encoding="gzip")["failure"]


# --- archives


def test_pages_of_an_archive(tmp_path):
    records = [
        ("https://a.org/1", page().encode(), HTML, 200),
        ("https://a.org/2", b"gone", HTML, 404),
        ("https://a.org/3", b"\x89PNG", {"Content-Type": "image/png"}, 200),
        ("https://a.org/4", b"x" * 3000, {"content-type": "application/xhtml+xml", "Content-Encoding": "br"}, 200),
    ]
    for name, compressed in (("a.warc.gz", True), ("a.warc", False)):
        write_warc(tmp_path / name, records, compressed)
        (shard,) = find_web_shards([tmp_path / name])
        failed, passed_over = FailedItems(), Counter()
        pages = list(read_pages(shard, 1000, failed, passed_over))
        assert [(p.id, p.url) for p in pages] == [("a-1", "https://a.org/1"), ("a-4", "https://a.org/4")]
        assert pages[0].html == page().encode()[:1001] and pages[1].headers["content-encoding"] == "br"
        assert passed_over == {"HTTP status 404": 1, "not HTML": 1} and not failed


def test_damaged_archives_are_failed_items_and_what_comes_before_is_read(tmp_path):
    whole = write_warc(
        tmp_path / "w.warc.gz", [(f"https://a.org/{n}", page().encode(), HTML, 200) for n in range(9)]
    ).read_bytes()
    middle = len(whole) // 2
    (tmp_path / "bad.warc.gz").write_bytes(whole[:middle] + b"\xff" * 40 + whole[middle + 40 :])
    (tmp_path / "noise.warc").write_bytes(random.Random(0).randbytes(50_000))
    (tmp_path / "head.warc").write_bytes(b"WARC/1.0\r\nWARC-Type: response\r\nX: " + b"y" * 5_000_000)
    plain = write_warc(
        tmp_path / "p.warc", [(f"https://a.org/{n}", page().encode(), HTML, 200) for n in range(9)], False
    ).read_bytes()
    (tmp_path / "cut.warc").write_bytes(plain[: len(plain) - len(page().encode()) // 2])
    found = {}
    for shard in find_web_shards([tmp_path]):
        failed = FailedItems()
        found[shard.name] = (len(list(read_pages(shard, 10**6, failed, Counter()))), len(failed))
    assert found["p"] == (9, 0) and found["cut"] == (8, 1)
    assert found["w"] == (9, 0) and found["noise"] == found["head"] == (0, 1)
    assert found["bad"][0] in (4, 5) and found["bad"][1] == 1


def test_no_pages_is_said(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(MissingInputError, match="no web pages"):
        find_web_shards([tmp_path])


# --- hostile pages


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    files = {
        "binary": random.Random(0).randbytes(200_000),
        "bomb": gzip.compress(b"<p>" + b"0" * 50_000_000),
        "deep": b"<html><body>" + b"<div>" * 200_000 + b"word " * 500,
        "empty": b"",
        "entities": b'<!DOCTYPE html [<!ENTITY a "&#97;">'
        + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a;" * 10) for n in range(9))
        + b"]><html><body>&a8;",
        "good": page().encode(),
        "huge": b"<html><body>" + b"<p>word word</p>" * 200_000,
        "latin": page().encode("latin-1"),
        "nul": page().replace("fièvre", "fi\0èvre").encode(),
        "script": b"<html><body><script>" + b"var a = '<p>';" * 50_000,
        "tables": b"<html><body>" + b"<table><tr><td>" * 30_000 + b"word word",
        "text": b"no tags at all. " * 50,
        "wide": b"<html><body>" + b"<p>a b c</p>" * 80_000,  # trafilatura's time grows with the square
    }
    for name, content in files.items():
        (folder / f"{name}.html").write_bytes(content)
    return folder


def web(*words, env, **how):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], env=env, capture_output=True, text=True, **how
    )


def documents(output, part="kept"):
    rows = [row for path in sorted((output / part).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


def test_each_hostile_page_is_a_document_or_a_record(hostile, tmp_path, script_env):
    limits = ("--max_mib_per_page", "1.5", "--max_seconds_per_page", "2")
    answer = web(
        "--input", hostile, "--output_dir", tmp_path, *limits, "--num_processes", "1", env=script_env, timeout=200
    )
    assert answer.returncode == 5, answer.stderr
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    reasons = {Path(item["where"]).stem: item["reason"] for item in failures}
    kept = {row["id"].removesuffix(".html"): row for row in documents(tmp_path)}
    rejected = {row["id"].removesuffix(".html"): row["reason"] for row in documents(tmp_path, "rejected")}
    assert sorted([*kept, *rejected, *reasons]) == sorted(path.stem for path in hostile.iterdir())  # each once
    assert {"good", "latin", "nul"} <= set(kept) and set(rejected.values()) <= {"no_text"}
    assert kept["good"]["text"] == kept["latin"]["text"] == kept["nul"]["text"] and kept["good"]["lang"] == "fr"
    assert reasons["wide"] == "it took more than 2 s" and reasons["huge"] == "larger than 1.5 MiB"
    assert reasons["binary"] == "binary, not HTML" and reasons["empty"] == "the page is empty"
    assert reasons["bomb"].startswith("compressed")
    statistics = json.loads((tmp_path / "stats.json").read_text())
    assert (statistics["read"], statistics["kept"], statistics["failed"]) == (
        len(kept) + len(rejected),
        len(kept),
        len(reasons),
    )


def test_a_page_that_needs_too_much_memory_or_kills_its_process_is_a_failure_and_the_next_is_read():
    tight = PageParser(WebRules("", "", "", 8, 30, 0.35))
    wide = Page("w", "w", b"<html><body>" + b"<p>a <b>b</b> c</p>" * 200_000, "", {})
    good = Page("g", "g", page().encode(), "https://a.org", {})
    try:
        assert set(tight.parse(wide)) == {"failure"}
        assert tight.parse(good)["url"] == "https://a.org"
        tight._process.kill()
        assert tight.parse(good) == {"failure": "the parser crashed (SIGKILL)"}
        assert tight.parse(good)["url"] == "https://a.org"
    finally:
        tight.close()


# --- the command


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    for number in range(4):
        records = [
            (
                f"https://www.site{n % 3}.org/{number}/{n}",
                page(body=[f"{number} {n} {s}" for s in SENTENCES]).encode(),
                HTML,
                200,
            )
            for n in range(25)
        ]
        write_warc(folder / f"w{number}.warc.gz", records)
    (folder / "saved").mkdir()
    for n in range(10):
        name = os.fsdecode(b"caf\xe9.html") if n == 9 else f"{n}.html"  # no UTF-8, as in archives of other systems
        (folder / "saved" / name).write_text(page(body=[f"saved {n} {s}" for s in SENTENCES]), encoding="utf-8")
    return folder


def test_archives_and_files_become_documents(crawl, tmp_path, script_env):
    words = ("--input", crawl, "--output_dir", tmp_path / "o", "--licence", "unknown", "--lang", "fr")
    answer = web(*words, env=script_env)
    assert answer.returncode == 0, answer.stderr
    kept = documents(tmp_path / "o")
    assert len(kept) == json.loads(answer.stdout)["kept"] == 110 and len({row["id"] for row in kept}) == 110
    assert Counter(row["source"] for row in kept) == {"site0.org": 36, "site1.org": 32, "site2.org": 32, "": 10}
    assert {row["licence"] for row in kept} == {"unknown"} and {row["lang"] for row in kept} == {"fr"}
    assert kept[-1]["meta"]["url"].startswith("https://www.site") and kept[-1]["meta"]["title"] == "La fièvre"
    assert "already done" in web(*words, env=script_env).stderr


def test_killed_and_started_again_gives_the_same(crawl, tmp_path, script_env):
    words = ["--input", crawl, "--num_processes", "1"]
    assert web(*words, "--output_dir", tmp_path / "whole", env=script_env).returncode == 0
    command = [sys.executable, str(SCRIPT), *map(str, words), "--output_dir", str(tmp_path / "cut")]
    draw = random.Random(1)
    for _ in range(2):
        process = subprocess.Popen(
            command, env=script_env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(draw.uniform(1, 5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=script_env, capture_output=True).returncode == 0
    assert documents(tmp_path / "cut") == documents(tmp_path / "whole")
    assert not list((tmp_path / "cut").rglob(".*"))
