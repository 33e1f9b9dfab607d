# SPDX-License-Identifier: Apache-2.0
"""From what a host, nvidia-smi, lspci or a person calls a GPU to what the tables know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest
from gpu_compat.gpus import Gpu, UnknownGpuError, identify
from gpu_compat.tables import Tables, shipped, with_overlay
from hypothesis import given, settings
from hypothesis import strategies as st

TABLES = shipped()
PRODUCTS = {row["name"]: row for row in TABLES.rows("gpus.products")}
DEVICES = {
    f"10de:{device}": (name, chip)
    for chip in TABLES.rows("gpu_chips.chips")
    for device, name in chip["devices"].items()
}


def found(said: str | Mapping[str, str], tables: Tables = TABLES) -> Gpu:
    return identify(said, tables)


def refusal(said: str) -> str:
    with pytest.raises(UnknownGpuError) as refused:
        identify(said, TABLES)
    return str(refused.value)


# --- by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "product"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H20-3e", "H20-3e"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA GH200 480GB", "GH200 (120GB/480GB)"),
        ("NVIDIA GH200 144G HBM3e", "GH200 144G HBM3e"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA GB10", "GB10 (DGX Spark)"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada Generation"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server Edition"),
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 4090 D", "GeForce RTX 4090 D"),
        ("NVIDIA GeForce GTX 1060 6GB", "GeForce GTX 1060 6GB"),
        ("NVIDIA TITAN X (Pascal)", "NVIDIA TITAN X (Pascal)"),
        ("GeForce GTX TITAN X", "GeForce GTX TITAN X"),
        ("Quadro RTX 6000", "Quadro RTX 6000 / 8000"),
        ("Tesla V100-SXM2-16GB", "Tesla V100 SXM2 16GB"),
        ("Tesla V100-PCIE-32GB", "Tesla V100 PCIe 32GB"),
        ("Tesla V100S-PCIE-32GB", "Tesla V100S PCIe 32GB"),
        ("Tesla P100-PCIE-16GB", "Tesla P100 PCIe 16GB"),
        ("Tesla K80", "Tesla K80"),
    ],
)
def test_what_nvidia_smi_prints_is_the_product(printed: str, product: str) -> None:
    assert found(printed).name == product


@pytest.mark.parametrize(
    ("said", "product"),
    [
        ("GTX 1080 Ti", "GeForce GTX 1080 Ti"),
        ("GTX 1080Ti", "GeForce GTX 1080 Ti"),
        ("gtx 1080-ti", "GeForce GTX 1080 Ti"),
        ("  NVIDIA   GeForce GTX 1080 Ti ", "GeForce GTX 1080 Ti"),
        ("GTX 1080", "GeForce GTX 1080"),
        ("rtx 2080 super", "GeForce RTX 2080 SUPER"),
        ("RTX 2080", "GeForce RTX 2080"),
        ("K80", "Tesla K80"),
        ("NVIDIA Tesla K80", "Tesla K80"),
        ("NVIDIA T4", "Tesla T4"),
        ("P6000", "Quadro P6000"),
        ("RTX 8000", "Quadro RTX 6000 / 8000"),
        ("RTX 6000 Ada", "RTX 6000 Ada Generation"),
        ("A100 SXM4 40 GB", "A100 SXM4 40GB"),
        ("NVIDIA Corporation H100 PCIe", "H100 PCIe"),
    ],
)
def test_makers_brands_case_and_spaces_tell_no_products_apart(said: str, product: str) -> None:
    assert found(said).name == product


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("spell", ["{}", "NVIDIA {}", "  {}  "])
def test_every_product_is_found_by_its_name(name: str, spell: str) -> None:
    said = spell.format(name)
    assert found(said) == found(said.upper()) == found(said.lower()) == found(PRODUCTS[name]["pci"][0])


@pytest.mark.parametrize(
    ("said", "name", "capability"),
    [
        ("RTX 3080 Ti", "GeForce RTX 3080 Ti", "8.6"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "GeForce RTX 4070 Ti SUPER", "8.9"),
        ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada Generation", "8.9"),
        ("Tesla K40c", "Tesla K40c", "3.5"),
        ("GTX 680", "GeForce GTX 680", "3.0"),
    ],
)
def test_a_device_of_a_chip_is_found_by_its_name_and_is_no_product_near_it(
    said: str, name: str, capability: str
) -> None:
    gpu = found(said)
    assert (gpu.name, gpu.capability) == (name, capability)
    assert gpu.driver_first == (), "which driver knew it first is not known"


# --- families and names that mean several ------------------------------------------------------------------------


def test_a_family_is_as_demanding_as_all_its_products() -> None:
    h100 = found("H100")
    assert (h100.name, h100.capability, h100.forward_compatible) == ("H100", "9.0", True)
    assert h100.driver_first == found("H100 NVL").driver_first, "H100 NVL is known last"
    assert not h100.known_by("535.86.10")
    assert found("H100 PCIe").known_by("535.86.10")
    a100 = found("NVIDIA A100")
    assert (a100.capability, a100.modules) == ("8.0", ("open", "proprietary"))
    assert found("GH200").modules == ("open",)


def test_a_family_is_forward_compatible_only_where_all_its_products_are() -> None:
    assert found("RTX PRO 6000 Blackwell Server Edition").forward_compatible
    assert not found("RTX PRO 6000").forward_compatible


@pytest.mark.parametrize(
    ("said", "ask"),
    [
        ("RTX 6000", ["Quadro RTX 6000 / 8000 (7.5)", "RTX 6000 Ada Generation (8.9)", "write the whole name"]),
        ("TITAN", ["TITAN V (7.0)", "TITAN RTX (7.5)"]),
        ("RTX", ["write the whole name"]),
        ("GeForce GTX 860M", ["GK104 (3.0)", "GM107 (5.0)", "or its PCI id"]),
    ],
)
def test_a_name_of_several_generations_is_refused_with_all_of_them(said: str, ask: list[str]) -> None:
    message = refusal(said)
    assert [part for part in ask if part not in message] == []


@pytest.mark.parametrize(
    ("said", "nearest"),
    [
        ("GTX 1080 Tii", "GeForce GTX 1080 Ti"),
        ("GeForce RTX 309", "GeForce RTX 3090"),
        ("Tesla K90", "Tesla K80"),
        ("A100 SMX4 80GB", "A100 SXM4 80GB"),
        ("B300 SXM", "B300 SXM6"),
        ("L40 S", "L40S"),
    ],
)
def test_a_slip_of_the_pen_names_the_nearest_product_and_is_not_planned(said: str, nearest: str) -> None:
    message = refusal(said)
    assert f"no GPU called '{said}' is in the tables of {TABLES.as_of}" in message
    assert f"did you mean '{nearest}'?" in message


@pytest.mark.parametrize("said", ["", "  ", "NVIDIA", "GeForce", "Tesla GPU", "-", "10de", "10de:1b6", "10de:1b06:00"])
def test_what_names_no_gpu_says_how_to_name_one(said: str) -> None:
    message = refusal(said)
    for example in ("RTX 3090", "10de:2204", '{compute_capability: "8.6"}'):
        assert example in message


# --- by PCI id ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["10de:1b06", "10DE:1B06", "0x10de:0x1b06", "10de:0x1B06", "0x10DE:1b06", "  10de:1b06\n"]
)
def test_a_pci_id_may_be_written_as_lspci_and_sysfs_write_it(said: str) -> None:
    assert found(said).name == "GeForce GTX 1080 Ti"


@pytest.mark.parametrize(
    ("device", "name"), [(device, name) for name, row in PRODUCTS.items() for device in row["pci"]]
)
def test_every_product_is_found_by_each_of_its_pci_ids(device: str, name: str) -> None:
    gpu = found(device)
    row = PRODUCTS[name]
    assert (gpu.name, gpu.capability, gpu.arch["name"]) == (name, row["compute_capability"], row["architecture"])
    assert gpu.forward_compatible == row.get("forward_compatibility", False)
    assert gpu.modules == tuple(row.get("modules") or gpu.arch["modules"])
    assert not gpu.unknown
    assert not gpu.vendor


def test_every_device_of_every_chip_is_found_by_its_pci_id() -> None:
    assert len(DEVICES) > 500
    for device, (name, chip) in DEVICES.items():
        gpu = found(device)
        assert (gpu.name, gpu.capability) == (name, chip["compute_capability"]), device
        assert gpu.arch["name"] == chip["architecture"], device
        assert (gpu.driver_first, gpu.forward_compatible, gpu.fabric) == ((), False, None), device


def test_an_unknown_pci_id_is_a_gpu_of_which_nothing_is_planned() -> None:
    gpu = found("10de:ffff")
    assert (gpu.name, gpu.capability, gpu.vendor) == ("10de:ffff", "", "")
    assert "10de:ffff is not in the tables" in gpu.unknown
    assert "compute_capability" in gpu.unknown
    assert "gpus.products" in gpu.unknown


def test_a_labs_own_row_comes_before_the_shipped_ones() -> None:
    new = {"architecture": "Ampere", "compute_capability": "8.6", "class": "geforce", "source": ["ours"]}
    rows = [{"name": "Lab RTX", "pci": ["10de:ffff", "10de:1b06"], **new}, {"name": "L4", "pci": ["10de:27b8"], **new}]
    tables = with_overlay({"gpus": {"products": rows}})
    assert found("10de:ffff", tables).capability == "8.6"
    assert found("10de:1b06", tables).name == found("lab rtx", tables).name == "Lab RTX"
    assert (found("L4", tables).capability, found("L4").capability) == ("8.6", "8.9")


# --- other vendors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "vendor"),
    [
        ("MI300X", "AMD"),
        ("AMD Instinct MI250", "AMD"),
        ("Radeon RX 7900 XTX", "AMD"),
        ("Advanced Micro Devices FirePro W9100", "AMD"),
        ("Intel Arc A770", "Intel"),
        ("Arc A770", "Intel"),
        ("Intel Data Center GPU Max 1550", "Intel"),
        ("UHD Graphics 630", "Intel"),
        ("Gaudi3", "Intel"),
        ("Apple M2", "Apple"),
        ("Qualcomm Adreno 740", "Qualcomm"),
        ("Matrox G200", "Matrox"),
        ("ASPEED AST2500", "ASPEED"),
        ("Huawei Ascend 910B", "Huawei"),
        ("TPU v4", "another vendor"),
        ("1002:73bf", "AMD"),
        ("0x1002:0x740c", "AMD"),
        ("8086:56A0", "Intel"),
        ("1a03:2000", "ASPEED"),
        ("abcd:1234", "vendor abcd"),
    ],
)
def test_other_vendors_are_named_and_have_no_capability(said: str, vendor: str) -> None:
    gpu = found(said)
    assert (gpu.vendor, gpu.capability, gpu.architecture) == (vendor, "", None)


@pytest.mark.parametrize("said", ["NVIDIA Arc", "GeForce Iris", "Quadro M15", "Tesla MI300X"])
def test_what_names_nvidia_is_of_no_other_vendor(said: str) -> None:
    assert "no GPU called" in refusal(said)


# --- by compute capability ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [("3.5", "Kepler"), ("6.1", "Pascal"), ("7.5", "Turing"), ("8.9", "Ada"), ("12.1", "Blackwell RTX")],
)
def test_a_capability_is_a_gpu_of_its_architecture(capability: str, architecture: str) -> None:
    gpu = found({"compute_capability": capability})
    assert (gpu.capability, gpu.arch["name"], gpu.unknown) == (capability, architecture, "")
    assert gpu.called() == f"a GPU of compute capability {capability} (compute capability {capability})"


@pytest.mark.parametrize("capability", ["3.2", "5.3", "6.2", "7.2", "8.7"])
def test_jetson_has_drivers_and_wheels_of_its_own(capability: str) -> None:
    assert "Jetson" in found({"compute_capability": capability}).unknown


@pytest.mark.parametrize(
    ("capability", "why"), [("13.0", "it is newer than they are"), ("8.8", "known are 2.0, 2.1"), ("1.3", "known are")]
)
def test_a_capability_outside_the_tables_is_said_plainly(capability: str, why: str) -> None:
    gpu = found({"compute_capability": capability})
    assert (gpu.capability, gpu.architecture) == ("", None)
    assert why in gpu.unknown


# --- what drivers know -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "driver", "known"),
    [
        ("L40S", "535.86.10", False),
        ("L40S", "535.104.05", True),
        ("L40S", "525.147.05", False),
        ("L40S", "580.65.06", True),
        ("H20", "545.29.02", False),  # between two branches that are known to have begun with it
        ("H20", "550.40.07", False),
        ("H20", "550.54.14", True),
        ("H200 NVL", "550.163.01", False),
        ("A100 SXM4 40GB", "450.80.02", True),
    ],
)
def test_a_product_is_known_from_its_first_driver_of_each_branch_on(gpu: str, driver: str, known: bool) -> None:
    assert found(gpu).known_by(driver) is known


@pytest.mark.parametrize(
    ("gpu", "driver", "known"),
    [
        ("GTX 1080 Ti", "580.178.04", True),
        ("GTX 1080 Ti", "590.48.01", False),
        ("K80", "470.256.02", True),
        ("K80", "535.309.01", False),
        ("RTX 5090", "565.77", False),
        ("RTX 5090", "570.86.15", True),  # the branch knows it; from which release on is known_by's
        ("RTX 5090", "570.86.16", True),
        ("RTX 3090", "450.80.02", False),
        ("RTX 3090", "9999.0", True),
    ],
)
def test_an_architecture_is_known_between_its_first_and_its_last_driver(gpu: str, driver: str, known: bool) -> None:
    assert found(gpu).arch_known_by(driver) is known


# --- anything ----------------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(["RTX", "GTX", "nvidia", "3080", "Ti", "Ada", "A100", "40GB", "Titan", "x", "10de:", "AMD"])


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(_WORDS, max_size=5).map(" ".join)))
def test_any_text_is_a_gpu_or_refused(said: str) -> None:
    with contextlib.suppress(UnknownGpuError):
        gpu = found(said)
        assert gpu.name
        assert bool(gpu.architecture) or bool(gpu.vendor) or bool(gpu.unknown)
