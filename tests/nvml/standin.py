# SPDX-License-Identifier: Apache-2.0
"""A pretended NVIDIA driver: a library that programs load, an nvidia-smi that people call, both from one description.

Nothing of it says anything about a GPU. It lets the programs that read a driver be tested, the real binding included.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

SOURCE = Path(__file__).with_name("libnvidia-ml.c")
LIBRARY = "libnvidia-ml.so.1"
MIB = 1 << 20
DRIVER = {"driver_version": "580.126.09", "nvml_version": "13.580.126.09", "cuda_driver_version": "13000"}
ARCHITECTURES = {"7": "Ampere", "8": "Ada Lovelace", "9": "Hopper", "10": "Blackwell"}
Description = dict[str, Any]


class NoCompiler(Exception):
    """There is no C compiler to make the library with."""


@functools.cache
def build() -> Path:
    """Compile the library once and return its path.

    :raises NoCompiler: when the machine cannot compile C
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler("neither gcc nor cc is installed")
    path = Path(tempfile.mkdtemp(prefix="gpulab-nvml-")) / LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}", "-o", str(path)]
    done = subprocess.run([*command, str(SOURCE), "-ldl"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise NoCompiler(f"{compiler} fails: {done.stderr.strip()[-300:]}")
    return path


# -- descriptions ------------------------------------------------------------------------------------------------------


def uuid(index: int) -> str:
    """Return the UUID of a pretended GPU."""
    return f"GPU-{index:08x}-0000-4000-8000-{index:012x}"


def bdf(index: int) -> str:
    """Return the address of a pretended GPU: those of a real board of eight, as fabricated_hosts.py has them."""
    return f"0000:{(0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)[index]:02x}:00.0"


def h100(index: int = 0, **changes: Any) -> Description:
    """Return a healthy H100 on a board of eight: 18 links, a fabric, memory with error correction, no load."""
    return {
        "name": "NVIDIA H100 80GB HBM3",
        "bdf": bdf(index),
        "uuid": uuid(index),
        "vbios": "96.00.74.00.01",
        "serial": f"16535230{index:05d}",
        "compute_capability": "9.0",
        "architecture": "9",
        "memory": f"{81559 * MIB},{4 * MIB}",
        "memory_reserved": str(600 * MIB),
        "persistence": "1",
        "accounting_mode": "0",
        "virtualization": "0",
        "mig": "0,0",
        "ecc": "1,1",
        "ecc_volatile": "0,0",
        "ecc_aggregate": "0,0",
        "sram": "0,0,0",
        "row_remap": "0,0,0,0",
        "field.230": "0",
        "pcie_gen": "5",
        "pcie_gen_max": "5",
        "pcie_gen_max_gpu": "5",
        "pcie_width": "16",
        "pcie_width_max": "16",
        "pcie_replays": "0",
        "nvlink": "18",
        "fabric": "3,0,0x6955,1",
        "reasons": "0x1",
        "temperature": "28",
        "power_mw": "69500",
        "power_limit_mw": "700000",
        "utilization": "0,0",
        **changes,
    }


def consumer(index: int = 0, **changes: Any) -> Description:
    """Return a healthy card for consumers: no error correction, no links, no instances, an idle link to the bus."""
    row = h100(
        index, name="NVIDIA GeForce RTX 4090", vbios="95.02.3C.40.B9", serial="!3", compute_capability="8.9",
        architecture="8", memory=f"{24564 * MIB},{12 * MIB}", mig="!3", ecc="!3", ecc_volatile="!3", ecc_aggregate="!3",
        sram="!3", row_remap="!3", pcie_gen="1", pcie_gen_max="4", pcie_gen_max_gpu="4", nvlink="!3", fabric="!3",
        power_mw="12000", power_limit_mw="450000", persistence="0",
    )  # fmt: skip
    return {**row, **changes}


def host(*gpus: Description, **changes: Any) -> Description:
    """Return the description of a host with these GPUs."""
    return {**DRIVER, "gpus": list(gpus), **changes}


def h100x8(**changes: Any) -> Description:
    """Eight healthy GPUs; the changes are those of GPU 3."""
    return host(*[h100(index, **(changes if index == 3 else {})) for index in range(8)])


def lost() -> Description:
    """GPU 3 fell off the bus."""
    return h100x8(handle="!15", error="!15")


def mixed() -> Description:
    """Two models in one host."""
    return host(h100(0), h100(1), consumer(2), consumer(3))


def mig() -> Description:
    """GPU 0 is split in two instances; then NVML tells neither remapped rows nor accounting."""
    instances: Description = {"mig": "1,1", "mig_places": "7", "row_remap": "!3", "accounting_mode": "!3"}
    for number in range(2):
        instances[f"mig.{number}.uuid"] = f"MIG-{number:08x}-0000-4000-8000-000000000000"
        instances[f"mig.{number}.name"] = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
        instances[f"mig.{number}.memory"] = f"{40448 * MIB},0"
    return host(h100(0, **instances), h100(1))


def vgpu() -> Description:
    """A share of a GPU inside a virtual machine."""
    return host(h100(0, virtualization="2", nvlink="!3", fabric="!3", row_remap="!3", **{"field.230": "!3"}))


def ecc() -> Description:
    """Uncorrected errors in the memory of GPU 3 since the driver was loaded."""
    return h100x8(ecc_volatile="12,2", ecc_aggregate="140,6", sram="3,2,1")


def throttled() -> Description:
    """GPU 3 is slowed down by heat and by the power supply."""
    return h100x8(reasons=hex(0x8 | 0x40 | 0x80), temperature="91", power_mw="640000")


def remap_pending() -> Description:
    """GPU 3 wants a reset to put a spare row in place of a bad one."""
    return h100x8(row_remap="0,1,1,0", **{"field.230": "1"})


def narrow() -> Description:
    """GPU 3 sits on half a link of an old generation, and one NVLink of it is down."""
    return h100x8(pcie_gen="1", pcie_width="8", pcie_width_max="8", pcie_gen_max="1", **{"nvlink.7": "0"})


def busy() -> Description:
    """Somebody computes on GPU 3: process 1, which every system has, and one that cannot be seen from here."""
    return h100x8(processes=f"1:{512 * MIB},4194303:?", memory=f"{81559 * MIB},{600 * MIB}", utilization="97,40")


def fails(value: str) -> Description:
    """The library cannot be initialized."""
    return {**h100x8(), "init": value}


DESCRIPTIONS: dict[str, Callable[[], Description]] = {
    "h100x8": h100x8,
    "lost": lost,
    "mixed": mixed,
    "mig": mig,
    "vgpu": vgpu,
    "consumer": lambda: host(consumer(0)),
    "ecc": ecc,
    "throttled": throttled,
    "remap_pending": remap_pending,
    "narrow": narrow,
    "busy": busy,
    "mismatch": lambda: fails("!18"),
    "not_loaded": lambda: fails("!9"),
    "unknown": lambda: fails("!999"),
    "hanging": lambda: fails("hang"),
    "crashing": lambda: fails("crash"),
    "hanging_gpu": lambda: h100x8(ecc="hang"),
    "no_gpus": lambda: host(),
}


def lines(description: Description) -> bytes:
    """Return a description as the library reads it. Strings may hold bytes as ``surrogateescape`` writes them."""

    def encoded(value: Any) -> bytes:
        raw = str(value).encode("utf-8", "surrogateescape")
        return b"".join(b"\\x%02x" % byte if byte < 32 or byte in (92, 127) else bytes([byte]) for byte in raw)

    rows = {key: value for key, value in description.items() if key != "gpus"}
    rows.setdefault("count", len(description["gpus"]))
    for index, gpu in enumerate(description["gpus"]):
        rows.update({f"gpu.{index}.{key}": value for key, value in gpu.items()})
    return b"".join(key.encode() + b"=" + encoded(value) + b"\n" for key, value in rows.items())


# -- nvidia-smi --------------------------------------------------------------------------------------------------------

SMI = """#!{python}
import ctypes, json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "nvidia-smi.json")) as stream:
    manner = json.load(stream)
with open(os.path.join(here, "nvidia-smi.calls"), "a") as stream:
    stream.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if manner.get("unkillable"):
    # Held by a tracer in the middle of its exit, as a process is that hangs in a driver: SIGKILL does not end it.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.prctl(0x59616D61, ctypes.c_long(-1), 0, 0, 0)
    job, (reader, writer) = os.getpid(), os.pipe()
    if os.fork() == 0:
        os.setsid()
        held = libc.ptrace(0x4206, job, None, 0x40) == 0
        os.write(writer, b"held" if held else b"free")
        time.sleep(manner["unkillable"])
        os._exit(0)
    print(os.read(reader, 4).decode(), flush=True)
    time.sleep(60)
time.sleep(manner.get("seconds", 0))
sys.stderr.write(manner.get("stderr", ""))
sys.stderr.flush()
with open(os.path.join(here, "nvidia-smi.output"), "rb") as stream:
    output = stream.read()
if not os.environ.get("LC_ALL", "").startswith("C"):
    output = output.replace(b" MiB", b",00 MiB").replace(b">Enabled<", b">Aktiviert<")
os.write(1, output)
sys.exit(manner.get("code", 0))
"""


def xml(description: Description) -> bytes:
    """Return what ``nvidia-smi -q -x`` prints of a described host."""
    gpus = description["gpus"]
    cuda = int(description.get("cuda_driver_version", 0))
    parts = [
        '<?xml version="1.0" ?>',
        '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">',
        "<nvidia_smi_log>",
        "\t<gpulab_stand_in>nothing here is real</gpulab_stand_in>",
        "\t<timestamp>Tue Nov 24 18:00:00 2026</timestamp>",
        f"\t<driver_version>{description['driver_version']}</driver_version>",
        f"\t<cuda_version>{cuda // 1000}.{cuda % 1000 // 10}</cuda_version>",
        f"\t<attached_gpus>{len(gpus)}</attached_gpus>",
    ]
    for gpu in gpus:
        words = {"!15": "GPU is lost", "!16": "GPU requires reset", "!999": "Unknown Error"}
        bad = words.get(gpu.get("error", ""))
        parts.append(f'\t<gpu id="0000{gpu["bdf"]}">' if not gpu["bdf"].startswith("!") else '\t<gpu id="N/A">')
        parts += [_element(key, value, bad) for key, value in _smi_gpu(gpu).items()]
        parts.append("\t</gpu>")
    return ("\n".join([*parts, "</nvidia_smi_log>"]) + "\n").encode("utf-8", "surrogateescape")


def _element(key: str, value: Any, bad: str | None) -> str:
    """Return an element; a list is several elements of the same name, a dictionary what is inside of one."""
    if isinstance(value, list):
        return "\n".join(_element(key, part, bad) for part in value)
    if isinstance(value, dict):
        inner = "\n".join(_element(name, part, bad) for name, part in value.items())
        return f"\t\t<{key}>\n{inner}\n\t\t</{key}>"
    return f"\t\t<{key}>{escape(str(bad or value))}</{key}>"


def _smi_gpu(gpu: Description) -> dict[str, Any]:
    def value(key: str, position: int = 0, unit: str = "", words: dict[str, str] | None = None) -> str:
        text = str(gpu.get(key, "!3"))
        if text.startswith("!") or text in ("hang", "crash"):
            return "N/A" if text == "!3" else "Unknown Error"
        text = text.split(",")[position] if position or "," in text else text
        return words.get(text, text) if words else text + unit

    def number(key: str, position: int, divisor: float, unit: str, digits: int = 0) -> str:
        text = value(key, position)
        return text if not text.isdigit() else f"{int(text) / divisor:.{digits}f} {unit}"

    def zero(key: str) -> str:
        return "0" if value(key).isdigit() else value(key)

    on, yes = {"0": "Disabled", "1": "Enabled"}, {"0": "No", "1": "Yes"}
    mask = int(str(gpu.get("reasons", "0")), 0)
    bits = {
        "gpu_idle": 1, "applications_clocks_setting": 2, "sw_power_cap": 4, "hw_slowdown": 8,
        "hw_thermal_slowdown": 0x40, "hw_power_brake_slowdown": 0x80, "sync_boost": 0x10, "sw_thermal_slowdown": 0x20,
        "display_clocks_setting": 0x100,
    }  # fmt: skip
    errors = {
        name: {
            "sram_correctable": value(key),
            "sram_uncorrectable_parity": value("sram") if name == "aggregate" else zero(key),
            "sram_uncorrectable_secded": value("sram", 1) if name == "aggregate" else zero(key),
            "dram_correctable": zero(key),
            "dram_uncorrectable": value(key, 1)
            if name == "volatile" or not value(key).isdigit()
            else str(max(0, int(value(key, 1)) - int(value("sram")) - int(value("sram", 1)))),
        }
        for name, key in (("volatile", "ecc_volatile"), ("aggregate", "ecc_aggregate"))
    }
    errors["aggregate"]["sram_threshold_exceeded"] = value("sram", 2, words=yes)
    remapped = {
        "remapped_row_corr": value("row_remap"),
        "remapped_row_unc": value("row_remap", 1),
        "remapped_row_pending": value("row_remap", 2, words=yes),
        "remapped_row_failure": value("row_remap", 3, words=yes),
    }
    instances = [
        {"index": position, "fb_memory_usage": {"total": "40448 MiB"}}
        for position in range(8)
        if f"mig.{position}.uuid" in gpu
    ]
    memory = [int(part) for part in str(gpu.get("memory", "")).split(",") if part.isdigit()]
    reserved = int(str(gpu.get("memory_reserved", 0)).replace("!", "0"))
    free = f"{(memory[0] - memory[1] - reserved) // MIB} MiB" if len(memory) == 2 else "N/A"
    processes = [
        {"pid": row.split(":")[0], "type": "C", "process_name": "python", "used_memory": "N/A"}
        for row in str(gpu.get("processes", "")).split(",")
        if row
    ]
    return {
        "product_name": value("name"),
        "product_brand": "NVIDIA",
        "product_architecture": value("architecture", words=ARCHITECTURES),
        "persistence_mode": value("persistence", words=on),
        "mig_mode": {"current_mig": value("mig", words=on), "pending_mig": value("mig", 1, words=on)},
        "mig_devices": {"mig_device": instances} if instances else "None",
        "accounting_mode": value("accounting_mode", words=on),
        "serial": value("serial"),
        "uuid": value("uuid"),
        "vbios_version": value("vbios"),
        "gpu_virtualization_mode": {
            "virtualization_mode": value("virtualization", words={"0": "None", "1": "Pass-Through", "2": "VGPU"})
        },
        "gpu_recovery_action": value(
            "field.230", words={"0": "None", "1": "Reset", "2": "Reboot", "3": "Drain P2P", "4": "Drain and Reset"}
        ),
        "pci": {
            "pci_bus_id": "0000" + value("bdf").upper(),
            "pci_gpu_link_info": {
                "pcie_gen": {
                    "max_link_gen": value("pcie_gen_max"),
                    "current_link_gen": value("pcie_gen"),
                    "max_device_link_gen": value("pcie_gen_max_gpu"),
                },
                "link_widths": {
                    "max_link_width": value("pcie_width_max", unit="x"),
                    "current_link_width": value("pcie_width", unit="x"),
                },
            },
            "replay_counter": value("pcie_replays"),
        },
        "fb_memory_usage": {
            "total": number("memory", 0, MIB, "MiB"),
            "reserved": f"{reserved // MIB} MiB",
            "used": number("memory", 1, MIB, "MiB"),
            "free": free if value("memory").isdigit() else "N/A",
        },
        "utilization": {"gpu_util": value("utilization") + " %", "memory_util": value("utilization", 1) + " %"},
        "ecc_mode": {"current_ecc": value("ecc", words=on), "pending_ecc": value("ecc", 1, words=on)},
        "ecc_errors": errors,
        "retired_pages": {
            "multiple_single_bit_retirement": {"retired_count": value("retired_pages")},
            "double_bit_retirement": {"retired_count": value("retired_pages", 1)},
            "pending_blacklist": value("retired_pending", words=yes),
            "pending_retirement": value("retired_pending", words=yes),
        },
        "remapped_rows": remapped if value("row_remap").isdigit() else "N/A",
        "temperature": {"gpu_temp": value("temperature", unit=" C")},
        "gpu_power_readings": {
            "power_draw": number("power_mw", 0, 1000, "W", 2),
            "current_power_limit": number("power_limit_mw", 0, 1000, "W", 2),
        },
        "clocks_event_reasons": {
            f"clocks_event_reason_{name}": "Active" if mask & bit else "Not Active" for name, bit in bits.items()
        },
        "fabric": {
            "state": value("fabric", words={"0": "N/A", "1": "Not Started", "2": "In Progress", "3": "Completed"}),
            "status": value("fabric", 1, words={"0": "Success"}),
        },
        "processes": {"process_info": processes} if processes else "",
    }


def _answer(description: Description) -> tuple[bytes, dict[str, Any]]:
    """Return what nvidia-smi prints of a described host, and how it ends where NVML does not work."""
    init = str(description.get("init", ""))
    if init == "hang":
        return b"", {"seconds": 3600}
    if init == "!9":
        words = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
        return f"{words} Make sure that the latest NVIDIA driver is installed and running.\n\n".encode(), {"code": 9}
    if init:
        words = "Driver/library version mismatch" if init == "!18" else "Unknown Error"
        code = int(init[1:]) % 256 if init.startswith("!") else 255
        return f"Failed to initialize NVML: {words}\n".encode(), {"code": code}
    if not description["gpus"]:
        return b"No devices were found\n", {"code": 6}
    return xml(description), {}


class StandIn:
    """A pretended driver in a directory.

    :param directory: where the library and nvidia-smi go
    :param description: of the host
    :param library: the compiled library; None for no library at all
    :param smi: how nvidia-smi behaves: ``seconds``, ``code``, ``stderr``, ``unkillable`` (seconds), ``output`` (bytes
        instead of the XML of the description); False for no nvidia-smi
    """

    def __init__(
        self, directory: Path, description: Description, library: Path | None = None, smi: dict[str, Any] | bool = True
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        if library is not None:
            shutil.copy(library, directory / LIBRARY)
        self.write(description)
        if smi is not False:
            self.smi(**(smi if isinstance(smi, dict) else {}))

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which programs find the pretended driver."""
        return {"LD_LIBRARY_PATH": str(self.directory), "PATH": f"{self.directory}:/usr/bin:/bin"}

    def write(self, description: Description) -> None:
        """Change the library's description; processes that run see it from then on."""
        self.description = description
        temporary = self.directory / "nvml.description.new"
        temporary.write_bytes(lines(description))
        temporary.replace(self.directory / "nvml.description")

    def smi(self, output: bytes | None = None, **manner: Any) -> None:
        """Write an nvidia-smi that behaves in this manner."""
        if output is None:
            output, as_described = _answer(self.description)
            manner = {**as_described, **manner}
        (self.directory / "nvidia-smi.output").write_bytes(output)
        (self.directory / "nvidia-smi.json").write_text(json.dumps(manner))
        program = self.directory / "nvidia-smi"
        program.write_text(SMI.format(python=shutil.which("python3", path=os.defpath) or "/usr/bin/python3"))
        program.chmod(0o755)

    def smi_calls(self) -> list[tuple[list[str], dict[str, str]]]:
        """Return the arguments and variables of every call of nvidia-smi."""
        calls = self.directory / "nvidia-smi.calls"
        return [tuple(json.loads(line)) for line in calls.read_text().splitlines()] if calls.exists() else []
