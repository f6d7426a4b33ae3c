"""RoI pooling over a pyramid against torchvision's RoIAlign and MultiScaleRoIAlign."""

import pytest
import torch
from detection_toys import feature_maps, pyramid, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign, roi_align

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.ops.pooling import RoIPooler

SIDE = 256
NUMERICS = [(2, False), (0, True), (0, False), (3, True)]  # (sampling_ratio, aligned)


def level_by_level(pooler, features, boxes, image):
    """The reference output of the pooler: one call of torchvision's RoIAlign per level."""
    levels = pooler.levels(boxes)
    rois = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)
    out = boxes.new_zeros(len(boxes), pooler.channels, pooler.resolution, pooler.resolution)
    for level, (name, stride) in enumerate(zip(pooler.names, pooler.strides)):
        selected = levels == level
        out[selected] = roi_align(
            features[name], rois[selected], pooler.resolution, 1 / stride, pooler.sampling_ratio, pooler.aligned
        )
    return out


def odd_boxes() -> torch.Tensor:
    """Boxes `[10, 4]` that are at the image's edges, empty or very thin, or partly or entirely outside the image."""
    side = float(SIDE)
    return torch.tensor(
        [
            [0, 0, side, side],
            [side - 1, side - 1, side, side],
            [side, side, side, side],
            [10, 10, 10, 10],
            [10, 10, 10, 90],
            [0, 100, side, 101],
            [-40, -40, 20, 20],
            [200, 200, side + 60, side + 60],
            [side + 50, 0, side + 60, 10],
            [7.3, 9.1, 7.8, 9.2],
        ]
    )


def assert_equals_level_by_level(pooler, features, boxes, image, ours):
    """Compare pooled features, and their gradients with respect to the feature maps, with torchvision's."""
    theirs = level_by_level(pooler, features, boxes, image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    upstream = torch.randn_like(ours)
    maps = list(features.values())
    for mine, other in zip(
        torch.autograd.grad(ours, maps, upstream, materialize_grads=True),
        torch.autograd.grad(theirs, maps, upstream, materialize_grads=True),
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000), count=st.integers(0, 40), numerics=st.sampled_from(NUMERICS), levels=st.integers(1, 4)
)
def test_cpu_pooling_and_its_gradient_are_roi_aligns(seed, count, numerics, levels):
    torch.manual_seed(seed)
    pooler = RoIPooler(pyramid(3, levels), 5, *numerics)
    features = {k: x.double().requires_grad_() for k, x in feature_maps(SIDE, 3, levels=levels).items()}
    boxes = torch.cat((random_boxes(count, span=SIDE), odd_boxes())).double()
    image = torch.randint(0, 2, (len(boxes),))
    assert_equals_level_by_level(pooler, features, boxes, image, pooler(features, boxes, image))


@pytest.fixture
def interpreted(monkeypatch):
    """The module `roi_align_gpu`, whose kernels are run on the CPU by Triton's interpreter."""
    kernels = pytest.importorskip("chordate.ops.roi_align_gpu", reason="needs triton")
    pytest.importorskip("triton", minversion="3.8", reason="needs the interpreter of Triton 3.8")
    from triton.runtime.interpreter import InterpretedFunction

    for name in ("pool_kernel", "cell_samples", "bilinear_taps"):
        monkeypatch.setattr(kernels, name, InterpretedFunction(getattr(kernels, name).fn))
    return kernels


@pytest.mark.parametrize("numerics", NUMERICS)
def test_the_gpus_pooling_kernel_reads_and_writes_nothing_for_a_nan_box(interpreted, numerics):
    """A diverging run has NaN boxes. They have no level and are pooled to 0, without an out-of-bounds access."""
    pooler = RoIPooler(pyramid(3, 2), 2, *numerics)
    maps = [x.requires_grad_() for x in list(feature_maps(SIDE, 3).values())[:2]]
    boxes = torch.full((1, 4), torch.nan)
    level = pooler.levels(boxes)
    pooled = interpreted.pyramid_roi_align(maps, pooler.strides, boxes, torch.ones(1).long(), level, 2, *numerics)
    assert not pooled.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(pooled.sum(), maps))


# Triton's interpreter takes seconds, so only the first two settings always run; they cover fixed and adaptive
# sampling, and both values of `aligned`.
@pytest.mark.parametrize("numerics", [*NUMERICS[:2], *(pytest.param(n, marks=pytest.mark.slow) for n in NUMERICS[2:])])
def test_the_gpus_pooling_kernel_and_its_gradient_are_roi_aligns(interpreted, numerics):
    torch.manual_seed(0)
    pooler = RoIPooler(pyramid(3, 4), 2, *numerics)
    features = {k: x.double().requires_grad_() for k, x in feature_maps(SIDE, 3).items()}
    boxes = torch.cat((random_boxes(3, span=40), odd_boxes()[1:])).double()
    image = torch.randint(0, 2, (len(boxes),))
    ours = interpreted.pyramid_roi_align(
        list(features.values()), pooler.strides, boxes, image, pooler.levels(boxes), 2, *numerics
    )
    assert_equals_level_by_level(pooler, features, boxes, image, ours)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 300])
@pytest.mark.parametrize("numerics", NUMERICS)
def test_pooling_on_the_gpu_and_its_gradient_are_roi_aligns(numerics, channels, dtype):
    torch.manual_seed(0)
    pooler = RoIPooler(pyramid(channels, 4), 7, *numerics)
    maps = {k: x.to(dtype) for k, x in feature_maps(SIDE, channels).items()}
    exact = {k: x.double().cuda().requires_grad_() for k, x in maps.items()}
    inputs = {k: x.cuda().contiguous(memory_format=torch.channels_last).requires_grad_() for k, x in maps.items()}
    boxes = torch.cat((random_boxes(100, span=SIDE), odd_boxes())).double().cuda()
    image = torch.randint(0, 2, (len(boxes),)).cuda()
    pooled = pooler(inputs, boxes, image)
    assert pooled.dtype == dtype
    wanted = level_by_level(pooler, exact, boxes, image)
    # The tolerances allow for rounding: the output has the data type of the feature maps, and box coordinates are
    # float32 unless the feature maps are float64.
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(pooled.double(), wanted, rtol=0, atol=tolerance)
    upstream = torch.randn_like(pooled)
    mine = torch.autograd.grad(pooled, list(inputs.values()), upstream, materialize_grads=True)
    other = torch.autograd.grad(wanted, list(exact.values()), upstream.double(), materialize_grads=True)
    for ours, theirs in zip(mine, other):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-2, atol=10 * tolerance)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_pooling_without_a_host_sync_gives_the_same_result(numerics, monkeypatch):
    torch.manual_seed(0)
    pooler = RoIPooler(pyramid(3, 4), 5, *numerics)
    features = {name: x.double() for name, x in feature_maps(SIDE, 3).items()}
    boxes = torch.cat((random_boxes(40, span=SIDE), odd_boxes())).double()
    image = torch.randint(0, 2, (len(boxes),))
    wanted = pooler(features, boxes, image)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(pooler(features, boxes, image), wanted, rtol=0, atol=1e-10)


def test_levels_and_numerics_of_torchvision():
    torch.manual_seed(0)
    boxes = [random_boxes(30, span=2 * SIDE).clamp(max=SIDE).double() for _ in range(2)]
    features = {name: x.double() for name, x in feature_maps(SIDE, 3).items()}
    theirs = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2)(features, boxes, [(SIDE, SIDE)] * 2)
    ours = RoIPooler(pyramid(3, 4), 7, sampling_ratio=2, aligned=False)
    image = torch.arange(2).repeat_interleave(30)
    torch.testing.assert_close(ours(features, torch.cat(boxes), image), theirs, rtol=0, atol=1e-10)


def test_an_roi_of_224_px_is_pooled_from_stride_16_as_in_the_fpn_paper():
    pooler = RoIPooler(pyramid(3, 4), 7)
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 4000])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    strides = [pooler.strides[int(level)] for level in pooler.levels(boxes)]
    assert strides == [4, 4, 8, 8, 16, 16, 32, 32]


def test_constant_feature_maps_are_pooled_to_the_constant():
    pooler = RoIPooler(pyramid(2, 4), 7)
    features = {name: torch.full_like(x, 3.0) for name, x in feature_maps(SIDE, 2).items()}
    boxes = random_boxes(20, span=SIDE - 40) + 20
    pooled = pooler(features, boxes, torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.0))


@pytest.mark.parametrize(
    "specs",
    [
        {"c4": FeatureSpec(256, 16), "c5": FeatureSpec(512, 32)},
        {"p2": FeatureSpec(256, 4), "p4": FeatureSpec(256, 16)},
    ],
    ids=["other channels", "a level left out"],
)
def test_feature_maps_that_do_not_form_a_pyramid_are_refused(specs):
    with pytest.raises(ConfigError, match=r"doubling strides; got .*c4|doubling strides; got .*p2"):
        RoIPooler(specs, 7)


def test_pooling_without_rois_returns_an_empty_tensor():
    pooler = RoIPooler(pyramid(3, 4), 7)
    assert pooler(feature_maps(64, 3), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 7, 7)
