"""Writes tests/data/detectron2_names.json: the names and shapes of the tensors of Detectron2's models, from its code.

The file has the tensors of each different ResNet, and for each model: its config, the name of its ResNet, the
prefix of the ResNet's tensors, and the other tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compare_detectron2 import FAMILIES
from detectron2.modeling import build_model
from detectron2_models import config

OUT = Path(__file__).parents[1] / "data/detectron2_names.json"


def main() -> None:
    table: dict[str, Any] = {"resnets": {}, "models": {}}
    for family, (name, options) in FAMILIES.items():
        cfg = config(name, [*options, "MODEL.RESNETS.DEPTH", 50])
        state = {key: list(tensor.shape) for key, tensor in build_model(cfg).state_dict().items()}
        prefix = "backbone.bottom_up." if "backbone.bottom_up.stem.conv1.weight" in state else "backbone."
        parts = tuple(f"{prefix}{part}" for part in ("stem.", "res"))
        resnet = {key.removeprefix(prefix): shape for key, shape in state.items() if key.startswith(parts)}
        others = {key: shape for key, shape in state.items() if not key.startswith(parts)}
        known = next((known for known, own in table["resnets"].items() if own == resnet), None)
        known = known or f"resnet {len(table['resnets'])}"
        table["resnets"][known] = resnet
        table["models"][family] = {"config": name, "resnet": known, "prefix": prefix, "tensors": others}
    OUT.write_text(json.dumps(table, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
