"""Changes the output stride from 8 to 16. In `_base_`, list this file after a config with output stride 8."""

model = dict(backbone=dict(output_stride=16))
