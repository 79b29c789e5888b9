"""How much memory the first CUDA device has, asked of NVIDIA's driver."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class CardMemory:
    """Bytes of a card: all, and what no process uses now."""

    total: int
    free: int


def card_memory() -> CardMemory | None:
    """That of the device that ONNX Runtime uses; None where there is no driver, or it does not say.

    Wakes the device up if nothing has yet, which takes a second. After the CUDA driver API, "Memory Management".
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(None)
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return None if failed else CardMemory(total.value, free.value)
