"""Recognizes datasets with annotation files: COCO's and COCO panoptic JSON, Pascal VOC's XML, YOLO's text files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from chordate.data.image_files import image_stem, list_files
from chordate.data.recognition import SPLITS, Folder, FoundSet, Recognition, find_folders, relative, with_suffix
from chordate.data.recognize_layouts import voc_semantic_sets
from chordate.data.yolo_data import label_file, split_entries
from chordate.structures.metadata import numbered_names

NAMES = 8  # number of file names by which the image folder is found
HEAD = 4096  # number of bytes of an XML or text file that are read
FILE_NAME = re.compile(r'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')
MASK = re.compile(r'"segmentation"\s*:\s*(\[\s*\[?\s*-?\d|\{)')
JOINTS = re.compile(r'"keypoints"\s*:\s*\[\s*"')
YOLO_LINE = re.compile(r"\ufeff?\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*")
IMAGE_LISTS = ("train", "val", "test")
VOC_FILES = {"VocDataset": "one XML file per image", "VocSemantic": "SegmentationClass/"}


class JsonContent(NamedTuple):
    """The result of `peek`: the first file names of images and of panoptic PNGs, and whether the annotation file has
    masks and keypoints."""

    images: list[str]
    segments: list[str]
    masks: bool
    keypoints: bool


def recognize_json(path: Path) -> Recognition | None:
    """COCO's or COCO panoptic JSON files; the image folder of a file is the one with most of its first images."""
    is_file = path.suffix.lower() == ".json" and path.is_file()
    if not (is_file or path.is_dir()):
        return None
    root = path.parent if is_file else path
    folders = find_folders(root)
    contents = {file: peek(file) for file in ([path] if is_file else with_suffix(folders, ".json"))}
    known = {file: content for file, content in contents.items() if content is not None}
    if not known:
        return None
    if is_file:
        folders += find_folders(root.parent)
    sets = []
    names = [file.stem if len({f.stem for f in known}) == len(known) else relative(file, root) for file in known]
    for name, (file, content) in zip(names, known.items()):
        settings: dict[str, Any] = {"type": "CocoDataset", "annotations": relative(file, root)}
        settings["images"] = relative(_folder_of(content.images, file, folders), root)
        if content.segments:
            settings |= {
                "type": "CocoPanoptic",
                "segments": relative(_folder_of(content.segments, file, folders), root),
            }
            sets.append(FoundSet(name, settings))
            continue
        optional = {name: True for name in ("masks", "keypoints") if getattr(content, name)}
        sets.append(FoundSet(name, settings, optional))
    kinds = {"COCO panoptic" if content.segments else "COCO" for content in known.values()}
    listed = ", ".join(relative(file, root) for file in list(known)[:4]) + (" …" if len(known) > 4 else "")
    return Recognition(f"{' and '.join(sorted(kinds))} annotations ({listed})", root, sets)


def peek(file: Path) -> JsonContent | None:
    """Search a JSON file without parsing it; None if the file is unreadable, or lacks one of COCO's lists and is not
    truncated."""
    data = _read(file)
    text = data.decode(json.detect_encoding(data), "replace")
    text = text.strip("\0\ufeff \r\n\t")
    is_truncated = text.startswith("{") and '"images"' in text and not text.endswith("}")
    if not is_truncated and not all(f'"{key}"' in text for key in ("images", "annotations", "categories")):
        return None
    panoptic = '"segments_info"' in text
    segments = _file_names(text, "annotations") if panoptic else []
    return JsonContent(_file_names(text, "images"), segments, bool(MASK.search(text)), bool(JOINTS.search(text)))


def _file_names(text: str, key: str) -> list[str]:
    """Up to `NAMES` file names from the start of the list `key` on, all with the suffix of the first."""
    start = re.search(rf'"{key}"\s*:\s*\[', text)
    names: list[str] = []
    for match in FILE_NAME.finditer(text, start.end() if start else 0):
        names.append(json.loads(f'"{match[1]}"').replace("\\", "/"))
        if len(names) == NAMES:
            break
    return [name for name in names if Path(name).suffix == Path(names[0]).suffix]


def _folder_of(names: Sequence[str], file: Path, folders: Sequence[Folder]) -> Path:
    """The folder that has most of the files `names`; ties go to a folder whose name occurs in the name of `file`.

    If no folder has any of them, the best folder is used only if its name is "images"; else the folder of `file` is.
    """

    def score(folder: Folder) -> tuple[int, bool, bool, int]:
        inside = sum((folder.path / name).is_file() for name in names)
        return inside, folder.path.name in file.stem, folder.path.name == "images", -len(folder.path.parts)

    best = max(folders, key=score)
    return best.path if score(best)[0] or best.path.name == "images" else file.parent


def is_annotation_file(path: Path) -> bool:
    """Whether a file is one that `recognize_json` or `recognize_yolo` recognizes, rather than a config."""
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    return peek(path) is not None if suffix == ".json" else suffix in (".yaml", ".yml") and "names" in _yaml(path)


def recognize_voc(path: Path) -> Recognition | None:
    """Pascal VOC: folders of XML files, each with the folder that has the most images of the same names; and
    `SegmentationClass/` with `ImageSets/Segmentation/`."""
    if not path.is_dir():
        return None
    sets, folders = [], find_folders(path)
    for folder in folders:
        stems = [name[: -len(".xml")] for name in folder.files if name.lower().endswith(".xml")]
        if not stems or b"<annotation" not in _read(folder.path / f"{stems[0]}.xml", HEAD):
            continue
        base = folder.path if folder.images else folder.path.parent
        near = [folder, *(other for other in find_folders(base) if other.path != folder.path)]
        images = max(near, key=lambda other: len({*stems[:100]} & {image_stem(name) for name in other.images})).path
        settings = {
            "type": "VocDataset", "folder": relative(base, path), "images": relative(images, base),
            "annotations": relative(folder.path, base),
        }  # fmt: skip
        lists = [name for name in IMAGE_LISTS if (base / "ImageSets" / "Main" / f"{name}.txt").is_file()]
        where = "" if base == path else relative(base, path)
        sets += [FoundSet(f"{where} {name}".strip(), {**settings, "split": name}) for name in lists]
        if not lists:
            sets.append(FoundSet(where or "all images", settings))
    sets += voc_semantic_sets(path, folders)
    files = dict.fromkeys(VOC_FILES[part.settings["type"]] for part in sets)
    return Recognition(f"Pascal VOC ({', '.join(files)})", path, sets) if sets else None


def recognize_yolo(path: Path) -> Recognition | None:
    """A `data.yaml` with class names, or text files of labels (in `labels/` beside `images/`, or beside the images)."""
    is_file = path.suffix.lower() in (".yaml", ".yml") and path.is_file()
    if not (is_file or path.is_dir()):
        return None
    root = path.parent if is_file else path
    folders = find_folders(root)
    descriptions = [path] if is_file else sorted(with_suffix(folders, ".yaml", ".yml"), key=lambda file: file.parts)
    named = [(file, content) for file in descriptions if "names" in (content := _yaml(file))]
    for file, content in named:
        if splits := split_entries(content):
            name = relative(file, root)
            sets = [FoundSet(s, {"type": "YoloDataset", "data": name, "split": s}) for s in splits]
            return Recognition(f"YOLO ({name})", root, sets)
    pairs = [pair for folder in folders for pair in _yolo_pairs(folder, folders)]
    if not pairs:
        return None
    names: Any = [relative(file, root) for file, _ in named[:1]]
    names += [relative(file, root) for file in with_suffix(folders, "names.txt", "classes.txt", ".names")]
    source = f"class names of {names[0]}" if names else "no class names (data.yaml, names.txt), so they are numbered"
    settings: dict[str, Any] = {"type": "YoloDataset"}
    settings["names"] = names[0] if names else list(numbered_names(_most(pairs) + 1))
    sets = []
    for images, labels in pairs:
        own = {"images": relative(images, root), "labels": relative(labels, root)}
        sets.append(FoundSet("all images" if images in (root, root / "images") else own["images"], settings | own))
    return Recognition(f"YOLO (one text file per image; {source})", root, sets)


def _yolo_pairs(folder: Folder, folders: Sequence[Folder]) -> Iterator[tuple[Path, Path]]:
    """Pairs of an image folder and its label folder: one per split (`images/train`, `labels/train`), or `images` and
    `labels` with all their subfolders, or the same folder twice if it has both images and labels."""
    path = folder.path
    if path.name == "images" and path.with_name("labels").is_dir() and _has_labels(path.with_name("labels")):
        below = [other.path for other in folders if other.path.parent == path]
        if below and not folder.images and all(other.name.lower().startswith(SPLITS) for other in below):
            yield from ((other, label_file(other / "x").parent) for other in below)
        else:
            yield path, path.with_name("labels")
        return
    beside = any(f"{image_stem(name)}.txt" in folder.files for name in folder.images[:NAMES])
    if beside and _has_labels(path):
        yield path, path


def _has_labels(folder: Path) -> bool:
    """Whether the first line of the first text file that is not empty is a label; files of class names do not count."""
    files = [
        folder / name for name in list_files(folder, ".txt")[:100] if "classes" not in name and "names" not in name
    ]
    lines = (_read(file, HEAD).decode("utf-8", "replace").strip().partition("\n")[0] for file in files)
    first = next((line for line in lines if line), "")
    return bool(YOLO_LINE.fullmatch(first))


def _most(pairs: Sequence[tuple[Path, Path]]) -> int:
    """The largest class number in the label files, at most 9999."""
    numbers = [0]
    for _, folder in pairs:
        for name in list_files(folder, ".txt"):
            text = _read(folder / name).decode("utf-8-sig", "replace")
            numbers += [int(line.split()[0]) for line in text.splitlines() if YOLO_LINE.fullmatch(line)]
    return min(max(numbers), 9999)


def _read(file: Path, size: int = -1) -> bytes:
    """The first `size` bytes of a file; -1 reads all. Returns b"" if it is not a regular file or cannot be read: a pipe
    would block, and a device has no end."""
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as opened:
            return opened.read(size)
    except (OSError, MemoryError):
        return b""


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(_read(file).decode("utf-8-sig"), Loader=yaml.BaseLoader)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
