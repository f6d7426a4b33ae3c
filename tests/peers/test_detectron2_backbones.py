"""Chordate's backbones in Detectron2's models (equal feature maps, training), and Detectron2's backbones in Chordate.

Skipped without Detectron2, which is built from its source: `FORCE_CUDA=0 pip install --no-build-isolation
git+https://github.com/facebookresearch/detectron2`.
"""

import re
from typing import Any

import pytest
import torch
from backbone_referee import assert_close
from torch import Tensor, nn

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

import chordate.integrations.detectron2 as integration
from chordate import BACKBONES, FeatureSpec
from chordate.contracts import Backbone
from chordate.errors import ConfigError
from chordate.weights.loading import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # Detectron2 uses deprecated functions of torch
RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def config(name: str, **settings: Any) -> CfgNode:
    """A config of Detectron2's model zoo; in the names of settings, `__` stands for a dot."""
    cfg = model_zoo.get_config(f"COCO-{name}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    named = {setting.replace("__", "."): value for setting, value in settings.items()}
    cfg.merge_from_list([item for pair in named.items() for item in pair])
    return cfg


def our_name(name: str) -> str:
    """Our name of a tensor of Detectron2's ResNet."""
    name = name.replace("stem.conv1.norm", "bn1").replace("stem.conv1", "conv1")
    name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")


def calibrate(model: nn.Module, images: list[dict]) -> None:
    """Set the statistics of every FrozenBatchNorm to those of its input; without this, activations overflow."""

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    norms = [module for module in model.modules() if type(module).__name__ == "FrozenBatchNorm2d"]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    model(images)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("Detection/faster_rcnn_R_50_C4_1x", ""),
        ("Detection/faster_rcnn_R_50_DC5_1x", ""),
        ("Detection/faster_rcnn_R_50_FPN_1x", "_fpn"),
        ("Detection/retinanet_R_50_FPN_1x", "_retinanet_fpn"),
    ],
)
@torch.no_grad()
def test_detectors_on_our_resnet_have_the_feature_maps_of_those_on_detectron2s(name, suffix):
    torch.manual_seed(0)
    cfg = config(name)
    theirs = build_model(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = f"chordate_resnet50_caffe{suffix}"
    ours = build_model(cfg).eval()
    images = [{"image": torch.randint(256, (3, 150, 201)), "height": 150, "width": 201} for _ in range(2)]
    calibrate(theirs, images)
    state = {}
    for key, tensor in theirs.state_dict().items():
        path, stage, rest = re.match(r"(backbone\.(?:bottom_up\.)?)?(stem|res\d)?(.*)", key).groups()
        state[f"{path}backbone.{our_name(stage + rest)}" if path and stage else key] = tensor
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    padded = [model.preprocess_image(images).tensor for model in (ours, theirs)]
    assert torch.equal(*padded)
    maps, expected = (model.backbone.double()(x.double()) for model, x in zip((ours, theirs), padded))
    assert list(maps) == list(expected)
    for feature, x in maps.items():
        assert_close(x, expected[feature], feature, 1e-9)
    assert all("instances" in output for output in ours.float()(images))


@pytest.fixture
def shapes_in_detectron2(shapes):
    for split in ("train", "val"):
        register_coco_instances(f"shapes_{split}", {}, str(shapes / f"annotations/{split}.json"), str(shapes / split))
    yield
    for split in ("train", "val"):
        DatasetCatalog.remove(f"shapes_{split}")
        MetadataCatalog.remove(f"shapes_{split}")


def test_detectron2_trains_and_evaluates_faster_rcnn_on_our_se_resnext(shapes_in_detectron2, tmp_path):
    """Detectron2's own trainer, loader, optimizer and evaluator run on our SE-ResNeXt-50 with stem and c2 frozen."""
    cfg = config(
        "Detection/faster_rcnn_R_50_FPN_1x",
        MODEL__BACKBONE__NAME="chordate_seresnext50_32x4d_fpn", MODEL__BACKBONE__FREEZE_AT=2,
        MODEL__RESNETS__NORM="BN", MODEL__ROI_HEADS__NUM_CLASSES=5,
        DATASETS__TRAIN=("shapes_train",), DATASETS__TEST=("shapes_val",), DATALOADER__NUM_WORKERS=0,
        INPUT__MIN_SIZE_TRAIN=(96,), INPUT__MIN_SIZE_TEST=96, OUTPUT_DIR=str(tmp_path),
        SOLVER__IMS_PER_BATCH=2, SOLVER__MAX_ITER=2, SOLVER__WARMUP_ITERS=0, SOLVER__BASE_LR=0.01,
    )  # fmt: skip
    cfg.merge_from_list([item for pair in RGB.items() for item in pair])
    torch.manual_seed(0)
    trainer = DefaultTrainer(cfg)
    body = trainer.model.backbone.bottom_up.backbone
    assert body.name == "SE-ResNeXt-50-32x4d"
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if re.match(r"backbone\.bottom_up\.backbone\.(conv1|bn1|layer1)\.", name)}
    trained = {f"backbone.bottom_up.backbone.{name}" for name, p in body.named_parameters() if p.requires_grad}
    assert frozen and not changed & frozen
    assert len(trained) > 100 and trained <= changed
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    evaluator = COCOEvaluator("shapes_val", output_dir=str(tmp_path))
    assert "AP" in DefaultTrainer.test(cfg, trainer.model, evaluator)["bbox"]


def test_faster_rcnn_on_our_se_resnet_learns_where_one_object_is():
    cfg = config(
        "Detection/faster_rcnn_R_50_FPN_1x",
        MODEL__BACKBONE__NAME="chordate_seresnet18_fpn", MODEL__BACKBONE__FREEZE_AT=0,
        MODEL__RESNETS__NORM="GN", MODEL__ROI_HEADS__NUM_CLASSES=2, MODEL__FPN__OUT_CHANNELS=32,
        MODEL__ROI_BOX_HEAD__FC_DIM=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg).train()
    image = torch.randint(0, 100, (3, 96, 128))
    image[:, 20:70, 40:90] = 255
    truth = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[40.0, 20, 90, 70]])), gt_classes=torch.tensor([1]))
    sample = {"image": image, "instances": truth, "height": 96, "width": 128}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with EventStorage():
        for _ in range(100):
            optimizer.zero_grad()
            sum(model([sample]).values()).backward()
            optimizer.step()
    (detections,) = model.eval()([sample])
    best = detections["instances"][:1]
    assert best.pred_classes.tolist() == [1] and float(best.scores) > 0.5
    assert float(pairwise_iou(best.pred_boxes, truth.gt_boxes)) > 0.6


def test_every_backbone_is_registered_alone_and_with_an_fpn():
    names = {name for name, _ in BACKBONE_REGISTRY}
    for variant in BACKBONES.variants:
        assert {f"chordate_{variant}{suffix}" for suffix in ("", "_fpn", "_retinanet_fpn")} <= names


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "densenet121", "preact_resnet50", "resnetrs50", "wide_resnet50_2", "resnext101_64x4d"]
)
def test_shapes_are_those_of_the_feature_maps(name):
    features = ["res2", "res3", "res4", "res5"]
    cfg = config(
        "Detection/faster_rcnn_R_50_FPN_1x",
        MODEL__BACKBONE__NAME=f"chordate_{name}", MODEL__RESNETS__OUT_FEATURES=features, MODEL__RESNETS__NORM="BN",
    )  # fmt: skip
    with torch.device("meta"):
        backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, integration.ShapeSpec(channels=3))
        maps = backbone(torch.empty(1, 3, 64, 96))
    assert {feature: (x.shape[1], 64 // x.shape[2]) for feature, x in maps.items()} == {
        feature: (shape.channels, shape.stride) for feature, shape in backbone.output_shape().items()
    }
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 16, 32]


class Unfrozen(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.out_features = {"c2": FeatureSpec(8, 4)}

    def forward(self, images):
        return {"c2": self.conv(images)}


@pytest.fixture
def unfrozen():
    BACKBONES.register_module(module=Unfrozen)
    integration.register_backbones()
    yield
    BACKBONES.module_dict.pop("Unfrozen")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {"MODEL__RESNETS__OUT_FEATURES": ["p4"]}, 'OUT_FEATURES .* must name .* res2 … res5, got "p4"'),
        ("resnet18", {"MODEL__RESNETS__OUT_FEATURES": ["res9"]}, 'unknown ResNet-18 feature map "c9"'),
        ("resnet18", {"MODEL__RESNETS__NORM": "LN"}, "LN"),
        ("Unfrozen", {"MODEL__RESNETS__OUT_FEATURES": ["res2"]}, "cannot be frozen; set MODEL.BACKBONE.FREEZE_AT"),
        ("Unfrozen", {"MODEL__BACKBONE__FREEZE_AT": 0}, r'Detectron2 needs feature maps "c4", but Unfrozen offers c2'),
    ],
)  # fmt: skip
def test_a_setting_that_the_backbone_does_not_have_is_a_one_line_error(unfrozen, name, settings, message):
    cfg = config("Detection/faster_rcnn_R_50_C4_1x", MODEL__BACKBONE__NAME=f"chordate_{name}", **settings)
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)


def test_a_custom_backbone_without_settings_can_be_used(unfrozen):
    cfg = config(
        "Detection/faster_rcnn_R_50_C4_1x",
        MODEL__BACKBONE__NAME="chordate_Unfrozen", MODEL__BACKBONE__FREEZE_AT=0, MODEL__RESNETS__OUT_FEATURES=["res2"],
    )  # fmt: skip
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, integration.ShapeSpec(channels=3))
    assert backbone(torch.ones(1, 3, 8, 12))["res2"].shape == (1, 8, 2, 3)


RESNET = {"type": "Detectron2Backbone", "model": "build_resnet_backbone"}


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (RESNET, {"c2": "res2", "c3": "res3", "c4": "res4", "c5": "res5"}),
        ({**RESNET, "out": ["c5"], "output_stride": 16}, {"c5": "res5"}),
        (
            {"type": "Detectron2Backbone", "model": "build_resnet_fpn_backbone", "out": ["c2", "c6"]},
            {"c2": "p2", "c6": "p6"},
        ),
    ],
)
@torch.no_grad()
def test_a_backbone_of_detectron2_gives_its_feature_maps_in_chordate(config, theirs):
    torch.manual_seed(0)
    ours = BACKBONES.build({**config, "options": {"MODEL.RESNETS.NORM": "BN"}}).eval()
    network = ours.net.network
    images = torch.randn(1, 3, 64, 96)
    maps, expected = ours(images), network(images)
    assert list(maps) == list(theirs)
    for name, x in maps.items():
        assert torch.equal(x, expected[theirs[name]])
        shape = network.output_shape()[theirs[name]]
        assert (x.shape[1], 64 // x.shape[2]) == (shape.channels, shape.stride)
    odd = ours(torch.randn(1, 3, 65, 97))
    assert all(
        odd[name].shape[-2:] == (-(-65 // s.stride), -(-97 // s.stride)) for name, s in ours.out_features.items()
    )


def test_a_backbone_of_detectron2_loads_its_weights_and_can_be_frozen(tmp_path):
    ours = BACKBONES.build({**RESNET, "options": {"MODEL.RESNETS.NORM": "BN"}, "frozen_stages": 1})
    state = {name: torch.randn_like(value) if value.is_floating_point() else value
             for name, value in ours.net.network.state_dict().items()}  # fmt: skip
    assert not load_checkpoint(ours, state).missing
    assert torch.equal(ours.net.network.res3[0].conv1.weight, state["res3.0.conv1.weight"])
    frozen = {name.split(".")[0] for name, p in ours.net.network.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"} and not ours.net.network.res2.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "build_resnet_bakcbone"}, 'unknown Detectron2 backbone "build_resnet_bakcbone"; did you mean'),
        ({"options": {"MODEL.RESNETS.DETPH": 50}}, "detectron2's build_resnet_backbone cannot be built: .*DETPH"),
        ({"output_stride": 8}, "cannot be dilated to output_stride 8 .its coarsest stride stays 16"),
    ],
)
def test_a_wrong_setting_of_a_detectron2_backbone_is_a_one_line_error(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        BACKBONES.build({**RESNET, **settings})
    assert "\n" not in str(caught.value)
