"""Checkpoint files are written atomically, found on resume and deleted when old; their content is never executed."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_toy import ToyModel, toy_trainer

from chordate.errors import CheckpointError, ChordateError
from chordate.structures import DatasetMeta
from chordate.weights.checkpoint_folder import CheckpointFolder, read_checkpoint, write_atomically
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.loading import load_checkpoint


def checkpoint(iteration: int) -> dict[str, Any]:
    """A checkpoint with an empty training state."""
    train = {
        "iteration": iteration, "steps_per_epoch": 1, "evaluated": 0, "evaluation_is_due": False, "scaler": {},
        "losses": {"sums": {}, "counts": {}}, "best": None, "files": [], "history": [], "rng": [],
        "optimizer": {"type": "SGD", "trained": [], "state": {}, "groups": []},
    }  # fmt: skip
    return {"chordate": 2, "model": {"weight": torch.ones(1000)}, "meta": {}, "train": train}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_old_checkpoints_are_deleted_only_after_a_newer_one_is_complete(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    (tmp_path / "pretrained.pt").write_bytes(b"not ours")
    for iteration in range(1, 5):
        folder.save(f"epoch_{iteration}.pt", checkpoint(iteration))
        assert folder.newest() == tmp_path / f"epoch_{iteration}.pt"
    assert names(tmp_path) == {"epoch_3.pt", "epoch_4.pt", "last_checkpoint", "pretrained.pt"}


def test_writing_the_same_name_again_does_not_delete_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    for iteration in (1, 2):
        folder.save("epoch_1.pt", checkpoint(iteration))
    assert read_checkpoint(tmp_path / "epoch_1.pt")["train"]["iteration"] == 2


def test_a_full_disk_is_a_one_line_error_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save("epoch_1.pt", checkpoint(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as error:
        folder.save("epoch_2.pt", checkpoint(2))
    assert "epoch_2.pt: cannot be written (No space left on device); epoch_1.pt is complete" in str(error.value)
    assert names(tmp_path) == {"epoch_1.pt", "last_checkpoint"}
    assert folder.newest() == tmp_path / "epoch_1.pt"


def test_writing_atomically_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fails(file: Any) -> None:
        file.write(b"half of the ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fails)
    assert (path.read_text(), names(tmp_path)) == ("old", {"file"})


def test_a_truncated_checkpoint_is_skipped_for_the_newest_complete_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path)
    for iteration in (9, 10, 11):  # as text, "9" would sort last
        folder.save(f"iteration_{iteration}.pt", checkpoint(iteration))
    last = tmp_path / "iteration_11.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert folder.newest() == tmp_path / "iteration_10.pt"
    assert f"{last} cannot be read (missing or damaged); the newest readable checkpoint is used" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_the_beginning(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new")
    assert folder.newest() is None
    torch.save({"weight": torch.ones(1)}, tmp_path / "new" / "foreign.pt")
    assert folder.newest() is None
    (tmp_path / "new" / "epoch_1.pt").write_bytes(b"PK cut")
    with pytest.raises(CheckpointError, match=r"new: no checkpoint can be read \(epoch_1\.pt\); restore one of them"):
        folder.newest()


def test_a_training_state_that_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(CheckpointError, match="can contain only tensors, numbers and text, got object"):
        folder.save("epoch_1.pt", checkpoint(1) | {"extra": [object()]})
    assert folder.newest() is None


def test_a_flipped_bit_in_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save("epoch_1.pt", checkpoint(1) | {"model": {"weight": torch.arange(1000.0)}})
    path = tmp_path / "epoch_1.pt"
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes())
    content[place + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"epoch_1\.pt is damaged: the checksum of .* is wrong"):
        read_state(path)


def test_the_newest_checkpoint_with_a_flipped_bit_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path)
    for iteration in (1, 2):
        folder.save(f"epoch_{iteration}.pt", checkpoint(iteration) | {"model": {"weight": torch.arange(1000.0)}})
    path = tmp_path / "epoch_2.pt"
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 8] ^= 1
    path.write_bytes(content)
    for pointer in ("epoch_2.pt\n", None):  # also without `last_checkpoint`
        (tmp_path / "last_checkpoint").unlink() if pointer is None else None
        caplog.clear()
        assert folder.newest() == tmp_path / "epoch_1.pt"
        assert (
            f"{path} cannot be read (missing or damaged); the newest readable checkpoint is used: epoch_1.pt"
            in caplog.text
        )


@pytest.mark.parametrize(
    "name", ["../epoch_9.pt", "{tmp}/epoch_9.pt", "foreign.pt", "epoch_x.pt", "\x1b[31m", "x" * 9999]
)
def test_last_checkpoint_names_only_checkpoints_in_its_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    torch.save(checkpoint(9), tmp_path / "epoch_9.pt")
    folder = CheckpointFolder(tmp_path / "run")
    torch.save(checkpoint(9), tmp_path / "run" / "foreign.pt")
    folder.save("epoch_1.pt", checkpoint(1))
    (tmp_path / "run" / "last_checkpoint").write_text(name.format(tmp=tmp_path))
    assert folder.newest() == tmp_path / "run" / "epoch_1.pt"
    assert "instead of epoch_<n>.pt or iteration_<n>.pt; it is ignored" in caplog.text and "\x1b" not in caplog.text


def test_only_temporary_files_of_a_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".notes.tmp").write_text("mine")
    (tmp_path / ".best_toy_AP.pt.tmp").write_text("half")
    CheckpointFolder(tmp_path).remove_temporary()
    assert names(tmp_path) == {".notes.tmp"}


def test_half_written_files_are_removed_at_the_start_of_a_training(tmp_path: Path) -> None:
    (tmp_path / ".epoch_3.pt.tmp").write_bytes(b"half")
    toy_trainer(tmp_path, iterations=1).train()
    assert not list(tmp_path.glob(".*"))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def broken(tmp_path: Path, kind: str) -> Path:
    """Write a checkpoint; replace, change or delete it as `kind` says; return its path."""
    toy_trainer(tmp_path / "run", iterations=1).train()
    path = tmp_path / "run" / "iteration_1.pt"
    state = torch.load(path, weights_only=True)
    match kind:
        case "cut":
            path.write_bytes(path.read_bytes()[:-500])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "pickle":
            path.write_bytes(pickle.dumps({"chordate": 2, "model": Bomb(tmp_path / "ran")}))
        case "pickle in a checkpoint":
            torch.save({**state, "train": Bomb(tmp_path / "ran")}, path)
        case "foreign":
            torch.save(ToyModel().state_dict(), path)
        case "weights only":
            torch.save({key: value for key, value in state.items() if key != "train"}, path)
        case "half a state":
            del state["train"]["rng"]
            torch.save(state, path)
        case "wider model":
            torch.save({**state, "model": ToyModel(width=5).state_dict()}, path)
        case "other model":
            torch.save({**state, "model": {"body.weight": torch.ones(1)}}, path)
        case "other classes":
            torch.save({**state, "meta": DatasetMeta(("dark",)).to_dict()}, path)
        case "other optimizer":
            state["train"]["optimizer"]["type"] = "AdamW"
            torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cut", "truncated"),
        ("empty", "empty"),
        ("missing", "no checkpoint"),
        ("pickle", "could run code"),
        ("pickle in a checkpoint", "could run code"),
        ("foreign", "was not written by Chordate"),
        ("weights only", "no training state"),
        ("half a state", "training state does not fit"),
        ("wider model", "backbone.0.weight [5, 3, 3, 3] for the model's [4, 3, 3, 3]"),
        ("other model", "belongs to another model"),
        ("other classes", "trained on classes 1 [dark] instead of 1 [bright]"),
        ("other optimizer", "trained with AdamW, but optimizer.type is SGD"),
    ],
)
def test_resuming_from_a_checkpoint_that_does_not_fit_is_a_one_line_error(
    tmp_path: Path, kind: str, expected: str
) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(ChordateError) as error:
        toy_trainer(tmp_path / "run", resume=path, iterations=2).train()
    assert expected in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_loads_without_any_safe_global_and_its_config_is_never_executed(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, iterations=1, ema=0.9, callbacks=[{"type": "EarlyStopping", "monitor": "toy_AP"}])
    trainer.train()
    path = tmp_path / "iteration_1.pt"
    allowed = torch.serialization.get_safe_globals()  # cleared for this load, since torch.distributed adds classes
    torch.serialization.clear_safe_globals()
    state = torch.load(path, weights_only=True)
    torch.serialization.add_safe_globals(allowed)
    assert set(state) == {"chordate", "model", "meta", "config", "ema", "train"}
    assert "lr=0.05" in state["config"]

    state["config"] = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})"
    torch.save(state, path)
    resumed = toy_trainer(tmp_path, iterations=2, ema=0.9, resume=path)
    resumed.train()
    load_checkpoint(ToyModel(), path)
    assert resumed.iteration == 2
    assert not (tmp_path / "ran").exists()


def test_an_untrusted_checkpoint_cannot_name_files_to_delete(tmp_path: Path) -> None:
    """A checkpoint lists the files of its run; other files of the user in this list must not be deleted."""
    outside, notes = tmp_path / "precious.pt", tmp_path / "run" / "notes.txt"
    folder = CheckpointFolder(tmp_path / "run", keep=1)
    outside.write_text("mine")
    notes.write_text("mine")
    folder.adopt(["../precious.pt", str(outside), "notes.txt", "..", ""], None)
    for number in range(3):
        folder.save(f"epoch_{number}.pt", {"epoch": number})
    assert outside.read_text() == notes.read_text() == "mine"
    assert [path.name for path in (tmp_path / "run").glob("*.pt")] == ["epoch_2.pt"]
