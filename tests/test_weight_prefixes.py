"""State dicts with wrappers' prefixes (`module.`, …) load: averaged weights are preferred, other tensors reported."""

import itertools
import json

import pytest
import safetensors.torch
import torch
from checkpoint_toys import TinyDetector, filled, is_filled
from hypothesis import given, settings
from hypothesis import strategies as st

from chordate.errors import CheckpointError
from chordate.weights.candidates import without_prefixes
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.loading import load_checkpoint

WRAPPERS = ["module.", "_orig_mod.", "model.", "net.", "network.", "student.", "teacher."]
WRAPPERS += ["ema.", "model_ema.", "ema_model."]
WEIGHTS, OTHERS = 0.5, 0.25


def state(value: float = WEIGHTS, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in filled(TinyDetector(), value).state_dict().items()}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(WRAPPERS), max_size=4), st.booleans())
def test_up_to_four_nested_prefixes_are_removed(prefixes, with_others):
    """The state dict may also contain weights of losses and metrics (Lightning) or a counter (EMA)."""
    others = {"criterion.weight": torch.ones(2), "n_averaged": torch.tensor(3)} if with_others and prefixes else {}
    model = TinyDetector()
    report = load_checkpoint(model, {"state_dict": {**others, **state(prefix="".join(prefixes))}})
    assert is_filled(model, WEIGHTS)
    assert sorted(report.skipped) == sorted(others) and not report.missing


@pytest.mark.parametrize(
    "contents",
    [
        {"state_dict": {**state(OTHERS, "model."), **state(WEIGHTS, "model_ema.module.")}},
        {"state_dict": {**state(OTHERS, "net."), **state(WEIGHTS, "ema.module.")}},
        {"state_dict": state(OTHERS), "state_dict_ema": state(WEIGHTS)},  # timm
        {"model": state(OTHERS), "model_ema": {**state(WEIGHTS, "module."), "n_averaged": torch.tensor(1)}},
        {"state_dict": state(WEIGHTS), "ema_state_dict": state(OTHERS, "module.")},  # MMEngine swaps the two dicts
        {"model": state(OTHERS), "ema": {"module": state(WEIGHTS), "updates": torch.tensor(9), "decay": 0.9}},
        {"student": state(OTHERS), "teacher": state(WEIGHTS)},  # the teacher averages the student
        state(OTHERS, "student.") | state(WEIGHTS, "teacher."),
    ],
)  # fmt: skip
def test_averaged_weights_are_preferred_in_every_wrapper(contents):
    model = TinyDetector()
    load_checkpoint(model, contents)
    assert is_filled(model, WEIGHTS)


@pytest.mark.parametrize(
    "contents",
    [
        {"state_dict": state(prefix="detector.")},  # Lightning: the attribute of the user's module
        {"state_dict": state(prefix="detector.module._orig_mod.")},
        state(prefix="module.detector."),
        state(prefix="_fsdp_wrapped_module."),
        {
            name.replace(".", "._orig_mod.", 1): tensor for name, tensor in state().items()
        },  # parts compiled on their own
        {name.replace(".", "._checkpoint_wrapped_module.", 1): tensor for name, tensor in state(prefix="net.").items()},
    ],
)
def test_wrappers_of_parts_and_a_prefix_that_all_tensors_share_are_removed(contents):
    model = TinyDetector()
    report = load_checkpoint(model, contents)
    assert is_filled(model, WEIGHTS) and not report.skipped and not report.missing


def test_names_that_a_wrapper_tells_apart_are_kept():
    weights = {"_orig_mod.a": torch.zeros(1), "a": torch.ones(1)}
    *_, (whole, left_out) = without_prefixes(weights)
    assert whole == weights and not left_out


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state", "student"])
@pytest.mark.parametrize(
    "others",
    [
        {"best_acc1": torch.tensor(76.1), "epoch": torch.tensor(90)},  # as in PyTorch's ImageNet example
        {"ema": {"decay": 0.9, "updates": 3}},
        {"ema": {"updates": torch.tensor(3)}},
        {"state_dict_ema": {}, "model_ema": {"module": {}}},
        {"confusion": torch.eye(2)},
    ],
)
def test_entries_without_weights_do_not_hide_the_weights(wrapper, others):
    model = TinyDetector()
    load_checkpoint(model, {**others, wrapper: state(), "optimizer": {"state": {0: torch.ones(2)}}})
    assert is_filled(model, WEIGHTS)


def test_an_untrusted_file_with_thousands_of_prefixes_is_tried_with_those_of_the_most_tensors():
    prefixes = ["".join(chosen) for length in range(5) for chosen in itertools.product(WRAPPERS, repeat=length)]
    weights = {f"module.ema.{name}": torch.ones(1) for name in map(str, range(1000))}
    parts = [part for part, _ in without_prefixes({**{f"{prefix}w": torch.ones(1) for prefix in prefixes}, **weights})]
    assert len(prefixes) > 10_000 and len(parts) < 50
    assert any(part.keys() >= {"0", "999"} for part in parts)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_load_with_and_without_metadata(metadata, tmp_path):
    model = TinyDetector()
    safetensors.torch.save_file(state(prefix="module."), tmp_path / "x.safetensors", metadata)
    load_checkpoint(model, tmp_path / "x.safetensors")
    assert is_filled(model, WEIGHTS)


@pytest.mark.parametrize("config", [None, json.dumps({"classes": 3}), "{", "[" * 100_000])
def test_a_folder_of_save_pretrained_opens_whatever_its_config(config, tmp_path):
    safetensors.torch.save_file(state(), tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    model = TinyDetector()
    load_checkpoint(model, tmp_path)
    assert is_filled(model, WEIGHTS)


def test_another_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder without model.safetensors"):
        read_state(tmp_path)


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(CheckpointError, match="the path of the checkpoint is empty"):
        read_state("")
