# SPDX-License-Identifier: Apache-2.0
"""GPUs: from what a host or a person says of one to what the tables know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_compat import gpu_names
from gpu_compat.tables import Row, Tables
from gpu_compat.versions import at_least, begins_with, branch_of, numbers

NVIDIA = "10de"
_VENDORS = {
    "1002": "AMD",
    "1022": "AMD",
    "8086": "Intel",
    "1a03": "ASPEED",
    "102b": "Matrox",
    "1d0f": "Amazon",
    "5143": "Qualcomm",
}
_OTHER_VENDOR = re.compile(
    r"\b(amd|ati|radeon|instinct|firepro|mi\d{2,3}[ax]?|intel|arc|iris|uhd|flex|gaudi\d?|habana|apple|qualcomm|adreno|aspeed|matrox|tpu|xilinx|"
    r"moore|biren|ascend|huawei)\b",
    re.IGNORECASE,
)
_HOW_TO_NAME = 'write a product ("RTX 3090"), its PCI id ("10de:2204", from lspci -n) or {compute_capability: "8.6"}'


class UnknownGpuError(Exception):
    """The tables do not know the GPU; the message says what to write instead."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as far as compatibility goes.

    Attributes:
        name: as a person would call it.
        capability: its compute capability, "X.Y"; empty where ``vendor`` or ``unknown`` is set.
        architecture: the row of ``gpus.architectures``.
        modules: flavours of the kernel module that drive it.
        driver_first: first driver by branch, of this product; empty where only the architecture is known.
        forward_compatible: whether the cuda-compat packages work on it (data center products).
        fabric: packages needed beside the fabric manager; None where the product itself asks for no fabric manager.
        vendor: the maker's name where it is not NVIDIA.
        unknown: why nothing can be planned for it, else empty.
    """

    name: str
    capability: str = ""
    architecture: Row | None = None
    modules: tuple[str, ...] = ()
    driver_first: tuple[tuple[str, str], ...] = ()
    forward_compatible: bool = False
    fabric: tuple[str, ...] | None = None
    vendor: str = ""
    unknown: str = ""

    @property
    def arch(self) -> Row:
        """The row of the architecture; only for GPUs that can be planned for."""
        assert self.architecture is not None
        return self.architecture

    def first_driver(self, branch: str) -> str | None:
        """Return the first version of ``branch`` that knows this product; "" if the whole branch does, None if none
        does."""
        first = dict(self.driver_first)
        if not first or branch in first:
            return first.get(branch, "")
        return "" if at_least(branch, max(first, key=numbers)) else None

    def known_by(self, driver: str) -> bool:
        """Tell whether a driver version knows this product, where its branch knows the architecture."""
        first = self.first_driver(branch_of(driver))
        if first is None or (first and not at_least(driver, first)):
            return False
        of_architecture = (self.arch.get("driver_first") or {}).get(self.capability)
        return of_architecture is None or at_least(driver, of_architecture)

    def arch_known_by(self, driver: str) -> bool:
        """Tell whether a driver's branch knows this architecture: neither too old nor too new."""
        last = self.arch.get("driver_last")
        if last is not None and numbers(branch_of(driver)) > numbers(last):
            return False
        first = (self.arch.get("driver_first") or {}).get(self.capability)
        return first is None or numbers(branch_of(driver)) >= numbers(branch_of(first))

    def called(self) -> str:
        """Name the GPU with its compute capability."""
        return f"{self.name} (compute capability {self.capability})"


def identify(said: str | Mapping[str, str], tables: Tables) -> Gpu:
    """Find a GPU by product name, PCI id or ``{"compute_capability": "6.1"}``.

    Raises:
        UnknownGpuError: the name is not known; it may be a slip of the pen, so nothing is planned for it.
    """
    if not isinstance(said, str):
        return _from_architecture(
            f"a GPU of compute capability {said['compute_capability']}", said["compute_capability"], tables
        )
    text = said.strip()
    pci = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{4}):(?:0x)?([0-9a-fA-F]{4})", text)
    if pci:
        return _by_pci(pci.group(1).lower(), pci.group(2).lower(), tables)
    if _OTHER_VENDOR.search(text) and not re.search(r"nvidia|geforce|quadro|tesla", text, re.IGNORECASE):
        return Gpu(name=text, vendor=_vendor_of(text))
    return _by_name(text, tables)


def _vendor_of(text: str) -> str:
    lowered = text.lower()
    for vendor in ("Intel", "Apple", "Qualcomm", "ASPEED", "Matrox", "Huawei"):
        if vendor.lower() in lowered:
            return vendor
    return (
        "Intel"
        if re.search(r"\b(arc|iris|uhd|flex|gaudi|habana)", lowered)
        else "AMD"
        if re.search(r"\b(amd|ati|radeon|instinct|firepro|mi\d)", lowered)
        else "another vendor"
    )


def _by_pci(vendor: str, device: str, tables: Tables) -> Gpu:
    said = f"{vendor}:{device}"
    if vendor != NVIDIA:
        return Gpu(name=said, vendor=_VENDORS.get(vendor, f"vendor {vendor}"))
    for product in tables.rows("gpus.products"):
        if said in product["pci"]:
            return _from_product(product, tables)
    for chip in tables.rows("gpu_chips.chips"):
        if device in chip["devices"]:
            return _from_architecture(chip["devices"][device], chip["compute_capability"], tables)
    return Gpu(
        name=said,
        unknown=f"the PCI id {said} is not in the tables of {tables.as_of}: it may be newer. Write what "
        "it is instead, as "
        '{compute_capability: "8.6"}, or lay a row for it over gpus.products',
    )


def _by_name(text: str, tables: Tables) -> Gpu:
    found = gpu_names.find(text, tables)
    if not found and re.search(r"\b(jetson|orin|xavier|tegra)\b", text, re.IGNORECASE):
        return Gpu(name=text, unknown="a Jetson board has drivers and wheels of its own")
    if not found and re.search(r"\b(mig|[1-7]g\.\d+gb)\b", text, re.IGNORECASE):
        raise UnknownGpuError(f"'{text}' is a part of a GPU; write the GPU that it is a part of, as \"A100\"")
    if not found:
        raise UnknownGpuError(
            f"no GPU called '{text}' is in the tables of {tables.as_of}; "
            f"{gpu_names.nearest(text, tables)}{_HOW_TO_NAME}"
        )
    capabilities = {named.row["compute_capability"]: named.called for named in found}
    if len(capabilities) > 1:
        some = ", ".join(f"{name} ({capability})" for capability, name in capabilities.items())
        raise UnknownGpuError(
            f"'{text}' may be several: {some}; write the whole name, or its PCI id (\"10de:2204\", from lspci -n)"
        )
    products = list({named.row["name"]: named.row for named in found if named.product}.values())
    if not products:
        return _from_architecture(found[0].name, next(iter(capabilities)), tables)
    return _from_family(text, products, tables)


def _from_family(said: str, products: Sequence[Row], tables: Tables) -> Gpu:
    """Return the product that is meant, or, where a name means several, one that is as demanding as all of them."""
    gpus = [_from_product(row, tables) for row in products]
    strictest = max(gpus, key=lambda gpu: max((numbers(version) for _, version in gpu.driver_first), default=()))
    if len(gpus) == 1:
        return strictest
    return Gpu(
        name=said,
        capability=strictest.capability,
        architecture=strictest.architecture,
        modules=tuple(module for module in strictest.modules if all(module in gpu.modules for gpu in gpus)),
        driver_first=strictest.driver_first,
        forward_compatible=all(gpu.forward_compatible for gpu in gpus),
        fabric=strictest.fabric,
    )


def _from_product(row: Row, tables: Tables) -> Gpu:
    architecture = next(arch for arch in tables.rows("gpus.architectures") if arch["name"] == row["architecture"])
    fabric = row.get("fabric")
    return Gpu(
        name=str(row["name"]),
        capability=row["compute_capability"],
        architecture=architecture,
        modules=tuple(row.get("modules") or architecture["modules"]),
        driver_first=tuple((row.get("driver_first") or {}).items()),
        forward_compatible=bool(row.get("forward_compatibility")),
        fabric=tuple(fabric) if fabric else None,
    )


def _from_architecture(name: str, capability: str, tables: Tables) -> Gpu:
    """Plan a GPU that is only known by its architecture; the newest drivers know it, which old one did not is not
    known."""
    for architecture in tables.rows("gpus.architectures"):
        if capability in architecture["compute_capabilities"]:
            jetson = capability in (architecture.get("jetson") or ())
            return Gpu(
                name=name,
                capability=capability,
                architecture=architecture,
                modules=tuple(architecture["modules"]),
                unknown=f"compute capability {capability} is a Jetson board, which has drivers and wheels of its own"
                if jetson
                else "",
            )
    known = [capability for row in tables.rows("gpus.architectures") for capability in row["compute_capabilities"]]
    newest = max(known, key=numbers)
    why = "it is newer than they are" if numbers(capability) > numbers(newest) else "known are " + ", ".join(known)
    return Gpu(
        name=name,
        unknown=f"no architecture of compute capability {capability} is in the tables of {tables.as_of}; {why}",
    )


def first_toolkit(gpu: Gpu) -> str:
    """Return the first CUDA toolkit that compiles for a GPU."""
    return str(gpu.arch["cuda_first"][gpu.capability])


def last_toolkit(gpu: Gpu) -> str | None:
    """Return the last CUDA toolkit series that compiles for a GPU, None where there is no end yet."""
    return gpu.arch.get("cuda_last")


def toolkit_too_new(gpu: Gpu, toolkit: str) -> bool:
    """Tell whether a toolkit has left the GPU behind."""
    last = last_toolkit(gpu)
    return last is not None and numbers(toolkit) > numbers(last) and not begins_with(toolkit, last)


def toolkit_too_old(gpu: Gpu, toolkit: str) -> bool:
    """Tell whether a toolkit does not know the GPU yet."""
    return not at_least(toolkit, first_toolkit(gpu))
