"""Gives results the ids of their annotation file, and the names of the image files."""

from collections.abc import Sequence
from typing import Any

import hotcoco

from chordate.data.file_ids import id_in_file


def with_file_ids(results: Sequence[dict[str, Any]], coco: hotcoco.COCO) -> list[dict[str, Any]]:
    """Replace the ids of results in COCO's format by those of the annotation file, and add `file_name`.

    Args:
        results: dicts with `image_id` and `category_id`.
        coco: the annotations. If images or categories were renumbered, their entries also have the id in the file.
    """
    images = {one["id"]: one for one in coco.load_imgs(sorted({result["image_id"] for result in results}))}
    categories = {one["id"]: one for one in coco.load_cats(coco.get_cat_ids())}
    named = []
    for result in results:
        image, category = images[result["image_id"]], categories[result["category_id"]]
        ids = {"image_id": id_in_file(image), "category_id": id_in_file(category)}
        name = {"file_name": image["file_name"]} if image["file_name"] else {}
        named.append({**ids, **name, **{key: result[key] for key in result if key not in ids}})
    return named
