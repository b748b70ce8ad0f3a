"""What a row of any layout means as a document: the schema, and the values of its columns.

A row may name its language and licence in several ways; what it has beside the schema's columns is kept in `meta`. The
rules stand here twice: for one row as Python objects, and for a batch as Arrow columns, which is many times as fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.languages import LANGUAGES

COLUMNS = ("id", "text", "lang", "source", "licence", "meta")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])  # meta holds a JSON object
NO_TEXT = "no text"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CODES = {name: code for code, row in LANGUAGES.items() for name in (row.name.lower(), *row.other_codes)}


def row_values(row: Any, default_id: str, lang: str | None = None) -> dict[str, Any]:
    """The values of `COLUMNS` of one row of any accepted layout, `meta` as an object.

    Raises:
        ValueError: the row is no JSON object or has no text.
    """
    if not isinstance(row, dict):
        raise ValueError(f"not an object but {type(row).__name__} {str(row)[:40]!r}")
    rest = dict(row)
    text = rest.pop("text", None)
    if not isinstance(text, str):
        raise ValueError(NO_TEXT if text is None else f"text is a {type(text).__name__}, not a string")
    values = {name: rest.pop(name, None) for name in ("id", "source")}
    languages = [rest.pop(name, None) for name in ("lang", "language")]
    licences = [rest.pop(name, None) for name in ("licence", "license")]
    meta = rest.pop("meta", None)
    return {
        "id": _clean(_first(values["id"], default_id)),
        "text": _clean(text),
        "lang": language_code(_first(*languages, lang)),
        "source": _clean(_first(values["source"])),
        "licence": _clean(_first(*licences)),
        "meta": _meta(meta, rest),
    }


def _meta(meta: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """A row's `meta`, an object or the JSON text of one, and the columns that are in no other place."""
    if isinstance(meta, str) and meta.startswith("{"):
        try:
            meta = json.loads(meta)
        except (json.JSONDecodeError, RecursionError):
            meta = {"meta": meta}
    if meta is not None and not isinstance(meta, dict):
        meta = {"meta": meta}
    return {**(meta or {}), **{name: value for name, value in rest.items() if value is not None}}


def stored_meta(meta: dict[str, Any]) -> str:
    """A document's `meta` as it is stored, the text of a JSON object."""
    return _clean(json.dumps(meta, ensure_ascii=False, default=str)) if meta else "{}"


def _first(*values: Any) -> str:
    return next((str(value) for value in values if value not in (None, "")), "")


def _clean(text: str) -> str:
    text = text.replace("\0", "") if "\0" in text else text
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def language_code(stated: str) -> str:
    """A stated language as a code: "French", "fr-FR", "FR", "fra" and "fra_Latn" are "fr"."""
    code = re.split(r"[-_]", _clean(stated).strip().lower())[0]
    return _CODES.get(code, code)


def batch_values(
    batch: pa.RecordBatch, numbers: np.ndarray, name: str, lang: str | None, no_text: Callable[[int, str], None]
) -> pa.RecordBatch | None:
    """What `row_values` does, for all rows of a batch at once, as `SCHEMA`; None where it takes a look at each.

    Args:
        batch: with a column `text`.
        numbers: of the rows, or of their lines, in the file.
        name: with a row's number the id of those that state none.
        lang: language of those that state none.
        no_text: takes the number of a row without text, which is left out, and the reason.
    """
    names = batch.schema.names
    texts = batch.column("text")
    if len(set(names)) < len(names) or not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return None
    try:
        batch.validate(full=True)  # Arrow's readers do not check that strings are UTF-8
        texts = texts.cast(pa.string())
    except pa.ArrowInvalid:
        return None
    if texts.null_count:
        missing = pc.is_null(texts).to_numpy(zero_copy_only=False)
        for row_number in numbers[missing]:
            no_text(row_number, NO_TEXT)
        batch, texts, numbers = batch.filter(pa.array(~missing)), texts.drop_null(), numbers[~missing]
    size = batch.num_rows
    columns = {each: batch.column(each) for each in names}
    columns.pop("text")

    def first(*wanted: str, default: str = "") -> pa.Array:
        found = pa.repeat(pa.scalar(default), size)
        for each in reversed(wanted):
            if each in columns:
                values = _strings(columns.pop(each))
                found = pc.if_else(pc.fill_null(pc.not_equal(values, ""), False), values, found)
        return _without_nul(found)

    made = {
        "id": first("id"),
        "text": _without_nul(texts),
        "lang": _each_distinct(language_code, first("lang", "language", default=lang or "")),
        "source": first("source"),
        "licence": first("licence", "license"),
    }
    if pc.any(pc.equal(made["id"], "")).as_py():
        numbered = pa.array(np.strings.add(f"{name}-", numbers.astype("U")), pa.string())
        made["id"] = pc.if_else(pc.equal(made["id"], ""), numbered, made["id"])
    made["meta"] = _metas(columns, size)
    return pa.RecordBatch.from_arrays([made[each] for each in COLUMNS], schema=SCHEMA)


def _metas(columns: dict[str, pa.Array], size: int) -> pa.Array:
    """What is stored of the columns that are left, `meta` and the others, made once for rows that are alike in them."""
    if not columns:
        return pa.repeat(pa.scalar("{}"), size)

    def stored(*values: Any) -> str:
        rest = dict(zip(columns, values, strict=True))
        return stored_meta(_meta(rest.pop("meta", None), rest))

    if any(_is_opaque(column.type) for column in columns.values()):
        return pa.array(map(stored, *(column.to_pylist() for column in columns.values())), pa.string())
    return _each_distinct(stored, *columns.values())


def _is_opaque(kind: pa.DataType) -> bool:
    """Whether Arrow cannot tell which values of the type are alike, or not with the functions used here."""
    types = pa.types
    if types.is_nested(kind) or types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return types.is_string_view(kind) or types.is_binary_view(kind)


def _strings(values: pa.Array) -> pa.Array:
    """A column as strings, as `str` writes its values."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_integer(values.type):
        return values.cast(pa.string())
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())


def _without_nul(values: pa.Array) -> pa.Array:
    _, offsets, data = values.buffers()
    used = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1] if len(values) else [0, 0]
    if data is None or np.frombuffer(data, np.uint8)[used[0] : used[-1]].all():
        return values
    return pc.replace_substring(values, "\0", "")


def _each_distinct(function: Callable[..., str], *columns: pa.Array) -> pa.Array:
    """What the function makes of each row's values, called once for rows that are alike."""
    groups = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = pc.dictionary_encode(column, null_encoding="encode")
        codes = groups * (len(encoded.dictionary) + 1) + encoded.indices.to_numpy()
        _, rows, groups = np.unique(codes, return_index=True, return_inverse=True)
    distinct = (column.take(pa.array(rows)).to_pylist() for column in columns)
    return pa.array(map(function, *distinct), pa.string()).take(pa.array(groups))
