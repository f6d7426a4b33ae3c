"""Checkpoint formats can be registered; a user's format is recognized like the package's own formats."""

import warnings

import pytest
import torch
from checkpoint_toys import TinyDetector, filled, is_filled, message

from chordate.registry import FORMATS
from chordate.structures import DatasetMeta
from chordate.weights.candidates import formats
from chordate.weights.formats.format import Format, rename_all
from chordate.weights.loading import load_checkpoint


@pytest.fixture
def paddle():
    @FORMATS.register_module()
    class PaddleDetector(Format):
        library = "paddle"

        def recognizes(self, state):
            return "net.trunk.conv1.weight" in state

        def convert(self, state, model):
            ours = rename_all(state, ((r"net\.trunk\.", "backbone."), (r"net\.head\.", "box.")))
            return {**ours, "box.weight": ours["box.weight"].T}

        def meta(self, state, model):
            return DatasetMeta(("cat", "dog"))

    yield
    FORMATS.module_dict.pop("PaddleDetector")


def in_paddles_names(model) -> dict[str, torch.Tensor]:
    state = {
        name.replace("backbone.", "net.trunk.").replace("box.", "net.head."): value
        for name, value in model.state_dict().items()
    }
    return {**state, "net.head.weight": state["net.head.weight"].T}


def test_a_users_registered_format_is_recognized(paddle):
    model = TinyDetector()
    report = load_checkpoint(model, in_paddles_names(filled(TinyDetector())))
    assert report.format == "paddle" and not report.missing and not report.skipped
    assert report.meta.classes == ("cat", "dog")
    assert is_filled(model)


def name_of_row(model: TinyDetector, row: torch.Tensor) -> str:
    """The model's name for the class whose classifier weights are `row`."""
    (label,) = (model.box.weight[:2] == row).all(dim=1).nonzero().flatten().tolist()
    return model.classes[label]


@pytest.mark.parametrize(
    ("ours", "is_written", "expected"),
    [
        (("dog", "cat"), False, "cat"),  # the same names: the model takes the checkpoint's order
        (("dog", "cat"), True, "cat"),
        (("nut", "bolt"), True, "cat"),
        (("nut", "bolt"), False, "nut"),  # another dataset with the same number of classes
    ],
)
def test_outputs_have_the_class_names_of_another_librarys_weights(paddle, monkeypatch, ours, is_written, expected):
    """The checkpoint's first class is cat. If `is_written`, its class names are in the file and replace the model's;
    otherwise they are inferred from the number of classes, and can only reorder the model's names."""
    monkeypatch.setattr(FORMATS.get("PaddleDetector"), "has_names", lambda self, state: is_written)
    model, state = TinyDetector(classes=ours), in_paddles_names(TinyDetector())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load_checkpoint(model, state)
    assert name_of_row(model, state["net.head.weight"][:, 0]) == expected
    replaced = f"was trained on classes 2 [cat, dog] instead of 2 [{', '.join(ours)}]; the checkpoint's classes replace"
    assert [replaced in str(warning.message) for warning in warned] == [True] * (expected not in ours[:1])


def test_weights_with_another_order_of_classes_are_refused_by_a_panoptic_model(paddle):
    """A panoptic model depends on the order of its classes: it has tables of the labels of things and stuff."""
    model = TinyDetector(classes=("dog", "cat"))
    model.meta = DatasetMeta(("dog", "cat"), stuff=("cat",))
    assert "was trained on classes 2 [cat, dog] instead of 2 [dog, cat]; load" in message(
        model, in_paddles_names(TinyDetector())
    )


def test_fine_tuning_keeps_the_class_names_of_the_model(paddle):
    model = TinyDetector(classes=("dog", "cat"))
    load_checkpoint(model, in_paddles_names(TinyDetector()), strict=False)
    assert model.classes == ("dog", "cat")


def test_error_messages_list_a_users_registered_format(paddle):
    assert "paddle" in message(TinyDetector(), {"x": torch.zeros(1)})


def test_a_file_that_a_format_cannot_convert_is_a_one_line_error(paddle):
    error = message(TinyDetector(), {"net.trunk.conv1.weight": torch.zeros(1)})
    assert error.startswith("the state dict has tensor names of paddle (PaddleDetector), but cannot be converted")


def test_every_format_of_the_package_is_registered_once():
    kinds = [type(format) for format in formats()]
    assert len(kinds) == len({*kinds}) >= 8
    assert {format.library for format in formats()} >= {"torchvision", "timm"}
    assert not any(format.recognizes(TinyDetector().state_dict()) for format in formats())
