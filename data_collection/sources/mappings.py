"""Mappings (YAML): where an existing set has its texts, languages, sources and licences; rows made documents by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from configs.files import REPOSITORY
from configs.settings import parse, setting
from data_collection.corpus.document_rows import language_code
from data_collection.corpus.documents import Document, to_document

MAPPINGS = REPOSITORY / "configs" / "mappings"


@dataclass
class CorpusMapping:
    """What a set's files are, and which of their fields make a document.

    A value is a template: text in which {FIELD} stands for a field, {A|B} for the first of two that is not empty.
    Instead of a template it may be {from: TEMPLATE, pattern: REGEX, values: {FOUND: VALUE}}: the pattern's first group
    is taken, then what `values` has for it. Fields are columns; in JSON also paths (answer.text); in XML the first
    element of that name in the record or around it (Answer), or its attribute (Question@qid); in TMX lang, seg and the
    attributes of tu (tuid); {file} is the file's path below the input folder. A value with an empty field is empty.
    """

    format: Literal["json", "jsonl", "csv", "tsv", "xml", "tmx", "text", "parquet", "dataset"] = setting(
        help="layout of the files, or dataset for one of the Hugging Face hub"
    )
    text: list[Any] = setting(help="values that are joined by line breaks, the empty ones left out")
    lang: Any = setting(help="code or name of the language")
    source: Any = setting(help="the documents' source")
    licence: Any = setting("", help="the documents' licence")
    id: Any = setting("", help="the documents' id; empty: file and number of the row")
    meta: list[str] = setting([], help="fields that are kept in meta")
    files: list[str] = setting([], help="patterns of the file names below the folder given; empty: the format's suffix")
    records: str = setting("", help="json: path of the rows, such as data.paragraphs; xml: name of a record's element")
    columns: list[str] = setting(
        [], help="names of the columns of csv and tsv files without a first line that has them"
    )
    quoted: bool = setting(True, help="whether csv and tsv fields may stand in quotation marks")
    group: Any = setting("", help="value that rows of one document share; they must follow each other in the file")
    joined_by: str = setting("\n", help="what stands between the rows of a document")
    languages: list[str] = setting([], help="codes or names of languages to take, others are passed over; empty: all")
    dataset: str = setting("", help="id on the Hugging Face hub, or a local folder")
    subsets: list[str] = setting([], help="configurations of the dataset; empty: the default one")
    split: str = setting("train", help="split of the dataset")
    revision: str = setting("", help="commit of the dataset, so that a later run reads the same")

    def problems(self) -> list[str]:
        found = []
        if self.format == "dataset" and not self.dataset:
            found.append("format dataset wants `dataset`, an id or a folder")
        if self.format == "xml" and not self.records:
            found.append("format xml wants `records`, the name of a record's element")
        for name in ("text", "lang", "source", "licence", "id", "group"):
            specs = getattr(self, name)
            for spec in specs if isinstance(specs, list) else [specs]:
                try:
                    Value(spec)
                except (ValueError, TypeError, AttributeError, re.error) as error:
                    found.append(f"{name}: {error}")
        return found


def read_mapping(path: Path) -> CorpusMapping:
    """Read a mapping.

    Raises:
        SettingsError: naming everything that is wrong in it.
    """
    return parse("A mapping.", CorpusMapping, argv=["--config", str(path)])[0]


class Row(Protocol):
    """A record of a file: `field` gives a field's value, None where there is none."""

    def field(self, name: str) -> Any: ...


class Value:
    """A value of a mapping, ready to be made of rows; `CorpusMapping` says how it is written.

    Args:
        spec: a template, or an object with `from`, `pattern` and `values`.

    Raises:
        ValueError: it is neither.
        re.error: the pattern is no regular expression.
    """

    def __init__(self, spec: Any):
        spec = {"from": spec} if isinstance(spec, str) else spec
        if not isinstance(spec, dict) or not isinstance(spec.get("from"), str):
            raise ValueError(f"wants a template, or from, pattern and values, found {spec!r}")
        if unknown := set(spec) - {"from", "pattern", "values"}:
            raise ValueError(f"unknown {', '.join(sorted(unknown))} beside from, pattern and values")
        pieces = re.split(r"\{([^{}]+)\}", spec["from"])
        self._texts, self._fields = pieces[::2], [field.split("|") for field in pieces[1::2]]
        self._pattern = re.compile(spec["pattern"], re.DOTALL) if "pattern" in spec else None
        self._values = {str(key): str(value) for key, value in spec.get("values", {}).items()}

    def of(self, row: Row) -> str:
        """The value of a row, "" where one of its fields is empty or the pattern finds nothing."""
        parts = [self._texts[0]]
        for names, text in zip(self._fields, self._texts[1:], strict=True):
            found = next(filter(None, (_as_text(row.field(name)) for name in names)), "")
            if not found:
                return ""
            parts += [found, text]
        value = "".join(parts)
        if self._pattern:
            match = self._pattern.search(value)
            value = (match[1] if match and match.re.groups else match[0] if match else "") or ""
        return self._values.get(value, value)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        return "\n".join(filter(None, map(_as_text, value)))
    return "" if value is None or isinstance(value, (dict, bool)) or value != value else str(value)


def make_documents(
    rows: Iterable[tuple[str, Row]], mapping: CorpusMapping, default_id: str, passed_over: Counter[str]
) -> Iterator[Document]:
    """The documents of one file's rows. One without text has an empty text: the step rejects it."""
    texts = [Value(spec) for spec in mapping.text]
    values = {name: Value(getattr(mapping, name)) for name in ("id", "lang", "source", "licence", "group")}
    languages = {language_code(name) for name in mapping.languages}
    open_groups: dict[str, tuple[str, Document, list[str]]] = {}  # language: (group, document, its rows' texts)
    for where, row in rows:
        number = where.rpartition(":")[2]
        made = {name: value.of(row) for name, value in values.items()}
        meta = {name: value for name in mapping.meta if (value := row.field(name)) not in (None, "", [])}
        text = "\n".join(filter(None, (value.of(row) for value in texts)))
        fields = {name: made[name] for name in ("id", "lang", "source", "licence")}
        document = to_document(
            {**fields, "text": text, "meta": meta}, f"{default_id}:{number}" if number.isdigit() else default_id
        )
        if languages and document.lang not in languages:
            passed_over["other language"] += 1
            continue
        if not made["group"]:
            yield document
            continue
        before = open_groups.get(document.lang)
        if before and before[0] == made["group"]:
            before[2].append(document.text)
            continue
        if before:
            yield _closed(before, mapping)
        open_groups[document.lang] = (made["group"], document, [document.text])
    for group in open_groups.values():
        yield _closed(group, mapping)


def _closed(group: tuple[str, Document, list[str]], mapping: CorpusMapping) -> Document:
    _, document, texts = group
    document.text = mapping.joined_by.join(filter(None, texts))
    return document
