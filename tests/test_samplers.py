"""Batch samplers: an epoch has every image once, and its steps are the same for any number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chordate.data.samplers import EvaluationBatches, TrainingBatches, repeat_factors

COUNTS = st.tuples(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4))


def images_of(batches) -> list[int]:
    return [key[1] for batch in batches for key in batch]


@given(COUNTS, st.integers(0, 5), st.booleans())
def test_an_epoch_has_every_image_once_and_a_few_twice_for_equal_ranks(counts, epoch: int, grouped: bool) -> None:
    images, batch_size, world = counts
    groups = np.arange(images) % 3 == 0 if grouped else None
    ranks = [
        TrainingBatches(images, batch_size, seed=1, rank=rank, world_size=world, groups=groups) for rank in range(world)
    ]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    batches_by_rank = [list(sampler) for sampler in ranks]
    assert len({len(rank_batches) for rank_batches in batches_by_rank}) == 1
    assert len({tuple(map(len, rank_batches)) for rank_batches in batches_by_rank}) == 1
    assert all(len(rank_batches) == len(sampler) for rank_batches, sampler in zip(batches_by_rank, ranks))
    seen = Counter(index for rank_batches in batches_by_rank for index in images_of(rank_batches))
    assert set(seen) == set(range(images))
    assert sum(seen.values()) - images < world


@given(COUNTS, st.integers(1, 3))
def test_a_step_has_the_same_images_for_any_number_of_ranks(counts, world: int) -> None:
    images, batch_size, _ = counts
    images *= 6  # divisible by every number of ranks, so that no image is repeated
    expected = list(TrainingBatches(images, batch_size * world, seed=3))
    ranks = [list(TrainingBatches(images, batch_size, seed=3, rank=rank, world_size=world)) for rank in range(world)]
    together = [[key for rank in ranks for key in rank[step]] for step in range(len(expected))]
    assert together == expected


@given(COUNTS, st.integers(0, 5), st.booleans())
def test_a_last_batch_of_one_image_can_be_dropped(counts, epoch: int, grouped: bool) -> None:
    images, batch_size, world = counts
    groups = np.arange(images) % 3 == 0 if grouped else None
    ranks = []
    for rank in range(world):
        options = {"seed": 1, "rank": rank, "world_size": world, "groups": groups}
        plain, sampler = (TrainingBatches(images, batch_size, drop_single=drop, **options) for drop in (False, True))
        for batches in (plain, sampler):
            batches.set_epoch(epoch)
        ranks.append((list(plain), list(sampler)))
        assert len(sampler) == len(ranks[-1][1])
    for plain, dropped in ranks:
        alone = batch_size > 1 and len(plain) > 1 and len(plain[-1]) == 1
        assert dropped == (plain[:-1] if alone else plain)
        assert sampler.dropped == (world if alone else 0)


def test_each_epoch_drops_another_image() -> None:
    sampler = TrainingBatches(9, 4, seed=0, drop_single=True)
    dropped = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        (missing,) = set(range(9)) - set(images_of(sampler))
        dropped.add(missing)
    assert len(dropped) > 4


def test_only_the_last_batch_mixes_groups() -> None:
    groups = np.array([0] * 37 + [1] * 25)
    batches = list(TrainingBatches(62, 4, seed=0, groups=groups))
    mixed = [len({groups[key[1]] for key in batch}) > 1 for batch in batches]
    assert not any(mixed[:-1])
    assert sorted(images_of(batches)) == list(range(62))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainingBatches(50, 4, seed=seed)
        sampler.set_epoch(epoch)
        return images_of(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != sorted(order(0, 0))


@pytest.mark.parametrize("start", [0, 1, 5, 12])
def test_an_epoch_resumes_at_the_batch_where_it_stopped(start: int) -> None:
    sampler = TrainingBatches(50, 4, seed=0, groups=np.arange(50) % 2)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start_batch=start)
    assert list(sampler) == whole[start:]
    assert len(sampler) == len(whole) == 13
    assert list(sampler) == whole  # `start_batch` applies only to the first pass


def test_keys_contain_the_epoch_and_differ_for_repeated_images() -> None:
    sampler = TrainingBatches(10, 2, seed=0, factors=np.full(10, 2.0))
    sampler.set_epoch(4)
    keys = [key for batch in sampler for key in batch]
    assert len(set(keys)) == len(keys) == 20
    assert {key[0] for key in keys} == {4}


def test_repeat_factors_follow_the_formula_of_lvis() -> None:
    # 1,000 images: class 0 is in all of them, class 1 in 10, class 2 in 1, class 3 in none; threshold 0.04.
    class_images = [np.arange(1000), np.arange(10), np.array([5]), np.array([], int)]
    factors = repeat_factors(class_images, 1000, 0.04)
    assert factors[20] == 1.0
    assert factors[0] == pytest.approx((0.04 / 0.01) ** 0.5)
    assert factors[5] == pytest.approx((0.04 / 0.001) ** 0.5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_repeated_images_are_drawn_as_often_as_their_factor_on_average(seed: int) -> None:
    factors = np.array([1.0, 1.0, 1.3, 2.5, 1.0, 3.0, 1.7, 1.0])
    sampler = TrainingBatches(8, 3, seed=seed, factors=factors)
    counts = np.zeros(8)
    for epoch in range(300):
        sampler.set_epoch(epoch)
        seen = Counter(images_of(sampler))
        assert sum(seen.values()) == round(factors.sum())
        counts += [seen[index] for index in range(8)]
    # The factors add up to 12.5, which is rounded to 12 images per epoch.
    assert np.abs(counts / 300 - factors * 12 / 12.5).max() < 0.15


@given(COUNTS)
def test_each_image_is_in_the_evaluation_batches_of_one_rank(counts) -> None:
    images, batch_size, world = counts
    aspects = np.random.default_rng(0).random(images)
    ranks = [EvaluationBatches(aspects, batch_size, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(index for rank in ranks for index in images_of(rank)) == list(range(images))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def test_evaluation_batches_have_images_of_similar_aspect_ratio() -> None:
    aspects = np.random.default_rng(0).random(64)
    spread = [np.ptp(aspects[[key[1] for key in batch]]) for batch in EvaluationBatches(aspects, 8)]
    assert max(spread) < 0.3
