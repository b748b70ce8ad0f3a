"""JSON lines as Arrow columns, where Arrow's reader and Python's are sure to agree.

Arrow reads JSON several times as fast as Python, but is no match for rows of all kinds: it ends at the first wrong
line, takes two objects on a line for two rows and one on two lines for one, infers times from strings, makes 1.0 of 1
beside 0.5, and takes minutes for ten thousand brackets. So it gets blocks of flat rows with the types that the first
ones have, and what it makes is checked; everything else is left to Python, row by row.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_NUM_ROWS_LOOKED_AT = 20  # that tell the fields and their types; a field that turns up later leaves a block to Python


def flat_rows(lines: list[bytes]) -> pa.RecordBatch | None:
    """Lines of a file as columns, a row for each; None where they are not surely what `json.loads` makes of each.

    Args:
        lines: not blank, with their line ends.

    Returns:
        the columns `text` and whatever else there is, of strings, int64, float64 and bool; strings may not be UTF-8
    """
    if not all(line.startswith(b"{") and line.endswith((b"}\n", b"}\r\n", b"}")) for line in lines):
        return None  # with the number of rows, this keeps each object on a line of its own
    schema = _schema(lines[:_NUM_ROWS_LOOKED_AT])
    if schema is None:
        return None
    data = b"".join(lines)
    try:
        table = pj.read_json(
            pa.py_buffer(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except pa.ArrowException:
        return None
    floats = (table[field.name] for field in schema if pa.types.is_floating(field.type))
    if table.num_rows != len(lines) or any(pc.any(pc.equal(column, pc.floor(column))).as_py() for column in floats):
        return None
    return table.combine_chunks().to_batches()[0]


def _schema(lines: list[bytes]) -> pa.Schema | None:
    """The fields of these rows, all of them flat and of one type each, and a string `text` among them; else None."""
    types: dict[str, pa.DataType | None] = {}
    try:
        for line in lines:
            row = json.loads(line.decode())
            for name, value in row.items():
                known = types.setdefault(name, None)
                if value is None:
                    continue
                types[name] = _TYPES.get(type(value))
                if types[name] is None or known not in (None, types[name]):
                    return None
        if types.get("text") != pa.string():
            return None
        return pa.schema([(name, pa.string() if kind is None else kind) for name, kind in types.items()])
    except (ValueError, RecursionError):  # not JSON, or names that are no text
        return None
