"""Merging of panoptic segments and grouping by centers equal slow implementations of the papers' descriptions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_panoptic_models import panoptic_deeplab

from chordate.ops import instance_centers
from chordate.ops.instance_centers import center_targets, find_centers, group_pixels, majority_classes
from chordate.ops.panoptic_merge import merge_instances_and_stuff
from chordate.structures import IGNORED


@pytest.fixture(scope="module")
def model():
    """A Panoptic-DeepLab for four classes, of which the second and the fourth are things."""
    return panoptic_deeplab()


def slow_merge(masks, scores, labels, stuff, overlap_threshold, stuff_area):
    """The three steps of Kirillov et al. 2019, Panoptic Segmentation, section 7, computed on sets of pixels."""
    ids = torch.zeros(stuff.shape, dtype=torch.int32)
    segments = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        pixels = {tuple(p) for p in masks[i].nonzero().tolist()}
        free = {p for p in pixels if ids[p] == 0}
        if not free or len(pixels) - len(free) > overlap_threshold * len(pixels):
            continue
        segments.append((int(labels[i]), True, float(scores[i]), len(free)))
        for p in free:
            ids[p] = len(segments)
    for label in sorted(set(stuff.flatten().tolist()) - {-1}):
        free = [tuple(p) for p in (stuff == label).nonzero().tolist() if ids[tuple(p)] == 0]
        if free and len(free) >= stuff_area:
            segments.append((label, False, 1.0, len(free)))
            for p in free:
                ids[p] = len(segments)
    return ids, segments


@given(
    st.integers(0, 2**31), st.integers(0, 7), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 12), st.booleans()
)
def test_the_merge_equals_its_description(seed, count, overlap_threshold, stuff_area, ties):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 7, 9, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (int(torch.randint(high, (), generator=generator)) for high in (7, 9, 6, 6))
        mask[y : y + h, x : x + w] = True  # some masks are empty
    scores = torch.rand(count, generator=generator)
    if ties:
        scores = scores.round()
    labels = torch.randint(0, 5, (count,), generator=generator)
    stuff = torch.randint(-1, 3, (7, 3), generator=generator).repeat_interleave(3, 1)
    merged = merge_instances_and_stuff(masks, scores, labels, stuff, overlap_threshold, stuff_area)
    ids, segments = slow_merge(masks, scores, labels, stuff, overlap_threshold, stuff_area)
    assert torch.equal(merged.ids, ids) and merged.ids.dtype == torch.int32
    columns = (merged.labels, merged.is_thing, merged.scores, merged.areas)
    rows = list(zip(*(column.tolist() for column in columns)))
    assert rows == [(label, thing, pytest.approx(score), area) for label, thing, score, area in segments]


@st.composite
def instance_maps(draw):
    """Instance maps of two images, and which of the four instances per image are used."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coarse = torch.randint(-1, 4, (2, 5, 6), generator=generator)
    slots = coarse.repeat_interleave(6, 1).repeat_interleave(5, 2).short()
    return slots, torch.rand(2, 4, generator=generator) < 0.7


@given(instance_maps(), st.sampled_from([1.0, 2.5]))
def test_center_targets_equal_their_definition(case, sigma):
    """The heatmap has a Gaussian, truncated at 3 sigma + 1 px, at the mean pixel of each instance; from each pixel of
    the instance, the offsets point to the mean."""
    slots, used = case
    targets = center_targets(slots, used, sigma)
    heatmap, offsets = torch.zeros(slots.shape).tolist(), torch.zeros(2, 2, *slots.shape[1:]).tolist()
    inside = torch.zeros(slots.shape, dtype=torch.bool)
    radius = int(3 * sigma + 1)
    for n in range(2):
        for slot in range(4):
            pixels = (slots[n] == slot).nonzero()
            if not used[n, slot] or not len(pixels):
                continue
            center = pixels.double().mean(0).float()
            mean_y, mean_x = center.tolist()
            inside[n][slots[n] == slot] = True
            for y, x in pixels.tolist():
                offsets[n][0][y][x], offsets[n][1][y][x] = mean_y - y, mean_x - x
            cy, cx = center.round().int().tolist()
            for y in range(max(cy - radius, 0), min(cy + radius + 1, slots.shape[1])):
                for x in range(max(cx - radius, 0), min(cx + radius + 1, slots.shape[2])):
                    value = math.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
                    heatmap[n][y][x] = max(heatmap[n][y][x], value)
    torch.testing.assert_close(targets.heatmap, torch.tensor(heatmap))
    torch.testing.assert_close(targets.offsets, torch.tensor(offsets))
    assert torch.equal(targets.inside, inside)


def slow_groups(heatmap, offsets, threshold, kernel, topk):
    """The centers in one image, and for each pixel the index of the center nearest to the pixel plus its offset."""
    height, width = heatmap.shape
    reach, centers = kernel // 2, []
    for y in range(height):
        for x in range(width):
            window = heatmap[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            if heatmap[y, x] > threshold and heatmap[y, x] == window.max():
                centers.append((heatmap[y, x].item(), y, x))
    centers = sorted(centers, key=lambda center: -center[0])[:topk]
    groups = torch.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            vy, vx = y + offsets[0, y, x].item(), x + offsets[1, y, x].item()
            distances = [math.hypot(vy - cy, vx - cx) for _, cy, cx in centers]
            if distances:
                groups[y, x] = distances.index(min(distances))
    return centers, groups


@given(
    st.integers(0, 2**31), st.sampled_from([0.1, 0.9, 2.0]), st.sampled_from([1, 3, 7]), st.sampled_from([1, 5, 200])
)
def test_centers_and_groups_equal_the_slow_search(seed, threshold, kernel, topk):
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(2, 8, 11, generator=generator)
    offsets = 5 * torch.randn(2, 2, 8, 11, generator=generator)
    centers = find_centers(heatmap, threshold, kernel, topk)
    groups = group_pixels(centers, offsets)
    for n in range(2):
        expected, nearest = slow_groups(heatmap[n], offsets[n], threshold, kernel, topk)
        count = int(centers.valid[n].sum())
        assert centers.valid[n, :count].all() and count == len(expected)
        found = zip(centers.scores[n, :count].tolist(), *centers.points[n, :count].T.tolist())
        assert [(score, int(y), int(x)) for score, y, x in found] == expected
        assert torch.equal(groups[n], nearest)


def test_distances_are_computed_in_chunks_and_only_to_valid_centers(monkeypatch):
    """With the default CHUNK, a chunk of distances has 64 MB."""
    torch.manual_seed(0)
    centers = find_centers(torch.rand(3, 20, 30) - torch.tensor([0.0, 0.65, 2.0]).view(3, 1, 1), 0.3, 3, 200)
    offsets = 5 * torch.randn(3, 2, 20, 30)
    expected, valid = group_pixels(centers, offsets), centers.valid.sum(1)
    assert 0 == valid[2] < valid[1] < valid[0] < 200 and (expected[2] == -1).all() and (expected[:2] >= 0).all()
    shapes, cdist = [], torch.cdist

    def recorded(*inputs, **settings):
        shapes.append(cdist(*inputs, **settings).shape)
        return cdist(*inputs, **settings)

    monkeypatch.setattr(torch, "cdist", recorded)
    monkeypatch.setattr(instance_centers, "CHUNK", 1000)
    assert torch.equal(group_pixels(centers, offsets), expected)
    assert all(shape.numel() <= 1000 and shape[2] == valid[0] for shape in shapes)
    assert sum(shape[1] for shape in shapes) == 20 * 30


def slow_panoptic(groups, labels, is_thing, stuff_area):
    """Detectron2's `merge_semantic_and_instance` on sets of pixels: the segments as (class, is a thing, pixels).

    `groups` is the group of each pixel, 0 … 4, or -1 in images without centers; `labels` is the class of each pixel.
    """
    labels, groups = labels.numpy(), groups.numpy()
    pixels = list(np.ndindex(labels.shape))
    things = {group: [p for p in pixels if is_thing[labels[p]] and groups[p] == group] for group in range(5)}
    segments = []
    for own in things.values():
        if own:
            classes = [int(labels[p]) for p in own]
            segments.append((min(classes, key=lambda c: (-classes.count(c), c)), True, own))
    for label in range(len(is_thing)):
        own = [p for p in pixels if labels[p] == label]
        if not is_thing[label] and own and len(own) >= stuff_area:
            segments.append((label, False, own))
    return segments


@given(st.integers(0, 2**31), st.sampled_from([0, 1, 10]), st.sampled_from([0.1, 0.95, 2.0]))
def test_panoptic_deeplab_merges_as_detectron2_describes(model, seed, stuff_area, threshold):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, 3, 4), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)
    offsets = 4 * torch.randn(2, 2, 9, 12, generator=generator)
    centers = find_centers(torch.rand(2, 9, 12, generator=generator), threshold, 3, 5)
    inside = torch.ones(2, 9, 12, dtype=torch.bool)
    inside[1, 7:], inside[1, :, 10:] = False, False
    model.stuff_area = stuff_area
    groups, is_thing = group_pixels(centers, offsets), model.is_thing.tolist()
    merged = model.segments(centers, offsets, labels.short(), inside)
    for n, (height, width) in enumerate([(9, 12), (7, 10)]):
        expected = slow_panoptic(groups[n, :height, :width], labels[n, :height, :width], is_thing, stuff_area)
        columns = (merged[n].labels, merged[n].is_thing, merged[n].areas)
        rows = list(zip(*(column.tolist() for column in columns)))
        assert rows == [(label, thing, len(own)) for label, thing, own in expected]
        ids = torch.zeros(9, 12, dtype=torch.int32)
        for number, (_, _, own) in enumerate(expected, 1):
            for pixel in own:
                ids[pixel] = number
        assert torch.equal(merged[n].ids, ids)


def test_groups_in_a_large_image_are_exact():
    """In the top rows, distances to the centers (about 4,000 px) differ by less than the error of float32 matmul."""
    heatmap = torch.zeros(1, 4000, 8)
    heatmap[0, 3990, 2], heatmap[0, 3990, 5] = 1.0, 0.9
    centers = find_centers(heatmap, 0.1, 3, 10)
    groups = group_pixels(centers, torch.zeros(1, 2, 4000, 8))
    assert torch.equal(groups[0], torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).expand(4000, 8))


@given(st.integers(0, 2**31))
def test_the_class_of_a_group_is_that_of_most_of_its_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, 4, (2, 5, 6), generator=generator)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator).short()
    classes, areas = majority_classes(groups, labels, 4, 3)
    for n in range(2):
        for group in range(4):
            own = labels[n][groups[n] == group].tolist()
            assert areas[n, group] == len(own)
            if own:
                assert classes[n, group] == max(range(3), key=own.count)


def test_grouping_the_targets_gives_the_instances_back():
    """With perfect heatmaps and offsets, the groups of pixels equal the instances if no two centers are close."""
    slots = torch.full((1, 60, 80), IGNORED, dtype=torch.int16)
    slots[0, 5:25, 5:25], slots[0, 30:55, 40:75], slots[0, 5:12, 40:78] = 0, 1, 2
    targets = center_targets(slots, torch.ones(1, 8, dtype=torch.bool), 8.0)
    centers = find_centers(targets.heatmap, 0.1, 7, 200)
    assert centers.valid.sum() == 3
    groups = group_pixels(centers, targets.offsets)
    for slot in range(3):
        own = groups[slots == slot].unique()
        assert len(own) == 1 and torch.equal(groups[(groups == own) & targets.inside], groups[slots == slot])
