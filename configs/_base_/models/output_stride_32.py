"""Changes the output stride from 8 to 32. In `_base_`, list this file after a config with output stride 8."""

model = dict(backbone=dict(output_stride=32))
