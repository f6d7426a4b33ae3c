"""Loading: every known form is recognised, and everything else ends in one line that says why."""

import hashlib
import http.server
import threading
import warnings
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from chordate.backbones import ResNet
from chordate.checkpoints import source as sources
from chordate.checkpoints.fit import adapt_input_channels
from chordate.checkpoints.load import load_checkpoint, load_pretrained
from chordate.checkpoints.source import read_state
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import CheckpointError
from chordate.registry import BACKBONES


class TinyBackbone(Backbone):
    """Two convolutions: enough to tell stems, stages and depths apart, and quick."""

    def __init__(self, in_channels: int = 3, blocks: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(blocks)))
        self.out_features = {"c2": FeatureSpec(4, 4)}


class TinyDetector(nn.Module):
    def __init__(self, classes=("cat", "dog"), **options):
        super().__init__()
        self.classes = tuple(classes)
        self.backbone = TinyBackbone(**options)
        self.box = nn.Linear(4, len(classes) + 1)


def filled(model: nn.Module, value: float = 0.5) -> nn.Module:
    """The same model with one value everywhere, so that a loaded tensor is known from a fresh one."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def is_filled(model: nn.Module, value: float = 0.5) -> bool:
    return all(bool((t == value).all()) for name, t in model.state_dict().items() if "num_batches" not in name)


def save(path: Path, values) -> Path:
    torch.save(values, path)
    return path


def message(model: nn.Module, source, **options) -> str:
    """The one line that loading ends in; the model stays as it was."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(model, source, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    return str(caught.value)


def with_hash(path: Path) -> Path:
    """The file under a name that ends in its hash, as torch.hub has them."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))


# --- forms that are known ---------------------------------------------------------------------------------------


def wrapped_forms():
    state = filled(TinyDetector()).state_dict()
    return {
        "bare": state,
        "state_dict": {"state_dict": state, "meta": {"epoch": 3}},
        "model": {"model": state, "optimizer": {"lr": 0.1}},
        "nested": {"model": {"state_dict": state}},
        "data parallel": {f"module.{k}": v for k, v in state.items()},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}},
        "half": {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        "without counters": {k: v for k, v in state.items() if "num_batches" not in k},
    }


@pytest.mark.parametrize("form", wrapped_forms())
def test_a_state_dict_loads_bare_or_wrapped(form, tmp_path):
    model = TinyDetector()
    report = load_checkpoint(model, save(tmp_path / "x.pth", wrapped_forms()[form]))
    assert is_filled(model)
    assert report.format == "state dict"
    assert not report.missing
    assert not report.skipped


def test_a_model_inside_data_parallel_or_compile_is_reached():
    for wrap in (nn.DataParallel, partial(torch.compile, backend="eager")):
        model = TinyDetector()
        load_checkpoint(wrap(model), filled(TinyDetector()).state_dict())
        assert is_filled(model)


def own(model: nn.Module, **more) -> dict:
    return {"chordate": 1, "model": model.state_dict(), "classes": ["cat", "dog"], "config": "raise SystemExit", **more}


def test_our_own_form_brings_its_classes(tmp_path):
    model = TinyDetector(classes=("class 0", "class 1"))
    report = load_checkpoint(model, save(tmp_path / "epoch_1.pth", own(filled(TinyDetector()))))
    assert report.format == "chordate"
    assert report.classes == model.classes == ("cat", "dog")
    assert is_filled(model)
    assert str(report) == f"{tmp_path}/epoch_1.pth (chordate): {len(report.loaded)} tensors loaded"


def test_averaged_weights_are_preferred(tmp_path):
    model = TinyDetector()
    load_checkpoint(model, own(filled(TinyDetector(), 0.5), ema=filled(TinyDetector(), 0.25).state_dict()))
    assert is_filled(model, 0.25)


def test_what_was_read_keeps_its_name_for_messages(tmp_path):
    state = read_state(save(tmp_path / "epoch_1.pth", own(TinyDetector())))
    assert state["classes"] == ["cat", "dog"]
    assert "epoch_1.pth" in message(nn.Linear(2, 2), state)


def test_safetensors_load(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(filled(TinyDetector()).state_dict(), path)
    model = TinyDetector()
    load_checkpoint(model, path)
    assert is_filled(model)


def test_a_torchvision_classifier_fills_our_resnet_and_reports_its_fc(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    model = BACKBONES.build("resnet18")
    report = load_checkpoint(model, save(tmp_path / "r18.pth", theirs.state_dict()))
    assert report.format == "torchvision"
    assert report.skipped == ["fc.weight", "fc.bias"]
    assert not report.missing
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in model.state_dict().items())
    assert str(report).endswith("(torchvision): 120 tensors loaded, 2 skipped (fc.weight, fc.bias)")


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_batch_norm_weights_fill_its_relatives(norm):
    model = ResNet(18, norm=norm)
    report = load_checkpoint(model, torchvision.models.resnet18(weights=None).state_dict())
    assert not report.missing
    assert report.skipped == ["fc.weight", "fc.bias"]


def test_torchvisions_weights_in_a_caffe_style_network_are_warned_of():
    """Every tensor fits, and every feature would be off."""
    state = torchvision.models.resnet50(weights=None).state_dict()
    with pytest.warns(UserWarning, match=r'ResNet-50 \(caffe\): .* off unless style="pytorch"'):
        load_checkpoint(BACKBONES.build("resnet50_caffe"), state)


def test_stages_that_were_not_built_are_skipped():
    report = load_checkpoint(ResNet(18, out=["c4"]), torchvision.models.resnet18(weights=None).state_dict())
    assert {name.split(".")[0] for name in report.skipped} == {"layer4", "fc"}


def test_a_backbone_takes_its_part_of_a_whole_model():
    model = TinyBackbone()
    report = load_checkpoint(model, own(filled(TinyDetector())))
    assert is_filled(model)
    assert report.skipped == ["box.weight", "box.bias"]


# --- other input channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_a_stem_is_adapted_as_timm_does(channels):
    weight = torch.randn(8, 3, 7, 7)
    expected = timm.models.adapt_input_conv(channels, weight)
    torch.testing.assert_close(adapt_input_channels(weight, channels), expected)


def test_a_gray_stem_answers_to_a_gray_picture_as_before():
    weight, gray = torch.randn(8, 3, 7, 7, dtype=torch.float64), torch.randn(1, 1, 16, 16, dtype=torch.float64)
    expected = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(nn.functional.conv2d(gray, adapt_input_channels(weight, 1)), expected)


def test_weights_for_rgb_load_into_a_backbone_for_other_channels():
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    model = ResNet(18, in_channels=4)
    report = load_checkpoint(model, theirs)
    assert report.adapted == ["conv1.weight"]
    torch.testing.assert_close(model.conv1.weight, adapt_input_channels(theirs["conv1.weight"], 4))

    detector = TinyDetector(in_channels=1)
    assert load_checkpoint(detector, TinyDetector().state_dict()).adapted == ["backbone.conv1.weight"]


# --- where from -------------------------------------------------------------------------------------------------


def test_a_file_url_loads_and_its_hash_is_checked(tmp_path):
    path = with_hash(save(tmp_path / "tiny net.pth", filled(TinyDetector()).state_dict()))
    model = TinyDetector()
    load_checkpoint(model, path.as_uri())
    assert is_filled(model)
    wrong = path.rename(tmp_path / "tiny-0123abcd.pth")
    assert "its name says 0123abcd" in message(model, wrong.as_uri())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty, and not the user's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path):
    """A folder and the URL under which a web server on this machine gives it out."""
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
    load_checkpoint(model, f"{url}/{path.name}")  # from torch.hub's folder

    save(folder / "tiny-0123abcd.pth", TinyDetector().state_dict())
    assert "invalid hash" in message(model, f"{url}/tiny-0123abcd.pth")
    assert "could not be downloaded: HTTP Error 404" in message(model, f"{url}/none.pth")


def test_one_file_name_at_two_addresses_is_two_files(hub, served):
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
def test_torchvisions_weights_come_from_its_own_address(spec, weights):
    assert sources.torchvision_url(spec) == weights.url


@pytest.mark.parametrize("pretrained", [True, "torchvision://resnet18"])
def test_pretrained_backbones_are_filled_through_torch_hub(pretrained, hub, monkeypatch):
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


def test_pretrained_without_weights_on_offer_is_an_error():
    with pytest.raises(CheckpointError, match=r"ResNet-50 \(caffe\): pretrained=True, but no weights are known"):
        load_pretrained(BACKBONES.build({"type": "resnet50_caffe", "pretrained": True}))
    assert load_pretrained(BACKBONES.build({"type": "resnet18", "pretrained": False})) == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("torchvision://resnet51", 'unknown torchvision model "resnet51"; did you mean "resnet50"'),
        ("torchvision://resnet50/V9", "unknown weights of torchvision's resnet50"),
        ("ftp://host/x.pth", "unknown scheme ftp://"),
    ],
)
def test_a_source_that_does_not_exist_is_named(spec, says):
    assert says in message(TinyDetector(), spec)


# --- checkpoints that cannot be read ----------------------------------------------------------------------------


class Bomb:
    """A pickle that creates a file when it is opened."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_not_opened(zipped, protocol, tmp_path):
    proof = tmp_path / "code ran"
    path = tmp_path / "bomb.pth"
    state = filled(TinyDetector()).state_dict()
    torch.save(
        {"model": state, "hook": Bomb(proof)},
        path,
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    assert "could run code, so it was not opened" in message(TinyDetector(), path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the bomb is a bomb
    assert proof.exists()


def test_the_config_text_in_our_own_form_is_never_executed(tmp_path):
    proof = tmp_path / "code ran"
    checkpoint = {**own(TinyDetector()), "config": f"open({str(proof)!r}, 'w')"}
    load_checkpoint(TinyDetector(), save(tmp_path / "x.pth", checkpoint))
    assert not proof.exists()


@pytest.mark.parametrize("kept", [0.02, 0.05, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_in_the_middle_is_said_to_be(kind, kept, tmp_path):
    state = TinyDetector().state_dict()
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert message(TinyDetector(), path).startswith(f"{path} is cut short")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is not a checkpoint: it begins with b'<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"PK\x03\x04 no zip", "cut short"),
    ],
    ids=["empty", "web page", "lfs pointer", "no zip"],
)
def test_a_file_that_is_no_checkpoint_is_said_to_be(content, says, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    said = message(TinyDetector(), path)
    assert says in said
    assert str(path) in said


def test_a_missing_file_answers_with_near_names(tmp_path):
    save(tmp_path / "epoch_11.pth", {})
    (tmp_path / "log.txt").touch()
    assert "did you mean epoch_11.pth?" in message(TinyDetector(), tmp_path / "epoch_12.pth")
    assert "that folder has epoch_11.pth" in message(TinyDetector(), tmp_path / "zzz")
    assert "there is no folder" in message(TinyDetector(), tmp_path / "runs" / "epoch_12.pth")
    assert "is a folder" in message(TinyDetector(), tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no weights"),
        ({"epoch": 3, "lr": 0.1}, "neither tensors nor a state_dict, but epoch, lr"),
        ({"chordate": 2, "model": {}}, "newer Chordate"),
        ({"chordate": 1, "model": {}}, "holds no weights"),
    ],
    ids=["list", "empty", "no weights", "newer", "own but empty"],
)
def test_a_checkpoint_without_weights_is_named(values, says, tmp_path):
    assert says in message(TinyDetector(), save(tmp_path / "x.pth", values))


# --- checkpoints of another model -------------------------------------------------------------------------------


def test_another_models_checkpoint_says_whose_names_it_has(tmp_path):
    path = save(tmp_path / "x.pth", torchvision.models.squeezenet1_1(weights=None).state_dict())
    said = message(TinyDetector(), path)
    assert f"{path} is of another model: no tensor of it fits TinyDetector" in said
    assert "features.0.weight" in said
    assert "known formats: chordate, state dict, torchvision" in said


@pytest.mark.parametrize(
    ("theirs", "ours"), [("resnet34", "resnet18"), ("resnet101", "resnet50"), ("resnet18", "resnet34")]
)
def test_weights_of_another_depth_are_refused(theirs, ours):
    """All of ResNet-50's tensors are in ResNet-101 with the right shapes; it is another network all the same."""
    state = torchvision.models.get_model(theirs, weights=None).state_dict()
    said = message(BACKBONES.build(ours), state)
    assert "layer" in said
    assert "does not fit ResNet-" in said


def test_weights_under_another_norm_are_refused():
    said = message(ResNet(18, norm="GN"), torchvision.models.resnet18(weights=None).state_dict())
    assert "not in the model: bn1.running_mean" in said


def test_a_detector_for_other_classes_says_both_counts():
    said = message(TinyDetector(classes=("a", "b", "c")), own(TinyDetector()))
    assert "trained on 2 classes, the model has 3" in said
    assert "box.weight [3, 4] for the model's [4, 4]" in said


def test_not_strict_keeps_the_predictor_and_the_classes_of_the_model():
    model = filled(TinyDetector(classes=("a", "b", "c")), 0.75)
    report = load_checkpoint(model, own(filled(TinyDetector())), strict=False)
    assert report.skipped == report.missing == ["box.weight", "box.bias"]
    assert model.classes == ("a", "b", "c")
    assert is_filled(model.backbone, 0.5)
    assert is_filled(model.box, 0.75)


def test_not_strict_still_needs_something_that_fits():
    assert "of another model" in message(TinyDetector(), nn.Linear(2, 2).state_dict(), strict=False)


def test_backbone_weights_do_not_pass_for_a_whole_model():
    said = message(TinyDetector(), filled(TinyBackbone()).state_dict())
    assert "for the backbone of TinyDetector only" in said
    assert "load_checkpoint(model.backbone, …)" in said


def test_weights_that_are_not_finite_are_warned_of():
    state = TinyDetector().state_dict()
    state["box.bias"][1] = float("nan")
    with pytest.warns(UserWarning, match=r"the state dict: NaN or infinite values in 1 tensors: box.bias"):
        load_checkpoint(TinyDetector(), state)


@pytest.mark.parametrize("wrong", [{"model": 3}, {}, {"model": {}, "ema": 3}, {"model": {}, "classes": 5}])
def test_a_checkpoint_of_ours_with_something_else_in_it_is_one_line(tmp_path, wrong):
    file = save(tmp_path / "a.pth", {"chordate": 1, **wrong})
    with pytest.raises(CheckpointError, match=r"a\.pth is no whole Chordate checkpoint: its (model|ema|classes) is"):
        load_checkpoint(TinyDetector(), file)
