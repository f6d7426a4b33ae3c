"""Reads single COCO annotations: keeps the fields that are used, in a normalized form, and records their problems."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from chordate.data.coco_geometry import (
    MIN_SIDE,
    has_mask_in_box,
    parse_box,
    parse_flag,
    parse_keypoints,
    parse_number,
    parse_polygons,
    parse_rle,
)
from chordate.data.findings import Findings
from chordate.text import printable

UNUSABLE_POLYGON = "segmentation with a polygon that is not three or more points x1, y1, x2, y2, …, which is ignored"


class AnnotationReader:
    """Reads annotations one by one, and collects their problems.

    Args:
        keypoint_counts: mapping from category id to number of keypoints, for the categories with keypoint names.
        findings: collects the problems.

    Attributes:
        instances: dict from category id to the number of objects, that is, of annotations that are not crowds and
            whose boxes have no side below MIN_SIDE inside their images.
        without_mask: category id and annotation id of each object that has no usable mask overlapping its box.
    """

    def __init__(self, keypoint_counts: Mapping[int, int], findings: Findings):
        self.keypoint_counts, self.findings = keypoint_counts, findings
        self.instances: defaultdict[int, int] = defaultdict(int)
        self.without_mask: list[tuple[int, Any]] = []

    def read(self, record: Mapping[str, Any], id: Any, category: int, size: tuple[int, int]) -> dict[str, Any] | None:
        """Read the used fields of an annotation, except its ids.

        Args:
            record: the annotation as in the file.
            id: its id in the file, for messages.
            category: id of its category.
            size: height and width of its image in pixels.

        Returns:
            `iscrowd`; and `bbox`, `segmentation`, `area`, `keypoints` and `num_keypoints`, each only if the annotation
            has a usable value. None if its `iscrowd` or `bbox` is invalid, or if it has neither a `bbox` nor a usable
            `segmentation`.
        """
        crowd = parse_flag(record.get("iscrowd"))
        if crowd is None:
            self.findings.error("iscrowd is not 0 or 1", id, quote(record["iscrowd"]))
            return None
        fields: dict[str, Any] = {"iscrowd": crowd}
        if (segmentation := self._segmentation(record.get("segmentation"), id, size)) is not None:
            fields["segmentation"] = segmentation
        if (box := record.get("bbox")) is not None and box != []:
            fields["bbox"] = parse_box(box)
            if fields["bbox"] is None:
                self.findings.error("bbox is not four finite numbers", id, quote(box))
                return None
        elif segmentation is None:
            self.findings.error("no bbox and no usable segmentation", id)
            return None
        else:
            self.findings.repair("no bbox, replaced by the bounds of the mask", id)
        if not crowd:
            self._count_mask(fields, id, category, size)
        self._read_area(record, fields, id)
        self._read_keypoints(record, fields, id, category)
        return fields

    def _count_mask(self, fields: Mapping[str, Any], id: Any, category: int, size: tuple[int, int]) -> None:
        """Count an object, unless its box is too thin inside the image; list it in `without_mask` if it has no usable
        mask."""
        segmentation, has_mask = fields.get("segmentation"), "segmentation" in fields
        if "bbox" in fields:
            x, y, w, h = fields["bbox"]
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, size[1]), min(y + h, size[0])
            if min(right - left, bottom - top) < MIN_SIDE:
                return
            has_mask = has_mask and has_mask_in_box(segmentation, left, top, right, bottom)
        self.instances[category] += 1
        if not has_mask:
            self.without_mask.append((category, id))

    def _segmentation(self, value: Any, id: Any, size: tuple[int, int]) -> Any:
        """The usable polygons, or the RLE; None if there is no usable mask."""
        if not value:
            return None
        if isinstance(value, Mapping):
            encoding, reason = parse_rle(value, *size)
            if reason:
                self.findings.error("the RLE in segmentation does not fit its image", id, reason, left_out="masks")
            return encoding
        polygons, unusable = parse_polygons(value) if isinstance(value, list) else ([], 1)
        if unusable:
            self.findings.repair(UNUSABLE_POLYGON, id, quote(value))
        elif not isinstance(value[0], list):
            self.findings.repair("segmentation is one polygon without the list around it", id)
        return polygons or None

    def _read_area(self, record: Mapping[str, Any], fields: dict[str, Any], id: Any) -> None:
        """Keep a positive area; the evaluation computes missing areas from masks or boxes."""
        area = parse_number(record.get("area"))
        if area is not None and area > 0:
            fields["area"] = area
        # An empty box is dropped with its annotation, so its area needs no report.
        elif record.get("area") is not None and min(fields.get("bbox", ())[2:], default=1) > 0:
            self.findings.repair("area is not a positive number and is computed", id)

    def _read_keypoints(self, record: Mapping[str, Any], fields: dict[str, Any], id: Any, category: int) -> None:
        value, count = record.get("keypoints"), self.keypoint_counts.get(category)
        if not value or not self.keypoint_counts:
            return
        if count is None:
            self.findings.repair("keypoints of a category without keypoint names, which are ignored", id)
            return
        keypoints = parse_keypoints(value, count) if isinstance(value, list) else None
        if keypoints is None:
            problem = "keypoints are not three finite numbers per keypoint of the category, with visibility 0, 1 or 2"
            self.findings.error(problem, id, f"{quote(value)} for {count} keypoints", left_out="keypoints")
            return
        fields["keypoints"] = keypoints
        labeled = parse_number(record.get("num_keypoints"))
        if labeled is None or labeled < 0 or not labeled.is_integer():
            labeled = sum(v > 0 for v in keypoints[2::3])
        fields["num_keypoints"] = int(labeled)


def quote(value: Any) -> str:
    """Format a value from a file for a message, shortened."""
    return printable(repr(value), 60)
