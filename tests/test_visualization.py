"""Drawings of predictions and targets have legible labels and consistent colors, and nothing is cut off."""

import colorsys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_coco import write_coco

from chordate.data import CocoDataset
from chordate.data.shapes import generate_shapes
from chordate.errors import ConfigError, DataError
from chordate.structures import (
    Batch,
    Classification,
    ClassTargets,
    DatasetMeta,
    Detections,
    ImageInfo,
    InstanceTargets,
    PanopticMap,
    Prediction,
    Skeleton,
    Targets,
)
from chordate.visualization import (
    color_of,
    draw,
    draw_batch,
    draw_targets,
    plot_report,
    side_by_side,
    to_picture,
    write_image,
)
from chordate.visualization.canvas import fit_text, is_bright, make_font, place_label
from chordate.visualization.detection_drawing import instance_annotations

EMPTY_ANNOTATION = {
    "image_id": 1,
    "category_id": 3,
    "area": 1,
    "iscrowd": 0,
}  # has no box, mask or keypoints
GRAY = np.full((100, 160, 3), 128, np.uint8)
ONE, TWO, FOUR = (DatasetMeta(classes=("a", "b", "c", "d")[:n]) for n in (1, 2, 4))


def detections(*rows: tuple, **more) -> Detections:
    """Detections from (x1, y1, x2, y2, score, label) rows."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long(), **more)


def changed(picture: np.ndarray) -> np.ndarray:
    """Mask `[H, W]` (bool) of the pixels that were drawn on a gray image."""
    return (picture != 128).any(-1)


def test_small_images_are_enlarged_and_large_ones_keep_their_size():
    assert draw(detections(), GRAY, ONE).shape == (400, 640, 3)
    large = np.zeros((900, 700, 3), np.uint8)
    assert draw(detections((5, 5, 9, 9, 0.9, 0)), large, ONE).shape == large.shape


def test_a_box_is_drawn_at_its_coordinates_in_the_color_of_its_class():
    for label in (0, 3):
        picture = draw(detections((40, 50, 120, 90, 0.9, label)), GRAY, FOUR)
        left, right, top, bottom = 4 * 40, 4 * 120, 4 * 50, 4 * 90
        for y, x in (((top + bottom) // 2, left), ((top + bottom) // 2, right), (bottom, (left + right) // 2)):
            assert tuple(picture[y, x]) == color_of(label)
        inside = picture[top + 30 : bottom - 10, left + 10 : right - 10]
        assert not changed(inside).any()


def test_the_input_image_is_not_drawn_on():
    image = np.full((640, 640, 3), 128, np.uint8)
    draw(detections((40, 50, 120, 90, 0.9, 0), masks=torch.ones(1, 640, 640, dtype=torch.bool)), image, ONE)
    assert not changed(image).any()


def test_detections_below_the_score_threshold_are_not_drawn():
    detected = detections((10, 10, 50, 50, 0.6, 0), (60, 10, 90, 50, 0.4, 0))
    assert changed(draw(detected, GRAY, ONE, score_threshold=0.3))[:, 4 * 85 :].any()
    assert not changed(draw(detected, GRAY, ONE, score_threshold=0.5))[:, 4 * 55 :].any()
    assert not changed(draw(detected, GRAY, ONE, score_threshold=0.7)).any()


def test_every_class_has_a_color_and_the_first_eight_differ_clearly():
    colors = np.array([color_of(label) for label in range(300)])
    assert colors.min() >= 0 and colors.max() <= 255
    distances = np.abs(colors[:8, None] - colors[None, :8]).sum(-1)[~np.eye(8, dtype=bool)]
    assert distances.min() > 70


coordinate = st.integers(-50, 700)


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.integers(10, 300), st.lists(st.integers(0, 300)))
def test_labels_lie_within_the_image(box, width, corners):
    box = tuple(min(max(value, 0), last) for value, last in zip(box, (639, 399, 639, 399)))
    taken = [(x, x, x + 90, x + 20) for x in corners]
    x1, y1, x2, y2 = place_label(box, width, 19, (640, 400), taken)
    assert x1 >= 0 and y1 >= 0 and x2 < 640 and y2 < 400
    assert (x2 - x1 + 1, y2 - y1 + 1) == (width, 19)


def test_labels_of_two_detections_with_the_same_box_do_not_overlap():
    first = place_label((100, 100, 300, 300), 80, 19, (640, 400), [])
    second = place_label((100, 100, 300, 300), 80, 19, (640, 400), [first])
    assert second[0] > first[2] or second[1] > first[3] or second[2] < first[0] or second[3] < first[1]


def test_a_long_class_name_is_truncated_but_its_score_is_not():
    font = make_font(13)
    text = fit_text("a class with a very long name indeed", " 0.97", font, 120)
    assert font.getlength(text) <= 120
    assert text.startswith("a class") and text.endswith("… 0.97")
    assert fit_text("cat", " 0.97", font, 120) == "cat 0.97"
    narrow = np.full((640, 40, 3), 128, np.uint8)
    meta = DatasetMeta(classes=("a very long name",))
    assert draw(detections((5, 5, 30, 30, 0.9, 0)), narrow, meta).shape == narrow.shape


def test_masks_tint_their_pixels_and_keypoints_are_dots():
    mask = torch.zeros(1, 100, 160, dtype=torch.bool)
    mask[:, 60:80, 60:90] = True
    points = torch.tensor([[[140.0, 90.0, 5.0]]])
    detected = detections((40, 50, 120, 95, 0.9, 1), masks=mask, keypoints=points)
    picture = changed(draw(detected, GRAY, TWO))
    assert picture[4 * 62 : 4 * 78, 4 * 62 : 4 * 88].all()
    assert not picture[4 * 84 : 4 * 90, 4 * 62 : 4 * 88].any()
    assert picture[4 * 90, 4 * 140] and not picture[4 * 90, 4 * 150]


@pytest.mark.parametrize("side", [360, 640, 1600])
def test_keypoints_are_dots_of_a_hundredth_of_the_picture_or_more(side):
    detected = detections((5, 5, 30, 30, 0.9, 1), keypoints=torch.tensor([[[120.0, 60.0, 5.0]]]))
    row = changed(draw(detected, GRAY, TWO, long_side=side))[60 * side // 160]
    assert side / 100 < row[side // 2 :].sum() < side / 40


def test_bones_connect_the_keypoints_above_the_threshold():
    """As in Detectron, keypoints whose logit is below 2 are not drawn."""
    skeleton = Skeleton(("a", "b", "c", "d"), ((0, 1), (1, 2), (2, 3)))
    points = torch.tensor([[[130.0, 20, 5], [150, 20, 5], [150, 60, 2.5], [130, 60, 1.5]]])
    detected = detections((10, 50, 60, 95, 0.9, 1), keypoints=points)
    plain, joined = (changed(draw(detected, GRAY, replace(TWO, skeleton=bones))) for bones in (None, skeleton))
    assert not plain[4 * 20, 4 * 140] and joined[4 * 20, 4 * 140]
    assert not plain[4 * 40, 4 * 150] and joined[4 * 40, 4 * 150]
    assert not joined[4 * 60, 4 * 140] and not joined[4 * 60, 4 * 130]


def contrast(a: tuple, b: tuple) -> float:
    """The contrast ratio of two colors, 1 … 21 (WCAG 2.2)."""
    first, second = (
        sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip(WEIGHTS, color))
        for color in (np.array(a) / 255, np.array(b) / 255)
    )
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


WEIGHTS = (0.2126, 0.7152, 0.0722)


def test_instances_have_shades_of_their_classs_color_equal_in_targets_and_predictions():
    rows = (90, 40, 120, 95, 0.9, 1), (50, 40, 80, 95, 0.7, 1), (10, 40, 40, 95, 0.8, 1), (130, 40, 155, 95, 0.6, 0)
    masks = torch.zeros(4, 100, 160, dtype=torch.bool)
    detected = detections(*rows)
    valid = torch.ones(1, 4, dtype=torch.bool)
    truth = InstanceTargets(detected.boxes[None], detected.labels[None], valid, ~valid)
    pictures = [
        draw(detected, GRAY, TWO),
        draw(detections(*rows, masks=masks), GRAY, TWO),
        draw_targets(truth, 0, GRAY, TWO),
    ]
    edges = [[tuple(picture[4 * 70, 4 * x + 1].tolist()) for x in (10, 50, 90, 130)] for picture in pictures]
    assert edges[0] == edges[1] == edges[2]
    assert edges[0][0] == color_of(1) and edges[0][3] == color_of(0)
    assert len({*edges[0]}) == 4
    hues = [colorsys.rgb_to_hsv(*color)[0] for color in edges[0][:3]]
    assert np.ptp(hues) < 0.02


def test_instances_below_the_score_threshold_do_not_change_the_colors_of_the_others():
    low = detections((10, 40, 40, 95, 0.2, 1), (90, 40, 120, 95, 0.9, 1))
    high = detections((90, 40, 120, 95, 0.9, 1))
    np.testing.assert_array_equal(draw(low, GRAY, TWO, score_threshold=0.5), draw(high, GRAY, TWO))


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_labels_text_has_contrast_on_any_color(color):
    assert contrast(color, (0, 0, 0) if is_bright(color) else (255, 255, 255)) >= 4.5  # required by WCAG, level AA


def test_the_label_of_the_best_detection_is_on_top():
    rows = [(10, 50, 40, 90, 0.9 - 0.01 * n, n) for n in range(12)]  # more labels than there are free positions
    meta = DatasetMeta(classes=tuple("abcdefghijkl"))
    first = draw(detections(rows[0]), GRAY, meta)
    tag = (first == color_of(0)).all(-1)
    tag[4 * 50 :] = False  # keeps only the label, which is above the box
    np.testing.assert_array_equal(draw(detections(*rows), GRAY, meta)[tag], first[tag])


def test_names_outside_ascii_are_drawn():
    detected = detections((20, 50, 120, 95, 0.9, 0))
    plain, accented, unknown = (draw(detected, GRAY, DatasetMeta(classes=(name,))) for name in ("eee", "éßЖ", "???"))
    assert (plain != accented).any() and (accented != unknown).any()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> CocoDataset:
    """A generated dataset of six images."""
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=0, val=6, size=96, seed=2)
    return CocoDataset("annotations/val.json", "val", data_root=root)


def sheet_of(dataset: CocoDataset, indices, panel: int) -> np.ndarray:
    """A sheet of images of a dataset with their targets, and without detections."""
    samples = [dataset.read(index) for index in indices]
    images = [to_picture(sample["image"]) for sample in samples]
    names = [Path(sample["info"].path).name for sample in samples]
    targets = [InstanceTargets.collate([sample], sample["image"].shape[-2:]) for sample in samples]
    return side_by_side(images, names, [detections()] * len(images), targets, dataset.meta, panel=panel)


def test_a_sheet_shows_each_image_twice_with_its_targets_at_the_left(shapes):
    ids = shapes.image_ids.tolist()
    chosen = next(index for index, id in enumerate(ids) if shapes.coco.get_ann_ids(img_ids=[id]))
    annotations = shapes.coco.load_anns(shapes.coco.get_ann_ids(img_ids=[ids[chosen]]))
    first = min(annotations, key=lambda annotation: 2 * annotation["bbox"][0] + annotation["bbox"][2])
    sheet = sheet_of(shapes, [chosen], panel=384)
    original = cv2.cvtColor(cv2.imread(shapes.read(chosen)["info"].path), cv2.COLOR_BGR2RGB)
    plain = cv2.resize(original, (384, 384), interpolation=cv2.INTER_CUBIC)
    top, left, gap = 7 + 30, 14, 4
    truth = sheet[top : top + 384, left : left + 384]
    empty = sheet[top : top + 384, left + 384 + gap : left + 2 * 384 + gap]
    np.testing.assert_array_equal(empty, plain)  # the right panel has no detections
    x, y, _, h = first["bbox"]
    color = color_of(first["category_id"] - 1)
    edge = truth[round(4 * (y + h / 2)) - 30 : round(4 * (y + h / 2)) + 30, round(4 * x)]
    assert (edge == color).all(-1).any()


def test_a_sheet_has_as_many_rows_as_it_needs(shapes):
    heights = {n: sheet_of(shapes, range(n), panel=100).shape[:2] for n in (1, 2, 3, 6)}
    assert heights[1][0] == heights[2][0] < heights[3][0] < heights[6][0]
    assert heights[1][1] < heights[2][1] == heights[3][1] == heights[6][1]
    assert side_by_side([], [], [], [], shapes.meta).size > 0


def test_a_sheet_of_classifications_shows_the_true_class_and_the_predicted_one():
    targets, prediction = ClassTargets(torch.tensor([1])), Classification(torch.tensor([0.75, 0.25]))
    sheet = side_by_side([GRAY], ["a.png"], [prediction], [targets], TWO, panel=160)
    top, left, gap = 7 + 30, 14, 4
    frames = [sheet[top : top + 100, x : x + 160] for x in (left, left + 160 + gap)]
    assert [tuple(frame[50, 0]) for frame in frames] == [color_of(1), color_of(0)]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_sheet_shows_segments_of_low_scores_and_detections_only_above_the_threshold(threshold):
    """By default, a thing of a panoptic prediction is drawn whatever its score is: the metric counts it."""
    ids = torch.ones(100, 160, dtype=torch.int32)
    one = torch.tensor([0]), torch.tensor([True]), torch.tensor([0.2]), torch.tensor([16000])
    box = torch.tensor([[20.0, 20, 140, 80]])
    left, top, gap = 14, 7 + 30, 4
    for prediction, drawn in (
        (PanopticMap(ids, *one), threshold is None),
        (Detections(box, torch.tensor([0.2]), torch.tensor([0])), False),
    ):
        sheet = side_by_side([GRAY], [""], [prediction], [None], TWO, panel=160, score_threshold=threshold)
        right = sheet[top : top + 100, left + 160 + gap : left + 2 * 160 + gap]
        assert (right != GRAY).any() == drawn


def test_images_larger_than_their_panel_are_shrunk():
    large = np.full((900, 1200, 3), 128, np.uint8)
    sheet = side_by_side([large], ["a.png"], [detections()], [None], ONE, panel=100)
    assert sheet.shape == (7 + 30 + 75 + 14 + 7, 14 + 100 + 4 + 100 + 14, 3)


@dataclass
class Depth(Prediction):
    """The prediction of a custom task."""

    depth: torch.Tensor


@dataclass
class DepthTargets(Targets):
    """The targets of the custom task."""

    depth: torch.Tensor


def test_drawing_functions_can_be_registered_for_a_custom_task():
    depth, targets = Depth(torch.zeros(2, 2)), DepthTargets(torch.tensor([3, 7]))
    for function, value, arguments in (
        (draw, depth, (GRAY, ONE)),
        (draw_targets, targets, (0, GRAY, ONE)),
        (plot_report, depth, ("folder",)),
    ):
        remedy = rf"register a function for it with @chordate\.visualization\.{function.__name__}\.register"
        with pytest.raises(ConfigError, match=f"^{type(value).__name__} cannot be drawn; {remedy}$"):
            function(value, *arguments)

    @draw.register
    def draw_depth(prediction: Depth, image, meta, *, score_threshold=0.0, long_side=None):
        return np.zeros_like(image)

    @draw_targets.register
    def draw_depth_targets(targets: DepthTargets, index, image, meta, *, long_side=None):
        return np.full_like(image, targets.depth[index].item())

    batch = Batch(torch.zeros(2, 3, 8, 8), torch.full((2, 2), 8), [ImageInfo(0, "", 8, 8)] * 2, targets)
    assert [picture.max() for picture in draw_batch(batch, ONE)] == [3, 7]
    sheet = side_by_side([GRAY], [""], [depth], [targets], ONE, panel=160)
    assert (sheet[50, 20] == 3).all() and (sheet[50, 200] == 0).all()


@dataclass
class Tint:
    """A prediction whose drawing function ignores `long_side`."""

    display_threshold = 0.0

    def above(self, score_threshold):
        return self

    def describe(self):
        return ""


@draw.register
def draw_tint(prediction: Tint, image, meta, **options):
    return np.full_like(image, 7)


@pytest.mark.parametrize("side", [8, 320])
def test_every_picture_of_a_sheet_has_the_width_of_its_column(side):
    image = np.zeros((side, side, 3), np.uint8)
    sheet = side_by_side([image], [""], [Tint()], [None], ONE, panel=160)
    assert sheet.shape == side_by_side([image], [""], [detections()], [None], ONE, panel=160).shape
    assert (sheet[37:] == 7).all(2).sum() == 160 * 160  # below the caption


def test_a_metric_without_a_report_is_refused():
    with pytest.raises(ConfigError, match="--report: this metric has no report"):
        plot_report(None, "folder")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_images_of_any_number_of_channels_and_clips_are_drawn(channels):
    clips = torch.arange(3).view(1, 1, 3, 1, 1).expand(2, channels, 3, 20, 30) * 50.0
    clips = clips + torch.arange(channels).view(1, channels, 1, 1, 1)
    infos, sizes = [ImageInfo(0, "", 20, 30)] * 2, torch.tensor([[20, 30]] * 2)
    color = [50, 51, 52] if channels >= 3 else [50] * 3
    for images in (clips, clips[:, :, 1]):
        for picture in draw_batch(Batch(images, sizes, infos), ONE):
            assert picture.shape == (427, 640, 3)
            assert (picture == color).all()


def test_a_palette_replaces_the_generated_colors_of_classes():
    meta = replace(TWO, palette=((1, 2, 3), (200, 100, 50)))
    picture = draw(detections((40, 50, 120, 90, 0.9, 1)), GRAY, meta)
    assert tuple(picture[4 * 70, 4 * 40]) == (200, 100, 50)
    picture = draw_targets(ClassTargets(torch.tensor([1])), 0, GRAY, meta)
    assert tuple(picture[200, 0]) == (200, 100, 50)


def test_images_are_written_in_the_format_of_their_file_extension(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "a.nonsense", picture)
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "absent/a.png", picture)


def test_annotations_without_a_box_get_the_box_of_their_polygons_or_are_omitted(tmp_path):
    outline = {"segmentation": [[20, 20, 60, 20, 60, 50, 20, 50]], "area": 1200, "iscrowd": 0}
    write_coco(tmp_path, [{"id": 1, "image_id": 1, "category_id": 3, **outline}, {**EMPTY_ANNOTATION, "id": 2}])
    dataset = CocoDataset("annotations.json", "images", data_root=tmp_path, health="warn")
    sample = dataset.read(0)
    size = sample["image"].shape[-2:]
    (annotation,) = instance_annotations(InstanceTargets.collate([sample], size), 0, dataset.meta, size)
    assert list(annotation.box) == [20, 20, 60, 50]
