"""Data sets, transforms, batches and loaders: from annotation files to padded batches of tensors."""

from chordate.data.coco import CocoDataset
from chordate.data.voc import VocDataset
from chordate.data.yolo import YoloDataset

__all__ = ["CocoDataset", "VocDataset", "YoloDataset"]
