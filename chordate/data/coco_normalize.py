"""Converts COCO annotation files, as annotation tools write them, to the form of COCO's own files."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from chordate.data.annotation_reader import AnnotationReader, quote
from chordate.data.coco_geometry import MAX_RLE_PIXELS, parse_side
from chordate.data.file_ids import MAX_ID, PLACE, Id, id_in_file, parse_id, renumber
from chordate.data.file_listing import FileListing
from chordate.data.findings import Findings
from chordate.data.image_headers import displayed_size
from chordate.data.pixel_limit import MAX_PIXELS
from chordate.errors import BrokenFile, DataError

Record = Mapping[str, Any]


def normalize(content: Any, source: str, images: FileListing) -> tuple[dict[str, Any], AnnotationReader]:
    """Keep the fields that are used, in the form of COCO's own files.

    If an image id is text, negative or above 2^53, all images are numbered 1, 2, …; the same holds for categories.
    Annotations are numbered if one of their ids is missing, not unique, or not an integer 0 … 2^53. A numbered record
    has the file's own id, see `id_in_file`.

    Args:
        content: the content of the file.
        source: the file's name, for messages.
        images: the folder that the file names are relative to.

    Returns:
        The normalized content, and the AnnotationReader with all problems. Invalid records are left out.

    Raises:
        DataError: the content is not in COCO's format.
    """
    if not isinstance(content, Mapping):
        raise DataError(f"{source}: not COCO annotations: a {type(content).__name__}, expected an object with images")
    findings = Findings()
    parts = {kind: list(_records(content, kind, source, findings)) for kind in ("categories", "images", "annotations")}
    categories = _unique(parts["categories"], "category", findings)
    used = {parse_id(record.get("category_id")) for record in parts["annotations"]}
    _drop_unnamed(categories, used, findings)
    normal_categories = _numbered(categories, {key: _category(record, findings) for key, record in categories.items()})
    records = _unique(parts["images"], "image", findings)
    usable = {key: image for key, record in records.items() if (image := _image(record, images, findings))}
    normal_images = _numbered(records, usable)
    counts = {c["id"]: len(c["keypoints"]) for c in normal_categories.values() if "keypoints" in c}
    reader = AnnotationReader(counts, findings)
    left_out = {"image": parse_ids(parts["images"]), "category": parse_ids(parts["categories"])}
    annotations = []
    for place, record in enumerate(parts["annotations"], start=1):
        id = own if (own := id_in_file(record)) is not None else f"no. {place}"
        owners = {}
        for name, known in (("image", normal_images), ("category", normal_categories)):
            key = parse_id(record.get(f"{name}_id"))
            if key in known:
                owners[name] = known[key]
            elif key in left_out[name]:
                findings.repair(f"annotations of {'an' if name == 'image' else 'a'} {name} that is left out", id)
            else:
                field = quote(record.get(f"{name}_id"))
                plural = {"image": "images", "category": "categories"}[name]
                findings.error(f"annotations with {name} IDs not present in {plural}", id, f"{name}_id {field}")
        if len(owners) == 2:
            image, category = owners["image"], owners["category"]
            fields = reader.read(record, id, category["id"], (image["height"], image["width"]))
            if fields is not None:
                ids = {"image_id": image["id"], "category_id": category["id"]}
                where = {PLACE: record[PLACE]} if PLACE in record else {}
                annotations.append((record, {**ids, **fields, **where}))
    _number_annotations(annotations, findings)
    return {
        "images": list(normal_images.values()),
        "annotations": [annotation for _, annotation in annotations],
        "categories": list(normal_categories.values()),
    }, reader


def _records(content: Record, kind: str, source: str, findings: Findings) -> Iterator[Record]:
    """The objects in a list of the file; a missing list is empty."""
    values = content.get(kind)
    if values is not None and not isinstance(values, list):
        raise DataError(f"{source}: not COCO annotations: {kind} is {quote(values)}, expected a list")
    for place, value in enumerate(values or (), start=1):
        if isinstance(value, Mapping):
            yield value
        else:
            findings.error(f"entries of {kind} that are not objects", f"no. {place}", quote(value))


def parse_ids(records: Sequence[Record]) -> set[Id | None]:
    """The ids of all records, also of those that are left out."""
    return {parse_id(record.get("id")) for record in records} - {None}


def _unique(records: Sequence[Record], what: str, findings: Findings) -> dict[Id, Record]:
    """Map each id to its first record; records without an id, or with the id of an earlier record, are errors."""
    unique: dict[Id, Record] = {}
    for place, record in enumerate(records, start=1):
        key = parse_id(record.get("id"))
        if key is None:
            findings.error(f"{what} without an id", f"no. {place}", quote(record.get("id")))
        elif key in unique:
            findings.error(f"duplicate {what} ids", record["id"])
        else:
            unique[key] = record
    return unique


def _numbered(records: Mapping[Id, Record], normal: dict[Id, dict[str, Any]]) -> dict[Id, dict[str, Any]]:
    """Set the `id` of normalized records: the file's own ids if all are integers 0 … MAX_ID, otherwise 1, 2, ….

    The numbers are assigned in ascending order of the ids if these are integers, otherwise in the order of the file.
    """
    own = [record["id"] for record in records.values()]
    keys = list(records)
    exact = all(isinstance(key, int) and 0 <= key <= MAX_ID and not isinstance(id, str) for key, id in zip(keys, own))
    if not exact and all(isinstance(key, int) for key in keys):
        keys.sort()
    for number, key in enumerate(keys, start=1):
        if key in normal:
            normal[key] |= {"id": key} if exact else renumber(number, records[key]["id"])
    return normal


def _drop_unnamed(categories: dict[Id, Record], used: Collection[Id | None], findings: Findings) -> None:
    """Remove the categories without a name, and all but one of those with the same name: the first that is in `used`
    (the ids in annotations). Roboflow writes a category without annotations before the one with the same name."""
    kept: dict[str, Id] = {}
    for key in sorted(categories, key=lambda key: key not in used):  # stable: used ones first, each in the file's order
        name = parse_text(categories[key].get("name"))
        if name and kept.setdefault(name, key) == key:
            continue
        id = categories.pop(key)["id"]
        if not name:
            findings.error("category without a name", id)
        elif key in used:
            findings.error("categories with the name of an earlier category; rename them", id, quote(name))
        else:
            problem = "categories without annotations and with the name of another category, which are ignored"
            findings.repair(problem, id, quote(name))


def _category(record: Record, findings: Findings) -> dict[str, Any]:
    """The name of a category, and its keypoint names and bones if they are usable."""
    category: dict[str, Any] = {"name": parse_text(record["name"])}
    names = record.get("keypoints")
    if not names:
        return category
    if not isinstance(names, list) or not all(map(parse_text, names)):
        findings.repair("keypoint names that are not a list of strings, which are ignored", record["id"])
        return category
    category["keypoints"] = [parse_text(name) for name in names]
    numbers = {name: number for number, name in enumerate(category["keypoints"], start=1)}
    try:
        bones = [[end if type(end) is int else numbers[end] for end in bone] for bone in record.get("skeleton") or ()]
        if any(len(bone) != 2 or min(bone) < 0 or max(bone) > MAX_RLE_PIXELS for bone in bones):
            raise ValueError
        category["skeleton"] = bones
    except (TypeError, KeyError, ValueError):
        findings.repair("skeleton that is not pairs of keypoint numbers or names, which is ignored", record["id"])
    return category


def _image(record: Record, images: FileListing, findings: Findings) -> dict[str, Any] | None:
    """File name and size of an image; None if the image cannot be used."""
    value = record.get("file_name")
    name = parse_text(value)
    if not name or not is_file_name(name):
        findings.error("file_name is not the name of a file", record["id"], quote(value))
        return None
    path = images.find(name)
    if "\\" in name and "\\" not in path:
        findings.repair("file_name with backslashes, which are read as slashes", record["id"])
    elif unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", name) and path != name:
        findings.repair("file_name in another Unicode normal form than the file's", record["id"], quote(name))
    elif path != name:
        problem = f"file_name with a path to the folder {images.folder.name}, which is left out"
        findings.repair(problem, record["id"], quote(name))
    size = _size(record, images, path, findings)
    return None if size is None else {"file_name": path, "height": size[0], "width": size[1]}


def _size(record: Record, images: FileListing, name: str, findings: Findings) -> tuple[int, int] | None:
    """Height and width of an image, which are read from its file `name` if the record has none or impossible ones;
    None if the file cannot be read either."""
    own = record.get("height"), record.get("width")
    height, width = map(parse_side, own)
    if height is not None and width is not None and height * width <= MAX_PIXELS:
        return height, width
    sides = f"height {quote(own[0])}, width {quote(own[1])}"
    try:
        size = displayed_size(images.folder / name)
    except BrokenFile as error:
        findings.error("images without a height and width in pixels", record["id"], f"{sides}; {error}")
        return None
    if None in own:
        findings.repair("images without a height and width, which are read from their files", record["id"])
    else:
        problem = "images with an impossible height or width, which are read from their files"
        findings.repair(problem, record["id"], f"{sides}, but the file has {size[0]} and {size[1]}")
    return size


def is_file_name(name: str) -> bool:
    """Whether a file can have this name. Opening an impossible name raises an error other than FileNotFoundError."""
    return "\0" not in name and len(name) < 2000 and all(len(part.encode()) < 256 for part in name.split("/"))


def parse_text(value: Any) -> str:
    """A name as text; "" if it is neither text nor an integer, or has a lone UTF-16 surrogate."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return ""
    return text


def _number_annotations(annotations: Sequence[tuple[Record, dict[str, Any]]], findings: Findings) -> None:
    """Set the `id` of all annotations: the file's own ids if they are unique integers 0 … MAX_ID, else 1, 2, …."""
    keys = [parse_id(record.get("id")) for record, _ in annotations]
    seen: set[Any] = set()
    for place, ((record, _), key) in enumerate(zip(annotations, keys), start=1):
        if key is None:
            findings.repair("annotations without an id, which are numbered", f"no. {place}")
        elif key in seen:
            findings.repair("duplicate annotation ids, which are replaced by numbers", record["id"])
        seen.add(key)
    exact = len(seen) == len(keys) and all(isinstance(key, int) and 0 <= key <= MAX_ID for key in keys)
    for number, ((record, annotation), key) in enumerate(zip(annotations, keys), start=1):
        annotation |= {"id": key} if exact else {"id": number} if key is None else renumber(number, record["id"])
