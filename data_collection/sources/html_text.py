"""The bytes of a web page as text: encoding, main text, licence, address. It fetches nothing.

What calls `extract_page` should be a process that may die of it (`web_pages.PageParser`).
"""

from __future__ import annotations

import re
from typing import Any

MAX_DECLARED_IN = 2048  # bytes of a page in which its encoding may be declared
MAX_LICENCE = 200
PAGE_FIELDS = ("title", "date", "author", "sitename")


def extract_page(html: bytes, url: str, headers: dict[str, str], max_bytes: int) -> dict[str, Any]:
    """The main text of a page and what it says about itself. Nothing is fetched.

    Args:
        html: the page as it was stored.
        url: its address, empty where unknown.
        headers: see `Page`.
        max_bytes: limit of its size when decompressed.

    Returns:
        text, url, licence, title, date, author, site; or failure with its reason.
    """
    from trafilatura import bare_extraction, load_html
    from trafilatura.utils import handle_compressed_file

    if "chunked" in headers.get("transfer-encoding", "").lower():
        html = _joined_chunks(html)
    if headers.get("content-encoding", "identity").lower() != "identity" or html[:3] == b"\x1f\x8b\x08":
        html = handle_compressed_file(html, max_bytes)
        if html[:3] == b"\x1f\x8b\x08":  # given back as it was
            return {"failure": f"compressed, and broken or larger than {max_bytes / 2**20:g} MiB"}
    if not html.strip():
        return {"failure": "the page is empty"}
    text = decode_page(html, headers.get("content-type", ""))
    if text is None:
        return {"failure": "binary, not HTML"}
    tree = load_html(text)
    if tree is None:
        return {"failure": "not HTML"}
    licence, canonical = licence_of(tree), url or _canonical(tree)  # first: extraction takes the tree apart
    page = bare_extraction(tree, url=canonical or None, with_metadata=True, include_comments=False)
    return {
        "text": (page.text if page else "") or "",
        "url": canonical or (page.url if page else "") or "",
        "licence": licence,
        "meta": {name: getattr(page, name) for name in PAGE_FIELDS if getattr(page, name, "")},
    }


def _joined_chunks(data: bytes) -> bytes:
    """The body of a chunked transfer; the data as they are where some program has joined the chunks before."""
    parts, start = [], 0
    while match := re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,100}\r\n").match(data, start):
        size = int(match[1], 16)
        parts.append(data[match.end() : match.end() + size])
        start = match.end() + size + 2
        if not size:
            return b"".join(parts)
    return b"".join(parts) if parts and start >= len(data) else data


_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_READ_AS = {  # as browsers do: the first name is a part of the second encoding
    **dict.fromkeys(("iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii", "iso8859-1"), "windows-1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("big5", "big5-hkscs", "cn-big5", "csbig5", "x-x-big5"), "big5hkscs"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc-jp", "x-euc-jp", "cseucpkdfmtjapanese"), "euc_jis_2004"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    **dict.fromkeys(("iso-8859-9",), "windows-1254"),
}
_GUESSED = ["cp1252", "cp1251", "koi8_r", "gb18030", "big5hkscs", "cp932", "euc_jis_2004", "cp1256"]


def decode_page(html: bytes, content_type: str) -> str | None:
    """A page's bytes as text: by its byte order mark, as UTF-8 where valid, as declared, or by a guess; None if binary.

    Args:
        html: the bytes.
        content_type: HTTP's header, empty where unknown; what it declares goes over what the page declares.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if html.startswith(mark):
            return html[len(mark) :].decode(encoding, "replace").replace("\0", "")
    found = _DECLARED.search(content_type.encode("ascii", "replace")) or _DECLARED.search(html[:MAX_DECLARED_IN])
    declared = found[1].decode().lower() if found else ""
    declared = _READ_AS.get(declared, declared)
    if not declared.startswith(("utf-16", "utf-32")):
        head = html[:4096]
        control = sum(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in head)
        if control > len(head) // 20:
            return None
    try:
        if not declared.startswith(("iso-2022", "utf-7")):  # these are valid UTF-8 as well
            return html.decode("utf-8").replace("\0", "")
    except UnicodeDecodeError as error:
        if error.start >= len(html) - 3 or declared in ("utf-8", "utf8"):  # cut off, or a few wrong bytes
            return html.decode("utf-8", "replace").replace("\0", "")
    if declared:
        try:
            return html.decode(declared, "replace").replace("\0", "")
        except (LookupError, UnicodeError):
            pass
    from charset_normalizer import from_bytes

    guess = from_bytes(html[:20_000], cp_isolation=_GUESSED).best()
    return html.decode(guess.encoding if guess else "cp1252", "replace").replace("\0", "")


_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licen[sc]es/([a-z]{2}(?:-[a-z]{2}){0,2})/(\d\.\d)|publicdomain/(zero|mark)/(\d\.\d))",
    re.IGNORECASE,
)
_LICENCE_NAMES = re.compile(r"^(?:(?:dc|dcterms|dct|cc|schema|og)[.:])?(?:licen[sc]e|rights(?:\.licen[sc]e)?)$")
_JSON_LICENCE = re.compile(r'"license"\s*:\s*"([^"\\]{4,200})"')


def licence_of(tree: Any) -> str:
    """The licence that a page states, empty where it states none.

    In this order: links with rel="license"; RDFa, microdata and meta elements that are named license or rights;
    JSON-LD; links to Creative Commons, where all of them name one licence.

    Args:
        tree: an lxml element.
    """
    named, loose = "", set()
    for element in tree.iter("a", "link", "meta", "script", "span", "div"):
        target = (element.get("href") or element.get("content") or "").strip()
        creative_commons = _creative_commons(target)
        if "license" in (element.get("rel") or "").lower().split() and (target or element.text):
            return creative_commons or " ".join((element.text_content() or target).split())[:MAX_LICENCE]
        names = " ".join(filter(None, (element.get(key) for key in ("property", "itemprop", "name")))).lower().split()
        if any(map(_LICENCE_NAMES.match, names)):
            named = named or creative_commons or " ".join((target or element.text_content()).split())[:MAX_LICENCE]
        elif element.tag == "script" and "ld+json" in (element.get("type") or ""):
            stated = _JSON_LICENCE.search(element.text or "")
            named = named or (_creative_commons(stated[1]) or stated[1] if stated else "")
        elif creative_commons and element.tag == "a":
            loose.add(creative_commons)
    return named or (loose.pop() if len(loose) == 1 else "")


def _creative_commons(address: str) -> str:
    found = _CREATIVE_COMMONS.search(address)
    if not found:
        return ""
    if found[1]:
        return f"CC {found[1].upper()} {found[2]}"
    return "CC0 1.0" if found[3].lower() == "zero" else "Public Domain Mark 1.0"


def _canonical(tree: Any) -> str:
    links = (link for link in tree.iter("link") if (link.get("rel") or "").lower() == "canonical")
    return next((link.get("href") for link in links if (link.get("href") or "").startswith("http")), "")
