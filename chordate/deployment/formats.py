"""The file formats of exported models: each writes a graph to a file, and opens the file as a function."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

from chordate.deployment.exportable import Exportable
from chordate.errors import ConfigError
from chordate.text import one_line

OPSET = 18  # the newest ONNX operator set whose operators this package uses
Function = Callable[..., dict[str, Tensor]]  # maps the input tensors to the outputs, keyed by name


class ExportFormat(ABC):
    """Base class of the file formats of exported models.

    Attributes:
        suffix: suffix of the files, such as ".onnx".
    """

    suffix: str

    @abstractmethod
    def save(self, model: Exportable, path: Path) -> None:
        """Export a model to a file, with `metadata`."""

    @abstractmethod
    def open(self, path: Path, model: Exportable) -> Function:
        """Open a file that `save` has written for `model`, as a function from inputs to named outputs."""


def metadata(model: Exportable) -> dict[str, str]:
    """Metadata for programs that run the file, each value as JSON: `classes`, `inputs`, `outputs`, `size_divisor`, and
    `keypoints` (their names) if there are any."""
    own, meta = model.model, model.model.meta
    facts: dict[str, Any] = {"classes": meta.classes, "inputs": model.inputs, "outputs": model.outputs}
    facts["size_divisor"] = own.size_divisor
    if meta.skeleton is not None:
        facts["keypoints"] = meta.skeleton.names
    return {name: json.dumps(value) for name, value in facts.items()}


class OnnxFormat(ExportFormat):
    """ONNX, written by PyTorch's exporter, for onnxruntime and others; needs the packages of the extra `export`."""

    suffix = ".onnx"

    def save(self, model: Exportable, path: Path) -> None:
        require("onnx", "onnxscript", "onnxruntime")
        from chordate.deployment.onnx_nms import onnx_padded_nms

        table: Any = {torch.ops.chordate.padded_nms.default: onnx_padded_nms}
        program = model.program()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exported: Any = torch.onnx.export(
                    program, dynamo=True, opset_version=OPSET, custom_translation_table=table, verbose=False
                )
            except Exception as error:  # the exporter raises many types of errors
                reason = one_line(error.__cause__ or error)
                raise ConfigError(f"{type(model.model).__name__} cannot be exported to ONNX: {reason[:300]}") from error
        graph = exported.model.graph
        for values, names in ((graph.inputs, model.inputs), (graph.outputs, model.outputs)):
            for value, name in zip(values, names, strict=True):
                value.name = name
        exported.model.metadata_props.update(metadata(model))
        exported.save(path, external_data=False)

    def open(self, path: Path, model: Exportable) -> Function:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> dict[str, Tensor]:
            outputs = session.run(None, dict(zip(model.inputs, (one.numpy() for one in inputs), strict=True)))
            return dict(zip(model.outputs, map(torch.from_numpy, outputs), strict=True))

        return run


class TorchExportFormat(ExportFormat):
    """A `torch.export` program, for Python, C++ and AOTInductor; loading it requires torchvision's operators."""

    suffix = ".pt2"

    def save(self, model: Exportable, path: Path) -> None:
        program = torchvision_program(model)
        torch.export.save(program, path, extra_files=metadata(model))

    def open(self, path: Path, model: Exportable) -> Function:
        function: Function = torch.export.load(path).module()
        return function


class TorchScriptFormat(ExportFormat):
    """TorchScript, for existing C++ programs. It is traced, so all sizes are fixed."""

    suffix = ".ts"

    def save(self, model: Exportable, path: Path) -> None:
        if model.dynamic:
            raise ConfigError("TorchScript has fixed sizes; leave out --dynamic, or use --format onnx or torch-export")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            program = torchvision_program(model).module()
            # strict=False allows the outputs to be a dict.
            traced = torch.jit.trace(program, model.example(), check_trace=False, strict=False)
            torch.jit.save(traced, path, _extra_files=metadata(model))

    def open(self, path: Path, model: Exportable) -> Function:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function: Function = torch.jit.load(path)
        return function


FORMATS: dict[str, ExportFormat] = {
    "onnx": OnnxFormat(),
    "torch-export": TorchExportFormat(),
    "torchscript": TorchScriptFormat(),
}


def require(*packages: str) -> None:
    """Raise ConfigError if a package is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}; install them with: pip install 'chordate[export]'")


def torchvision_program(model: Exportable) -> torch.export.ExportedProgram:
    """The graph with torchvision's NMS instead of ours, so that it runs without Chordate."""
    table: Any = {torch.ops.chordate.padded_nms.default: torchvision_padded_nms}
    return model.program().run_decompositions(table)


def torchvision_padded_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """`padded_nms` as one call of torchvision's NMS, with float64 offsets that separate groups and images."""
    present = groups >= 0
    image = torch.arange(groups.shape[0], device=groups.device)[:, None]
    group = image * (groups.amax() + 1).clamp(min=1) + groups.clamp(min=0)
    apart = boxes.double() + (boxes.double().abs().amax() * 2 + 1) * group[..., None]
    # Padding has the lowest score, so it suppresses no box.
    order = torch.where(present, scores, -torch.inf).double()
    kept = nms(apart.flatten(0, 1), order.flatten(), threshold)
    keep = torch.zeros_like(present).flatten().index_fill(0, kept, 1)
    return keep.view_as(present) & present
