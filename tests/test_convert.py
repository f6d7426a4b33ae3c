"""`chordate convert`: converts Detectron2's checkpoints to ours, with a printed config, and ours back, bit for bit."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import chordate
from chordate.cli.convert import base_name
from chordate.cli.main import main
from chordate.config import load_config
from chordate.errors import CheckpointError
from chordate.migration.config_writer import write_config
from chordate.weights.checkpoint_conversion import recognized_config, restored
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.find_weights import find_weights

CONFIG = """
base = "faster-rcnn_r18_fpn_1x_coco"
model = dict(
    backbone=dict(pretrained=None),
    box=dict(trunk=dict(fc_channels=16)),
    neck=dict(channels=8),
)
fallback_meta = dict(classes=3)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a config, our checkpoint of its random model, and the same weights in Detectron2's format."""
    root = tmp_path_factory.mktemp("files")
    (root / "small.py").write_text(CONFIG)
    torch.manual_seed(0)
    model = chordate.build_model(root / "small.py", pretrained=False)
    model.backbone.bn1.running_mean.normal_()  # nonzero, as in torchvision's weights; Caffe's are zero
    torch.save(model.state_dict(), root / "plain.pth")
    assert convert(root / "plain.pth", root / "ours.pt", "--config", root / "small.py") == 0
    assert convert(root / "ours.pt", root / "theirs.pth", "--config", root / "small.py", "--to", "detectron2") == 0
    yield root


def convert(*arguments: Any) -> int:
    return main(["convert", *map(str, arguments)])


def states(*paths: Path) -> list[dict[str, torch.Tensor]]:
    return [read_state(path).get("model") or dict(read_state(path)) for path in paths]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_way_to_detectron2_and_back_changes_no_bit(files, capsys):
    assert convert(files / "theirs.pth", files / "back.pt") == 0
    first, there, back = states(files / "plain.pth", files / "theirs.pth", files / "back.pt")
    assert same(first, back)
    assert "backbone.bottom_up.res2.0.conv1.norm.running_var" in there and "neck.lateral.c2.0.weight" not in there


def test_the_printed_config_builds_the_model_of_the_checkpoint(files, capsys, tmp_path):
    assert convert(files / "theirs.pth", tmp_path / "out.pt") == 0
    text = capsys.readouterr().out.partition("\n\n")[2]
    assert '\nbase = "faster-rcnn_r18_fpn_1x_coco"\n' in text
    assert "guessed" in text and "MODEL.RESNETS.STRIDE_IN_1X1" in text.partition("base =")[0]
    (tmp_path / "printed.py").write_text(text)
    model = chordate.build_model(tmp_path / "printed.py", checkpoint=tmp_path / "out.pt")
    assert model.box.trunk.fcs[0].out_features == 16 and len(model.classes) == 3
    assert model.size_divisor == 32 and model.box.pooler.aligned and not model.preprocess.bgr


def test_detectron2_opens_the_pickle_and_needs_the_printed_settings(files, tmp_path, capsys):
    arguments = ("--config", files / "small.py", "--cfg-options", "model.rpn.anchors.rounded=True")
    assert convert(files / "ours.pt", tmp_path / "theirs.pkl", "--to", "detectron2", *arguments) == 0
    out = capsys.readouterr().out
    for option in ("INPUT.FORMAT=RGB", "MODEL.PIXEL_MEAN=[123.675, 116.28, 103.53]", "_POOLER_TYPE=ROIAlignV2"):
        assert f"set {option}" in out.replace("MODEL.ROI_BOX_HEAD.", "_"), option
    assert "theirs.pkl: detectron2 differs from this model: model.rpn.anchors.rounded=False" in out
    contents = pickle.loads((tmp_path / "theirs.pkl").read_bytes())  # as DetectionCheckpointer does
    assert "__author__" in contents and all(isinstance(array, np.ndarray) for array in contents["model"].values())
    assert same(*states(files / "theirs.pth", tmp_path / "theirs.pkl"))


@pytest.mark.parametrize("std", [(57.375, 57.12, 58.395), (1.0, 1.0, 1.0)])
def test_the_way_to_detectron2_and_back_keeps_the_image_settings(files, std):
    """Weights of grouped or untrained networks look like Caffe2's, so these settings cannot be inferred from them."""
    preprocess = {"bgr": False, "mean": (3.0, 2.0, 1.0), "std": std}
    cfg = load_config(files / "small.py", {"model.preprocess": preprocess})
    contents = restored(chordate.build_model(cfg, pretrained=False), "detectron2")
    _, overrides = recognized_config(find_weights(contents))
    assert {name: overrides[f"model.preprocess.{name}"] for name in preprocess} == preprocess


def test_openmmlabs_files_have_the_class_names(files):
    cfg = load_config(files / "small.py", {"fallback_meta.classes": ["a", "b", "c"]})
    contents = restored(chordate.build_model(cfg, pretrained=False), "mmdetection")
    _, overrides = recognized_config(find_weights(contents))
    assert list(overrides["fallback_meta.classes"]) == ["a", "b", "c"]


def test_text_of_a_checkpoint_is_text_in_the_printed_config(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = ("men's", "x', __import__('pathlib').Path('executed').touch(), 'y", 'ends with " and \\')
    theirs = restored(chordate.build_model(files / "small.py", pretrained=False), "mmdetection")
    torch.save({**theirs, "meta": {"CLASSES": classes}}, tmp_path / "theirs.pth")
    assert convert(tmp_path / "theirs.pth", tmp_path / "out.pt") == 0
    (tmp_path / "printed.py").write_text(capsys.readouterr().out.partition("\n\n")[2])
    assert tuple(chordate.build_model("printed.py", pretrained=False).classes) == classes
    assert not (tmp_path / "executed").exists()


def test_the_printed_config_inherits_from_a_file_anywhere(files, tmp_path, capsys, monkeypatch):
    folder = tmp_path / 'men\'s "files"'
    folder.mkdir()
    (folder / "small.json").write_text('{"base": "faster-rcnn_r18_fpn_1x_coco", "train": {"seed": 7}}')
    assert base_name("configs/faster-rcnn/faster-rcnn_r50_fpn_1x_coco.py") == "faster-rcnn_r50_fpn_1x_coco"
    monkeypatch.chdir(folder)
    (tmp_path / "printed.py").write_text(write_config([], base_name("small.json"), {}))
    assert load_config(tmp_path / "printed.py").train.seed == 7


def test_a_pickle_of_numpy_arrays_converts_like_the_same_tensors(files, tmp_path, capsys):
    """Detectron2's model zoo has files `{"model": arrays, "__author__": …}`."""
    (theirs,) = states(files / "theirs.pth")
    arrays = {name: tensor.numpy() for name, tensor in theirs.items()}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    assert convert(tmp_path / "model.pkl", tmp_path / "out.pt") == 0
    assert same(*states(files / "plain.pth", tmp_path / "out.pt"))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "student.", "ema_model.module.", "model._orig_mod.module."],
)
def test_the_names_of_wrappers_do_not_hide_the_config(files, prefix):
    """Names have a prefix of DDP, torch.compile, Lightning or an EMA; the state dict also has a tensor of a loss."""
    (theirs,) = states(files / "theirs.pth")
    prefixed = {f"{prefix}{name}": tensor for name, tensor in theirs.items()} | {"criterion.weight": torch.ones(2)}
    plain = recognized_config(find_weights({"model": theirs}))
    assert plain[0] == "faster-rcnn_r18_fpn_1x_coco"
    assert recognized_config(find_weights({"state_dict": prefixed})) == plain


def test_safetensors_have_only_the_tensors(files, tmp_path, capsys):
    assert convert(files / "theirs.pth", tmp_path / "out.safetensors") == 0
    assert same(load_file(tmp_path / "out.safetensors"), states(files / "plain.pth")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/ours.pt", "{}/x.pt"], "ours.pt (chordate): its config cannot be determined; name it: --config CONFIG"),
        (
            ["{}/plain.pth", "{}/x.pt"],
            "plain.pth (unknown library): its config cannot be determined; name it: --config",
        ),
        (["{}/none.pth", "{}/x.pt"], "no checkpoint"),
        (["{}/theirs.pth", "{}/none/x.pt"], "none does not exist; create it"),
        (["{}/theirs.pth", "{}"], "is a folder; name the file to write"),
        (["{}/theirs.pth", "{}/theirs.pth"], "is the checkpoint to read; name another file to write"),
        (["{}/theirs.pth", "{}/plain.pth"], "plain.pth exists; name another file to write, or delete it"),
        (["{}/theirs.pth", "{}/x.pt", "--to", "detectron"], '--to: unknown library "detectron"; did you mean "detec'),
        (["{}/ours.pt", "{}/x.pt", "--config", "{}/small.py", "--to", "timm"], "cannot be written as timm"),
        (["{}/theirs.pth", "{}/x.pt", "--config", "retinanet_r50_fpn_1x_coco"], "does not fit"),
    ],
)
def test_a_mistake_is_one_line(files, arguments, message, capsys):
    assert convert(*(text.format(files) for text in arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chordate convert: ")]
    assert message in line
    assert not (files / "x.pt").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_have_numpys_values(protocol, tmp_path):
    arrays = {
        "floats": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(7),
        "half": np.ones(3, np.float16),
        "bool": np.array([True, False]),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({**arrays, "number": np.float64(0.5), "text": "x"}, protocol=protocol))
    read = read_state(path)
    assert (read["number"], read["text"]) == (0.5, "x")
    for name, array in arrays.items():
        assert read[name].numpy().dtype == array.dtype and np.array_equal(read[name].numpy(), array), name


def test_a_pickle_of_torchs_tensors_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="contains more than tensors.*could run code, so it was not opened"):
        read_state(tmp_path / "x.pkl")
