"""Training curves: drawn values and positions of labels."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from chordate.errors import DataError
from chordate.visualization import plot_training
from chordate.visualization.training_curves import plot_losses, plot_metric, running_mean


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
        file.write('{"mode": "train", "iter')  # an incomplete line, as if the run was killed


@pytest.mark.parametrize("evaluations", [0, 1, 5])
def test_curves_are_drawn_from_a_log(tmp_path, evaluations):
    write_log(tmp_path / "log.jsonl", evaluations)
    plot_training(tmp_path / "log.jsonl", tmp_path / "training.png")
    picture = cv2.imread(str(tmp_path / "training.png"))
    assert picture.shape[1] > picture.shape[0] > 500
    assert (picture < 250).any(-1).mean() > 0.01


def test_plotting_a_file_that_is_not_a_training_log_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.txt").write_text("{this is}\n")
    for name, message in (
        ("absent", "cannot be read as a training log"),
        ("other.txt", "cannot be read as a training log"),
        ("empty.jsonl", "no training records"),
    ):
        with pytest.raises(DataError, match=message):
            plot_training(tmp_path / name, tmp_path / "out.png")


def test_running_mean_averages_the_finite_values_in_its_window():
    values = np.random.default_rng(0).random(20)
    values[4] = np.nan
    smooth = running_mean(values, 3)
    assert np.isnan(smooth[4])
    for i in {*range(20)} - {4}:
        assert smooth[i] == pytest.approx(np.nanmean(values[max(0, i - 3) : i + 4]))


def test_speed_and_gradient_norm_are_not_drawn_as_losses():
    record = {"mode": "train", "epoch": 1, "iteration": 1, "lr": 1, "rpn_cls": 1, "loss": 3, "grad_norm": 9}
    axis = Figure().add_subplot()
    plot_losses(axis, [{**record, "images_per_s": 3, "memory_gb": 4}])
    assert [line.get_label() for line in axis.lines] == ["loss", "rpn cls"]


def evaluated(**metrics: list[float]) -> list[dict[str, Any]]:
    """Evaluation records as in `log.jsonl`; record n has the n-th value of each metric."""
    rows = [dict(zip(metrics, values)) for values in zip(*metrics.values(), strict=True)]
    return [{"mode": "val", "epoch": n, "iteration": 10 * n, **row} for n, row in enumerate(rows, 1)]


def test_the_curve_of_an_error_marks_its_lowest_value_inside_the_axis():
    axis = Figure().add_subplot()
    plot_metric(axis, evaluated(mean_error=[3.0, np.nan, 2.0, 2.5]), {"mean_error"})
    (mark,) = axis.texts
    assert (mark.get_text(), mark.xy) == ("2.000", (30, 2.0))
    low, high = axis.get_ylim()
    assert low < 2.0 < 3.0 < high


def test_the_curve_of_ap_marks_its_highest_value_on_an_axis_from_0_to_1():
    axis = Figure().add_subplot()
    plot_metric(axis, evaluated(bbox_AP=[0.2, 0.4, 0.3], bbox_AP50=[-1, 0.6, 0.7]))
    assert axis.texts[0].get_text() == "0.400"
    assert axis.get_ylim() == (0, 1)


def test_the_metric_that_chooses_the_best_checkpoint_is_drawn_first():
    records = evaluated(bbox_AP=[0.2, 0.4], bbox_AP50=[0.5, 0.6], segm_AP=[0.3, 0.1])
    for first, names in (
        ("segm_AP", ["segm AP", "bbox AP", "bbox AP50"]),
        ("absent", ["bbox AP", "bbox AP50", "segm AP"]),
    ):
        axis = Figure().add_subplot()
        plot_metric(axis, records, first=first)
        assert [line.get_label() for line in axis.lines[::-1]] == names


def test_a_metric_that_training_also_logs_is_not_drawn_as_a_loss(tmp_path):
    axis = Figure().add_subplot()
    training = [{"mode": "train", "epoch": 1, "iteration": 1, "lr": 0.1, "cls": 2.0, "error": 0.5, "loss": 3.0}]
    plot_losses(axis, training, {"top1", "error"})
    assert [line.get_label() for line in axis.lines] == ["loss", "cls"]


def test_a_single_loss_that_equals_the_total_is_drawn_once():
    axis = Figure().add_subplot()
    plot_losses(axis, [{"mode": "train", "epoch": 1, "iteration": n, "lr": 0.1, "cls": n, "loss": n} for n in (1, 2)])
    assert [line.get_label() for line in axis.lines] == ["loss"]


CURVES = {
    "one record": (1, 1, lambda t: 0.01),
    "low": (3, 1, lambda t: 0.004 * t),
    "one evaluation": (40, 40, lambda t: 0.3),
    "peak": (100, 5, lambda t: 0.9 - 0.8 * abs(t - 0.6)),
    "steep": (120, 2, lambda t: 0.5 + 0.5 * np.sin(40 * t) ** 2),
}


@pytest.mark.parametrize("curve", CURVES)
def test_training_curves_mark_single_points_and_the_label_overlaps_nothing(curve, tmp_path, monkeypatch):
    """The label of the best value is within the axes, clear of curves and legend, and ticks are whole iterations."""
    count, every, value = CURVES[curve]
    lines = []
    for n in range(1, count + 1):
        lines.append({"mode": "train", "epoch": 1, "iteration": n, "lr": 0.01, "a": 1 / n, "b": 2 / n, "loss": 3 / n})
        if n % every == 0:
            ap = float(value(n / count))
            lines.append({"mode": "val", "epoch": 1, "iteration": n, "bbox_AP": ap, "bbox_AP50": min(1.5 * ap, 1)})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures: list[Figure] = []
    monkeypatch.setattr("chordate.visualization.training_curves.save", lambda figure, out: figures.append(figure))
    plot_training(tmp_path / "log.jsonl", tmp_path / "training.png")
    figures[0].canvas.draw()
    losses, learning_rate, metric = figures[0].axes
    for axis in (losses, learning_rate, metric):
        low, high = axis.get_xlim()
        assert all(tick == round(tick) for tick in axis.get_xticks() if low <= tick <= high)
        assert all(len(line.get_xdata()) > 1 or line.get_marker() == "o" for line in axis.lines)
    (label,) = metric.texts
    box = label.get_window_extent()
    assert metric.bbox.x0 <= box.x0 < box.x1 <= metric.bbox.x1
    assert metric.bbox.y0 <= box.y0 < box.y1 <= metric.bbox.y1
    assert not box.overlaps(metric.get_legend().get_window_extent())
    for line in metric.lines:
        path = line.get_transform().transform_path(line.get_path())
        assert not path.intersects_bbox(box, filled=False)
        assert not any(box.contains(*point) for point in path.vertices)
