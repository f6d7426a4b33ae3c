"""`chordate convert-config` on configs with wrong, missing and contradictory values: no such value is written."""

import ast
import functools
import operator
import textwrap

import pytest
import torchvision
import yaml
from converted_configs import Result, write
from test_convert_detectron2_config import FPN
from test_convert_mm_config import DATA, FASTER, RETINANET, SEGMENTER

from chordate.cli.main import main
from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.foreign_configs import foreign_syntax
from chordate.migration import convert_file, detectron2_config, mm_config
from chordate.migration.config_defaults import check_arguments
from chordate.migration.detectron2_defaults import DEFAULTS
from chordate.migration.detectron2_yaml import read_detectron2
from chordate.migration.mm_files import read_mm
from chordate.migration.source_files import merged

WRONG_TEXT, WRONG_NUMBER = "<wrong>", -0.12345  # in place of numbers, switches and dicts, and of texts and lists
# Detectron2's models with all heads, and with one stage.
DETECTRON2 = {
    "regions": "{META_ARCHITECTURE: PanopticFPN, MASK_ON: True, KEYPOINT_ON: True, ROI_HEADS: {NAME: CascadeROIHeads}}",
    "retinanet": "{META_ARCHITECTURE: RetinaNet, BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}}",
}
MASK = """
model = dict(
    type='PanopticFPN',
    roi_head=dict(mask_head=dict(type='FCNMaskHead', num_convs=4, in_channels=256, conv_out_channels=256,
                                 num_classes=80, loss_mask=dict(type='CrossEntropyLoss', loss_weight=1.0))),
    semantic_head=dict(type='PanopticFPNHead', num_things_classes=80, num_stuff_classes=53, inner_channels=128,
                       norm_cfg=dict(type='GN', num_groups=32), loss_seg=dict(type='CrossEntropyLoss')),
    panoptic_fusion_head=dict(type='HeuristicFusionHead'))
train_dataloader = dict(dataset=dict(type='CocoPanopticDataset'))
"""
OPENMMLAB = {"retinanet": RETINANET, "segmenter": SEGMENTER, "panoptic": FASTER}


def paths_in(value, path=()):
    """Yield the key paths of all settings, also of those inside of others; only the first item of a list."""
    items = value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else ()
    for key, item in items:
        yield (*path, key)
        yield from paths_in(item, (*path, key))


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return list(map(as_lists, value)) if isinstance(value, list | tuple) else value


def converted_without(convert, values, path, replacement):
    """The new config if the setting at a path is replaced, or deleted if `replacement` is None."""
    owner = functools.reduce(operator.getitem, path[:-1], values)
    before = owner[path[-1]]
    try:
        owner[path[-1]] = replacement
        if replacement is None:
            del owner[path[-1]]
        return convert(values)
    finally:
        if isinstance(owner, list) and replacement is None:
            owner.insert(path[-1], before)
        else:
            owner[path[-1]] = before


@pytest.fixture(params=[*(f"detectron2 {name}" for name in DETECTRON2), *(f"openmmlab {name}" for name in OPENMMLAB)])
def converter(request, tmp_path, monkeypatch):
    """The settings of a config that can be converted, and a function from settings to the new config."""
    library, name = request.param.split()
    if library == "detectron2":
        path = write(tmp_path, base_yaml=FPN, mine_yaml=f"_BASE_: base.yaml\nMODEL: {DETECTRON2[name]}\n")
        values = merged(DEFAULTS, read_detectron2(path))
        module, reader, convert = detectron2_config, "read_detectron2", detectron2_config.convert_detectron2
    else:
        data = "log_level = 'INFO'\n" if name == "segmenter" else DATA
        text = "_base_ = ['./base.py', './data.py']\n" + (MASK if name == "panoptic" else "")
        path = write(tmp_path, base_py=OPENMMLAB[name], data_py=data, mine_py=text)
        values = {key: item for key, item in read_mm(path).items() if key in (*mm_config.SECTIONS, "auto_scale_lr")}
        module, reader, convert = mm_config, "read_mm", mm_config.convert_mm

    def convert_values(changed):
        monkeypatch.setattr(module, reader, lambda path: changed)
        return convert(path).config

    return as_lists(values), convert_values


def test_no_setting_with_a_wrong_type_is_written(converter):
    """A setting with a wrong type is refused by its name, or has no counterpart in the new config."""
    values, convert = converter
    refused = 0
    for path in list(paths_in(values)):
        value = functools.reduce(operator.getitem, path, values)
        wrong = WRONG_NUMBER if isinstance(value, str | list) else WRONG_TEXT
        try:
            written = repr(converted_without(convert, values, path, wrong))
            assert WRONG_TEXT not in written and str(WRONG_NUMBER) not in written, path
        except ConfigError as error:
            *_, name = (key for key in path if isinstance(key, str))
            assert name in str(error), (path, error)
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("converter", [f"openmmlab {name}" for name in OPENMMLAB], indirect=True)
def test_no_missing_setting_becomes_none(converter):
    """Only OpenMMLab's: Detectron2's settings have defaults."""
    values, convert = converter
    for path in (("model", *path) for path in list(paths_in(values["model"]))):
        try:
            check_arguments(converted_without(convert, values, path, None))
        except ConfigError as error:
            assert any(str(key) in str(error) for key in path), (path, error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {STEPS: 5}", "SOLVER.STEPS must be a list of integers, got 5"),
        ("SOLVER: {BASE_LR: fast}", 'SOLVER.BASE_LR must be a number > 0, got "fast"'),
        ("SOLVER: {MAX_ITER: null}", "SOLVER.MAX_ITER must be an integer, got None"),
        ("INPUT: {MIN_SIZE_TRAIN: [640, wide]}", 'INPUT.MIN_SIZE_TRAIN.1 must be an integer ≥ 1, got "wide"'),
        ("MODEL: {PIXEL_STD: x}", 'MODEL.PIXEL_STD must be a list of numbers > 0 with at least 1 item, got "x"'),
        ("MODEL: {ROI_HEADS: {IOU_THRESHOLDS: [0.5, 0.6]}}", "MODEL.ROI_HEADS.IOU_THRESHOLDS must be a list of 1 numb"),
        ("MODEL: {RESNETS: {DEPTH: 42}}", "MODEL.RESNETS.DEPTH must be one of 18, 34, 50, 101, 152, got 42"),
        ("MODEL: {FPN: {IN_FEATURES: []}}", "MODEL.FPN.IN_FEATURES is empty"),
    ],
)
def test_a_wrong_value_of_detectron2_is_named(tmp_path, text, message):
    path = write(tmp_path, base_yaml=FPN, mine_yaml=f"_BASE_: base.yaml\n{text}\n")
    with pytest.raises(ConfigError) as error:
        convert_file(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(data_preprocessor=dict(std='x'))", "model.data_preprocessor.std must be a list of numbers > 0"),
        ("optim_wrapper = dict(optimizer=dict(lr='x'))", 'optim_wrapper.optimizer.lr must be a number > 0, got "x"'),
        ("param_scheduler = [3]", "param_scheduler[0] must be a dict, got 3"),
        ("model = dict(neck=dict(num_outs=None))", "model.neck.num_outs must be an integer ≥ 1, got None"),
        ("model = dict(neck=dict(_delete_=True, type='FPN'))", "model.neck.in_channels is missing; it must be a list"),
    ],
)
def test_a_wrong_value_of_openmmlab_is_named(tmp_path, text, message):
    path = write(tmp_path, base_py=RETINANET, data_py=DATA, mine_py=f"_base_ = ['base.py', 'data.py']\n{text}\n")
    with pytest.raises(ConfigError) as error:
        convert_file(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_numbers_that_yaml_reads_as_strings_are_numbers_as_in_detectron2(tmp_path):
    text = "_BASE_: base.yaml\nSOLVER: {BASE_LR: 1e-3, WEIGHT_DECAY: '0.001'}\n"
    assert yaml.safe_load(text)["SOLVER"]["BASE_LR"] == "1e-3"
    optimizer = Result(write(tmp_path, base_yaml=FPN, mine_yaml=text)).config.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.001, 0.001)


def openmmlab(folder, base, changes="", name="mine"):
    data = DATA if base is not SEGMENTER else "log_level = 'INFO'\n"
    return Result(
        write(folder, base_py=base, data_py=data, **{f"{name}_py": f"_base_ = ['base.py', 'data.py']\n{changes}"})
    )


def test_a_config_for_inference_has_our_defaults_for_training(tmp_path):
    result = openmmlab(tmp_path, FASTER, "model = dict(train_cfg=dict(_delete_=True))\n")
    assert result.lost == {"model.train_cfg": "training"}
    model = result.build()
    # Table of Detectron2's and MMDetection's defaults for an FPN.
    assert (model.rpn.batch_size_per_image, model.rpn.positive_fraction) == (256, 0.5)
    assert (model.rpn.matcher.negative, model.rpn.matcher.positive) == (0.3, 0.7)
    assert (model.rpn.pre_nms_topk, model.rpn.post_nms_topk) == ((2000, 900), (1000, 700))  # testing: the file's
    assert (model.box.batch_size_per_image, model.box.positive_fraction, model.box.matcher.positive) == (512, 0.25, 0.5)


@pytest.mark.parametrize(
    ("base", "changes", "key"),
    [
        (RETINANET, "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b'))))", "model.bbox_head"),
        (RETINANET, "model = dict(bbox_head=dict(num_classes=3))", "model.bbox_head"),  # CocoDataset has 80
        (FASTER, "model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))", "model.roi_head.bbox_head"),
        (SEGMENTER, "model = dict(decode_head=dict(num_classes=3))", "model.decode_head"),
    ],
)
def test_openmmlabs_numbers_of_classes_that_differ_are_reported(tmp_path, base, changes, key):
    path = write(
        tmp_path,
        base_py=base,
        data_py=DATA if base is not SEGMENTER else "log_level = 'INFO'\n",
        mine_py=f"_base_ = ['base.py', 'data.py']\n{changes}\n",
    )
    lost = {row.key: row for row in mm_config.convert_mm(path).not_carried if row.effect == "predictions"}
    assert set(lost) == {f"{key}.num_classes"}
    count = 2 if "classes=(" in changes else 19 if base is SEGMENTER else 80
    assert f"has {count} classes" in lost[f"{key}.num_classes"].reason


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("MODEL: {ROI_HEADS: {NUM_CLASSES: 3}}", {"MODEL.ROI_HEADS.NUM_CLASSES"}),
        ("MODEL: {ROI_HEADS: {NUM_CLASSES: 20}}\nDATASETS: {TRAIN: [voc_2007_trainval]}", set()),
        ("MODEL: {ROI_HEADS: {NUM_CLASSES: 3}}\nDATASETS: {TRAIN: [my_data]}", set()),  # its classes are unknown
    ],
)
def test_detectron2s_numbers_of_classes_that_differ_are_reported(tmp_path, text, keys):
    path = write(tmp_path, base_yaml=FPN, mine_yaml=f"_BASE_: base.yaml\n{text}\n")
    conversion = detectron2_config.convert_detectron2(path)
    assert {row.key for row in conversion.not_carried if row.effect == "predictions"} == keys


CONVNEXT = """
model = dict(
    backbone=dict(_delete_=True, type='mmpretrain.ConvNeXt', arch='tiny', out_indices=[0, 1, 2, 3], drop_path_rate=0.4,
                  layer_scale_init_value=1.0, gap_before_final_norm=False,
                  init_cfg=dict(type='Pretrained', checkpoint='https://x.org/convnext-tiny.pth', prefix='backbone.')),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise', num_layers=6),
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05))
"""


def test_a_convnext_has_torchvisions_parameters_and_a_norm_for_each_map(tmp_path):
    result = openmmlab(tmp_path, FASTER, CONVNEXT)
    assert result.lost == {"model.backbone.init_cfg.checkpoint": "training"}
    backbone = result.build().backbone
    theirs = torchvision.models.convnext_tiny()
    classifier, norms = sum(p.numel() for p in theirs.classifier.parameters()), 2 * (96 + 192 + 384 + 768)
    wanted = sum(p.numel() for p in theirs.parameters()) - classifier + norms
    assert sum(p.numel() for p in backbone.parameters()) == wanted
    assert result.config.model.backbone == {
        "type": "convnext_tiny", "out_norm": True, "drop_path": 0.4, "pretrained": "timm://convnext_tiny.fb_in1k",
        "frozen_stages": -1,
    }  # fmt: skip
    assert (result.config.optimizer.layer_decay, result.config.optimizer.layer_blocks) == (0.95, 3)


def test_the_message_about_another_backbone_names_a_config_that_has_one(tmp_path):
    swin = "model = dict(backbone=dict(_delete_=True, type='SwinTransformer', embed_dims=96))\n"
    with pytest.raises(ConfigError, match="SwinTransformer is not converted") as error:
        openmmlab(tmp_path, RETINANET, swin)
    start, backbone = str(error.value).partition("start from ")[2].split(" or another")[0].split(" with ")
    path = write(tmp_path, start_py=f'base = "{start}"\nmodel = dict({backbone.removeprefix("model.")})\n')
    assert load_config(path).model.backbone == {"type": "TimmBackbone", "model": "swin_tiny_patch4_window7_224"}


@pytest.mark.parametrize("suffix", ["py", "yaml"])
def test_a_missing_base_file_is_named_with_the_file_that_inherits_from_it(tmp_path, monkeypatch, capsys, suffix):
    monkeypatch.chdir(tmp_path)
    text = "_base_ = '{}'\n" if suffix == "py" else "_BASE_: {}\n"
    write(tmp_path, **{f"middle_{suffix}": text.format("gone"), f"mine_{suffix}": text.format(f"middle.{suffix}")})
    assert main(["convert-config", f"mine.{suffix}"]) == 2
    message = f"mine.{suffix}: middle.{suffix}: base file gone: No such file or directory\n"
    assert capsys.readouterr().err == f"chordate convert-config: {message}"


READ_BASE = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
LAZY = [
    "from detectron2.config import LazyCall as L\n",
    "from ..common.optim import SGD as optimizer\n",
    "from detectron2.model_zoo import get_config\n",
]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (READ_BASE, "chordate convert-config --execute converts mine.py"),
        *((text, "convert-config converts the yaml file") for text in LAZY),
    ],
)
def test_configs_of_others_whose_code_must_be_run_are_not_run(tmp_path, monkeypatch, capsys, text, remedy):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, mine_py=text + "raise RuntimeError('it was run')\n")
    for command in (["summary", "mine.py"], ["train", "mine.py"], ["test", "mine.py", "none.pt"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert remedy in error and error.count("\n") == 1


@pytest.mark.parametrize("text", LAZY)
def test_a_lazy_config_is_not_converted(tmp_path, text):
    with pytest.raises(ConfigError, match="convert the yaml file of the same model"):
        convert_file(write(tmp_path, mine_py=text))


def test_other_imports_from_detectron2_do_not_make_a_lazy_config(tmp_path):
    text = "from detectron2.data import MetadataCatalog\nfrom .common import *\na = 1\n"
    assert foreign_syntax(ast.parse(text)) is None
    assert read_mm(write(tmp_path, mine_py=text)) == {"a": 1}


def test_a_config_with_read_base_is_converted_by_running_it(tmp_path, monkeypatch, capsys):
    """Its types may be classes of libraries that are not installed; MMEngine gives their dotted names."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base_py=textwrap.dedent(RETINANET) + textwrap.dedent(DATA))
    models = "from mmdet.models import RetinaHead\nfrom mmdet.models.detectors import RetinaNet\n"
    change = "model.update(dict(type=RetinaNet, bbox_head=dict(type=RetinaHead, stacked_convs=3)))\n"
    write(tmp_path, mine_py=READ_BASE + models + change)
    assert main(["convert-config", "--execute", "mine.py", "ours.py"]) == 0
    assert load_config("ours.py").model.head.convs == 3


def test_mmsegmentations_unet_is_refused_with_a_config_to_start_from(tmp_path):
    unet = "model = dict(backbone=dict(_delete_=True, type='UNet'))\n"
    with pytest.raises(ConfigError, match="UNet is not converted") as error:
        openmmlab(tmp_path, SEGMENTER, unet)
    assert load_config(str(error.value).partition("start from ")[2].partition(",")[0]).model.neck.type == "UNet"


@pytest.mark.parametrize("extra", ["", "loader = {{_base_.train_dataloader}}\n"])
def test_an_openmmlab_config_in_place_of_ours_is_said_to_be_one(tmp_path, monkeypatch, capsys, extra):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base_py=RETINANET, data_py=DATA, mine_py=f"_base_ = ['base.py', 'data.py']\n{extra}")
    for command in (["summary", "mine.py"], ["test", "mine.py", "none.pt"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"chordate {command[0]}: mine.py: ") and error.count("\n") == 1
        assert "chordate convert-config converts" in error and "base.py" not in error and "data.py" not in error
