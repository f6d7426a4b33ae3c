"""`chordate list`: tables of models and components, with parameter counts and published metrics."""

import subprocess
import sys

import pytest
import torchvision

import chordate
from chordate.cli.list import KINDS
from chordate.cli.main import main


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
    ("arguments", "message"),
    [
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
