"""Custom tasks defined outside the package: the commands run them with `custom_imports` alone."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_referee import slow
from PIL import Image

from chordate.cli.main import main
from chordate.cli.summary import backbone_row

ROOT = Path(__file__).parents[1]
OUTSIDE = Path(__file__).parent / "outside"

CONFIG = """
custom_imports = dict(imports=["{module}"])
model = dict(type="{model}", backbone={backbone})
train_data = dict(dataset=dict(type="{dataset}", count=48), batch_size=8, workers=0{pipeline})
val_data = dict(dataset=dict(type="{dataset}", count=12, first=1000), batch_size=4, workers=0)
optimizer = dict(type="AdamW", lr=5e-3)
train = dict(epochs={epochs}, log_every=4, save_best="{best}", tensorboard=False)
"""
TASKS = {
    "depth": {
        "module": "depth_task", "model": "DepthEstimator", "dataset": "Balls", "epochs": 6,
        "backbone": 'dict(type="resnet18", base_channels=8, out=["c2"])', "best": "mean_error",
        "pipeline": ', pipeline=[dict(type="RandomHorizontalFlip", p=0.5)]',
    },
    "landmarks": {
        "module": "landmark_task", "model": "LandmarkDetector", "dataset": "ThreeDots", "epochs": 8,
        "backbone": 'dict(type="resnet18", base_channels=8, out=["c2"])', "best": "distance",
        "pipeline": "",
    },
    "clips": {
        "module": "clip_task", "model": "ClipClassifier", "dataset": "MovingDots", "epochs": 8,
        "backbone": 'dict(type="ClipNet")', "best": "top1", "pipeline": "",
    },
}  # fmt: skip
# Metric, score of a trivial prediction (the wall's depth everywhere, the image center as landmark, always the same
# class), and whether higher (1) or lower (-1) is better.
UNTRAINED = {"depth": ("mean_error", 3.0, -1), "landmarks": ("distance", 19.0, -1), "clips": ("top1", 0.25, 1)}


@pytest.fixture(scope="module", params=TASKS)
def trained(request, without_curves, tmp_path_factory):
    """Train a custom task; returns its name, folder, config file and best checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    task = TASKS[request.param]
    shutil.copy(OUTSIDE / f"{task['module']}.py", folder)
    config = folder / f"{request.param}.py"
    config.write_text(CONFIG.format(**task))
    assert main(["train", str(config), "--work-dir", str(folder / "run"), "--cfg-options", "train.keep=None"]) == 0
    return request.param, folder, config, folder / "run" / f"best_{task['best']}.pt"


def evaluate(config, checkpoint, out, *more):
    assert main(["test", str(config), str(checkpoint), "--out", str(out), *more]) == 0
    return json.loads(Path(out).read_text())


def test_training_a_custom_task_improves_the_metric_that_test_reports(trained, tmp_path):
    name, _folder, config, checkpoint = trained
    metric, untrained, sign = UNTRAINED[name]
    numbers = evaluate(config, checkpoint, tmp_path / "numbers.json", "--picture", str(tmp_path / "sheet.png"))
    assert sign * (numbers[metric] - untrained) > 0.3 * untrained
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    assert sheet.std() > 10


def test_a_checkpoint_has_the_metadata_of_the_dataset(trained):
    name, _folder, _config, checkpoint = trained
    meta = torch.load(checkpoint, weights_only=True)["meta"]
    expected = {"depth": {"unit": "m"}, "clips": {}}
    if name == "landmarks":
        assert meta["extra"]["num_landmarks"] == 3 and meta["extra"]["landmarks"] == ["red", "green", "blue"]
    else:
        assert meta["extra"] == expected[name]
    assert meta["classes"] == (["right", "left", "down", "up"] if name == "clips" else [])


@pytest.mark.parametrize("trained", ["depth", *slow("landmarks", "clips")], indirect=True)  # only depth is augmented
def test_resume_gives_the_same_weights_as_no_interruption(trained, tmp_path):
    _name, folder, config, _checkpoint = trained
    epochs = sorted((folder / "run").glob("epoch_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
    whole = torch.load(epochs[-1], weights_only=True)["model"]
    shutil.copy(epochs[-3], tmp_path / "middle.pt")
    work_dir = tmp_path / "again"
    assert main(["train", str(config), "--work-dir", str(work_dir), "--resume", str(tmp_path / "middle.pt")]) == 0
    resumed = torch.load(work_dir / epochs[-1].name, weights_only=True)["model"]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("trained", ["depth", "landmarks"], indirect=True)  # clips are not image files
def test_predict_draws_and_writes_records(trained, tmp_path):
    name, _folder, config, checkpoint = trained
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    out = tmp_path / "out"
    assert main(["predict", str(config), str(checkpoint), str(tmp_path / "x.png"), "--out", str(out)]) == 0
    (record,) = json.loads((out / "predictions.json").read_text())
    assert (
        record.keys() - {"file"}
        == {
            "depth": {"nearest", "farthest", "unit"},
            "landmarks": {"red", "green", "blue"},
        }[name]
    )
    assert len(list(out.glob("*.png"))) == 1


def test_browse_shows_the_training_samples(trained, tmp_path):
    name, _folder, config, _checkpoint = trained
    assert main(["browse", str(config), "--count", "5", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img") == 5 and len(list(tmp_path.glob("*.jpg"))) == 5
    if name == "depth":
        assert "up to 10.0 m" in page


def test_check_reads_the_samples(trained, tmp_path):
    _name, _folder, config, _checkpoint = trained
    assert main(["check", str(config), "--out", str(tmp_path)]) == 0
    assert "Training would start." in (tmp_path / "index.html").read_text()


def test_summary_counts_the_model(trained, capsys):
    _name, _folder, config, checkpoint = trained
    assert main(["summary", str(config)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if f" {config.stem} " in line)
    count = sum(t.numel() for k, t in torch.load(checkpoint, weights_only=True)["model"].items() if "running" not in k)
    millions = float(row.split("│")[3])
    assert millions == pytest.approx(count / 1e6, abs=0.01)


@pytest.mark.parametrize("trained", ["clips"], indirect=True)
def test_data_whose_classes_differ_from_the_models_is_refused(trained, tmp_path, capsys):
    _name, _folder, config, checkpoint = trained
    state = torch.load(checkpoint, weights_only=True)
    state["meta"]["classes"] = state["meta"]["classes"][::-1]
    torch.save(state, tmp_path / "reversed.pt")
    assert main(["test", str(config), str(tmp_path / "reversed.pt")]) == 2
    assert "MovingDots does not fit the model: it has classes 4 [right, left" in capsys.readouterr().err


@pytest.mark.parametrize("trained", ["clips"], indirect=True)
def test_summary_counts_a_backbone_for_clips(trained):
    """The counts include a classifier with 1000 classes; multiply-adds are those for a clip of 6 frames of 224×224."""
    _, parameters, multiply_adds, maps = backbone_row("ClipNet", None)
    stem, stage = 3 * 8 * 27, 8 * 16 * 27
    assert maps == "c2:8/4 c3:16/8"
    assert float(parameters) == pytest.approx((stem + 8 + 16 + stage + 16 + 17 * 1000) / 1e6, abs=0.006)
    by_hand = stem * 6 * 56 * 56 + stage * 3 * 28 * 28 + 16 * 1000
    assert float(multiply_adds) == pytest.approx(by_hand / 1e9, abs=0.006)


TASK_TYPES = {"Detections", "Classification", "InstanceTargets", "ClassTargets", "CocoDataset", "ImageFolder"}
OPEN = [
    *("cli", "api.py", "data/loader.py", "data/dataset.py", "data/check_dataset.py", "structures/batch.py"),
    *("visualization", "evaluation/build_metric.py", "training", "models/build.py", "models/feature_extraction.py"),
    *("weights/candidates.py", "weights/loading.py", "weights/find_weights.py"),
]


def task_type_checks(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and called function of each check for task-specific types or optional attributes: `isinstance` and
    `issubclass` with one of TASK_TYPES, `hasattr`, and `getattr` with a literal name or a default."""
    checks = []
    for node in ast.walk(tree):
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if called in ("isinstance", "issubclass"):
            names = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node.args[1])}
            if names & TASK_TYPES:
                checks.append((node.lineno, called))
        if called == "hasattr" or (
            called == "getattr" and (len(node.args) > 2 or isinstance(node.args[1], ast.Constant))
        ):
            checks.append((node.lineno, called))
    return checks


def test_files_shared_by_all_tasks_do_not_check_for_task_types():
    """A custom task must not need changes in these files."""
    files = [path for part in OPEN for path in _files(ROOT / "chordate" / part)]
    assert len(files) > 20
    for path in files:
        assert not task_type_checks(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        ("isinstance(x, Detections)", ["isinstance"]),
        ("isinstance(x, int | structures.ClassTargets)", ["isinstance"]),
        ("hasattr(prediction, 'boxes')", ["hasattr"]),
        ("getattr(prediction, 'boxes', None)", ["getattr"]),
        ("getattr(prediction, name, None)", ["getattr"]),
        ("getattr(prediction, 'boxes')", ["getattr"]),
        ("getattr(self, field.name)", []),
        ("isinstance(x, Tensor)", []),
    ],
)
def test_the_search_for_task_type_checks_detects_each_kind(code, kinds):
    assert [kind for _line, kind in task_type_checks(ast.parse(code))] == kinds


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
