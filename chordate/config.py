"""Finding, reading and checking configs: Python files that compose by `_base_` (mmengine's Config)."""

import fnmatch
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from chordate.errors import ChordateError, ConfigError, near_names, repr_name, unknown

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
    "base",
)
# What MMDetection's users would write, and where it stands here; docs/configs.md has the whole table.
ELSEWHERE = {
    "optim_wrapper": "optimizer",
    "param_scheduler": "schedule",
    "train_cfg": "train",
    "train_dataloader": "train_data",
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
    "fallback_keypoints": "fallback_meta.keypoints",
}
ELSEWHERE_WITHIN = {
    "train_cfg.max_epochs": "train.epochs",
    "train_cfg.max_iters": "train.iterations",
    "train_cfg.val_interval": "train.eval_every",
    "optim_wrapper.optimizer": "optimizer",
    "optim_wrapper.clip_grad": "train.clip_norm",
    "optim_wrapper.accumulative_counts": "train.accumulate",
    "train_dataloader.num_workers": "train_data.workers",
    "val_dataloader.num_workers": "val_data.workers",
    "randomness.seed": "train.seed",
}


def packaged_configs() -> dict[str, Path]:
    """Every config that comes with Chordate, by its name (the file's name without `.py`)."""
    root = Path(str(files("chordate.configs")))
    found = (path for path in sorted(root.rglob("*.py")) if path.name != "__init__.py")
    return {path.stem: path for path in found if "_base_" not in path.relative_to(root).parts}


def list_configs(pattern: str = "*") -> list[str]:
    """The names of the packaged configs that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(packaged_configs(), pattern))


def find_config(name: str | Path) -> Path:
    """The file of a config given by path or by its packaged name.

    Raises:
        ConfigError: neither a file nor a packaged name; names near ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = packaged_configs()
    if str(name) in known:
        return known[str(name)]
    if path.suffix == ".py" and path.stem in known and not path.parent.is_dir():
        return known[path.stem]  # configs/faster-rcnn/x.py, asked for from another folder
    if path.suffix or len(path.parts) > 1:
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        close = near_names(path.name, beside) or near_names(path.stem, known)
        raise ConfigError(
            f"{path}: no such config file" + (f"; did you mean {' or '.join(map(repr_name, close))}?" if close else "")
        )
    raise ConfigError(unknown("config", str(name), known))


def load_config(config: str | Path | Mapping[str, Any] | Config, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config and apply overrides to it.

    Args:
        config: a packaged config's name, a file's path, a dict, or a Config. A file may inherit from files
            (`_base_ = ["../x.py"]`) or from a packaged config (`base = "faster-rcnn_r50_fpn_1x_coco"`).
            Modules that its `custom_imports` names are imported, from its own folder or the current one too.
        options: overrides with dotted keys, `{"optimizer.lr": 0.01}`.

    Raises:
        ConfigError: no such config, it does not run, or it has a section that does not exist (names that start
            with an underscore are a config's own).
    """
    if isinstance(config, Config):
        loaded = config.copy()
    elif isinstance(config, Mapping):
        loaded = Config(dict(config))
    else:
        loaded = _read(find_config(config))
    if "base" in loaded:
        base = load_config(loaded.pop("base"))
        filename = loaded.filename
        loaded = Config(Config._merge_a_into_b(loaded._cfg_dict, base._cfg_dict), filename=filename)
    try:
        loaded.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f"--cfg-options {dict(options or {})}: {error}") from error
    _import_modules(loaded)
    for key in loaded:
        if key not in SECTIONS and not key.startswith("_"):
            raise ConfigError(f"{loaded.filename or 'config'}: {_no_section(key, loaded, options or {})}")
    return loaded


def _no_section(key: str, config: Config, options: Mapping[str, Any]) -> str:
    """What to write instead of a section that there is not."""
    written = [option for option in options if option.split(".")[0] == key]
    for theirs, ours in ELSEWHERE_WITHIN.items():
        for option in written:
            if option == theirs or option.startswith(f"{theirs}."):
                return f"`{option}` is called `{ours}{option.removeprefix(theirs)}` here"
    if key in ELSEWHERE:
        return f"`{key}` is called `{ELSEWHERE[key]}` here"
    holders = [name for name in SECTIONS if isinstance(config.get(name), Mapping) and key in config[name]]
    if holders:
        return f"`{key}` is no section but a setting of one: write {' or '.join(f'{name}.{key}' for name in holders)}"
    return unknown("section", key, SECTIONS)


def _read(path: Path) -> Config:
    for folder in (str(Path.cwd()), str(path.parent.resolve())):
        if folder not in sys.path:  # so that custom_imports finds a user's own modules
            sys.path.append(folder)
    try:
        return Config.fromfile(str(path), import_custom_modules=False)
    except ChordateError:
        raise
    except Exception as error:  # a config is code: whatever it raises is the config's own mistake
        raise ConfigError(_told(path, error)) from error


def _import_modules(config: Config) -> None:
    """Import what `custom_imports` names, so that it registers its parts."""
    wanted, source = config.get("custom_imports"), config.filename or "config"
    if wanted is None:
        return
    if not isinstance(wanted, Mapping) or not {"imports"} <= set(wanted) <= {"imports", "allow_failed_imports"}:
        raise ConfigError(f'{source}: write custom_imports = dict(imports=["my_module"])')
    try:
        import_modules_from_strings(**wanted)
    except ChordateError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise ConfigError(_told(source, error)) from error


def _told(source: str | Path, error: Exception) -> str:
    return f"{source}: {type(error).__name__}: {' '.join(str(error).split())}"


def section(config: Config, name: str) -> dict[str, Any]:
    """One section of a config as a plain dict.

    Raises:
        ConfigError: the config has no such section.
    """
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{config.filename or 'the config'}: section `{name}` is {found!r}; write {name} = dict(…)")
    return found.to_dict() if hasattr(found, "to_dict") else dict(found)
