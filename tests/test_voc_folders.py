"""Pascal VOC folders as tools export them: any layout, any suffix, damaged parts."""

from pathlib import Path

import pytest
from annotation_folders import CAT, HEIGHT, PNG, WIDTH, samples, voc, voc_xml, write

from chordate.data import VocDataset
from chordate.errors import ConfigError, DataError

# Pascal VOC: text in XML


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("cat &amp; dog", "cat & dog"), ("a &lt;b&gt;", "a <b>"), ("<![CDATA[<cat> & dog]]>", "<cat> & dog"),
        ("do<!-- a comment -->g", "dog"), (" \n dog\t", "dog"), ("caf&#233; \u732b", "café \u732b"),
    ],
)  # fmt: skip
def test_the_class_name_is_the_text_of_the_element(tmp_path: Path, written: str, name: str) -> None:
    assert VocDataset(voc(tmp_path, {"1.xml": voc_xml("1.png", written)}, ["1.png"])).classes == (name,)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_an_xml_file_may_have_any_declared_encoding(tmp_path: Path, encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>\r\n{voc_xml("1.png", "café")}\r\n<!-- end -->\r\n'
    root = voc(tmp_path, {}, ["1.png"])
    write(root / "Annotations/1.xml", text.encode(encoding))
    assert VocDataset(root).classes == ("café",)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'
    root = voc(tmp_path, {"1.xml": bomb + voc_xml("1.png", "&y;")}, ["1.png"])
    with pytest.raises(DataError, match=r"1\.xml: not supported: .*EntitiesForbidden.*without entity definitions"):
        VocDataset(root)


def test_parts_of_an_object_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
    files = {"1.xml": voc_xml("1.png").replace("<object><name>", f"<object>{part}<name>")}
    assert samples(VocDataset(voc(tmp_path, files, ["1.png"]))) == {"1.png": [CAT]}


def test_objects_may_be_in_an_element_of_their_own(tmp_path: Path) -> None:
    text = voc_xml("1.png").replace("<object>", "<objects><object>").replace("</object>", "</object></objects>")
    assert samples(VocDataset(voc(tmp_path, {"1.xml": text}, ["1.png"]))) == {"1.png": [CAT]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_xml()[:-40], "truncated, or not XML"), ("", "truncated, or not XML"), ("{}", "truncated, or not XML"),
        ("<html></html>", "its root is <html>"), ("<annotation/>", "it has no <filename>"),
        (voc_xml(name=""), "object 1 has no <name>"),
        (voc_xml().replace("bndbox", "polygon"), r"object 1 \(cat\) has no <bndbox>"),
        (voc_xml(corners=(1, 2, "x", 4)), r"object 1 \(cat\): <xmax> must be a number, got 'x'"),
        (voc_xml(corners=(1, 2, "nan", 4)), ".*<xmax> must be a number"),
        (voc_xml().replace("<ymin>6</ymin>", ""), ".*<ymin> must be a number, got ''"),
    ],
)  # fmt: skip
def test_a_damaged_xml_file_is_a_one_line_error(tmp_path: Path, text: str, message: str) -> None:
    root = voc(tmp_path, {"1.xml": text}, ["1.png"])
    with pytest.raises(DataError, match=rf"Annotations/1\.xml: {message}") as error:
        VocDataset(root)
    assert "\n" not in str(error.value)


# Pascal VOC: images and layouts


@pytest.mark.parametrize(
    ("xml", "filename", "image"),
    [
        ("1.xml", "1.png", "1.png"), ("1.xml", "1.jpg", "1.png"), ("1.xml", "1", "1.PNG"), ("1.xml", "", "1.png"),
        ("1.xml", "original_name.jpg", "1.png"), ("anno_1.xml", "1.jpg", "1.png"), ("a/1.xml", "1.jpg", "a/1.png"),
        ("1.xml", "1.jpg", "a/1.png"), ("x.xml", r"C:\photos\1.jpg", "1.png"), ("x.xml", "/photos/1.jpg", "1.png"),
        ("frame.0001.xml", "frame.0001", "frame.0001.png"), ("ä b.xml", "", "ä b.png"),
    ],
)  # fmt: skip
def test_the_image_of_an_xml_file_has_its_name_or_its_filename(tmp_path: Path, xml, filename, image) -> None:
    dataset = VocDataset(voc(tmp_path, {xml: voc_xml(filename)}, [image]))
    assert samples(dataset) == {image: [CAT]}
    assert dataset.health_report == []


def test_the_image_with_the_xml_files_name_wins_over_another_in_filename(tmp_path: Path) -> None:
    files = {"1.xml": voc_xml("2.png"), "2.xml": voc_xml("2.png", "dog")}
    dataset = VocDataset(voc(tmp_path, files, ["1.png", "2.png"]))
    assert {image: objects[0][0] for image, objects in samples(dataset).items()} == {"1.png": "cat", "2.png": "dog"}
    assert dataset.health_report[0].endswith("the image with the XML file's own name is used (1)")


def test_an_xml_file_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    root = voc(tmp_path, {"1.xml": voc_xml("")}, ["a/1.png", "b/1.png"])
    with pytest.raises(DataError, match=r"1\.xml: its image could be a/1\.png or b/1\.png; write"):
        VocDataset(root)
    assert list(samples(VocDataset(voc(root, {"1.xml": voc_xml("b/1.png")}, [])))) == ["b/1.png"]


def test_two_xml_files_of_one_image_are_refused(tmp_path: Path) -> None:
    root = voc(tmp_path, {"1.xml": voc_xml("1.png"), "x.xml": voc_xml("1.png")}, ["1.png"])
    with pytest.raises(DataError, match=r"x\.xml and .*1\.xml are both for the image 1\.png"):
        VocDataset(root)


def test_images_without_xml_file_are_reported(tmp_path: Path) -> None:
    dataset = VocDataset(voc(tmp_path, {"1.xml": voc_xml()}, ["1.png", "2.png"]))
    assert dataset.health_report == [f"{tmp_path}/JPEGImages: 1 image without XML file left out (2.png)"]


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(tmp_path: Path, size: str) -> None:
    dataset = VocDataset(voc(tmp_path, {"1.xml": voc_xml(size=size)}, ["1.png"]))
    assert samples(dataset) == {"1.png": [CAT]} and dataset.sizes.tolist() == [[HEIGHT, WIDTH]]


@pytest.mark.parametrize("folder", [".", "train"])
def test_xml_files_may_lie_beside_the_images(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder / "1.xml", voc_xml("1.jpg"))
    write(tmp_path / folder / "1.png", PNG)
    dataset = VocDataset(folder, images=".", annotations=".", data_root=tmp_path)
    assert samples(dataset) == {"1.png": [CAT]}


@pytest.mark.parametrize(
    "lines",
    [
        "2",
        "2.jpg\r\n",
        "\ufeff2\n",
        "JPEGImages/2.png",
        "2 -1",
        "2  1\n\n",
        "a/2",
        "2\n2",
        "JPEGImages\\2.png",
        "a\\2 1",
    ],
)
def test_an_image_list_may_be_written_in_many_ways(tmp_path: Path, lines: str) -> None:
    root = voc(tmp_path, {"1.xml": voc_xml(name="dog"), "a/2.xml": voc_xml()}, ["1.png", "a/2.png"])
    write(root / "ImageSets/Main/train.txt", lines)
    write(root / "lists/mine.txt", lines)
    for split in ("train", "lists/mine.txt"):
        dataset = VocDataset(root, split)
        assert samples(dataset) == {"a/2.png": [CAT]}
        assert dataset.classes == ("cat", "dog")  # includes the class of an image outside the list


def test_names_in_an_image_list_may_have_spaces(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a b.xml": voc_xml(), "a.xml": voc_xml()}, ["a b.png", "a.png"])
    write(root / "ImageSets/Main/train.txt", "a b\n")
    assert list(samples(VocDataset(root, "train"))) == ["a b.png"]


def test_a_fraction_is_held_out_without_lists(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(20)]
    root = voc(tmp_path, {f"{n}.xml": voc_xml() for n in names}, [f"{n}.png" for n in names])
    train, val = (set(samples(VocDataset(root, split, held_out=0.25))) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5) and train.isdisjoint(val)
    voc(root, {"20.xml": voc_xml()}, ["20.png"])
    assert len(val - set(samples(VocDataset(root, "val", held_out=0.25)))) <= 1  # the choice hardly changes
    with pytest.raises(ConfigError, match=r"held_out=0\.25 needs split"):
        VocDataset(root, held_out=0.25)


def test_a_class_of_the_model_may_be_absent_in_the_evaluation_folder(tmp_path: Path) -> None:
    train = VocDataset(voc(tmp_path / "a", {"1.xml": voc_xml(), "2.xml": voc_xml(name="ant")}, ["1.png", "2.png"]))
    val = VocDataset(voc(tmp_path / "b", {"1.xml": voc_xml()}, ["1.png"]), meta=train.meta)
    assert val.classes == ("ant", "cat") and samples(val) == {"1.png": [CAT]}
    with pytest.raises(DataError, match='unknown class "dgo"'):
        VocDataset(tmp_path / "b", classes=["dgo"])


def test_a_report_names_the_files_and_the_numbers_of_the_objects(tmp_path: Path) -> None:
    """Annotation ids, which exist only in memory, would not help the user."""
    inside, half, outside = (11, 6, 30, 25), (70, 6, 95, 25), (90, 6, 95, 25)
    one = {"1.xml": [inside, half], "b/2.xml": [outside, inside, half], "b/3.xml": [inside]}
    files = {}
    for name, boxes in one.items():
        parts = [voc_xml(corners=corners) for corners in boxes]
        objects = "".join(part[part.index("<object>") : part.index("</annotation>")] for part in parts)
        files[name] = f"<annotation>{parts[0][len('<annotation>') : parts[0].index('<object>')]}{objects}</annotation>"
    dataset = VocDataset(voc(tmp_path, files, ["1.png", "b/2.png", "b/3.png"]))
    (line,) = dataset.health_report
    assert "1 box with a side below 0.01 px in the image dropped (b/2.xml: object 1)" in line
    assert "2 boxes clipped to the image (1.xml: object 2, b/2.xml: object 3)" in line
    message = r"/Annotations: no object has a usable mask \(5 objects, the first: 1\.xml: object 1\)"
    with pytest.raises(DataError, match=message):
        VocDataset(tmp_path, masks=True)
