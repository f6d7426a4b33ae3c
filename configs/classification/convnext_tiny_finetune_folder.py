"""ConvNeXt-T fine-tuned on your own photos with layer-wise learning-rate decay, see `resnet50_finetune_folder`.

The layer decay is from Liu et al. 2022, appendix A.2, table 6, and the stochastic depth from table 5.
"""

_base_ = ["./resnet50_finetune_folder.py"]

model = dict(
    backbone=dict(type="convnext_tiny", frozen_stages=-1, drop_path=0.1),
    head=dict(norm="LN"),
)
optimizer = dict(
    no_decay=["norm", "bias", "*.gamma"],
    layer_decay=0.7,
    layer_blocks=3,
)
