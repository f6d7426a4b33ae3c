"""Chordate's backbones in models of torchvision, mmengine and segmentation_models.pytorch: with the same weights,
outputs equal those of the libraries' own networks, and the models train. For Detectron2, see tests/peers/."""

from collections.abc import Sequence

import pytest
import segmentation_models_pytorch as smp
import torch
from backbone_referee import assert_close, randomize
from mmengine.config import Config
from mmengine.registry import MODELS, Registry
from processes import imported_with
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from chordate import BACKBONES
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError
from chordate.integrations import mmengine as mm
from chordate.integrations import segmentation_models_pytorch as encoders
from chordate.integrations.torchvision import NamedFeatures, PyramidBackbone

SMALL = {"base_channels": 16, "norm": "BN"}
VARIANTS = set(BACKBONES.variants)  # the package's variants; other test files register more


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parameters_without_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


# --- torchvision ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pyramid_backbone_gives_the_feature_maps_of_torchvisions_resnet_and_fpn():
    theirs = randomize(resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)).eval()
    ours = PyramidBackbone("resnet18", norm="FrozenBN").eval()
    ours.backbone.load_state_dict(theirs.body.state_dict(), strict=False)
    for convs, blocks in ((ours.neck.lateral, theirs.fpn.inner_blocks), (ours.neck.output, theirs.fpn.layer_blocks)):
        for conv, block in zip(convs.values(), blocks, strict=True):
            conv[0].load_state_dict(block[0].state_dict())
    images = torch.randn(2, 3, 64, 96)
    maps, expected = ours(images), theirs(images)
    assert list(maps) == ["0", "1", "2", "3", "4"] and ours.out_channels == theirs.out_channels
    for (name, x), wanted in zip(maps.items(), expected.values(), strict=True):
        assert_close(x, wanted, name, 1e-4)


RCNN_FPN = {"type": "FPN", "channels": 32}
RETINA_FPN = {"type": "FPN", "channels": 64, "inputs": ["c3", "c4", "c5"], "extra": "c5"}
FEW_BOXES = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 16, "box_detections_per_img": 2}
DETECTORS = {
    "FasterRCNN": (RCNN_FPN, FEW_BOXES),
    "MaskRCNN": (RCNN_FPN, FEW_BOXES),
    "KeypointRCNN": (RCNN_FPN, {"num_keypoints": 3, **FEW_BOXES}),
    "RetinaNet": (RETINA_FPN, {}),
    "FCOS": (RETINA_FPN, {}),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvisions_detectors_train_and_predict_on_our_backbone(name):
    neck, options = DETECTORS[name]
    backbone = PyramidBackbone("seresnet18", neck, frozen_stages=1, **SMALL)
    model = getattr(detection, name)(backbone, num_classes=2 + (name == "FCOS"), min_size=64, max_size=96, **options)
    target = {"boxes": torch.tensor([[8.0, 8, 40, 50]]), "labels": torch.tensor([1])}
    target["masks"] = torch.zeros(1, 64, 80, dtype=torch.uint8)
    target["masks"][:, 8:50, 8:40] = 1
    target["keypoints"] = torch.tensor([[[10.0, 12, 2], [20, 20, 2], [30, 40, 2]]])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses = model.train()([torch.rand(3, 64, 80)], [target])
    sum(losses.values()).backward()
    optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    trained = {
        part for part in ("backbone", "neck") if any(p.grad is not None for p in getattr(backbone, part).parameters())
    }
    assert trained == {"backbone", "neck"}
    assert all(p.grad is None for p in backbone.backbone.layer1.parameters())
    (prediction,) = model.eval()([torch.rand(3, 64, 80)])
    assert prediction["boxes"].shape[1] == 4


@torch.no_grad()
def test_deeplab_on_our_resnet_gives_torchvisions_logits():
    options = {"weights": None, "weights_backbone": None, "num_classes": 5, "aux_loss": True}
    theirs = randomize(segmentation.deeplabv3_resnet50(**options)).eval()
    features = NamedFeatures("resnet50", {"out": "c5", "aux": "c4"}, output_stride=8)
    assert features.out_channels == {"out": 2048, "aux": 1024}
    head = segmentation.deeplabv3.DeepLabHead(features.out_channels["out"], 5)
    auxiliary = segmentation.fcn.FCNHead(features.out_channels["aux"], 5)
    ours = segmentation.DeepLabV3(features, head, auxiliary).eval()
    features.backbone.load_state_dict(theirs.backbone.state_dict())
    head.load_state_dict(theirs.classifier.state_dict())
    auxiliary.load_state_dict(theirs.aux_classifier.state_dict())
    images = torch.randn(1, 3, 32, 96)
    for name, x in ours(images).items():
        assert_close(x, theirs(images)[name], name, 1e-4)


def test_a_neck_with_different_numbers_of_channels_is_refused():
    with pytest.raises(ConfigError, match="feature maps with the same number of channels; .* offers"):
        PyramidBackbone("resnet18", nn_neck(), **SMALL)


def nn_neck() -> dict:
    class Uneven(nn.Module):
        def __init__(self, in_features):
            super().__init__()
            self.out_features = in_features

        def forward(self, features):
            return features

    return {"type": Uneven}


def test_a_feature_map_that_the_backbone_does_not_have_is_refused():
    with pytest.raises(ConfigError, match='torchvision\'s segmenter.*no "c6"'):
        NamedFeatures("resnet18", {"out": "c6"}, **SMALL)


# --- mmengine ---------------------------------------------------------------------------------------------------------

DETECTION = Registry("model", parent=MODELS, scope="mmdet_like")


@DETECTION.register_module()
class TwoLevels(nn.Module):
    """A detector in MMDetection's style: it builds its backbone from its registry, and gets a tuple of feature maps."""

    def __init__(self, backbone: dict, in_channels: list[int]):
        super().__init__()
        self.backbone = DETECTION.build(backbone)
        self.convs = nn.ModuleList(nn.Conv2d(channels, 4, 1) for channels in in_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        assert isinstance(maps, tuple)
        return [conv(x) for conv, x in zip(self.convs, maps, strict=True)]


CONFIG = """
custom_imports = dict(imports=["chordate.integrations.mmengine"])
model = dict(
    type="mmdet_like.TwoLevels",
    backbone=dict(type="chordate.{type}", depth=18, out=["c3", "c5"], base_channels=16, frozen_stages=1),
    in_channels=[32, 128],
)
"""


@pytest.mark.parametrize("registry", [MODELS, DETECTION], ids=["root", "child"])
def test_a_config_of_mmengine_builds_a_detector_on_our_backbone(registry):
    config = Config.fromstring(CONFIG.format(type="ResNet"), file_format=".py")
    model = registry.build(config.model).train()
    assert isinstance(model.backbone, mm.TupleBackbone)
    outputs = model(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in outputs] == [(2, 4, 8, 12), (2, 4, 2, 3)]
    sum(x.square().mean() for x in outputs).backward()
    frozen = {name.split(".")[0] for name, p in model.backbone.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"} and not parameters_without_gradient(model)


def test_mmengines_init_weights_loads_the_pretrained_weights(tmp_path):
    source = BACKBONES.build({"type": "resnet18", **SMALL})
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = MODELS.build(dict(type="chordate.resnet18", pretrained=str(tmp_path / "weights.pth"), **SMALL))
    assert not torch.equal(model.backbone.conv1.weight, source.conv1.weight)
    model.init_weights()
    assert torch.equal(model.backbone.conv1.weight, source.conv1.weight)


def test_a_misspelled_backbone_of_ours_is_an_error_with_similar_names():
    with pytest.raises(ConfigError, match='unknown backbone "resnet5O"; did you mean "resnet50'):
        DETECTION.build({"type": "chordate.resnet5O"})


# --- segmentation_models.pytorch --------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_a_unet_on_our_encoder_gives_smps_mask(name):
    theirs = randomize(smp.Unet(name, encoder_weights=None, classes=2)).eval()
    ours = smp.Unet(f"chordate_{name}", encoder_weights=None, classes=2).eval()
    assert ours.encoder.out_channels == theirs.encoder.out_channels
    for part in ("encoder", "decoder", "segmentation_head"):
        getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())
    images = torch.randn(1, 3, 64, 96)
    assert_close(ours(images), theirs(images), name, 1e-4)


def test_the_default_weights_of_smps_unet_are_those_that_smp_publishes(tmp_path, monkeypatch):
    published = randomize(smp.encoders.get_encoder("resnet18", weights=None)).state_dict()
    save_file(published, tmp_path / "model.safetensors")
    asked = []

    def download(repo_id: str, filename: str, revision: str) -> str:
        asked.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", download)
    model = smp.Unet("chordate_resnet18")
    assert set(asked) == {"smp-hub/resnet18.imagenet"}
    assert torch.equal(model.encoder.backbone.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("architecture", "encoder", "options"),
    [
        ("Unet", "seresnet18", {}),
        ("Unet", "convnext_tiny", {}),  # has no feature map of stride 2
        ("FPN", "densenet121", {}),
        ("DeepLabV3Plus", "resnet18", {"encoder_output_stride": 16}),
        ("Linknet", "resnet18d", {"encoder_depth": 4}),
        ("Unet", "resnetrs50", {"in_channels": 4, "encoder_depth": 3, "decoder_channels": (64, 32, 16)}),
    ],
)
def test_smps_models_train_on_our_encoders(architecture, encoder, options):
    model = getattr(smp, architecture)(f"chordate_{encoder}", encoder_weights=None, classes=3, **options).train()
    images = torch.randn(2, options.get("in_channels", 3), 64, 64)
    features = model.encoder(images)
    strides = [min(2**k, options.get("encoder_output_stride", 32)) for k in range(options.get("encoder_depth", 5) + 1)]
    assert [64 // x.shape[2] for x in features] == strides
    assert [x.shape[1] for x in features] == model.encoder.out_channels
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = nn.functional.cross_entropy(model(images), torch.randint(3, (2, 64, 64)))
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and not parameters_without_gradient(model)


class Narrow(Backbone):
    """A custom backbone whose c1 has stride 4."""

    def __init__(self, out: Sequence[str] | str = "all"):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.out_features = {"c1": FeatureSpec(8, 4)}

    def forward(self, images):
        return {"c1": self.conv(images)}


def test_backbones_that_break_smps_contract_are_one_line_errors():
    with pytest.raises(ConfigError, match="smp's encoders need stride 2 for c1; .* has 4 there"):
        encoders.ChordateEncoder({"type": Narrow}, depth=1)
    with pytest.raises(ConfigError, match="resnet18 has no feature map c6; set encoder_depth to one of"):
        encoders.ChordateEncoder("resnet18", depth=6)


# --- all variants, all libraries --------------------------------------------------------------------------------------


def test_variants_that_are_registered_later_can_be_added():
    BACKBONES.register_variants({"my_effnet": {"type": "TimmBackbone", "model": "efficientnet_b0"}})
    try:
        encoders.register_encoders()
        with torch.device("meta"):
            theirs = smp.encoders.get_encoder("tu-efficientnet_b0", weights=None)
            encoder = smp.encoders.get_encoder("chordate_my_effnet")
            channels = [x.shape[1] for x in encoder(torch.empty(1, 3, 64, 64))]
        assert channels == encoder.out_channels == theirs.out_channels
    finally:
        BACKBONES.variants.pop("my_effnet"), smp.encoders.encoders.pop("chordate_my_effnet")


def test_every_variant_of_ours_is_an_encoder():
    ours = {name.removeprefix("chordate_") for name in smp.encoders.get_encoder_names() if name.startswith("chordate_")}
    assert {name for name in VARIANTS if not name.endswith("_cifar")} <= ours


def test_importing_chordate_imports_no_other_library():
    imported = imported_with("chordate", "chordate.api", "chordate.integrations")
    assert "chordate.integrations" in imported
    assert not imported & {"segmentation_models_pytorch", "detectron2", "mmdet"}
