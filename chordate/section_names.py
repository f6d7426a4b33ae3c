"""The names of a config's sections, and the corresponding names in other frameworks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chordate.errors import unknown

SECTIONS = (
    "model",
    "train_data",
    "val_data",
    "metric",
    "optimizer",
    "schedule",
    "train",
    "callbacks",
    "fallback_meta",
    "custom_imports",
)
# Names in the configs of MMDetection, Detectron2, Ultralytics, and in our earlier configs; docs/configs.md has the full
# table.
NAMES_HERE = {
    "train_cfg.max_epochs": "train.epochs",
    "train_cfg.max_iters": "train.iterations",
    "train_cfg.val_interval": "train.eval_every",
    "train_cfg": "train",
    "optim_wrapper.optimizer": "optimizer",
    "optim_wrapper.clip_grad": "train.clip_norm",
    "optim_wrapper.accumulative_counts": "train.accumulate",
    "optim_wrapper": "optimizer",
    "param_scheduler": "schedule",
    "train_dataloader.num_workers": "train_data.workers",
    "train_dataloader": "train_data",
    "val_dataloader.num_workers": "val_data.workers",
    "val_dataloader": "val_data",
    "test_dataloader": "val_data",
    "val_evaluator": "metric",
    "test_evaluator": "metric",
    "work_dir": "--work-dir",
    "load_from": "train.load_from",
    "resume": "--resume",
    "randomness": "train.seed",
    "default_hooks": "train",
    "custom_hooks": "callbacks",
    "fallback_classes": "fallback_meta.classes",
    "fallback_keypoints": "fallback_meta.skeleton",
    "fallback_meta.keypoints": "fallback_meta.skeleton",
    "SOLVER.IMS_PER_BATCH": "train_data.batch_size",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.MAX_ITER": "train.iterations",
    "SOLVER.STEPS": "schedule.milestones",
    "SOLVER.CHECKPOINT_PERIOD": "train.save_every",
    "SOLVER": "optimizer",
    "TEST.EVAL_PERIOD": "train.eval_every",
    "TEST": "val_data",
    "DATALOADER.NUM_WORKERS": "train_data.workers",
    "DATALOADER": "train_data",
    "DATASETS.TEST": "val_data.dataset",
    "DATASETS": "train_data.dataset",
    "INPUT": "train_data.pipeline",
    "MODEL.WEIGHTS": "train.load_from",
    "MODEL.ROI_HEADS.NUM_CLASSES": "train_data.dataset.classes",
    "MODEL": "model",
    "OUTPUT_DIR": "--work-dir",
    "SEED": "train.seed",
    "data.samples_per_gpu": "train_data.batch_size",
    "data.workers_per_gpu": "train_data.workers",
    "data.val": "val_data.dataset",
    "data.test": "val_data.dataset",
    "data": "train_data.dataset",
    "epochs": "train.epochs",
    "batch": "train_data.batch_size",
    "imgsz": "train_data.pipeline",
    "lr0": "optimizer.lr",
    "workers": "train_data.workers",
    "project": "--work-dir",
}


# Variables of MMDetection's and MMSegmentation's configs.
OPENMMLAB = {
    "data_root", "dataset_type", "default_hooks", "default_scope", "env_cfg", "log_processor", "optim_wrapper",
    "param_scheduler", "test_cfg", "test_dataloader", "train_cfg", "train_dataloader", "val_dataloader",
    "val_evaluator", "vis_backends", "visualizer",
}  # fmt: skip


def is_openmmlab(names: Iterable[str]) -> bool:
    """Whether a config with these variables is MMDetection's or MMSegmentation's: it has at least four of theirs."""
    return len(OPENMMLAB.intersection(names)) >= 4


def renamed(paths: Iterable[str]) -> str | None:
    """The error message if NAMES_HERE has one of the dotted names `paths`, or a section that contains it; else None."""
    for theirs, ours in NAMES_HERE.items():
        for path in paths:
            if path == theirs or path.startswith(f"{theirs}."):
                path, rest = (path, path.removeprefix(theirs)) if "." in theirs else (theirs, "")
                return f"`{path}` is called `{ours}{rest}` here"
    return None


def no_section(key: str, tree: Mapping[str, Any]) -> str:
    """The error message for an unknown section `key` of the config `tree`; it suggests the correct name."""
    holders = [name for name in SECTIONS if isinstance(tree.get(name), Mapping) and key in tree[name]]
    if holders:
        return f"`{key}` is a setting, not a section: write {' or '.join(f'{name}.{key}' for name in holders)}"
    return renamed(list(_dotted(key, tree[key]))) or unknown("section", key, SECTIONS)


def _dotted(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _dotted(f"{path}.{key}", item)
    else:
        yield path
