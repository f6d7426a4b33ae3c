"""`chordate browse`: the page shows the first images of the training loader, after all augmentation."""

import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from class_folders import COLORS, write_folders
from PIL import Image
from tiny_coco import annotation, write_coco
from torch import Tensor

from chordate.cli.main import main
from chordate.config import load_config, section
from chordate.data.loader import build_dataset, build_loader
from chordate.data.transforms import build_pipeline
from chordate.structures import Batch, ClassTargets, DatasetMeta, ImageInfo, InstanceTargets
from chordate.visualization import color_of, describe_image, draw_batch
from chordate.visualization.batch_drawing import STRIPES
from chordate.visualization.canvas import instance_colors
from chordate.visualization.contact_sheet import Group, Thumbnail, contact_sheet

ROOT = Path(__file__).parents[1]
CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
META, NAMELESS = DatasetMeta(classes=("a",)), DatasetMeta(classes=("",))


class Page(HTMLParser):
    """Parses the headings of a page, and the link, size and caption of each image."""

    def __init__(self, html: str):
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[tuple[str, int, int]] = []
        self.links: list[str] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, "the page has unclosed tags"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = dict(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            assert values["alt"]
            self.pictures.append((unquote(values["src"]), int(values["width"]), int(values["height"])))
        if tag == "a":
            self.links.append(unquote(values["href"]))
        if tag in ("h2", "figcaption"):
            (self.headings if tag == "h2" else self.captions).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self.headings[-1] += data
        if "figcaption" in self.open:
            self.captions[-1] += data


def browse(*arguments: str) -> int:
    return main(["browse", *map(str, arguments)])


def one_image(height: int = 64, width: int = 64, gray: int = 128, **targets: Tensor) -> Batch:
    """A batch of one gray image of 48×40 pixels (height × width), padded to `height` × `width`."""
    images = torch.full((1, 3, height, width), gray, dtype=torch.uint8)
    count = len(targets["boxes"])
    fields = {"labels": torch.zeros(count).long(), "crowd": torch.zeros(count).bool(), **targets}
    packed = {name: value[None] for name, value in fields.items()}
    return Batch(
        images,
        torch.tensor([[48, 40]]),
        [ImageInfo(1, "a/b.jpg", 96, 80)],
        InstanceTargets(valid=torch.ones(1, count).bool(), **packed),
    )


def test_browse_shows_the_loaders_first_batches(shapes: Path, tmp_path: Path, capsys) -> None:
    assert browse(CONFIG, "--data-root", shapes, "--out", tmp_path, "--count", 10) == 0
    assert f"10 images: {tmp_path / 'index.html'}" in capsys.readouterr().out
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == len(page.links) == 10
    assert page.headings == ["Batch 1 8 images, 96×96 with padding", "Batch 2 8 images, 96×96 with padding"]

    cfg = load_config(CONFIG)
    data = section(cfg, "train_data")
    dataset = build_dataset(data, data_root=shapes, training=True, seed=0)
    loader = build_loader(dataset, data, training=True, seed=0, size_divisor=32)
    batches = iter(loader)
    drawn = [
        (picture, info, describe_image(batch, number))
        for batch in (next(batches), next(batches))
        for number, (picture, info) in enumerate(zip(draw_batch(batch, dataset.meta), batch.infos))
    ]
    for (file, width, height), link, caption, (picture, info, line) in zip(
        page.pictures, page.links, page.captions, drawn
    ):
        written = np.array(Image.open(tmp_path / file))
        assert link == file
        assert written.shape == (height, width, 3) == picture.shape
        assert np.abs(written.astype(int) - picture).mean() < 4  # JPEG
        assert caption == f"{Path(info.path).name} {line}"


def test_wide_and_tall_images_are_on_the_page_in_separate_batches(tmp_path: Path) -> None:
    sizes = ((60, 90), (90, 60)) * 4
    boxes = [annotation(n + 1, n + 1, [10, 10, 30, 30]) for n in range(8)]
    root = write_coco(tmp_path / "data", boxes, sizes=sizes)
    config = tmp_path / "own.py"
    config.write_text(
        f'base = "{CONFIG}"\n'
        "train_data = dict(batch_size=4, pipeline=[],\n"
        '    dataset=dict(annotations="annotations.json", images="images"))\n'
    )
    assert browse(config, "--data-root", root, "--out", tmp_path / "out") == 0
    page = Page((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    batches = {heading.removeprefix(f"Batch {n} ") for n, heading in enumerate(page.headings, start=1)}
    assert batches == {"4 images, 64×96 with padding", "4 images, 96×64 with padding"}
    assert len(page.pictures) == 8  # the dataset has fewer images than the default count of 16
    assert all("60×90 → 60×90, 1 instance" in c or "90×60 → 90×60, 1 instance" in c for c in page.captions)


def test_padding_is_striped_and_the_image_is_not() -> None:
    (picture,) = draw_batch(one_image(boxes=torch.zeros(0, 4)), META, long_side=64)
    outside = np.ones((64, 64), bool)
    outside[:48, :40] = False
    assert {tuple(color) for color in picture[outside]} == {tuple(color) for color in STRIPES.tolist()}
    assert (picture[~outside] == 128).all()


def test_every_instances_box_has_a_different_color_and_crowds_are_dashed() -> None:
    boxes = torch.tensor([[4.0, 24, 18, 40], [22, 26, 38, 44]])
    batch = one_image(boxes=boxes, crowd=torch.tensor([False, True]))
    (picture,) = draw_batch(batch, META, long_side=640)
    assert (picture[270:400, 40:42] == color_of(0)).all()
    second = instance_colors(boxes.tolist(), [0, 0])[1]
    assert second != color_of(0)
    assert 0.3 < (picture[290:440, 220:222] == second).all(2).mean() < 0.7


def test_masks_are_drawn_at_their_boxes() -> None:
    """A mask of a disc, relative to its box, is drawn as a disc in the image; crowds have no mask."""
    row, column = torch.meshgrid(torch.arange(112), torch.arange(112), indexing="ij")
    disc = ((row - 55.5) ** 2 + (column - 55.5) ** 2 < 56**2).to(torch.uint8)
    batch = one_image(boxes=torch.tensor([[5.0, 8, 35, 38]]), masks=disc[None])
    (picture,) = draw_batch(batch, NAMELESS, long_side=640)
    want = cv2.circle(np.zeros((640, 640), np.uint8), (200, 230), 150, 1, -1).astype(bool)
    painted = (picture != 128).any(2)
    inside = np.zeros_like(want)
    inside[90:370, 60:340] = True  # excludes the outline of the box
    inside[60:115, 40:120] = False  # excludes the label
    assert (painted & want & inside).sum() / ((painted | want) & inside).sum() > 0.97

    crowd = one_image(boxes=torch.tensor([[5.0, 8, 35, 38]]), masks=disc[None] * 0, crowd=torch.tensor([True]))
    (picture,) = draw_batch(crowd, NAMELESS, long_side=640)
    assert (picture[200:260, 150:250] == 128).all()


def test_only_labeled_keypoints_are_drawn() -> None:
    points = torch.tensor([[[10.0, 20, 2], [20, 20, 1], [30, 20, 0]]])
    batch = one_image(boxes=torch.tensor([[5.0, 8, 35, 38]]), keypoints=points)
    (picture,) = draw_batch(batch, NAMELESS, long_side=640)
    assert [bool((picture[200, x] != 128).any()) for x in (100, 200, 300)] == [True, True, False]


def test_the_caption_of_each_image_has_its_sizes_and_counts() -> None:
    none = one_image(boxes=torch.zeros(0, 4))
    assert describe_image(none, 0) == "96×80 → 48×40, no instances"
    both = one_image(boxes=torch.ones(3, 4), crowd=torch.tensor([False, False, True]))
    assert describe_image(both, 0) == "96×80 → 48×40, 2 instances, 1 crowd"


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Class folders, and a config that trains on them with MixUp."""
    root = write_folders(tmp_path / "data", {"train": 4, "val": 1})
    config = tmp_path / "blended.py"
    config.write_text(
        'base = "resnet20_cifar10"\n'
        'model = dict(mix=[dict(type="MixUp", alpha=1.0)])\n'
        'train_data = dict(batch_size=6, dataset=dict(_delete_=True, type="ImageFolder", images="train"),\n'
        '    pipeline=[dict(type="Resize", size=[24, 24])])\n'
    )
    yield root, config


def test_captions_of_a_classifiers_images_have_the_class_or_the_mixing_weights(folders, tmp_path: Path) -> None:
    root, config = folders
    out = tmp_path / "out"
    assert browse(config, "--data-root", root, "--out", out, "--count", "6") == 0
    assert len(Page((out / "index.html").read_text(encoding="utf-8")).pictures) == 6

    names, pure = list(COLORS), torch.tensor(list(COLORS.values())).float()
    shares = torch.tensor([[0.25, 0.0, 0.75]])
    image = (shares @ pure)[0][:, None, None].expand(1, 3, 24, 24)
    batch = Batch(image, torch.tensor([[24, 24]]), [ImageInfo(0, "x.png", 24, 24)], ClassTargets(shares))
    (picture,) = draw_batch(batch, DatasetMeta(classes=tuple(names)))
    for label, drawn in enumerate((True, False, True)):
        assert (picture == color_of(label)).all(2).any() == drawn
    # The background is the mixed image: 25 % blue and 75 % red.
    assert np.abs(picture[320, 320] - np.array([191, 0, 64])).max() <= 1


def test_names_on_the_page_are_text_not_markup() -> None:
    html = contact_sheet("a<b", "x & y", [Group("<i>", "", [Thumbnail('a "b".jpg', 3, 2, "<script>", "1 < 2")])])
    page = Page(html)
    assert page.headings == ["<i> "]
    assert page.pictures == [('a "b".jpg', 3, 2)]
    assert page.captions == ["<script> 1 < 2"]


def test_the_page_is_served_on_localhost_until_ctrl_c(shapes: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The command serves in the main thread; a second thread requests the page like a browser, then sends SIGINT."""
    answers: list[tuple[str, str]] = []
    serve = ThreadingHTTPServer.serve_forever

    def visit(address: str) -> None:
        try:
            with urllib.request.urlopen(f"{address}/", timeout=60) as answer:
                answers.append((answer.headers["Content-Type"], answer.read().decode()))
            picture = Page(answers[0][1]).pictures[0][0]
            with urllib.request.urlopen(f"{address}/{picture}", timeout=60) as answer:
                answers.append((answer.headers["Content-Type"], ""))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def serve_to_a_browser(server: ThreadingHTTPServer) -> None:
        (address,) = re.findall(r"^http://127.0.0.1:\d+", capsys.readouterr().out, flags=re.M)
        browser = threading.Thread(target=visit, args=(address,))
        browser.start()
        try:
            serve(server)
        finally:
            browser.join()

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", serve_to_a_browser)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore SIGINT
    try:
        assert browse(CONFIG, "--data-root", shapes, "--out", tmp_path, "--count", 1, "--serve", 0) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert [kind for kind, _ in answers] == ["text/html", "image/jpeg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count must be ≥ 1, got 0"),
        (["--serve", "70000"], "--serve 70000: ports are 0 … 65535; choose another"),
        (["--data-root", "/no/such/folder"], "/no/such/folder"),
        (["--out", "a_file"], "a_file"),
        (["--cfg-options", "train_data.pipeline=[CopyPaste]"], "CopyPaste .*masks=True"),
    ],
)
def test_a_mistake_in_browse_is_a_one_line_error(arguments, message, shapes, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHORDATE_DATA", str(shapes))
    (tmp_path / "a_file").write_text("")
    assert browse(CONFIG, *arguments) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.strip())
    assert line.startswith("chordate browse: ")
    assert re.search(message, line)


def test_a_port_in_use_is_an_error_before_an_image_is_drawn(shapes, tmp_path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert browse(CONFIG, "--data-root", shapes, "--out", tmp_path, "--serve", port) == 2
    assert f"chordate browse: --serve {port}: " in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()


def test_the_example_of_the_page_on_augmentation_runs(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    """The transform in docs/augmentation.md doubles the image width, and the page's YOLOX pipeline can be built."""
    text = (ROOT / "docs/augmentation.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n# (\S+)\n(.*?)```", text, flags=re.S):
        (tmp_path / block[0]).write_text(block[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert browse("my_augmentation.py", "--data-root", shapes, "--out", "out", "--count", 2) == 0
    page = Page(Path("out/index.html").read_text(encoding="utf-8"))
    assert all("96×96 → 96×192, " in caption for caption in page.captions)

    recipe = section(load_config("yolox_augmented.py"), "train_data")["pipeline"]
    assert [type(t).__name__ for t in build_pipeline(recipe).transforms][::3] == ["Mosaic", "DetectionMixUp"]
