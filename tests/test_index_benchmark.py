"""The benchmark of opening annotation files: CocoDataset and pycocotools read the same generated annotations."""

import runpy
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "dataset_index.py"


def test_both_sides_of_the_index_benchmark_read_the_same_annotations(tmp_path, capsys):
    benchmark = runpy.run_path(str(BENCHMARK))
    file = tmp_path / "instances.json"
    benchmark["generate"](file, 5, 12)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000000003.jpg").write_bytes(b"kept")
    for _ in range(2):  # in the second pass, all images exist
        benchmark["make_images"](tmp_path / "images", 5)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "images").iterdir()}
    assert sizes == {f"{number:012}.jpg": 4 * (number == 3) for number in range(5)}
    ours, theirs = (benchmark["SIDES"][side](file) for side in ("CocoDataset", "pycocotools"))
    read = [[[(a["id"], a["bbox"]) for a in side(image)] for image in range(5)] for side in (ours, theirs)]
    assert read[0] == read[1] and sum(map(len, read[0])) == 12
