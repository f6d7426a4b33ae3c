"""Reads checkpoints from paths and URLs without running code from them."""

import hashlib
import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor

from chordate.errors import NOT_REGULAR, CheckpointError, ConfigError, DownloadError, near_names, unknown
from chordate.libraries import smp_encoders, timm_for
from chordate.weights.checkpoint_schema import Contents
from chordate.weights.pickle_files import read_pickle_file

_HUB_WEIGHTS, _HUB_CONFIG = "model.safetensors", "config.json"  # files that huggingface_hub's ModelHubMixin writes
_MAX_HUB_CONFIG = 1_000_000  # bytes
DETECTRON2_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"  # `detectron2://` in Detectron2's configs
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # torch.hub's convention: resnet50-0676ba61.pth has a sha256 of 0676ba61…


def read_state(source: str | Path) -> Contents:
    """Read the contents of a checkpoint, with tensors on the CPU.

    Args:
        source: path of a file, or of a folder that a library's `save_pretrained` wrote (smp, for example); an
            `http(s)://` URL, downloaded once into torch.hub's folder; a `file://` URL;
            `torchvision://resnet50` (its default weights) or `torchvision://resnet50/IMAGENET1K_V1`;
            `timm://resnet50` (its default weights) or `timm://resnet50.a1_in1k`, which timm downloads and converts;
            `detectron2://COCO-Detection/…/model_final_280758.pkl`, a path in Detectron2's model zoo;
            `smp://resnet34` or `smp://resnet34/imagenet`, which segmentation_models.pytorch downloads.
            A hash in the file name of a URL, as in `resnet50-0676ba61.pth`, is checked. A file may be a safetensors
            file, a file of `torch.save`, or a pickle of numpy arrays.

    Raises:
        DownloadError: a download failed.
        CheckpointError: the source is empty or unknown; or the file is missing, damaged or not a checkpoint, calls a
            function that is not allowed, or is a Chordate checkpoint that does not fit the schema.
    """
    source = str(source)
    if not source:
        raise CheckpointError("the path of the checkpoint is empty; pass a path or a URL")
    if source.startswith("timm://"):
        return Contents(_read_timm(source.removeprefix("timm://")), source)
    if source.startswith("smp://"):
        return Contents(_read_smp(source.removeprefix("smp://")), source)
    path = _fetch(source)
    if not path.exists():
        raise CheckpointError(_missing_message(path))
    if path.is_dir() and (path / _HUB_WEIGHTS).is_file():
        return Contents(
            {"state_dict": _read_safetensors(path / _HUB_WEIGHTS), "config": _read_hub_config(path)}, source
        )
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder without model.safetensors; pass the path of a checkpoint file")
    if not path.is_file():
        raise CheckpointError(f"{path} {NOT_REGULAR}")
    values = _read_safetensors(path) if _is_safetensors(path) else read_pickle_file(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} contains a {type(values).__name__}, not the dict of a checkpoint")
    return Contents(values, source)


def check_exists(source: str | Path, setting: str) -> None:
    """Check that a local checkpoint exists. Called before datasets are opened, which may take minutes.

    Raises:
        CheckpointError: there is no such file or folder; the message starts with `setting`.
    """
    path = Path(source).expanduser()
    if "://" not in str(source) and not path.exists():
        raise CheckpointError(f"{setting}: {_missing_message(path)}")


def torchvision_url(spec: str) -> str:
    """The URL of torchvision's weights for `resnet50` (the default weights) or `resnet50/IMAGENET1K_V1`.

    Raises:
        CheckpointError: torchvision has no such model or weights.
    """
    name, _, which = spec.partition("/")
    if name not in torchvision.models.list_models():
        raise CheckpointError(unknown("torchvision model", name, torchvision.models.list_models()))
    weights = torchvision.models.get_model_weights(name)
    if which and which not in weights.__members__:
        raise CheckpointError(unknown(f"weights of torchvision's {name}", which, weights.__members__))
    if not len(weights):
        raise CheckpointError(f"torchvision offers no weights for {name}")
    return (weights[which] if which else weights.DEFAULT).url


def _fetch(source: str) -> Path:
    """Return the local path of a source. A remote file is downloaded unless torch.hub's folder already has it."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return Path(source).expanduser()
    if scheme == "torchvision":
        return _download(torchvision_url(rest))
    if scheme == "detectron2":
        return _download(DETECTRON2_ZOO + rest)
    if scheme in ("http", "https"):
        return _download(source)
    if scheme == "file":
        path = Path(urllib.request.url2pathname(urllib.parse.urlparse(source).path))
        expected = _HASH.search(path.name)
        if expected and path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(expected[1]):
                raise CheckpointError(
                    f"{path} is damaged or not the named file: its sha256 is {digest[:8]}…, but its name says "
                    f"{expected[1]}"
                )
        return path
    raise CheckpointError(
        f"{source}: unknown scheme {scheme}://; known: http, https, file, torchvision, timm, smp, detectron2"
    )


def _download(url: str) -> Path:
    name = Path(urllib.parse.urlparse(url).path).name or "checkpoint"
    expected = _HASH.search(name)
    if not expected:  # add a hash of the URL, since other URLs may have the same file name
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), expected[1] if expected else None)
        except (OSError, RuntimeError, ValueError) as error:
            raise DownloadError(
                f"{url} could not be downloaded: {_first_line(error)}; without a network, copy the file to {path}"
            ) from error
    return path


def _read_timm(model: str) -> dict[str, Tensor]:
    """The state dict of a pretrained timm model; timm downloads, checks and converts the file."""
    try:
        timm = timm_for(model, f"timm://{model}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not timm.get_pretrained_cfg(model).has_weights:
        raise CheckpointError(f"timm offers no weights for {model}")
    try:
        return timm.create_model(model, pretrained=True).state_dict()
    except Exception as error:  # huggingface_hub and other libraries raise many types of errors
        raise DownloadError(f"timm://{model} could not be downloaded: {_first_line(error)}") from error


def _read_smp(spec: str) -> dict[str, Tensor]:
    """The state dict of a pretrained encoder of segmentation_models.pytorch, which downloads the weights."""
    model, _, weights = spec.partition("/")
    try:
        encoders = smp_encoders(model, f"smp://{spec}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    settings = encoders.encoders.get(model, {"pretrained_settings": {"imagenet": {}}})["pretrained_settings"]
    weights = weights or "imagenet"
    if weights not in settings:
        raise CheckpointError(unknown(f"weights of smp's {model}", weights, settings))
    try:
        return encoders.get_encoder(model, weights=weights).state_dict()
    except Exception as error:  # huggingface_hub and other libraries raise many types of errors
        raise DownloadError(f"smp://{spec} could not be downloaded: {_first_line(error)}") from error


def _missing_message(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no checkpoint {path}: the folder {path.parent} does not exist"
    files = sorted(entry.name for entry in path.parent.iterdir())
    close = near_names(path.name, files)
    if close:
        return f"no checkpoint {path}; did you mean {' or '.join(close)}?"
    endings = (".pth", ".pt", ".safetensors")
    likely = [name for name in files if name.endswith(endings)][:5]
    return f"no checkpoint {path}" + (f"; that folder has {', '.join(likely)}" if likely else "")


def _is_safetensors(path: Path) -> bool:
    """Whether a file is named .safetensors, or starts like a safetensors file: header size, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    size = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:] == b"{" and size < path.stat().st_size)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:  # safetensors' SafetensorError is derived from Exception only
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {_first_line(error)}") from error


def _read_hub_config(folder: Path) -> Any:
    """The contents of a folder's `config.json`; None if it is missing, too large or unreadable."""
    path = folder / _HUB_CONFIG
    if not path.is_file() or path.stat().st_size > _MAX_HUB_CONFIG:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
