"""`chordate.optimize`: the same outputs within rounding, and the original model untouched."""

import pytest
import torch
from test_export import build, photos
from torch import nn

import chordate
from chordate.deployment.optimize import has_compiler
from chordate.training.ema import WeightAverage


def close(found, expected) -> None:
    for name, value in vars(expected).items():
        own = getattr(found, name)
        if name == "masks" and value is not None:  # probabilities of almost 0.5 may be rounded to either side
            assert (own != value).double().mean() < 1e-4
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(own, value, rtol=1e-5, atol=1e-4 if name == "boxes" else 1e-5)


@pytest.mark.parametrize("name", ["mask", "classifier", "pose"])
@torch.no_grad()
def test_the_folded_model_predicts_the_same_and_the_original_is_untouched(name):
    model, batch = build(name), photos(padded=False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = chordate.optimize(model, compile=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.backbone.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    for found, expected in zip(fast.predict(batch), model.predict(batch), strict=True):
        close(found, expected)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.slow
@torch.no_grad()
def test_the_compiled_model_predicts_the_same():
    if not has_compiler():
        pytest.skip("needs a C++ compiler")
    model = build("faster")
    fast = chordate.optimize(model)
    for size in ((64, 96), (96, 64)):
        batch = photos(size, padded=False)
        for found, expected in zip(fast.predict(batch), model.predict(batch), strict=True):
            close(found, expected)


@torch.no_grad()
def test_a_norm_whose_input_is_also_read_elsewhere_remains():
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.conv2, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images):
            x = self.conv(images)
            return self.norm2(self.conv2(self.norm(x) + x))

    class Toy(chordate.Model):
        def __init__(self) -> None:
            super().__init__()
            self.body = Branched()

        def predict(self, batch):
            return [chordate.Classification(row) for row in self.body(batch.images.float()).mean((2, 3))]

    model, batch = Toy().eval(), photos()
    for norm in (model.body.norm, model.body.norm2):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    fast = chordate.optimize(model, compile=False)
    assert isinstance(fast.body.norm, nn.BatchNorm2d)
    assert isinstance(fast.body.norm2, nn.Identity)
    for found, expected in zip(fast.predict(batch), model.predict(batch), strict=True):
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


class ConvNorm(chordate.Model):
    """A classifier that consists of a convolution and a norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_(), self.norm.running_var.uniform_(0.5, 2)

    def predict(self, batch):
        return [chordate.Classification(row) for row in self.norm(self.conv(batch.images / 255)).mean((2, 3))]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "hook",
    [
        lambda model: None,
        lambda model: model.norm.register_forward_hook(lambda layer, inputs, output: output * 2),
        lambda model: model.norm.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,)),
        lambda model: model.conv.register_forward_hook(lambda layer, inputs, output: output.relu_()),
        lambda model: model.conv.register_forward_pre_hook(lambda layer, inputs: (inputs[0] ** 2,)),
        lambda model: nn.utils.weight_norm(model.conv),
        lambda model: nn.utils.parametrizations.weight_norm(model.conv),
    ],
    ids=["no hook", "norm", "before norm", "conv", "before conv", "weight_norm", "parametrized"],
)
@torch.no_grad()
def test_hooks_keep_their_effect(hook, request):
    torch.manual_seed(0)
    model, batch = ConvNorm().eval(), photos(padded=False)
    hook(model)
    fast = chordate.optimize(model, compile=False)
    assert isinstance(fast.norm, nn.Identity) == ("no hook" in request.node.name)
    for prediction, expected in zip(fast.predict(batch), model.predict(batch), strict=True):
        torch.testing.assert_close(prediction.scores, expected.scores)


class WithoutReturn(ConvNorm):
    """A model whose `train` returns None, as those of networks written for MMDetection often do."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)


@torch.no_grad()
def test_a_model_whose_train_method_returns_none_can_be_optimized_and_averaged():
    model, batch = WithoutReturn(), photos(padded=False)
    for copy in (chordate.optimize(model, compile=False), WeightAverage(model, 0.9).module):
        assert not copy.training
        model.eval()
        for prediction, expected in zip(copy.predict(batch), model.predict(batch), strict=True):
            torch.testing.assert_close(prediction.scores, expected.scores)
        model.train()
