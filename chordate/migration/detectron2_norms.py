"""Converts the names of norms in Detectron2 configs."""

from __future__ import annotations

from chordate.migration.config_conversion import Keys

NORMS = {
    "": None,
    "BN": "BN",
    "FrozenBN": "FrozenBN",
    "GN": "GN",
    "SyncBN": "BN",
    "nnSyncBN": "BN",
    "naiveSyncBN": "BN",
}


def norm_name(keys: Keys, key: str) -> str | None:
    """The norm's name in Chordate; "BN" also for synchronized BatchNorm, which `train.sync_bn` enables."""
    name = keys.get(key) or ""
    if name not in NORMS:
        keys.lose(key, "unknown norm; BN instead")
        return "BN"
    return NORMS[name]


def is_synchronized(name: str | None) -> bool:
    """Whether a norm computes its statistics over all processes."""
    return "SyncBN" in (name or "")
