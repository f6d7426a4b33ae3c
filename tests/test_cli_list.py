"""`chordate list`: tables of models and components, with parameter counts and published metrics."""

import subprocess
import sys

import pytest
import torchvision

import chordate
from chordate.cli.list import KINDS, backbone_figure
from chordate.cli.main import main
from chordate.contracts import CHECK_OUTPUTS


def listed(capsys, *arguments: str) -> str:
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out


def test_without_a_kind_all_kinds_are_listed(capsys):
    text = listed(capsys)
    assert all(f"│ {kind}" in text for kind in KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("models", "backbones")])
def test_a_kind_lists_its_components_with_descriptions(kind, capsys):
    rows = [line.split("│")[1:3] for line in listed(capsys, kind).splitlines() if line.startswith("│")]
    assert rows and all(what.strip() for _, what in rows)


def test_models_have_parameters_and_published_figures(capsys):
    """25.56 M parameters: torchvision's ResNet-50; 22.85 % error: He et al. 2016, table 3."""
    parameters = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] / 1e6
    (row,) = [line for line in listed(capsys, "models", "*resnet50_imagenet").splitlines() if "│ resnet50_" in line]
    assert f"{parameters:.2f}" in row and "22.85 % error" in row and "He et al. 2016, table 3" in row


def test_backbones_have_their_short_form_and_maps(capsys):
    (row,) = [line for line in listed(capsys, "backbones", "resnext101_64x4d").splitlines() if line.startswith("│")]
    assert "x101-64x4d" in row and "c5:2048/32" in row and "20.4 % error" in row


def test_a_pattern_without_wildcards_matches_substrings(capsys):
    text = listed(capsys, "heads", "box")
    assert "BoxHead" in text and "MaskHead" not in text


def test_a_composed_model_name_is_listed(capsys):
    assert "retinanet_convnext-t_fpn_1x_coco" in listed(capsys, "models", "retinanet_convnext-t_fpn_1x_coco")


@pytest.mark.parametrize(
    ("kind", "pattern", "names"),
    [
        ("models", "mask-rcnn_r101*", ["mask-rcnn_r101_fpn_3x_coco"]),
        ("models", "mask-rcnn_resnet101*", ["mask-rcnn_r101_fpn_3x_coco"]),
        ("models", "x101*", ["resnext101_32x4d_imagenet", "resnext101_64x4d_imagenet"]),
        ("models", "*rcnn*resnext*", ["faster-rcnn_x101-32x8d_fpn_3x_coco", "mask-rcnn_x101-32x8d_fpn_3x_coco"]),
        (
            "models",
            "deeplabv3plus_convnext_[ts]*camvid",
            ["deeplabv3plus_convnext_small_camvid", "deeplabv3plus_convnext_tiny_camvid"],
        ),
        (
            "models",
            "deeplabv3plus_r101*camvid",
            ["deeplabv3plus_r101-caffe_camvid", "deeplabv3plus_r101_camvid", "deeplabv3plus_r101c_camvid"],
        ),
        ("backbones", "x101*", ["resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"]),
        ("backbone", "se-r50", ["seresnet50"]),
    ],
)
def test_short_forms_and_composed_names_match(kind, pattern, names, capsys):
    rows = [line.split("│")[1].strip() for line in listed(capsys, kind, pattern).splitlines() if line.startswith("│")]
    assert sorted(rows) == names


def test_figures_are_those_of_the_same_model(capsys):
    """A row has the metric published for its backbone, dataset and image size (ResNet-RS-50: Bello et al. 2021)."""
    (row,) = [line for line in listed(capsys, "backbones", "resnetrs50").splitlines() if line.startswith("│")]
    assert "21.2 % error at 160 px" in row
    (row,) = [
        line for line in listed(capsys, "models", "faster-rcnn_resnet101_fpn_3x_coco").splitlines() if "│ " in line
    ]
    assert "42.0 box AP" in row
    assert backbone_figure("convnext") == backbone_figure("wide_resnet101_2") == ("", "")
    assert backbone_figure("wrn28_10_cifar")[0] == "4.00 % error"  # without dropout


def test_parameters_are_counted_without_running_the_model(monkeypatch, capsys):
    """Forward passes on the meta device, which check a model's feature maps, would take most of the time."""
    monkeypatch.setattr("torch.func.functional_call", lambda *_: pytest.fail("a forward pass"))
    assert "25.56" in listed(capsys, "models", "resnet50_imagenet")
    assert CHECK_OUTPUTS.get()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modles"], 'unknown kind "modles"; did you mean "models"'),
        (["heads", "BoxHed"], 'unknown head "BoxHed"; did you mean "BoxHead"'),
        (["models", "resnet51_imagenet"], 'unknown backbone "resnet51"'),
    ],
)
def test_a_pattern_without_a_match_is_one_line_with_near_names(arguments, message, capsys):
    assert main(["list", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_package_runs_as_a_module_and_has_a_version():
    done = subprocess.run([sys.executable, "-m", "chordate", "--version"], capture_output=True, text=True)
    assert done.stdout == f"chordate {chordate.__version__}\n"
