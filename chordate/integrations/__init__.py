"""Chordate's backbones in the models of other libraries; each module has the name of its library.

Importing `chordate.integrations.detectron2`, `.mmengine` or `.segmentation_models_pytorch` registers the backbones in
that library. Torchvision has no registry: pass instances of the classes in `chordate.integrations.torchvision` to
torchvision's detectors and segmenters.
"""
