"""Chordate's backbones in the models of other libraries; each module has the name of its library.

Importing `detectron2`, `mmengine` or `segmentation_models_pytorch` registers the backbones in that library;
`torchvision` has modules for its detectors and segmenters, since it has no registry.
"""
