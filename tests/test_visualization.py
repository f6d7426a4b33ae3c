"""Pictures and curves: everything readable, nothing cut off, colours that keep their meaning."""

import json
from pathlib import Path

import cv2
import hotcoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tiny_coco import write_coco

from chordate.data import CocoDataset
from chordate.data.shapes import CLASSES, generate_shapes
from chordate.errors import DataError
from chordate.structures import Detections, ImageInfo, Skeleton
from chordate.visualization import draw, plot_training, side_by_side, write_image
from chordate.visualization.paint import _place, colour_of, fit_text, make_font
from chordate.visualization.pictures import _truth
from chordate.visualization.training_curves import _plot_losses, _running_mean

NOTHING = {"image_id": 1, "category_id": 3, "area": 1, "iscrowd": 0}  # an annotation without geometry
GREY = np.full((100, 160, 3), 128, np.uint8)


def detections(*rows: tuple, **more) -> Detections:
    """Of (x1, y1, x2, y2, score, label) rows."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long(), **more)


def changed(picture: np.ndarray) -> np.ndarray:
    """`[H, W]` bool: where a drawing on grey is not grey."""
    return (picture != 128).any(-1)


def test_small_pictures_are_enlarged_and_large_ones_keep_their_size():
    assert draw(GREY, detections(), ["a"]).shape == (400, 640, 3)
    large = np.zeros((900, 700, 3), np.uint8)
    assert draw(large, detections((5, 5, 9, 9, 0.9, 0)), ["a"]).shape == large.shape


def test_the_box_lies_where_the_detection_says_in_the_colour_of_its_class():
    for label in (0, 3):
        picture = draw(GREY, detections((40, 50, 120, 90, 0.9, label)), ["a", "b", "c", "d"])
        left, right, top, bottom = 4 * 40, 4 * 120, 4 * 50, 4 * 90
        for y, x in (((top + bottom) // 2, left), ((top + bottom) // 2, right), (bottom, (left + right) // 2)):
            assert tuple(picture[y, x]) == colour_of(label)
        inside = picture[top + 30 : bottom - 10, left + 10 : right - 10]
        assert not changed(inside).any()


def test_the_image_given_is_not_painted_on():
    image = np.full((640, 640, 3), 128, np.uint8)
    draw(image, detections((40, 50, 120, 90, 0.9, 0), masks=torch.ones(1, 640, 640, dtype=torch.bool)), ["a"])
    assert not changed(image).any()


def test_low_scores_are_left_out():
    found = detections((10, 10, 50, 50, 0.6, 0), (60, 10, 90, 50, 0.4, 0))
    assert changed(draw(GREY, found, ["a"], threshold=0.3))[:, 4 * 85 :].any()
    assert not changed(draw(GREY, found, ["a"], threshold=0.5))[:, 4 * 55 :].any()
    assert not changed(draw(GREY, found, ["a"], threshold=0.7)).any()


def test_any_number_of_classes_has_colours_and_the_first_ones_differ_clearly():
    colours = np.array([colour_of(label) for label in range(300)])
    assert colours.min() >= 0 and colours.max() <= 255
    apart = np.abs(colours[:8, None] - colours[None, :8]).sum(-1)[~np.eye(8, dtype=bool)]
    assert apart.min() > 70


coordinate = st.integers(-50, 700)


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.integers(10, 300), st.lists(st.integers(0, 300)))
def test_labels_lie_within_the_picture(box, width, corners):
    box = tuple(min(max(value, 0), last) for value, last in zip(box, (639, 399, 639, 399)))
    taken = [(x, x, x + 90, x + 20) for x in corners]
    x1, y1, x2, y2 = _place(box, width, 19, (640, 400), taken)
    assert x1 >= 0 and y1 >= 0 and x2 < 640 and y2 < 400
    assert (x2 - x1 + 1, y2 - y1 + 1) == (width, 19)


def test_two_detections_at_one_place_have_labels_apart():
    first = _place((100, 100, 300, 300), 80, 19, (640, 400), [])
    second = _place((100, 100, 300, 300), 80, 19, (640, 400), [first])
    assert second[0] > first[2] or second[1] > first[3] or second[2] < first[0] or second[3] < first[1]


def test_a_name_too_long_is_cut_but_its_score_is_not():
    font = make_font(13)
    text = fit_text("a class with a very long name indeed", " 0.97", font, 120)
    assert font.getlength(text) <= 120
    assert text.startswith("a class") and text.endswith("… 0.97")
    assert fit_text("cat", " 0.97", font, 120) == "cat 0.97"
    narrow = np.full((640, 40, 3), 128, np.uint8)
    assert draw(narrow, detections((5, 5, 30, 30, 0.9, 0)), ["a very long name"]).shape == narrow.shape


def test_masks_tint_what_they_cover_and_keypoints_are_dots():
    mask = torch.zeros(1, 100, 160, dtype=torch.bool)
    mask[:, 60:80, 60:90] = True
    points = torch.tensor([[[140.0, 90.0, 5.0]]])
    found = detections((40, 50, 120, 95, 0.9, 1), masks=mask, keypoints=points)
    picture = changed(draw(GREY, found, ["a", "b"]))
    assert picture[4 * 62 : 4 * 78, 4 * 62 : 4 * 88].all()
    assert not picture[4 * 84 : 4 * 90, 4 * 62 : 4 * 88].any()
    assert picture[4 * 90, 4 * 140] and not picture[4 * 90, 4 * 150]


def test_bones_join_the_keypoints_that_are_found():
    """Detectron leaves out those whose logit is below 2."""
    skeleton = Skeleton(("a", "b", "c", "d"), ((0, 1), (1, 2), (2, 3)))
    points = torch.tensor([[[130.0, 20, 5], [150, 20, 5], [150, 60, 2.5], [130, 60, 1.5]]])
    found = detections((10, 50, 60, 95, 0.9, 1), keypoints=points)
    plain, joined = (changed(draw(GREY, found, ["a", "b"], skeleton=bones)) for bones in (None, skeleton))
    assert not plain[4 * 20, 4 * 140] and joined[4 * 20, 4 * 140]
    assert not plain[4 * 40, 4 * 150] and joined[4 * 40, 4 * 150]
    assert not joined[4 * 60, 4 * 140] and not joined[4 * 60, 4 * 130]


def test_objects_with_shapes_have_colours_of_their_own():
    """Neighbours are often of one class; boxes alone keep their class's colour."""
    rows = (10, 40, 60, 95, 0.9, 1), (90, 40, 150, 95, 0.8, 1)
    masks = torch.zeros(2, 100, 160, dtype=torch.bool)
    edges = [[draw(GREY, found, ["a", "b"])[4 * 70, 4 * x + 1].tolist() for x in (10, 90)] for found in (
        detections(*rows), detections(*rows, masks=masks)
    )]  # fmt: skip
    assert edges[0][0] == edges[0][1] == list(colour_of(1))
    assert edges[1] == [list(colour_of(0)), list(colour_of(1))]


def test_names_outside_ascii_are_drawn():
    plain, accented = (draw(GREY, detections((20, 50, 120, 95, 0.9, 0)), [name]) for name in ("eee", "éßЖ"))
    unknown = draw(GREY, detections((20, 50, 120, 95, 0.9, 0)), ["???"])
    assert (plain != accented).any() and (accented != unknown).any()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A generated set of six pictures as the part of a data set that the sheet looks at, and its ImageInfos."""
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, train=0, val=6, size=96, seed=2)

    class Set:
        classes = CLASSES
        category_ids = tuple(range(1, len(CLASSES) + 1))
        coco = hotcoco.COCO(str(root / "annotations/val.json"))

    infos = [ImageInfo(i, str(root / f"val/{i:06}.jpg"), 96, 96) for i in range(1, 7)]
    return Set, infos


def test_a_sheet_shows_each_image_twice_with_its_truth_at_the_left(shapes):
    data, infos = shapes
    chosen = next(info for info in infos if data.coco.get_ann_ids(img_ids=[info.image_id]))
    (first, *_) = data.coco.load_anns(data.coco.get_ann_ids(img_ids=[chosen.image_id]))
    sheet = side_by_side([chosen], [detections()], data, panel=384)
    original = cv2.cvtColor(cv2.imread(chosen.path), cv2.COLOR_BGR2RGB)
    plain = cv2.resize(original, (384, 384), interpolation=cv2.INTER_CUBIC)
    top, left, gap = 7 + 30, 14, 4
    truth = sheet[top : top + 384, left : left + 384]
    empty = sheet[top : top + 384, left + 384 + gap : left + 2 * 384 + gap]
    np.testing.assert_array_equal(empty, plain)  # nothing was found
    x, y, _, h = first["bbox"]
    colour = colour_of(first["category_id"] - 1)
    edge = truth[round(4 * (y + h / 2)) - 30 : round(4 * (y + h / 2)) + 30, round(4 * x)]
    assert (edge == colour).all(-1).any()


def test_a_sheet_has_as_many_rows_as_it_needs(shapes):
    data, infos = shapes
    heights = {n: side_by_side(infos[:n], [detections()] * n, data, panel=100).shape[:2] for n in (1, 2, 3, 6)}
    assert heights[1][0] == heights[2][0] < heights[3][0] < heights[6][0]
    assert heights[1][1] < heights[2][1] == heights[3][1] == heights[6][1]
    assert side_by_side([], [], data).size > 0


def test_pictures_are_written_in_the_format_of_their_ending(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "a.nonsense", picture)
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "absent/a.png", picture)


def write_log(path: Path, evaluations: int) -> None:
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for n in range(1, 121):
            parts = {"rpn_cls": 1 / n + 0.1 * rng.random(), "box_cls": 2 / n}
            record = {"mode": "train", "epoch": 1, "iteration": 10 * n, "lr": 0.01, **parts}
            record |= {"loss": None if n == 7 else sum(parts.values()), "images_per_s": 31.5}
            file.write(json.dumps(record) + "\n")
            if evaluations and n % (120 // evaluations) == 0:
                numbers = {"bbox_AP": n / 300, "bbox_AP50": n / 200, "bbox_AP75": -1.0, "bbox_AR1": 0.1}
                file.write(json.dumps({"mode": "val", "epoch": 1, "iteration": 10 * n, **numbers}) + "\n")
        file.write('{"mode": "train", "iter')  # the run was killed while it wrote


@pytest.mark.parametrize("evaluations", [0, 1, 5])
def test_curves_are_drawn_from_a_log(tmp_path, evaluations):
    write_log(tmp_path / "log.jsonl", evaluations)
    plot_training(tmp_path / "log.jsonl", tmp_path / "training.png")
    picture = cv2.imread(str(tmp_path / "training.png"))
    assert picture.shape[1] > picture.shape[0] > 500
    assert (picture < 250).any(-1).mean() > 0.01


def test_what_is_no_log_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.txt").write_text("{this is}\n")
    for name, message in (
        ("absent", "not a training log"),
        ("other.txt", "not a training log"),
        ("empty.jsonl", "no record"),
    ):
        with pytest.raises(DataError, match=message):
            plot_training(tmp_path / name, tmp_path / "out.png")


def test_running_mean_averages_the_finite_values_within_reach():
    values = np.random.default_rng(0).random(20)
    values[4] = np.nan
    smooth = _running_mean(values, 3)
    assert np.isnan(smooth[4])
    for i in {*range(20)} - {4}:
        assert smooth[i] == pytest.approx(np.nanmean(values[max(0, i - 3) : i + 4]))


def test_annotations_without_a_box_are_drawn_by_their_outline_or_left_out(tmp_path):
    outline = {"segmentation": [[20, 20, 60, 20, 60, 50, 20, 50]], "area": 1200, "iscrowd": 0}
    write_coco(tmp_path, [{"id": 1, "image_id": 1, "category_id": 3, **outline}, {**NOTHING, "id": 2}])
    dataset = CocoDataset("annotations.json", "images", data_root=tmp_path, health="warn")
    (mark,) = _truth(dataset, 1)
    assert list(mark.box) == [20, 20, 60, 50]


def test_the_speed_and_the_gradients_norm_are_no_losses():
    record = {"mode": "train", "epoch": 1, "iteration": 1, "lr": 1, "rpn_cls": 1, "loss": 1, "grad_norm": 9}
    axis = Figure().add_subplot()
    _plot_losses(axis, [{**record, "images_per_s": 3, "memory_gb": 4}])
    assert [line.get_label() for line in axis.lines] == ["loss", "rpn cls"]
