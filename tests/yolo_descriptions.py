"""Random `data.yaml` files for YOLO as tools write them, with the images and class names that a reader must find."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from annotation_mutants import NAMES, PNG, Folder, Refused, Samples, edit, naive_yolo, yolo_folder

SPLITS = ("train", "val")


@dataclass
class Description:
    """A YOLO folder with a `data.yaml`.

    Attributes:
        folder: the files.
        names: the class names that a reader must find; None if they are invalid.
        images: paths of the images of the split "train", relative to the root; None if it or an image is missing.
    """

    folder: Folder
    names: Sequence[str] | None
    images: Sequence[str] | None


def describe(rng: random.Random) -> Description:
    """A random layout of images and labels, and its `data.yaml`; class names, split and a label file may be invalid."""
    layout = rng.choice(("images/{}", "{}/images", "photos/{}/images"))
    folder: Folder = {}
    for split in SPLITS:
        for path, content in yolo_folder(rng).items():
            kind, _, name = path.partition("/")
            if name:
                folder[f"{layout.format(split).replace('images', kind)}/{name}"] = content
    if rng.random() < 0.5:
        label = rng.choice([path for path in folder if path.endswith(".txt")])
        folder[label] = edit(folder[label], rng)
    images = sorted(path for path in folder if path.endswith(".png") and "train" in path)
    names = ["cat", "dog", "hot dog"]
    lines, names = _name_lines(names, rng)
    entry, images = _entry(layout, images, folder, rng)
    path = rng.choice(("", "", "path: .\n", "path: ../somewhere/else\n", "path: /no/such/folder\n"))
    other = f"val: {layout.format('val')}\n"
    text = "".join(
        rng.sample([path, entry, other, lines, rng.choice(("", "# a comment\n", "roboflow:\n  version: 1\n"))], 5)
    )
    encoded = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig")))
    folder["data.yaml"] = encoded.replace(b"\n", b"\r\n") if rng.random() < 0.2 else encoded
    return Description(folder, names, images)


def _name_lines(names: list[str], rng: random.Random) -> tuple[str, list[str] | None]:
    """The entries `names` and `nc`, and the class names that they define; None if they are invalid."""
    kind = rng.choice(
        ("list", "list", "inline", "numbers", "quoted", "words", "gap", "count", "none", "empty", "nested")
    )
    inline = f"names: [{', '.join(names)}]\n"
    match kind:
        case "list":
            return f"nc: {len(names)}\nnames:\n" + "".join(f"- {name}\n" for name in names), names
        case "inline":
            return inline, names
        case "numbers":
            order = rng.sample(range(len(names)), len(names))
            return "names:\n" + "".join(f"  {number}: {names[number]}\n" for number in order), names
        case "quoted":
            return f"nc: {len(names)}\nnames: ['cat', \"dog\", 'hot dog']\n", names
        case "words":  # YAML 1.1 would read these names as False, 1 and None
            return "names: [no, 1, null]\n", ["no", "1", "null"]
        case "gap":
            return "names:\n  0: cat\n  1: dog\n  3: hot dog\n", None
        case "count":
            return f"nc: {len(names) + rng.choice((-1, 1))}\n{inline}", None
        case "empty":
            return "names: []\n", None
        case "nested":
            return "names: [[cat], dog, hot dog]\n", None
    return "", None


def _entry(layout: str, images: list[str], folder: Folder, rng: random.Random) -> tuple[str, Sequence[str] | None]:
    """The entry `train`, and the images that it refers to; None if the entry or an image is missing."""
    where = layout.format("train")
    match rng.choice(("folder", "folder", "slash", "parent", "list", "file", "wrong", "absent", "unlisted")):
        case "folder":
            return f"train: {where}\n", images
        case "slash":
            return f"train: ./{where}/\n", images
        case "parent":  # Roboflow's data.yaml refers to its sibling folders as ../train, not ./train
            return f"train: ../{where}\n", images
        case "list":
            return f"train:\n- {where}\n- {layout.format('val')}\n", [p for p in sorted(folder) if p.endswith(".png")]
        case "file":
            chosen = rng.sample(images, 2)
            folder["train.txt"] = "".join(f"./{image}\n" for image in chosen).encode()
            return "train: train.txt\n", chosen
        case "unlisted":
            folder["train.txt"] = f"{images[0]}\n{where}/missing.png\n".encode()
            return "train: train.txt\n", None
        case "wrong":
            return "train: images/training\n", None
    return "", None


def naive_description(description: Description, smallest: float) -> Samples:
    """The samples that a reader must return for a description; labels are read by `naive_yolo`.

    Raises:
        Refused: the class names, the split or a label file is invalid.
    """
    if description.names is None or description.images is None:
        raise Refused("data.yaml")
    names = dict(zip(NAMES, description.names))
    samples: Samples = {}
    for image in description.images:
        label = image.replace("images", "labels").replace(".png", ".txt")
        one = {"images/0.png": PNG} | (
            {"labels/0.txt": description.folder[label]} if label in description.folder else {}
        )
        samples[image] = [(names[name], *rest) for name, *rest in naive_yolo(one, smallest)["0.png"]]
    return samples
