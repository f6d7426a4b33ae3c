"""Whether bfloat16 arithmetic saves time on a device."""

import functools
import time

import torch

WORTH_IT = 1.3  # times as fast as float32: what the conversions around it cost is earned back


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether convolutions and matrix products are faster in bfloat16 than in float32.

    GPUs since Ampere: yes. Of CPUs with bfloat16 instructions some are four times as fast and some slower than in
    float32, whatever they say they support, so it is measured, once a process, in some 20 ms.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supports = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supports()) and _speedup_on_cpu() > WORTH_IT


@functools.cache
def _speedup_on_cpu() -> float:
    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)
