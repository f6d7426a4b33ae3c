"""Recognizes the commands, options and settings of other frameworks; the error names Chordate's."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

from chordate.errors import unknown
from chordate.section_names import SECTIONS, renamed

TORCHRUN = "start one process per GPU: torchrun --nproc_per_node N -m chordate {command} CONFIG"
TEST = "write chordate test CONFIG CHECKPOINT"
DEVICE = "set CUDA_VISIBLE_DEVICES=0 for the first GPU, CUDA_VISIBLE_DEVICES= for the CPU"
OPTIONS = {
    "--config-file": "the config is the first argument: chordate {command} CONFIG",
    "--model": "the config is the first argument: chordate {command} CONFIG",
    **dict.fromkeys(("--num-gpus", "--gpus", "--launcher"), TORCHRUN),
    "--device": DEVICE,
    **dict.fromkeys(("--eval-only", "--test-only"), TEST),
    "--output-dir": "write --work-dir DIR",
    "--data-path": "write --data-root DIR",
    "--weights": "write chordate train CONFIG --load-from CHECKPOINT, or chordate predict CONFIG CHECKPOINT IMAGE",
    "--imgsz": "export and summary have --size; otherwise set the sizes in the pipelines of a config file",
    "--data-augmentation": "write the pipeline in a config file, see docs/augmentation.md",
    "--auto-scale-lr": "the learning rate is scaled to the batch size, see optimizer.base_batch_size",
    "--trainable-backbone-layers": "write --cfg-options model.backbone.frozen_stages=N, the number of frozen stages",
}
TRAINING_SETTINGS = {
    **dict.fromkeys(("--epochs", "--max-epochs"), "train.epochs"),
    **dict.fromkeys(("--lr", "--lr0", "--learning-rate"), "optimizer.lr"),
    "--momentum": "optimizer.momentum",
    **dict.fromkeys(("--wd", "--weight-decay"), "optimizer.weight_decay"),
    "--opt": "optimizer.type",
    "--lr-steps": "schedule.milestones",
    "--lr-gamma": "schedule.gamma",
    **dict.fromkeys(("-b", "--batch", "--batch-size"), "train_data.batch_size"),
    **dict.fromkeys(("-j", "--workers"), "train_data.workers"),
    "--aspect-ratio-group-factor": "train_data.group_by_aspect",
    "--weights-backbone": "model.backbone.pretrained",
    "--seed": "train.seed",
    "--model-ema": "train.ema",
    "--sync-bn": "train.sync_bn",
    "--print-freq": "train.log_every",
}
# Arguments of Ultralytics and Detectron2 that do not correspond to a setting of a Chordate config.
ARGUMENTS = {
    **dict.fromkeys(("task", "mode", "model", "source"), "type {usage}"),
    "format": "write chordate export CONFIG CHECKPOINT --format onnx",
    **dict.fromkeys(("device", "MODEL.DEVICE"), DEVICE),
    "data": 'name data.yaml in a config: train_data.dataset of type="YoloDataset", see docs/own_data.md#yolo',
}
COMMANDS = {
    **dict.fromkeys(("val", "eval", "evaluate", "validate"), "chordate test CONFIG CHECKPOINT"),
    **dict.fromkeys(("infer", "inference", "demo", "image_demo"), "chordate predict CONFIG CHECKPOINT IMAGE"),
    **dict.fromkeys(
        ("detect", "segment", "classify", "pose", "obb"),
        "chordate train CONFIG, chordate test CONFIG CHECKPOINT or chordate predict CONFIG CHECKPOINT IMAGE",
    ),
    "finetune": "chordate train CONFIG --load-from CHECKPOINT",
    "dist_train": "torchrun --nproc_per_node N -m chordate train CONFIG",
    "benchmark": "chordate summary CONFIG",
    "get_flops": "chordate summary CONFIG",
    "browse_dataset": "chordate browse CONFIG",
    "models": "chordate list models",
    "version": "chordate --version",
}


def unknown_command(word: str, commands: Collection[str]) -> str:
    """The error message for a command that does not exist; names Chordate's if the word is from another framework."""
    if word in COMMANDS:
        return f"no command {word}; write {COMMANDS[word]}"
    return unknown("command", word, commands)


def explain(words: Sequence[str], command: str, options: Collection[str], usage: str) -> str | None:
    """The error message for other frameworks' options or settings on a command line; None if there are none.

    Args:
        words: the command line after `chordate <command>`.
        command: the command, such as `train`.
        options: the command's options, such as `--work-dir`.
        usage: the command line with the required arguments, such as `chordate train CONFIG`.
    """
    settings: list[str] = []
    arguments: dict[str, list[str]] = {}  # keyed by the advice about them
    in_cfg_options = False
    for word in words:
        if word.startswith("-"):
            option = word.partition("=")[0]
            in_cfg_options = option.startswith("--cf")  # argparse accepts abbreviations of --cfg-options
            hyphenated = option.replace("_", "-")
            if option in options:
                continue
            if hyphenated in options:
                return f"{option} is written {hyphenated} here"
            if hyphenated in OPTIONS:
                return f"no option {option}; {OPTIONS[hyphenated].format(command=command)}"
            if command == "train" and hyphenated in TRAINING_SETTINGS:
                return f"no option {option}; write --cfg-options {TRAINING_SETTINGS[hyphenated]}=VALUE"
        elif not in_cfg_options and (key := _argument(word)):
            arguments.setdefault(ARGUMENTS[key].format(usage=usage), []).append(key)
        elif not in_cfg_options and (message := _setting(word)):
            settings.append(message)
    messages = [f"no argument {', '.join(keys)}; {advice}" for advice, keys in arguments.items()] + settings
    if settings:
        messages.append(f"settings follow --cfg-options: chordate {command} … --cfg-options KEY=VALUE")
    return "; ".join(messages) or None


def _argument(word: str) -> str | None:
    """The key of a word such as `model=yolov8n.pt` or `MODEL.DEVICE` if it is in ARGUMENTS; None for other words."""
    key, equals, _ = word.partition("=")
    is_setting = (equals or key.isupper()) and not os.path.exists(word.partition("/")[0])
    return key if is_setting and key in ARGUMENTS else None


def _setting(word: str) -> str | None:
    """Error message for a setting outside of --cfg-options: `SOLVER.BASE_LR`, `epochs=3`, `optimizer.lr=0.1`; None if
    the word is something else, such as a file."""
    key, equals, _ = word.partition("=")
    pattern = r"[A-Za-z_][\w.]*" if equals else r"[A-Z][A-Z0-9_.]*"
    if os.path.exists(word.partition("/")[0]) or not re.fullmatch(pattern, key):
        return None
    return renamed([key]) or (f"`{key}` is a setting" if equals and key.split(".")[0] in SECTIONS else None)
