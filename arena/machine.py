"""What this machine has and how busy it is: processors, memory, disk, GPUs.

NVML failures mean "unknown", never a crash: no library, no driver and a driver mismatch all give an empty GPU list
with the reason in `gpu_note`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One device as NVML sees it; memory in bytes. What cannot be read is None."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    busy_percent: int | None
    temperature_c: int | None


class Machine:
    """Readings of this machine. Keeps NVML open between readings."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self.gpu_note = ""
        self._opened = False

    def read(self, home: Path) -> dict[str, Any]:
        """Return one reading as plain values. `cpu_percent` covers the time since the last reading."""
        import psutil

        memory = psutil.virtual_memory()
        disk = shutil.disk_usage(home if home.exists() else home.parent)
        return {
            "cpus": psutil.cpu_count() or 1,
            "cpu_percent": psutil.cpu_percent(interval=None),
            "load": [round(value, 2) for value in psutil.getloadavg()],
            "memory": {"total": memory.total, "used": memory.total - memory.available},
            "disk": {"total": disk.total, "free": disk.free},
            "gpus": [asdict(gpu) for gpu in self.gpus()],
            "gpu_note": self.gpu_note,
        }

    def gpus(self) -> list[Gpu]:
        """Return the NVIDIA devices, [] when there are none or they cannot be read."""
        nvml = self._open()
        if nvml is None:
            return []
        try:
            return [self._gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            self.gpu_note = f"NVML: {error}"
            return []

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            try:
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
            except Exception as error:  # the library raises its own, the loader OSError: all mean "no GPU to show"
                self.gpu_note = f"No NVIDIA device: {error}"
        return self._nvml

    def _gpu(self, nvml: Any, index: int) -> Gpu:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)

        def reading(call: Any) -> int | None:
            try:
                return int(call())
            except nvml.NVMLError:
                return None

        busy = reading(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        heat = reading(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        name = name.decode() if isinstance(name, bytes) else str(name)
        return Gpu(index, name, int(memory.total), int(memory.used), busy, heat)
