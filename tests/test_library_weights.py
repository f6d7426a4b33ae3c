"""Weights of torchvision and timm load by name, file and URL, into the libraries' networks and into Chordate's."""

import warnings
from functools import partial

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from backbone_referee import assert_close, referee, timms
from torch import Tensor, nn

import chordate
from chordate.errors import CheckpointError
from chordate.registry import BACKBONES
from chordate.weights.loading import load_checkpoint, load_pretrained


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def same(ours: nn.Module, prefix: str, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name.removeprefix(prefix)]) for name, value in ours.state_dict().items())


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """Random weights of a ResNet-18 in torchvision's format."""
    return referee(torchvision.models.resnet18).state_dict()


@pytest.mark.parametrize("source", [True, "torchvision://resnet18", "path", "file URL"])
def test_torchvision_backbones_load_torchvisions_weights(source, theirs, tmp_path, monkeypatch):
    downloads = []

    def download(url, destination, hash_prefix=None):
        downloads.append((url, hash_prefix))
        torch.save(theirs, destination)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    if source in ("path", "file URL"):
        torch.save(theirs, tmp_path / "r18.pth")
    local = {"path": str(tmp_path / "r18.pth"), "file URL": (tmp_path / "r18.pth").as_uri()}
    pretrained = local.get(source, source)
    model = BACKBONES.build(
        {"type": "TorchvisionBackbone", "model": "resnet18", "out": ["c3"], "pretrained": pretrained}
    )
    (report,) = load_pretrained(model)
    assert downloads == (
        [] if source in local else [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]
    )
    assert report.format == "torchvision" and not report.missing and not report.adapted
    assert {name.split(".")[0] for name in report.skipped} == {"layer3", "layer4", "fc"}
    assert same(model, "net.", theirs)


@pytest.mark.parametrize(
    ("config", "build"),
    [
        ({"type": "TorchvisionBackbone", "model": "mobilenet_v3_small"}, torchvision.models.mobilenet_v3_small),
        (
            {"type": "TorchvisionBackbone", "model": "googlenet", "options": {"init_weights": False}},
            partial(torchvision.models.googlenet, init_weights=False),
        ),
        ({"type": "TimmBackbone", "model": "resnetv2_50"}, partial(timm.create_model, "resnetv2_50")),
    ],
)
def test_library_weights_for_rgb_are_adapted_to_other_input_channels(config, build):
    state = referee(build).state_dict()
    model = BACKBONES.build({**config, "in_channels": 4})
    report = load_checkpoint(model, state)
    (stem,) = report.adapted
    assert not report.missing
    theirs = timm.models.adapt_input_conv(4, state[stem.removeprefix(model.library.prefix)])
    torch.testing.assert_close(model.state_dict()[stem], theirs)
    assert model(torch.randn(2, 4, 64, 64))


@pytest.mark.parametrize(
    ("backbone", "build"),
    [
        ({"type": "TorchvisionBackbone", "model": "efficientnet_b0"}, torchvision.models.efficientnet_b0),
        ({"type": "TimmBackbone", "model": "resnet18"}, partial(timm.create_model, "resnet18")),
    ],
)
def test_classifiers_with_library_backbones_and_weights_give_the_librarys_scores(backbone, build):
    theirs = referee(build).eval()
    ours = chordate.build_model({"type": "ImageClassifier", "backbone": backbone}, num_classes=1000)
    report = load_checkpoint(ours.eval(), theirs.state_dict())
    assert not report.missing and not report.skipped
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(ours.logits(images), theirs(images), "scores", 1e-5)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replaces timm's downloads from the Hugging Face Hub: `hub["resnet18.a1_in1k"] = state` adds a weight file."""
    files: dict[str, dict[str, Tensor]] = {}

    def download(repo_id, filename, **_):
        path = tmp_path / repo_id / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(files[repo_id.removeprefix("timm/")], path)
        return str(path)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    return files


@pytest.mark.parametrize("source", [True, "timm://mobilenetv3_small_050.lamb_in1k", "path"])
def test_timm_backbones_load_timms_weights(source, hub, tmp_path):
    name = "mobilenetv3_small_050"
    theirs = referee(lambda: timm.create_model(name)).state_dict()
    hub[f"{name}.lamb_in1k"] = theirs
    if source == "path":
        source = str(tmp_path / "x.safetensors")
        safetensors.torch.save_file(theirs, source)
    model = BACKBONES.build({"type": "TimmBackbone", "model": name, "out": ["c3", "c4"], "pretrained": source})
    (report,) = load_pretrained(model)
    assert report.format == "timm" and not report.missing and not report.adapted
    assert {name.split(".")[0] for name in report.skipped} == {"blocks", "conv_head", "classifier"}
    assert same(model, "net.model.", theirs)


def test_a_tag_selects_one_of_timms_sets_of_weights(hub):
    """timm has several sets of weights for one architecture."""
    hub["resnet18.gluon_in1k"] = referee(lambda: timm.create_model("resnet18")).state_dict()
    model = chordate.build_backbone({"type": "TimmBackbone", "model": "resnet18.gluon_in1k"}, pretrained=True)
    assert same(model, "net.model.", hub["resnet18.gluon_in1k"])


def test_a_warning_points_out_weights_trained_with_another_normalization(hub):
    """Mean and std are compared with timm's metadata; differences below half a gray level are ignored (rounding)."""
    hub["test_resnet.r160_in1k"] = timms("test_resnet.r160_in1k").state_dict()
    hub["resnet18.a1_in1k"] = timms("resnet18.a1_in1k").state_dict()

    def build(backbone, source, **settings):
        backbone = {**backbone, "pretrained": f"timm://{source}"}
        return chordate.build_model({"type": "ImageClassifier", "backbone": backbone, **settings}, num_classes=3)

    other = {"type": "TimmBackbone", "model": "test_resnet"}
    with pytest.warns(UserWarning) as caught:
        build(other, "test_resnet.r160_in1k")
    assert [str(warning.message) for warning in caught] == [
        "timm://test_resnet.r160_in1k was trained with mean=[127.5, 127.5, 127.5]; the model has "
        "[123.675, 116.28, 103.53]: set model.preprocess.mean",
        "timm://test_resnet.r160_in1k was trained with std=[127.5, 127.5, 127.5]; the model has "
        "[58.395, 57.12, 57.375]: set model.preprocess.std",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(other, "test_resnet.r160_in1k", preprocess={"mean": [127.5] * 3, "std": [127.5] * 3})
        build({"type": "resnet18"}, "resnet18.a1_in1k")


@pytest.mark.parametrize(
    ("name", "theirs", "format"),
    [
        ("resnet18d", "resnet18d.ra2_in1k", "timm"),
        # Marked slow, since test_senet.py and test_resnet_rs.py always compare such networks with timm's.
        pytest.param("resnetrs50", "resnetrs50.tf_in1k", "timm", marks=pytest.mark.slow),
        pytest.param("seresnet50", "seresnet50.ra2_in1k", "timm", marks=pytest.mark.slow),
        # Marked slow, since test_preact_resnet.py always compares this network with timm's.
        pytest.param("preact_resnet50", "resnetv2_50.a1h_in1k", "timm", marks=pytest.mark.slow),
        ("convnext_tiny", "convnext_tiny.fb_in1k", "timm"),
        ("densenet121", "densenet121.ra_in1k", "torchvision"),  # timm uses torchvision's parameter names
    ],
)
def test_our_backbones_load_timms_weights(name, theirs, format, hub):
    whole = timms(theirs)
    hub[theirs] = whole.state_dict()
    model = chordate.build_backbone(name, out=["c3", "c5"])
    report = load_checkpoint(model, f"timm://{theirs}")
    assert report.format == format and not report.missing and not report.adapted
    assert all(part.startswith(("fc.", "head.", "classifier.")) for part in report.skipped)
    if name in ("convnext_tiny", "densenet121"):  # other tests compare the other networks with timm's
        images = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            maps = whole.eval().forward_intermediates(images, intermediates_only=True)
            ours = model.eval()(images)
        assert_close(ours["c3"], maps[-3], "c3", 1e-4)
        assert_close(ours["c5"], maps[-1], "c5", 1e-4)


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("resnet18", "timm://resnet18.a9_in1k", 'weights of timm\'s resnet18 "a9_in1k"; did you mean .*"a1_in1k"'),
        ("resnet18", "timm://resnet81", 'unknown timm model "resnet81"; did you mean'),
        ("resnet18", "timm://resnet34", "timm://resnet34 could not be downloaded"),
        ("seresnet18", True, "timm offers no weights for seresnet18"),
    ],
)
def test_unavailable_library_weights_are_a_one_line_error(model, pretrained, message, hub):
    with pytest.raises(CheckpointError, match=message) as caught:
        chordate.build_backbone({"type": "TimmBackbone", "model": model}, pretrained=pretrained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["http://127.0.0.1:1/weights.pth", "timm://resnet34"])
def test_a_failed_download_of_pretrained_weights_names_both_remedies(source, hub, tmp_path):
    settings = {"model.backbone.type": "resnet18", "model.backbone.base_channels": 8}
    config = chordate.load_config("resnet50_imagenet", {**settings, "model.backbone.pretrained": source})
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        chordate.build_model(config)
    message = str(caught.value)
    assert "set model.backbone.pretrained to a local file, or train from scratch" in message
    assert "--cfg-options model.backbone.pretrained=False" in message
    backbone = chordate.build_backbone({"type": "resnet18", "base_channels": 8})
    torch.save(backbone.state_dict(), tmp_path / "local.pth")
    for remedy in (str(tmp_path / "local.pth"), False):
        options = {**settings, "model.backbone.pretrained": remedy}
        chordate.build_model(chordate.load_config("resnet50_imagenet", options))
    chordate.build_model(config, pretrained=False)


@pytest.mark.parametrize(
    ("kind", "load"), [("TimmBackbone", timm.create_model), ("TorchvisionBackbone", torchvision.models.get_model)]
)
def test_weights_of_another_architecture_are_refused(kind, load):
    model = BACKBONES.build({"type": kind, "model": "resnet18"})
    with pytest.raises(CheckpointError, match="does not fit .*resnet18"):
        load_checkpoint(model, load("resnet34").state_dict())
