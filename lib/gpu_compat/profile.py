# SPDX-License-Identifier: Apache-2.0
"""Whether a host is provided for with its GPUs: decided by evidence, and said out loud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu_compat import conflicts
from gpu_compat.conflicts import Conflict
from gpu_compat.gpus import Gpu
from gpu_compat.hosts import Host
from gpu_compat.tables import Tables


@dataclass
class Profile:
    """Whether a host is provided for with its GPUs, or the conflict that stands against deciding it."""

    name: str
    because: str
    conflicts: list[Conflict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        """Whether GPUs are used."""
        return self.name == "gpu"


def decide_profile(request: Mapping[str, Any], host: Host, tables: Tables, driver_as_it_is: bool) -> Profile:
    """Decide by evidence whether a host is provided for with its GPUs."""
    asked, gpus = request["profile"], host.gpus
    seen = _seen(host)
    if asked == "cpu":
        warnings = [f"profile: cpu was asked for although {seen}: nothing will be said about the GPU"] if gpus else []
        return Profile("cpu", f"profile: cpu, and {seen}", warnings=warnings)
    if gpus is None:
        message = (
            f"profile: {asked} needs to know what GPUs there are, but {seen}. Write profile: cpu, or "
            "look why the bus cannot be read"
        )
        return Profile(
            "cpu", seen, [conflicts.entry("no_gpu", message, ["host.gpus"], "that there is no GPU needs evidence")]
        )
    strange = [found for index, gpu in enumerate(gpus) if (found := _strange(gpu, index, tables))]
    if strange:
        return Profile("gpu", seen, strange)
    if request["driver"] == "none" or request["driver_source"] == "none":
        return _without_driver(request, asked, seen, bool(gpus))
    if asked == "gpu" and not gpus:
        if host.other_gpus:
            message = (
                "profile: gpu is asked for, but the only GPUs are of other vendors: "
                f"{', '.join(host.other_gpus)}; this project is for NVIDIA's"
            )
            return Profile(
                "gpu",
                seen,
                [
                    conflicts.entry(
                        "unsupported_vendor", message, ["host.gpus", "request.profile"], "scope of the tables"
                    )
                ],
            )
        message = (
            f"profile: gpu is asked for, but {seen}. Write profile: cpu or auto, or look why the GPU is not on the bus"
        )
        return Profile(
            "gpu",
            seen,
            [
                conflicts.entry(
                    "no_gpu", message, ["host.gpus", "request.profile"], "a GPU that is expected must be found"
                )
            ],
        )
    if gpus and host.driver is None and (driver_as_it_is or request["driver_source"] == "preinstalled"):
        return Profile("gpu", seen, [_no_driver(request, seen, driver_as_it_is)])
    if gpus and host.container and host.driver is None:
        return Profile("gpu", seen, [_bare_container(host, seen)])
    warnings = []
    if gpus and request["driver"] == "keep" and host.driver is None:
        warnings.append("driver: keep, but none is installed, so there is nothing to keep: it is planned as auto")
    return Profile("gpu" if gpus else "cpu", f"profile: {asked}, and {seen}", warnings=warnings)


def _no_driver(request: Mapping[str, Any], seen: str, driver_as_it_is: bool) -> Conflict:
    source = "a GPU without a driver is a failure, never a skip"
    if driver_as_it_is:
        message = (
            f"{seen}, but no NVIDIA driver is loaded, and this version of the project does not "
            "install drivers. Install one (playbooks/plan.yml "
            "says which), or write profile: cpu to provision this host without its GPU"
        )
        return conflicts.entry("no_driver", message, ["host.driver", "host.gpus", "request.profile"], source)
    message = (
        f"driver_source: preinstalled says that a driver is there already, but {seen} and no driver "
        "is loaded. Install one, or write driver_source: auto"
    )
    return conflicts.entry("no_driver", message, ["host.driver", "request.driver_source"], source)


def _bare_container(host: Host, seen: str) -> Conflict:
    message = (
        f"{seen}, but {host.container_words()}, and no NVIDIA driver is loaded in the kernel that it shares. Install "
        "one on the machine below it, or write profile: cpu. Where this container stands for a machine of its own, "
        'set nvidia_driver_manage_kernel_module: "true"'
    )
    source = "a container has no kernel of its own"
    return conflicts.entry("no_driver", message, ["host.container", "host.gpus"], source)


def _without_driver(request: Mapping[str, Any], asked: str, seen: str, gpus: bool) -> Profile:
    wish = "driver" if request["driver"] == "none" else "driver_source"
    if asked == "gpu":
        message = f"profile: gpu and {wish}: none exclude each other: without a driver no GPU can be used"
        return Profile(
            "gpu",
            seen,
            [
                conflicts.entry(
                    "no_driver",
                    message,
                    [f"request.{wish}", "request.profile"],
                    "a GPU without a driver is a failure, never a skip",
                )
            ],
        )
    warnings = [f"{wish}: none, although {seen}: nothing will be said about the GPU"] if gpus else []
    return Profile("cpu", f"{wish}: none, and {seen}", warnings=warnings)


def _strange(gpu: Gpu, index: int, tables: Tables) -> Conflict | None:
    """Return the conflict of a GPU that nothing can be planned for."""
    member = f"host.gpus[{index}]"
    if gpu.vendor:
        message = (
            f"{gpu.name} is a GPU of {gpu.vendor}; CUDA, and so this project, is for NVIDIA's. Leave "
            "it out of gpus, or write profile: cpu"
        )
        return conflicts.entry("unsupported_vendor", message, [member], "scope of the tables")
    if gpu.unknown:
        return conflicts.entry(
            "unknown_gpu", f"{gpu.name}: {gpu.unknown}", [member], f"tables gpus and gpu_chips of {tables.as_of}"
        )
    return None


def _seen(host: Host) -> str:
    if host.gpus is None:
        return f"the PCI bus cannot be read ({host.problem})"
    where = "the inventory declares" if host.declared else "the PCI bus shows"
    seen = f"{where} {len(host.gpus)} NVIDIA GPU(s)" + (
        f": {', '.join(dict.fromkeys(gpu.name for gpu in host.gpus))}" if host.gpus else ""
    )
    return seen + (f" and, of other vendors: {', '.join(host.other_gpus)}" if host.other_gpus else "")
