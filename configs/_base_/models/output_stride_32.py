"""Output stride 32 instead of 8, with fewer or no dilated stages; in `_base_`, list this file after a config with 8."""

model = dict(backbone=dict(output_stride=32))
