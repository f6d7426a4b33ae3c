"""Seeded mutations of Pascal VOC and YOLO folders, and naive readers as the reference for what the folders contain.

A folder is a dict from path to bytes. The readers share no code with the package: XML is read by minidom, text by
regular expressions, and every image has the same pixels, so no image is decoded.
"""

import random
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from xml.dom import minidom

import numpy as np
from raw_images import png

HEIGHT, WIDTH = 6, 8
PNG = png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
NAMES = ("cat", "dog", "hot dog")
SMALLEST_AREA = 1e-4  # of a polygon, in square pixels
Folder = dict[str, bytes]
Outline = tuple[tuple[float, float], ...]
# The objects of each image: class name; clipped box x1, y1, x2, y2; whether the object is ignored; the sorted vertices
# of its polygon (x, y in pixels), or None if it has no polygon of at least SMALLEST_AREA.
Samples = dict[str, list[tuple[str, tuple[float, ...], bool, Outline | None]]]


class Refused(Exception):
    """Raised by the naive readers for an invalid folder, which the package must reject."""


def clip(box: tuple[float, ...]) -> tuple[float, ...]:
    limits = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    return tuple(float(np.float32(min(max(value, 0), limit))) for value, limit in zip(box, limits))


def kept(box: tuple[float, ...], smallest: float) -> bool:
    return box[2] - box[0] >= smallest and box[3] - box[1] >= smallest


# Pascal VOC


def voc_folder(rng: random.Random) -> Folder:
    folder: Folder = {}
    for number in range(3):
        objects = ""
        for _ in range(rng.randint(0, 2)):
            x, y = rng.randint(1, WIDTH - 2), rng.randint(1, HEIGHT - 2)
            corners = x, y, rng.randint(x + 1, WIDTH), rng.randint(y + 1, HEIGHT)
            box = "".join(f"\n<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
            difficult = rng.randint(0, 1)
            objects += (
                f"\n<object>\n<name>{rng.choice(NAMES)}</name>\n<difficult>{difficult}</difficult>"
                f"\n<bndbox>{box}\n</bndbox>\n</object>"
            )
        size = f"<size>\n<width>{WIDTH}</width>\n<height>{HEIGHT}</height>\n</size>"
        text = f"<annotation>\n<filename>{number}.png</filename>\n{size}{objects}\n</annotation>\n"
        folder[f"Annotations/{number}.xml"] = text.encode()
        folder[f"JPEGImages/{number}.png"] = PNG
    return folder


def naive_voc(folder: Folder, smallest: float) -> Samples:
    images = {PurePosixPath(path).stem: path.removeprefix("JPEGImages/") for path in folder if "JPEGImages" in path}
    samples: Samples = {}
    for path, content in folder.items():
        if not path.endswith(".xml"):
            continue
        if b"<!ENTITY" in content:
            raise Refused("entities")
        try:
            root = minidom.parseString(content).documentElement
        except Exception as error:
            raise Refused(str(error)) from error
        if root.tagName != "annotation":
            raise Refused("root")
        width, height = (_text(_child(root, "size"), tag) for tag in ("width", "height"))
        if _positive(width) and _positive(height) and (int(float(width)), int(float(height))) != (WIDTH, HEIGHT):
            raise Refused("size")
        filename = _text(root, "filename")
        stem = PurePosixPath(path).stem
        image = images.get(stem) or images.get(PurePosixPath(filename).stem)
        if image is None or image in samples:
            raise Refused("image")
        samples[image] = []
        for child in (node for node in root.childNodes if getattr(node, "tagName", "") == "object"):
            name, box = _text(child, "name"), _child(child, "bndbox")
            corners = [_text(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
            if not name or not all(NUMBER.fullmatch(corner) for corner in corners):
                raise Refused("object")
            x1, y1, x2, y2 = map(float, corners)
            clipped = clip((x1 - 1, y1 - 1, x2, y2))
            if kept(clipped, smallest):
                samples[image].append((name, clipped, _text(child, "difficult").lower() in ("1", "true"), None))
    return samples


NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def _positive(text: str) -> bool:
    return bool(NUMBER.fullmatch(text)) and abs(float(text)) < 2**31 and int(float(text)) > 0


def _child(element: minidom.Element | None, tag: str) -> minidom.Element | None:
    children = [] if element is None else element.childNodes
    return next((node for node in children if getattr(node, "tagName", "") == tag), None)


def _text(element: minidom.Element | None, tag: str) -> str:
    def texts(node: minidom.Node) -> str:
        if node.nodeType in (node.TEXT_NODE, node.CDATA_SECTION_NODE):
            return node.data
        return "".join(map(texts, node.childNodes)) if node.nodeType == node.ELEMENT_NODE else ""

    child = _child(element, tag)
    return "" if child is None else texts(child).strip()


# YOLO


def yolo_folder(rng: random.Random) -> Folder:
    folder: Folder = {"data.yaml": b"names:\n  0: cat\n  1: dog\n  2: hot dog\n"}
    for number in range(3):
        lines = []
        for _ in range(rng.randint(0, 2)):
            x1, y1 = rng.randint(0, WIDTH - 2), rng.randint(0, HEIGHT - 2)
            x2, y2 = rng.randint(x1 + 1, WIDTH), rng.randint(y1 + 1, HEIGHT)
            if rng.random() < 0.3:
                numbers = (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)
            else:
                numbers = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
            lines.append(" ".join(map(str, (rng.randint(0, 2), *numbers))) + "\n")
        folder[f"labels/{number}.txt"] = "".join(lines).encode()
        folder[f"images/{number}.png"] = PNG
    return folder


def naive_yolo(folder: Folder, smallest: float) -> Samples:
    samples: Samples = {}
    for path in folder:
        if not path.startswith("images/"):
            continue
        image = samples[path.removeprefix("images/")] = []
        label = str(PurePosixPath(path.replace("images/", "labels/", 1)).with_suffix(".txt"))
        try:
            lines = folder.get(label, b"").decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise Refused("text") from error
        for words in (line.split() for line in lines if line.strip()):
            if not all(NUMBER.fullmatch(word) for word in words):
                raise Refused("number")
            label_number, *numbers = map(float, words)
            if label_number not in (0, 1, 2) or max(map(abs, numbers), default=9) > 2:
                raise Refused("range")
            if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
                raise Refused("count")
            outline = None
            if len(numbers) == 4:
                x, y, w, h = (value * side for value, side in zip(numbers, (WIDTH, HEIGHT) * 2))
                box: tuple[float, ...] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            else:
                xs, ys = np.array(numbers[::2]) * WIDTH, np.array(numbers[1::2]) * HEIGHT
                box = (xs.min(), ys.min(), xs.max(), ys.max())
                if abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) / 2 >= SMALLEST_AREA:
                    outline = tuple(sorted(zip(xs.tolist(), ys.tolist())))
            clipped = clip(box)
            if kept(clipped, smallest):
                image.append((NAMES[int(label_number)], clipped, False, outline))
    return samples


# Mutations of text files


def _numbers(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", text))


def _replace_number(text: str, rng: random.Random) -> str:
    found = _numbers(text)
    if not found:
        return text
    match = rng.choice(found)
    values = (
        "-3",
        "0",
        "1e3",
        "nan",
        "inf",
        "x",
        "",
        "1.5",
        "0.25",
        "99999999999999999999",
        "1_0",
        "٣",
        "0x1",
        "1,5",
        "-0",
    )
    return text[: match.start()] + rng.choice(values) + text[match.end() :]


def _swap_numbers(text: str, rng: random.Random) -> str:
    found = _numbers(text)
    if len(found) < 2:
        return text
    first, second = sorted(rng.sample(found, 2), key=lambda match: match.start())
    middle = text[first.end() : second.start()]
    return text[: first.start()] + second[0] + middle + first[0] + text[second.end() :]


def _edit_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    number = rng.randrange(len(lines))
    kind = rng.choice(("drop", "repeat", "swap", "indent", "blank"))
    if kind == "drop":
        del lines[number]
    elif kind == "repeat":
        lines.insert(number, lines[number])
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    else:
        lines.insert(number, "\n") if kind == "blank" else lines.__setitem__(number, f"\t {lines[number]}")
    return "".join(lines)


def _escape(text: str, rng: random.Random) -> str:
    """Replace a class name in XML by an equivalent spelling (CDATA, character reference, …) or by another text."""
    ways = (
        lambda name: f"<![CDATA[{name}]]>", lambda name: f"{name[:1]}<!-- x -->{name[1:]}",
        lambda name: f"{name} &amp; co",
        lambda name: f"&lt;{name}&gt;", lambda name: f"&#{ord(name[0])};{name[1:]}", lambda name: f"&unknown;{name}",
        lambda name: f" {name}\n", lambda name: f"<b>{name}</b>", lambda name: "",
    )  # fmt: skip
    found = list(re.finditer(r"(?<=<name>)[^<]+(?=</name>)", text))
    if not found:
        return text
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(ways)(match[0]) + text[match.end() :]


def _truncate(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _flip(text: str, rng: random.Random) -> str:
    if not text:
        return text
    place = rng.randrange(len(text))
    return text[:place] + chr(rng.choice((0, 9, 32, 46, 60, 62, 38, 48, 57, 65, 233, 0x2028, 0x85))) + text[place + 1 :]


TEXT_EDITS: tuple[Callable[[str, random.Random], str], ...] = (
    _replace_number, _replace_number, _swap_numbers, _edit_line, _edit_line, _escape, _truncate, _flip,
)  # fmt: skip


def _encode(text: str, rng: random.Random) -> bytes:
    kind = rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "crlf", "declared"))
    if kind == "crlf":
        return text.replace("\n", "\r\n").encode()
    if kind == "declared":
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode() if "<annotation" in text else text.encode()
    return text.encode(kind)


def edit(content: bytes, rng: random.Random) -> bytes:
    """Edit a text file once, and write it in a random encoding."""
    return _encode(rng.choice(TEXT_EDITS)(content.decode("utf-8", "replace"), rng), rng)


def mutate(folder: Folder, rng: random.Random) -> Folder:
    """Apply one to three mutations to the texts, file names and files of a folder."""
    mutant = dict(folder)
    for _ in range(rng.randint(1, 3)):
        texts = [path for path in mutant if path.endswith((".xml", ".txt"))]
        path = rng.choice(texts)
        kind = rng.choice(("text",) * 8 + ("rename", "nest", "drop label", "drop image", "filename"))
        if kind == "text":
            mutant[path] = edit(mutant[path], rng)
        elif kind == "filename":
            other = rng.choice(("9.jpg", "0.png", "1", "2.jpeg", "photos/0.jpg", "", "a b.png"))
            mutant[path] = re.sub(rb"<filename>.*?</filename>", f"<filename>{other}</filename>".encode(), mutant[path])
        elif kind == "drop label":
            if len(texts) > 1:
                del mutant[path]
        else:
            images = [path for path in mutant if path.endswith((".png", ".PNG"))]
            image = rng.choice(images)
            if kind == "rename":
                mutant[image.replace(".png", ".PNG")] = mutant.pop(image)
            elif kind == "drop image" and len(images) > 1:
                del mutant[image]
            elif kind == "nest":
                stem = PurePosixPath(image).stem
                nested = {
                    p: f"{p.split('/', 1)[0]}/sub/{p.split('/', 1)[1]}" for p in mutant if PurePosixPath(p).stem == stem
                }
                mutant = {nested.get(p, p): content for p, content in mutant.items()}
    return mutant
