"""Sources of checkpoints: files, URLs and libraries; hashes are checked, no code runs, and errors are one line."""

import http.server
import threading
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from checkpoint_toys import TinyBackbone, TinyDetector, filled, is_filled, message, own, save, with_hash
from torch import nn

import chordate
from chordate.config import load_config
from chordate.errors import CheckpointError, DownloadError
from chordate.registry import BACKBONES
from chordate.weights.checkpoint_sources import torchvision_url
from chordate.weights.loading import load_checkpoint, load_pretrained

# --- sources ----------------------------------------------------------------------------------------------------


def test_a_file_url_loads_and_its_hash_is_checked(tmp_path):
    path = with_hash(save(tmp_path / "tiny net.pth", filled(TinyDetector()).state_dict()))
    model = TinyDetector()
    load_checkpoint(model, path.as_uri())
    assert is_filled(model)
    wrong = path.rename(tmp_path / "tiny-0123abcd.pth")
    assert "its name says 0123abcd" in message(model, wrong.as_uri())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The checkpoint folder of torch.hub, in a temporary folder instead of the user's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path):
    """A folder and the URL under which a local web server serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_url_is_downloaded_once_and_its_hash_is_checked(hub, served):
    folder, url = served
    path = with_hash(save(folder / "tiny.pth", filled(TinyDetector()).state_dict()))
    model = TinyDetector()
    load_checkpoint(model, f"{url}/{path.name}")
    assert is_filled(model)
    assert [f.name for f in hub.iterdir()] == [path.name]
    path.unlink()
    load_checkpoint(model, f"{url}/{path.name}")  # loads the copy in torch.hub's folder

    save(folder / "tiny-0123abcd.pth", TinyDetector().state_dict())
    assert "invalid hash" in message(model, f"{url}/tiny-0123abcd.pth")
    text = message(model, f"{url}/none.pth")
    assert "could not be downloaded: HTTP Error 404" in text
    remedy = Path(text.rpartition("copy the file to ")[2])
    save(remedy, filled(model).state_dict())
    load_checkpoint(TinyDetector(), f"{url}/none.pth")


def test_equal_file_names_from_two_urls_are_two_files(hub, served):
    folder, url = served
    for name, value in (("a", 0.25), ("b", 0.75)):
        (folder / name).mkdir()
        save(folder / name / "model.pth", filled(TinyDetector(), value).state_dict())
        model = TinyDetector()
        load_checkpoint(model, f"{url}/{name}/model.pth")
        assert is_filled(model, value)


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("resnet50", torchvision.models.ResNet50_Weights.DEFAULT),
        ("resnet50/IMAGENET1K_V1", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
    ],
)
def test_torchvision_sources_resolve_to_torchvisions_urls(spec, weights):
    assert torchvision_url(spec) == weights.url


def test_detectron2s_paths_are_urls_of_its_model_zoo(hub, monkeypatch):
    asked = []

    def download(url, destination, hash_prefix=None):
        asked.append(url)
        torch.save(filled(TinyDetector()).state_dict(), destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    model = TinyDetector()
    load_checkpoint(model, "detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert is_filled(model)
    assert asked == ["https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"]


@pytest.mark.parametrize("name", ["x.safetensors", "pytorch_model.bin"])
def test_a_safetensors_file_is_read_under_any_name(name, tmp_path):
    model = TinyDetector()
    safetensors.torch.save_file(filled(TinyDetector()).state_dict(), tmp_path / name)
    load_checkpoint(model, tmp_path / name)
    assert is_filled(model)


@pytest.mark.parametrize("pretrained", [True, "torchvision://resnet18"])
def test_pretrained_backbones_load_weights_from_torch_hub(pretrained, hub, monkeypatch):
    theirs = torchvision.models.resnet18(weights=None)
    asked = []

    def download(url, destination, hash_prefix=None):
        asked.append((url, hash_prefix))
        torch.save(theirs.state_dict(), destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    model = nn.Sequential(BACKBONES.build({"type": "resnet18", "pretrained": pretrained}), TinyBackbone())
    (report,) = load_pretrained(model)
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]
    assert report.format == "torchvision"
    torch.testing.assert_close(model[0].layer4[1].bn2.weight, theirs.layer4[1].bn2.weight)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ["pretrained=False"]),
        ({"frozen_stages": 1}, ["pretrained=False", "frozen_stages=-1"]),
        ({"frozen_stages": 1, "norm": "FrozenBN"}, ["pretrained=False", "norm=BN", "frozen_stages=-1"]),
    ],
)
def test_a_failed_download_names_the_settings_that_train_from_scratch(settings, options, hub, monkeypatch):
    def download(url, destination, hash_prefix=None):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with torch.device("meta"):
        backbone = BACKBONES.build({"type": "resnet18", "pretrained": True, **settings})
    model = nn.ModuleDict({"backbone": backbone})
    with pytest.raises(DownloadError, match="set model.backbone.pretrained to a local file") as caught:
        load_pretrained(model)
    scratch = " ".join(f"model.backbone.{option}" for option in options)
    assert str(caught.value).endswith(f"or train from scratch (--cfg-options {scratch})")


def test_pretrained_is_an_error_for_backbones_without_published_weights():
    with pytest.raises(CheckpointError, match=r"ResNet-50 \(caffe\): pretrained=True, but it has no default weights"):
        load_pretrained(BACKBONES.build({"type": "resnet50_caffe", "pretrained": True}))
    assert load_pretrained(BACKBONES.build({"type": "resnet18", "pretrained": False})) == []


WITHOUT_WEIGHTS = {
    "resnet50_caffe": "resnet50",
    "resnet152_caffe": "resnet152",
    "plain34": "resnet34",
    "seresnet18": "resnet18",
    "seresnet101": "resnet101",
    "preact_resnet50": "resnet50",
    "preact_resnet200": "resnetrs200",
}


DEEP = ("resnet152_caffe", "seresnet101", "preact_resnet200")  # take seconds, so `make test` leaves them out


@pytest.mark.parametrize(
    ("name", "close"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] in DEEP)) for row in WITHOUT_WEIGHTS.items()],
)
def test_a_detector_without_default_weights_is_told_options_that_work(name, close):
    config = f"retinanet_{name}_fpn_1x_coco"
    error = pytest.raises(CheckpointError, match="pretrained=True, but it has no default weights")
    with torch.device("meta"), error as caught:
        chordate.build_model(config)
    text = str(caught.value)
    assert f"or use {close}, which has weights" in text and "set model.backbone.pretrained to a checkpoint" in text
    words = text.partition("--cfg-options ")[2].partition(")")[0].split()
    assert "model.backbone.pretrained=False" in words
    options = {key: {"False": False, "-1": -1}.get(value, value) for key, value in (w.split("=") for w in words)}
    with torch.device("meta"):
        model = chordate.build_model(load_config(config, options))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert BACKBONES.variants[close]["default_weights"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("torchvision://resnet51", 'unknown torchvision model "resnet51"; did you mean "resnet50"'),
        ("torchvision://resnet50/V9", "unknown weights of torchvision's resnet50"),
        ("ftp://host/x.pth", "unknown scheme ftp://"),
    ],
)
def test_the_error_for_a_missing_source_names_it(spec, says):
    assert says in message(TinyDetector(), spec)


# --- checkpoints that cannot be read ----------------------------------------------------------------------------


def test_the_config_text_in_our_own_form_is_never_executed(tmp_path):
    proof = tmp_path / "code ran"
    checkpoint = {**own(TinyDetector()), "config": f"open({str(proof)!r}, 'w')"}
    load_checkpoint(TinyDetector(), save(tmp_path / "x.pth", checkpoint))
    assert not proof.exists()


@pytest.mark.parametrize("kept", [0.02, 0.05, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_checkpoint_file_is_reported_as_truncated(kind, kept, tmp_path):
    state = TinyDetector().state_dict()
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert message(TinyDetector(), path).startswith(f"{path} is truncated")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is not a checkpoint: it starts with b'<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"PK\x03\x04 no zip", "truncated"),
    ],
    ids=["empty", "web page", "lfs pointer", "no zip"],
)
def test_a_file_that_is_no_checkpoint_is_refused(content, says, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    error = message(TinyDetector(), path)
    assert says in error
    assert str(path) in error


def test_the_error_for_a_missing_file_suggests_near_names(tmp_path):
    save(tmp_path / "epoch_11.pth", {})
    (tmp_path / "log.txt").touch()
    assert "did you mean epoch_11.pth?" in message(TinyDetector(), tmp_path / "epoch_12.pth")
    assert "that folder has epoch_11.pth" in message(TinyDetector(), tmp_path / "zzz")
    assert "does not exist" in message(TinyDetector(), tmp_path / "runs" / "epoch_12.pth")
    assert "is a folder" in message(TinyDetector(), tmp_path)


def endless() -> dict:
    """A dict that contains itself, which pickle allows."""
    values: dict = {}
    values["model"] = values
    return values


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, 2], "contains a list"),
        ({}, "has no weights"),
        ({"epoch": 3, "lr": 0.1}, "expected tensors or a state_dict, got keys: epoch, lr"),
        ({"chordate": 3, "model": {}}, "newer Chordate"),
        ({"chordate": 1, "model": {}, "classes": ["cat"]}, "x.pth has format 1, which is no longer supported"),
        ({"chordate": 2, "model": {}, "meta": {}}, "has no weights"),
        (endless(), "has no weights"),
        ({3: torch.zeros(2)}, "has no weights"),
        ({"box.weight": torch.zeros(3, 4).to_sparse()}, "box.weight must be a dense, unquantized tensor"),
        ({"box.weight": torch.zeros(3, 4, device="meta")}, "box.weight must be a dense, unquantized tensor"),
        (
            {"backbone.body.layer1.0.conv1.weight": torch.zeros(1), "roi_heads.box_predictor.cls_score.weight": ONE},
            "has tensor names of torchvision (TorchvisionRCNN), but cannot be converted: KeyError",
        ),
    ],
    ids=[
        "list",
        "empty",
        "no weights",
        "newer",
        "form 1",
        "own but empty",
        "inside itself",
        "numbers for names",
        "sparse",
        "without values",
        "half of a detector",
    ],
)
def test_a_checkpoint_without_weights_is_named(values, says, tmp_path):
    assert says in message(TinyDetector(), save(tmp_path / "x.pth", values))
