"""Names of files that are written per image."""

from itertools import permutations

import pytest

from chordate.evaluation.output_names import output_names


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([], []),
        (["x/1.jpg"], ["1"]),
        (["x/1.jpg", "x/2.0.jpg"], ["1", "2.0"]),
        (["x/a/1.jpg", "x/b/1.jpg", "x/2.jpg"], ["a/1", "b/1", "2"]),
        (["x/../y/1.jpg", "y/b/1.jpg"], ["1", "b/1"]),
        (["a.jpg", "a.png", "a_1.jpg"], ["a", "a_2", "a_1"]),
        (["a_1.jpg", "a.png", "a.jpg", "a.gif"], ["a_1", "a", "a_2", "a_3"]),
        (["a.jpg", "a.jpg"], ["a", "a_1"]),
    ],
)
def test_names_keep_subfolders_and_number_equal_stems(images, names):
    assert output_names(images) == names


def test_names_are_distinct_in_any_order():
    for images in permutations(["a.jpg", "a.png", "a_1.jpg", "a_1.png", "a_1_1.gif"]):
        names = output_names(images)
        assert len(set(names)) == 5 and {"a", "a_1", "a_1_1"} <= set(names)
