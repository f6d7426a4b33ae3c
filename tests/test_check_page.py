"""The page of `chordate check`: each table row has one cell per column, and markup in names is escaped."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tiny_coco import annotation, write_coco

from chordate.data import CocoDataset
from chordate.data.data_report import DataReport, read_set
from chordate.structures import Values
from chordate.visualization.check_page import write_page
from chordate.visualization.contact_sheet import OPEN_ROWS, Group, Table, contact_sheet, remove_earlier_sheet
from chordate.visualization.dataset_plots import COLUMNS, ROWS, plot_class_counts, plot_values

VOID = ("meta", "img")


class Tables(HTMLParser):
    """Parses the tables of a page as lists of rows of cells, and the lengths of their bars in percent."""

    def __init__(self, html: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.bars: list[float] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, "the page has unclosed tags"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "i":
            self.bars.append(float(dict(attributes)["style"].removeprefix("width: ").removesuffix("%")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture
def page(tmp_path: Path) -> str:
    boxes = [annotation(n, 1, [n, n, 20, 10], category=3 if n < 4 else 7) for n in range(1, 6)]
    names = [{"id": 3, "name": "<b>cat"}, {"id": 7, "name": "dog [/red]"}, {"id": 8, "name": "cow"}]
    root = write_coco(tmp_path, boxes, categories=names, sizes=((60, 80), (60, 80), (50, 40)))
    dataset = CocoDataset("annotations.json", "images", data_root=root)
    report = DataReport("my train", "the settings", dataset)
    read_set(report, {"dataset": dataset, "workers": 0}, training=False)
    reports = [report, DataReport("val", problems=["the file <i> is missing"])]
    return write_page(reports, "title", "source", "Training would fail.", False, tmp_path).read_text(encoding="utf-8")


def test_tables_have_a_cell_per_column_and_the_largest_count_has_the_longest_bar(page: str) -> None:
    parsed = Tables(page)
    assert all(len(row) == len(table[0]) for table in parsed.tables for row in table)
    overview, classes, distributions, sizes = parsed.tables
    assert [row[0] for row in overview] == ["data", "my train", "val"] and overview[2][1:] == ["–"] * 5
    assert [row[:4] for row in classes[1:]] == [
        ["<b>cat", "3", "60 %", "1"], ["dog [/red]", "2", "40 %", "1"], ["cow", "0", "0 %", "0"],
    ]  # fmt: skip
    assert parsed.bars == pytest.approx([100, 200 / 3, 0, 100, 50], abs=0.06)
    assert ["instances per image", "0", "0", "0", "5", "5"] in distributions
    assert [row[:2] for row in sizes[1:]] == [["80×60", "2"], ["40×50", "1"]]
    assert "<b>cat" not in page and "<i> is" not in page and 'class="bad">Training would fail' in page


def test_long_tables_are_folded() -> None:
    def sheet(count: int) -> str:
        rows = [[f"class {number}", "1"] for number in range(count)]
        return contact_sheet("a", "b", [Group("c", "", tables=[Table("d", ["class", "images"], rows)])], good=True)

    assert "<details>" not in sheet(OPEN_ROWS) and f"d ({OPEN_ROWS + 1})</summary>" in sheet(OPEN_ROWS + 1)
    assert len(Tables(sheet(OPEN_ROWS + 1)).tables[0]) == OPEN_ROWS + 2


def test_the_plot_of_many_classes_shows_the_most_frequent() -> None:
    counts = np.arange(1000)
    figure = plot_class_counts([f"class {number}" for number in counts], counts)
    labels = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    assert len(figure.axes) == COLUMNS and labels == [f"class {n}" for n in range(999, 999 - ROWS * COLUMNS, -1)]


def test_the_plot_of_many_classes_leaves_out_those_without_objects() -> None:
    names = [f"class {number}" for number in range(133)]
    figure = plot_class_counts(names, np.where(np.isin(range(133), (5, 60)), 3, 0))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["class 5", "class 60"]


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("values", [[1], [3, 3, 3], [1, 2, 700], [0.5, 40, 90000]])
def test_histograms_contain_all_values(values: list[float], logarithmic: bool) -> None:
    figure = plot_values(Values(np.array(values, np.float32), "px", logarithmic))
    bars = [bar for bar in figure.axes[0].patches if bar.get_height()]
    assert sum(bar.get_height() for bar in bars) == len(values)
    left, right = figure.axes[0].get_xlim()
    assert left <= min(values) and max(values) <= right


def test_a_second_check_deletes_the_pictures_of_the_first_and_no_other_file(page: str, tmp_path: Path) -> None:
    others = {path for path in tmp_path.iterdir() if not path.name.startswith("my_train_")}
    pictures = {path.name for path in tmp_path.iterdir()} - {path.name for path in others}
    assert len(pictures) > 2 and set(re.findall(r'src="(.*?)"', page)) == pictures
    write_page([DataReport("val")], "title", "source", "Training would start.", True, tmp_path)
    assert set(tmp_path.iterdir()) == others


def test_a_page_that_is_not_ours_and_its_pictures_stay(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<img src="own.png">')
    (tmp_path / "own.png").touch()
    remove_earlier_sheet(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
