"""Data sets, transforms, batches and loaders: from annotation files to padded batches of tensors."""

from chordate.data.coco import CocoDataset

__all__ = ["CocoDataset"]
