"""Batched NMS against torchvision's NMS, called once per group."""

import pytest
import torch
from backbone_referee import slow
from detection_toys import random_boxes
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from chordate.ops import nms as module
from chordate.ops.nms import batched_nms


def one_group_at_a_time(boxes, scores, groups, valid, threshold):
    keep = torch.zeros_like(valid)
    for image in range(len(boxes)):
        for group in groups[image].unique():
            slots = ((groups[image] == group) & valid[image]).nonzero()[:, 0]
            indices = nms(boxes[image][slots].double(), scores[image][slots].double(), threshold)
            keep[image, slots[indices]] = True
    return keep


def flat(boxes, scores, groups, valid, threshold, nms_rows=batched_nms, device="cpu"):
    """Apply `nms_rows` to the flattened boxes of all images (group -1: padding); returns the mask of kept boxes."""
    image = torch.arange(len(valid))[:, None].expand_as(valid)
    rows = (boxes.flatten(0, 1), scores.flatten(), torch.where(valid, groups, -1).flatten(), image.flatten())
    return nms_rows(*(values.to(device) for values in rows), threshold).view_as(valid).cpu()


def candidates(seed: int, images: int, count: int, groups: int):
    generator = torch.Generator().manual_seed(seed)
    return (
        random_boxes(images, count, span=300, generator=generator),
        torch.rand(images, count, generator=generator),
        torch.randint(0, groups, (images, count), generator=generator),
        torch.rand(images, count, generator=generator) < 0.8,
    )


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 3),
    count=st.integers(0, 60),
    groups=st.integers(1, 5),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
def test_groups_do_not_suppress_each_other(seed, images, count, groups, threshold):
    inputs = candidates(seed, images, count, groups)
    assert torch.equal(flat(*inputs, threshold), one_group_at_a_time(*inputs, threshold))


@pytest.fixture
def interpreted(monkeypatch):
    """`batched_nms_gpu`, whose kernel is run on the CPU by Triton's interpreter."""
    nms_gpu = pytest.importorskip("chordate.ops.nms_gpu", reason="needs triton")
    pytest.importorskip("triton", minversion="3.8", reason="needs the interpreter of Triton 3.8")
    from triton.runtime.interpreter import InterpretedFunction

    monkeypatch.setattr(nms_gpu, "suppress_kernel", InterpretedFunction(nms_gpu.suppress_kernel.fn))
    monkeypatch.setattr(nms_gpu, "BLOCK", 16)
    return nms_gpu.batched_nms_gpu


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", [0, *slow(1, 2, 3, 4)])
def test_the_gpus_nms_kernel_keeps_the_boxes_of_nms_per_group(interpreted, seed, threshold):
    inputs = candidates(seed, images=2, count=60, groups=3)
    assert torch.equal(flat(*inputs, threshold, interpreted), one_group_at_a_time(*inputs, threshold))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_nms_on_the_gpu_keeps_the_same_boxes_without_a_host_sync(count):
    inputs = candidates(0, images=3, count=count, groups=4)
    flat(*inputs, 0.7, device="cuda")  # compiles the kernel, which may sync

    def watched(*rows):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return batched_nms(*rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    assert torch.equal(flat(*inputs, 0.7, watched, "cuda"), one_group_at_a_time(*inputs, 0.7))


def test_nms_of_many_boxes_with_large_coordinates_is_exact():
    """Adding an offset per group to coordinates this large would round them in float32 and change the IoUs."""
    _, scores, groups, valid = candidates(0, 1, 3 * module.ONE_CALL_BOXES, 90)
    boxes = random_boxes(1, 3 * module.ONE_CALL_BOXES, span=20) + 4000
    assert torch.equal(flat(boxes, scores, groups, valid, 0.5), one_group_at_a_time(boxes, scores, groups, valid, 0.5))


def test_groups_without_boxes_do_not_change_the_result():
    boxes, scores, groups, valid = candidates(0, 1, 3 * module.ONE_CALL_BOXES, 5)
    sparse = groups * 17  # only five of the 69 groups have boxes
    assert torch.equal(flat(boxes, scores, sparse, valid, 0.5), flat(boxes, scores, groups, valid, 0.5))


def test_padding_is_not_kept_and_suppresses_no_box():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    scores, groups = torch.tensor([[0.9, 0.1]]), torch.zeros(1, 2, dtype=torch.int64)
    valid = torch.tensor([[False, True]])
    assert flat(boxes, scores, groups, valid, 0.5).tolist() == [[False, True]]


def test_nms_passes_torchs_check_of_custom_operators():
    boxes, scores, groups, _ = candidates(0, 1, 50, 3)
    torch.library.opcheck(batched_nms, (boxes[0], scores[0], groups[0], torch.arange(50) // 30, 0.5))
