"""The ids of records in annotation files, which datasets replace by integers where necessary.

A record that was renumbered keeps the file's own id in `FILE_ID`, as JSON text, since the index (hotcoco) rounds
integers above 2^64. An annotation without an id in its file (Pascal VOC, YOLO) has its Place as `PLACE`. Messages and
results show these, never the integers that datasets assign.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

FILE_ID = "chordate_file_id"  # field of a record: the file's own id, if it is not the record's `id`
PLACE = "chordate_place"  # field of an annotation: its file, and its line (YOLO) or number (Pascal VOC)
MAX_ID = 2**53  # larger integers are not exact in float64
DECIMAL = re.compile(r"-?[0-9]{1,400}")

Id = int | str


class Place(str):
    """Where an annotation is, such as "a.txt:3"; messages show it in place of an id."""


def parse_id(value: Any) -> Id | None:
    """Normalize an id, so that `7`, `7.0` and `"7"` are the same; None if the value cannot be an id."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if DECIMAL.fullmatch(text) and str(int(text)) == text else text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def id_in_file(record: Mapping[str, Any]) -> Any:
    """The id of a record in its file, or its Place; None if it has neither."""
    if PLACE in record:
        return Place(record[PLACE])
    return json.loads(record[FILE_ID]) if FILE_ID in record else record.get("id")


def renumber(number: int, id: Any) -> dict[str, Any]:
    """The fields of a record whose `id` is replaced by a number."""
    return {"id": number, FILE_ID: json.dumps(id)}
