"""`chordate summary` against the parameter counts and multiply-adds that papers, torchvision and timm publish."""

import re
from functools import cache

import pytest
import torchvision
from backbone_referee import on_meta

from chordate.cli import summary
from chordate.cli.main import main
from chordate.cli.summary import backbone_row
from chordate.registry import BACKBONES

# Millions of parameters and billions of multiply-adds as each source prints them (None: not compared). Some
# sources round, some truncate, and some also count norms and pools.
PAPERS: dict[str, dict[str, tuple[str | None, str | None]]] = {
    "He et al. 2016, Deep Residual Learning, table 1 and figure 3": {
        "resnet18": (None, "1.8"),
        "resnet34": (None, "3.6"),
        "plain18": (None, "1.8"),
        "plain34": (None, "3.6"),
        # The paper's bottlenecks have the stride in the first 1×1 convolution.
        "resnet50_caffe": (None, "3.8"),
        "resnet101_caffe": (None, "7.6"),
        "resnet152_caffe": (None, "11.3"),
    },
    "He et al. 2016, Deep Residual Learning, table 6": {
        "resnet20_cifar": ("0.27", None),
        "resnet32_cifar": ("0.46", None),
        "resnet44_cifar": ("0.66", None),
        "resnet56_cifar": ("0.85", None),
        "resnet110_cifar": ("1.7", None),
        "resnet1202_cifar": ("19.4", None),
        # Shortcuts of option A have no parameters, so plain networks have as many as ResNets (section 4.2).
        "plain20_cifar": ("0.27", None),
        "plain32_cifar": ("0.46", None),
        "plain44_cifar": ("0.66", None),
        "plain56_cifar": ("0.85", None),
    },
    "torchvision's weights": {
        "resnet18": ("11.69", "1.814"),
        "resnet34": ("21.80", "3.664"),
        "resnet50": ("25.56", "4.089"),
        "resnet101": ("44.55", "7.801"),
        "resnet152": ("60.19", "11.514"),
        "resnext101_32x8d": ("88.79", "16.414"),
        "resnext101_64x4d": ("83.46", "15.46"),
        "wide_resnet101_2": ("126.89", "22.753"),
    },
    "He T. et al. 2019, Bag of Tricks, table 5": {
        "resnet50c": (None, "4.3"),
        "resnet50d": (None, "4.3"),
    },
    "timm's results on ImageNet": {
        "resnet50c": ("25.58", None),
        "resnet101c": ("44.57", None),
        "resnet152c": ("60.21", None),
        "resnet50s": ("25.68", None),
        "resnet101s": ("44.67", None),
        "resnet152s": ("60.32", None),
        "resnet18d": ("11.71", None),
        "resnet34d": ("21.82", None),
        "resnet50d": ("25.58", None),
        "resnet101d": ("44.57", None),
        "resnet152d": ("60.21", None),
        "resnext101_32x4d": ("44.18", None),
        "preact_resnet50": ("25.55", None),
        "preact_resnet101": ("44.54", None),
        "preact_resnet152": ("60.19", None),
    },
    "Xie et al. 2017, table 1": {"resnext50_32x4d": ("25.0", "4.2")},
    "Zagoruyko & Komodakis 2016, tables 4, 5 and 8": {
        "wide_resnet50_2": ("68.9", None),
        "wrn16_8_cifar": ("11.0", None),
        "wrn28_10_cifar": ("36.5", None),
        "wrn40_4_cifar": ("8.9", None),
    },
    "Hu et al. 2018, tables 2 and 10": {
        "seresnet50": ("28.1", None),
        "seresnext50_32x4d": (None, "4.25"),
        "seresnext101_32x4d": (None, "8.00"),
    },
    "timm's results on ImageNet, SE": {
        "seresnet18": ("11.78", None),
        "seresnet34": ("21.96", None),
        "seresnet101": ("49.33", None),
        "seresnet152": ("66.82", None),
        "seresnext50_32x4d": ("27.56", None),
        "seresnext101_32x4d": ("48.96", None),
    },
    "Bello et al. 2021, table of ResNet-RS": {  # test_resnet_rs.py checks the FLOPs
        "resnetrs50": ("36", None),
        "resnetrs101": ("64", None),
        "resnetrs152": ("87", None),
        "resnetrs200": ("93", None),
        "resnetrs270": ("130", None),
        "resnetrs350": ("164", None),
        "resnetrs420": ("192", None),
    },
    "He et al. 2016, Identity Mappings, and its authors' code": {
        "preact_resnet110_cifar": ("1.7", None),
        "preact_resnet164_cifar": ("1.7", None),
        "preact_resnet1001_cifar": ("10.3", None),  # 10.2 without norms, see test_preact_resnet.py
        "preact_resnet200": ("64.7", None),
    },
    "Huang et al. 2017, table 2, and torchvision's weights": {
        "densenet100_12_cifar": ("0.8", None),
        "densenet121": ("7.98", "2.834"),
        "densenet161": ("28.68", "7.728"),
        "densenet169": ("14.15", "3.36"),
        "densenet201": ("20.01", "4.291"),
    },
    "Liu et al. 2022, table 1": {
        "convnext_tiny": ("28.6", "4.5"),
        "convnext_small": ("50", "8.7"),
        "convnext_base": ("89", "15.4"),
        "convnext_large": ("198", "34.4"),
    },
}
PRINTED = [(source, name, *numbers) for source, rows in PAPERS.items() for name, numbers in rows.items()]
# Counting a deep network takes seconds, so it is done only with `-m slow`.
DEEP = re.compile(r"[a-z_]*(1(01|10|5\d|6\d)|[2-9]\d\d|\d{4})|convnext_(small|base|large)")
COUNTED = [pytest.param(*row, marks=[pytest.mark.slow] * bool(DEEP.match(row[1]))) for row in PRINTED]
# test_preact_resnet.py and test_cifar_nets.py check the parameter counts of these backbones.
UNPUBLISHED = {"wrn16_4_cifar", "highway20_cifar", "highway32_cifar"}


@cache
def cells(name: str) -> tuple[str, str, str, str]:
    return backbone_row(name, None)


def test_the_summary_table_has_one_row_per_backbone(monkeypatch, capsys):
    """Without arguments, the table lists every backbone; the test counts parameters of two only, to save time."""
    counted = {"resnet50": cells("resnet50"), "resnet20_cifar": cells("resnet20_cifar")}
    monkeypatch.setattr(summary, "backbone_row", lambda name, size: counted.get(name, ("", "", "", "")))
    lines = [line for line in printed(capsys) if line.startswith("│")]
    table = {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("│").split("│")] for line in lines)}
    BACKBONES.names()
    assert set(table) == set(BACKBONES.variants)
    assert len(lines) == len(table)
    assert len({tuple(i for i, c in enumerate(line) if c == "│") for line in lines}) == 1
    assert table["resnet50"][0] == "224×224" and table["resnet20_cifar"][0] == "32×32"
    assert table["resnet50"][3] == "c2:256/4 c3:512/8 c4:1024/16 c5:2048/32"
    assert all(table[name] == list(row) for name, row in counted.items())


def test_every_backbone_is_compared_with_a_published_number():
    BACKBONES.names()
    types = {name: BACKBONES.get(variant["type"]) for name, variant in BACKBONES.variants.items()}
    # Tests of the docs in the same process register more backbones.
    ours = {name for name, backbone in types.items() if backbone.__module__.startswith("chordate.")}
    assert {name for _, name, *_ in PRINTED} | UNPUBLISHED == ours


def agrees(printed: str, published: str | None, tolerance: float = 0.0) -> bool:
    """Whether the numbers differ by at most one unit of the last published digit, 0.01 or `tolerance` (relative)."""
    if published is None:
        return True
    places = len(published.partition(".")[2])
    return abs(float(printed) - float(published)) <= max(1.001 * 10.0**-places, 0.01001, tolerance * float(published))


@pytest.mark.parametrize(("source", "name", "millions", "billions"), COUNTED)
def test_parameters_and_multiply_adds_are_the_published_numbers(source, name, millions, billions):
    _, parameters, multiply_adds, _ = cells(name)
    assert agrees(parameters, millions), f"{parameters} M, but {source} says {millions}"
    assert agrees(multiply_adds, billions, tolerance=0.006), f"{multiply_adds} G, but {source} says {billions}"


def test_parameter_counts_equal_torchvisions_exactly():
    BACKBONES.names()
    for name in BACKBONES.variants:
        scheme, _, model = (BACKBONES.expand(name).get("default_weights") or "").partition("://")
        if scheme == "torchvision":
            model, _, weights = model.partition("/")
            theirs = torchvision.models.get_model_weights(model)[weights].meta["num_params"]
            backbone = on_meta(name)
            channels = list(backbone.out_features.values())[-1].channels
            classifier = 1000 * (channels + 1) + (2 * channels if "convnext" in name else 0)  # ConvNeXt's has a norm
            assert sum(p.numel() for p in backbone.parameters()) + classifier == theirs, name


def test_summary_lists_the_backbones_that_match_a_pattern(capsys):
    assert main(["summary", "resnet5[0]", "resnet18"]) == 0
    names = re.findall(r"^│ (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert names == ["resnet50", "resnet18"]  # in the order of the arguments


def test_summary_of_an_unknown_name_suggests_near_names(capsys):
    assert main(["summary", "resnet51"]) == 2
    assert 'unknown backbone or model "resnet51"; did you mean' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "size", "parameters"),
    [
        ("resnet18_imagenet", "224×224", "11.69"),  # torchvision's weights, as above
        ("resnet20_cifar10", "32×32", "0.27"),  # He et al. 2016, table 6
        ("wrn16_4_cifar100", "32×32", "2.77"),  # 2.75 M (Zagoruyko & Komodakis, table 5) + 90 classes × 257
        pytest.param("convnext_base_i384_imagenet", "384×384", "88.59", marks=pytest.mark.slow),  # from torchvision
    ],
)
def test_a_classifiers_config_is_counted_with_its_number_of_classes_and_image_size(
    config, size, parameters, monkeypatch, capsys
):
    monkeypatch.setattr(summary, "multiply_adds", lambda *_: 0.0)
    assert main(["summary", config]) == 0
    cells = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"│ {config}")).split("│")
    assert [cell.strip() for cell in cells[2:4]] == [size, parameters]


def printed(capsys, *arguments: str) -> list[str]:
    assert main(["summary", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("resnet18", ["FLOPs", "Backbones"]),
        ("resnet50", ["FLOPs", "Backbones", "Bottlenecks"]),
        ("resnet50_caffe", ["FLOPs", "Backbones"]),
        ("densenet121", ["FLOPs", "Backbones"]),
        ("resnet20_cifar10", ["FLOPs"]),
        ("faster-rcnn_r18_fpn_demo_shapes", ["FLOPs", "A"]),
    ],
)
def test_summary_prints_only_the_notes_that_apply(name, notes, monkeypatch, capsys):
    monkeypatch.setattr(summary, "multiply_adds", lambda *_: 0.0)  # counting them runs the model
    lines = printed(capsys, name)
    below = lines[next(n for n, line in enumerate(lines) if line.startswith("└")) + 1 :]
    assert [line.split()[0] for line in below if line[:1].isupper()] == notes


@pytest.mark.parametrize(
    ("config", "size", "assumed"),
    [
        ("faster-rcnn_r50_fpn_1x_coco", "800×1344", False),  # a 3:5 image is resized to 800 × 1333, padded to 32
        ("faster-rcnn_r18_fpn_bccd", "256×416", False),  # 240 × 400
        ("faster-rcnn_r18_fpn_demo_shapes", "800×1344", True),
        ("resnet20_cifar10", "32×32", True),
        ("resnet50_imagenet", "224×224", False),
    ],
)
def test_the_input_size_is_the_pipelines_or_is_marked_as_assumed(config, size, assumed, monkeypatch, capsys):
    monkeypatch.setattr(summary, "multiply_adds", lambda *_: 0.0)  # counting them runs the model
    lines = printed(capsys, config)
    (row,) = (line for line in lines if line.startswith(f"│ {config}"))
    assert row.split("│")[2].strip() == size
    title = f"configs whose pipeline sets no size: {size} assumed"
    assert (lines[0].strip() == title) == assumed
    assert any("assumed" in line for line in printed(capsys, config, "--size", "64", "64")) is False


def test_a_config_file_is_listed_by_the_name_that_its_runs_have(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(summary, "multiply_adds", lambda *_: 0.0)
    (tmp_path / "own.py").write_text('base = "resnet20_cifar10"\n')
    assert any(re.match(r"│ own +│", line) for line in printed(capsys, str(tmp_path / "own.py")))
