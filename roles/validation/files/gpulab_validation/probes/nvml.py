# SPDX-License-Identifier: Apache-2.0
"""Ask NVIDIA's management library what it knows of the driver and of every GPU, and write that as JSON.

A process of its own, because a call into a driver that hangs never returns. What was read is written after every GPU,
and the call that is being made stands in a second file: where this process is ended, both tell what it came to.

    probes/nvml.py --out FILE --stuck FILE
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
#: NVIDIA's binding in the version that this was written for. One that the host happens to have is not looked for.
BINDING = os.path.join(os.path.dirname(HERE), "vendor", "pynvml.py")
#: The symbol by which a library says that it only pretends to be NVIDIA's.
STAND_IN = "gpulabStandIn"
ARCHITECTURES = {
    2: "kepler", 3: "maxwell", 4: "pascal", 5: "volta", 6: "turing", 7: "ampere", 8: "ada", 9: "hopper",
    10: "blackwell", 13: "rubin",
}  # fmt: skip
REASONS = {
    0x1: "idle", 0x2: "applications_clocks", 0x4: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost",
    0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "hw_power_brake", 0x100: "display_clock",
}  # fmt: skip
RECOVERY = {
    0: "none", 1: "reset", 2: "reboot", 3: "drain_p2p", 4: "drain_and_reset", 5: "recover_imex_domain", 6: "bus_reset",
    7: "system_reboot",
}  # fmt: skip
VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}
FABRIC_STATES = {0: "not_supported", 1: "not_started", 2: "in_progress", 3: "completed"}
FABRIC_SUMMARY = {0: None, 1: "healthy", 2: "unhealthy", 3: "limited_capacity"}
#: Names and numbers of nvmlNvLinkErrorCounter_t.
LINK_ERRORS = {"crc_flit": 2, "crc_data": 3, "replay": 0, "recovery": 1}
#: Fields that count a link's errors where the counters above are gone (NVLink 5 and later).
LINK_FIELDS = {"malformed": 206, "buffer_overrun": 207, "receive": 208, "link_integrity": 211, "effective": 219}
RECOVERY_FIELD = 230
#: What drivers before that field have in its place.
RESET_FIELDS = {226: "reset", 227: "drain_and_reset"}
#: Sizes and version words of structures, as nvml.h has them.
CORRECTED, UNCORRECTED = 0, 1
VOLATILE, AGGREGATE = 0, 1
SINGLE_BIT, DOUBLE_BIT = 0, 1
LOST = 15


def text(value):
    """Return text for a C string, whatever bytes are in it, and whether it was text."""
    if isinstance(value, bytes):
        words = value.decode("utf-8", "replace")
        return words, "\ufffd" not in words
    return value, True


def start_ticks(pid):
    """Return when a process started, in clock ticks after the boot; None when it cannot be seen."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            return int(stream.read().rsplit(b")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def process_name(pid):
    """Return the name of a process, or None when it cannot be seen."""
    try:
        with open("/proc/%d/comm" % pid, "rb") as stream:
            return text(stream.read().strip())[0]
    except OSError:
        return None


def reasons_of(mask):
    """Return the names of the bits of a clocks event mask, in the order of the bits."""
    bits = [1 << number for number in range(64) if mask >> number & 1]
    return [REASONS.get(bit, "unknown_0x%x" % bit) for bit in bits]


def write(path, document):
    """Write JSON so that a reader sees the whole of it or nothing."""
    temporary = "%s.%d" % (path, os.getpid())
    with open(temporary, "w", encoding="utf-8", errors="replace") as stream:
        json.dump(document, stream)
    os.replace(temporary, path)


class Library:
    """The library's functions, with the name of the call that is being made kept in a file.

    :param stuck: path of that file; None for none
    """

    def __init__(self, stuck=None):
        spec = importlib.util.spec_from_file_location("pynvml", BINDING)
        pynvml = self.nvml = importlib.util.module_from_spec(spec)
        sys.modules["pynvml"] = pynvml  # it looks itself up by its name
        spec.loader.exec_module(pynvml)
        self.names = {
            value: name[len("NVML_ERROR_") :]
            for name, value in vars(pynvml).items()
            if name.startswith("NVML_ERROR_") and isinstance(value, int)
        }
        self._stuck = None if stuck is None else os.open(stuck, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def note(self, words):
        """Note what is being done now; an empty text when nothing is."""
        if self._stuck is not None:
            os.pwrite(self._stuck, words.ljust(120).encode()[:120], 0)

    def call(self, where, name, *arguments):
        """Call a function of the binding by its name.

        :param where: of what it is asked: "GPU 3"
        :raises pynvml.NVMLError: as the binding does; FUNCTION_NOT_FOUND also where the binding lacks the function
        """
        function = getattr(self.nvml, name, None)
        if function is None:
            raise self.nvml.NVMLError(self.nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        self.note("%s of %s" % (name, where))
        # The binding's decorators decode strings strictly and hide what is missing; below them there are bytes.
        return inspect.unwrap(function)(*arguments)

    def word(self, code):
        """Return NVML's word for a number it answered with."""
        return self.names.get(code, "ERROR_%s" % code)

    def error(self, code):
        """Return the description of an error."""
        return {"code": code, "name": self.word(code), "message": str(self.nvml.NVMLError(code))}

    def is_stand_in(self):
        """Tell whether the library only pretends to be NVIDIA's."""
        return self.nvml.nvmlLib is not None and hasattr(self.nvml.nvmlLib, STAND_IN)

    def path(self):
        """Return the file that was loaded, as the kernel names it; None when it cannot be told."""
        with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if "libnvidia-ml.so" in line:
                    return line.split(None, 5)[5].strip()
        return None


class Gpu:
    """Reads one GPU. ``why`` keeps, for everything that is null, what NVML said instead.

    :param library: a Library
    :param index: NVML's number of the GPU
    """

    def __init__(self, library, index):
        self.library, self.index, self.where = library, index, "GPU %d" % index
        self.why, self.lost, self.problem, self.handle = {}, False, None, None
        try:
            self.handle = library.call(self.where, "nvmlDeviceGetHandleByIndex", index)
        except library.nvml.NVMLError as error:
            self.why["handle"] = library.word(error.value)
            self.lost = error.value == LOST
            self.problem = "the GPU cannot be opened: %s" % error

    def ask(self, path, name, *arguments, **more):
        """Return what a function says of this GPU, or None and note under ``path`` why not."""
        handle = more.get("handle", self.handle)
        if self.handle is None or self.lost:
            # A GPU that is gone answers nothing more, and every further call may hang.
            self.why[path] = "GPU_IS_LOST" if self.lost else self.why["handle"]
            return None
        try:
            value = self.library.call(self.where, name, handle, *arguments)
        except self.library.nvml.NVMLError as error:
            self.lost = self.lost or error.value == LOST
            self.why[path] = self.library.word(error.value)
            return None
        value, is_text = text(value)
        if not is_text:
            self.why[path] = "NOT_TEXT"
        return value

    def flag(self, path, name, *arguments):
        """Return a function's answer as true or false."""
        value = self.ask(path, name, *arguments)
        return None if value is None else bool(value)

    def pair(self, path, name):
        """Return a function's answer of two flags: what is, and what will be after a reset or reboot."""
        answer = self.ask(path, name) or (None, None)
        return {key: None if value is None else bool(value) for key, value in zip(("current", "pending"), answer)}

    def field(self, path, number, scope=0):
        """Return one of the numbered values, or None and note under ``path`` why not."""
        values = self.ask(path, "nvmlDeviceGetFieldValues", [(number, scope)])
        if values is None:
            return None
        code = values[0].nvmlReturn
        if code != 0:
            self.lost = self.lost or code == LOST
            # A library that is older than a field takes its number for a mistake.
            unknown = code == self.library.nvml.NVML_ERROR_INVALID_ARGUMENT
            self.why[path] = "FUNCTION_NOT_FOUND" if unknown else self.library.word(code)
            return None
        value = values[0].value
        kinds = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
        return getattr(value, kinds.get(values[0].valueType, "ullVal"))

    # -- parts -------------------------------------------------------------------------------------------------------

    def read(self):
        """Return everything about this GPU."""
        mig = self.mig()
        row = {"index": self.index, "bdf": self.bdf()}
        row["uuid"] = self.ask("uuid", "nvmlDeviceGetUUID")
        row["name"] = self.ask("name", "nvmlDeviceGetName")
        row["vbios"] = self.ask("vbios", "nvmlDeviceGetVbiosVersion")
        row["serial"] = self.ask("serial", "nvmlDeviceGetSerial")
        capability = self.ask("compute_capability", "nvmlDeviceGetCudaComputeCapability")
        row["compute_capability"] = "%d.%d" % tuple(capability) if capability else None
        architecture = self.ask("architecture", "nvmlDeviceGetArchitecture")
        row["architecture"] = self.named(ARCHITECTURES, architecture)
        row["memory"] = self.memory()
        row["persistence"] = self.flag("persistence", "nvmlDeviceGetPersistenceMode")
        row["mig"] = mig
        row["ecc"] = self.ecc()
        row["row_remap"] = self.row_remap(mig)
        row["retired_pages"] = self.retired_pages()
        row["recovery_action"] = self.recovery_action()
        row["pcie"] = self.pcie(row["bdf"])
        row["nvlink"] = self.nvlink()
        row["fabric"] = self.fabric()
        row["clocks_event_reasons"] = self.reasons()
        row["temperature"] = self.ask("temperature", "nvmlDeviceGetTemperature", 0)
        row["power_w"] = self.watts("power_w", "nvmlDeviceGetPowerUsage")
        row["power_limit_w"] = self.watts("power_limit_w", "nvmlDeviceGetEnforcedPowerLimit")
        row["utilization"] = self.utilization()
        row["processes"] = self.processes()
        row["accounting_mode"] = self.flag("accounting_mode", "nvmlDeviceGetAccountingMode")
        mode = self.ask("virtualization", "nvmlDeviceGetVirtualizationMode")
        row["virtualization"] = self.named(VIRTUALIZATION, mode)
        if self.lost and self.problem is None:
            self.problem = "the GPU was lost while it was read (it fell off the bus)"
        row.update(lost=self.lost, problem=self.problem, why=self.why)
        return row

    @staticmethod
    def named(names, number):
        """Return the word for a number; a number that nobody knows is said as such."""
        return None if number is None else names.get(number, "unknown_%s" % number)

    def watts(self, path, name):
        """Return a power, which NVML counts in milliwatts, in watts."""
        value = self.ask(path, name)
        return None if value is None else value / 1000.0

    def bdf(self):
        """Return the address on the PCI bus as the kernel writes it."""
        info = self.ask("bdf", "nvmlDeviceGetPciInfo")
        return None if info is None else "%04x:%02x:%02x.0" % (info.domain, info.bus, info.device)

    def memory(self):
        """Return the memory's bytes. ``used`` is what programs use, without what the driver keeps for itself."""
        info = self.ask("memory", "nvmlDeviceGetMemoryInfo", getattr(self.library.nvml, "nvmlMemory_v2", None))
        if info is None and self.why["memory"] in ("FUNCTION_NOT_FOUND", "ARGUMENT_VERSION_MISMATCH", "NOT_SUPPORTED"):
            info = self.ask("memory", "nvmlDeviceGetMemoryInfo")  # a driver before 510: ``used`` has both in it
            if info is not None:
                self.why["memory"] = "RESERVED_INCLUDED"
        return {key: getattr(info, key, None) for key in ("total", "used", "free", "reserved")}

    def mig(self):
        """Return the state of multi-instance mode, and the instances."""
        answer = dict(self.pair("mig", "nvmlDeviceGetMigMode"), instances=[])
        if not answer["current"]:
            return answer
        for number in range(self.ask("mig.instances", "nvmlDeviceGetMaxMigDeviceCount") or 0):
            before = dict(self.why)
            handle = self.ask("mig.instances", "nvmlDeviceGetMigDeviceHandleByIndex", number)
            if handle is None:
                if self.why["mig.instances"] == "NOT_FOUND":
                    self.why = before  # places for instances are numbered; not all are taken
                continue
            where = "mig.instances.%d" % number
            info = self.ask(where + ".memory", "nvmlDeviceGetMemoryInfo", handle=handle)
            answer["instances"].append({
                "uuid": self.ask(where + ".uuid", "nvmlDeviceGetUUID", handle=handle),
                "name": self.ask(where + ".name", "nvmlDeviceGetName", handle=handle),
                "memory": None if info is None else info.total,
            })  # fmt: skip
        return answer

    def ecc(self):
        """Return whether memory is checked, and the errors that were counted."""
        answer = self.pair("ecc", "nvmlDeviceGetEccMode")
        for counter, counter_number in (("volatile", VOLATILE), ("aggregate", AGGREGATE)):
            answer[counter] = {
                kind: self.ask("ecc.%s.%s" % (counter, kind), "nvmlDeviceGetTotalEccErrors", number, counter_number)
                for kind, number in (("corrected", CORRECTED), ("uncorrected", UNCORRECTED))
            }
        answer.update(sram_aggregate_uncorrected=None, sram_threshold_exceeded=None)
        paths = ("ecc.sram_aggregate_uncorrected", "ecc.sram_threshold_exceeded")
        status = self.structure(paths[0], "nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t")
        if status is None:
            self.why[paths[1]] = self.why[paths[0]]
        else:
            answer["sram_aggregate_uncorrected"] = status.aggregateUncParity + status.aggregateUncSecDed
            answer["sram_threshold_exceeded"] = bool(status.bThresholdExceeded)
        return answer

    def recovery_action(self):
        """Return what the driver wants done."""
        number = self.field("recovery_action", RECOVERY_FIELD)
        if number is not None:
            return self.named(RECOVERY, number)
        unsaid = self.why["recovery_action"]
        if unsaid not in ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND"):
            return None
        del self.why["recovery_action"]
        flags, said = {}, []
        for field, action in RESET_FIELDS.items():
            flags[action] = self.field("recovery_action", field)
            said.append(self.why.pop("recovery_action", None))
        action = next((action for action, is_set in flags.items() if is_set), None)
        bad = [word for word in said if word not in (None, "NOT_SUPPORTED", "FUNCTION_NOT_FOUND")]
        if action is None and (bad or said[0]):  # not every driver and GPU knows of draining, but all of a reset
            self.why["recovery_action"] = (bad or [unsaid])[0]
            return None
        return action or "none"

    def structure(self, path, name, kind):
        """Let a function fill a structure of the binding, and return it; None and a note where that fails."""
        maker = getattr(self.library.nvml, kind, None)
        if maker is None:
            self.why[path] = "FUNCTION_NOT_FOUND"
            return None
        filled = maker()
        return None if self.ask(path, name, self.library.nvml.byref(filled)) is None else filled

    def row_remap(self, mig):
        """Return what became of rows of memory that were bad."""
        rows = self.ask("row_remap", "nvmlDeviceGetRemappedRows")
        if rows is None:
            if mig["current"] and self.why["row_remap"] == "NOT_SUPPORTED":
                self.why["row_remap"] = "NOT_APPLICABLE_MIG"
            return None
        corrected, uncorrected, pending, failure = rows
        return {
            "corrected": corrected, "uncorrected": uncorrected, "pending": bool(pending), "failure": bool(failure),
        }  # fmt: skip

    def retired_pages(self):
        """Return how many pages of memory were given up: what GPUs did before they remapped rows."""
        pending = self.flag("retired_pages", "nvmlDeviceGetRetiredPagesPendingStatus")
        if pending is None:
            return None
        answer = {"pending": pending}
        for key, cause in (("single_bit", SINGLE_BIT), ("double_bit", DOUBLE_BIT)):
            pages = self.ask("retired_pages." + key, "nvmlDeviceGetRetiredPages", cause)
            answer[key] = None if pages is None else len(pages)
        return answer

    def pcie(self, bdf):
        """Return the link to the bus. Idle GPUs run it slowly: only the maxima say something now."""
        answer = {
            "gen": self.ask("pcie.gen", "nvmlDeviceGetCurrPcieLinkGeneration"),
            "gen_max": self.ask("pcie.gen_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
            "width": self.ask("pcie.width", "nvmlDeviceGetCurrPcieLinkWidth"),
            "width_max": self.ask("pcie.width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
            "gen_max_gpu": self.ask("pcie.gen_max_gpu", "nvmlDeviceGetGpuMaxPcieLinkGeneration"),
            "width_max_gpu": None,
            "replays": self.ask("pcie.replays", "nvmlDeviceGetPcieReplayCounter"),
        }
        try:  # NVML has no function for the width of the GPU alone; the kernel reads it from the device
            with open("/sys/bus/pci/devices/%s/max_link_width" % bdf, encoding="ascii") as stream:
                answer["width_max_gpu"] = int(stream.read())
        except (OSError, ValueError):
            self.why["pcie.width_max_gpu"] = "NOT_FOUND"
        return answer

    def nvlink(self):
        """Return the links that this GPU has, and what each counted as errors."""
        links, said = [], []
        for link in range(getattr(self.library.nvml, "NVML_NVLINK_MAX_LINKS", 18)):
            path = "nvlink.%d" % link
            active = self.flag(path, "nvmlDeviceGetNvLinkState", link)
            word = None if active is not None else self.why.pop(path)
            if self.lost or self.handle is None or word in ("INVALID_ARGUMENT", "FUNCTION_NOT_FOUND"):
                said.append(word)
                break  # INVALID_ARGUMENT: there are no links with higher numbers
            if word == "NOT_SUPPORTED":
                said.append(word)
                continue
            if word is not None:  # there may be a link: say that nobody knows
                self.why[path] = word
            errors = self.link_errors(link) if active else dict.fromkeys(LINK_ERRORS)
            links.append({"link": link, "active": active, "errors": errors})
        if links and not self.lost:
            return links
        word = (said or ["NOT_SUPPORTED"])[0]
        self.why["nvlink"] = "NOT_SUPPORTED" if word == "INVALID_ARGUMENT" else word
        return []

    def link_errors(self, link):
        """Return the error counters of one link."""
        path = "nvlink.%d.errors" % link
        answer = {
            name: self.ask("%s.%s" % (path, name), "nvmlDeviceGetNvLinkErrorCounter", link, number)
            for name, number in LINK_ERRORS.items()
        }
        if all(value is None for value in answer.values()):
            newer = {name: self.field("%s.%s" % (path, name), field, link) for name, field in LINK_FIELDS.items()}
            answer.update({name: value for name, value in newer.items() if value is not None})
            for name in newer:
                if newer[name] is None:
                    self.why.pop("%s.%s" % (path, name), None)
        return answer

    def fabric(self):
        """Return how this GPU is joined to a fabric of NVLink switches."""
        info = None
        for kind in ("c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"):
            info = self.structure("fabric", "nvmlDeviceGetGpuFabricInfoV", kind)
            if info is not None or self.lost:
                break
        if info is None and not self.lost:
            info = self.structure("fabric", "nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t")
        if info is None:
            return None
        self.why.pop("fabric", None)
        return {
            "state": FABRIC_STATES.get(info.state, "unknown"),
            "status": info.status,
            "health": getattr(info, "healthMask", None),
            "health_summary": FABRIC_SUMMARY.get(getattr(info, "healthSummary", 0)),
        }

    def reasons(self):
        """Return why the clocks are as they are."""
        mask = self.ask("clocks_event_reasons", "nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None and self.why["clocks_event_reasons"] == "FUNCTION_NOT_FOUND":
            mask = self.ask("clocks_event_reasons", "nvmlDeviceGetCurrentClocksThrottleReasons")  # before driver 535
        if mask is None:
            return None
        self.why.pop("clocks_event_reasons", None)
        return reasons_of(mask)

    def utilization(self):
        """Return how busy the GPU was just now, in percent."""
        rates = self.ask("utilization", "nvmlDeviceGetUtilizationRates")
        return {key: None if rates is None else getattr(rates, key) for key in ("gpu", "memory")}

    def processes(self):
        """Return the processes that use this GPU; None when they cannot be listed."""
        found = {}
        for kind, name in (
            ("compute", "nvmlDeviceGetComputeRunningProcesses"),
            ("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
            ("mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
        ):
            rows = self.ask("processes.%s" % kind, name)
            if rows is None:
                if kind == "compute":
                    self.why["processes"] = self.why.pop("processes.compute")
                    return None
                continue  # a GPU that computes only lists no graphics: that is no gap
            for row in rows:
                found.setdefault(row.pid, {
                    "pid": row.pid, "start": start_ticks(row.pid), "used_memory": row.usedGpuMemory, "kind": kind,
                    "name": process_name(row.pid),
                })  # fmt: skip
        return [found[pid] for pid in sorted(found)]


def open_library(document, stuck=None):
    """Load and initialize the library, and write into the document what it says of itself.

    :returns: a Library, or None; then the document's ``error`` says why
    """
    try:
        library = Library(stuck)
    except (OSError, ImportError, SyntaxError) as error:
        words = "the binding of NVIDIA's library is not beside the programs: %s" % error
        document["error"] = {"code": None, "name": "BINDING_MISSING", "message": words}
        return None
    nvml = library.nvml
    try:
        library.note("nvmlInit")
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        document["error"] = library.error(error.value)
    document.update(simulated=library.is_stand_in(), library=library.path())
    for key, name in (
        ("driver_version", "nvmlSystemGetDriverVersion"),
        ("nvml_version", "nvmlSystemGetNVMLVersion"),
        ("cuda_driver_version", "nvmlSystemGetCudaDriverVersion_v2"),
    ):
        if document["error"] is None:
            with contextlib.suppress(nvml.NVMLError):
                document[key] = text(library.call("the driver", name))[0]
    return library if document["error"] is None else None


def main():
    """Write what there is to know; end with 0 whenever it could be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--stuck")
    arguments = parser.parse_args()
    document = {
        "complete": False, "simulated": False, "error": None, "library": None, "driver_version": None,
        "nvml_version": None, "cuda_driver_version": None, "count": None, "gpus": [],
    }  # fmt: skip
    library = open_library(document, arguments.stuck)
    write(arguments.out, document)
    if library is not None:
        try:
            document["count"] = library.call("the driver", "nvmlDeviceGetCount")
        except library.nvml.NVMLError as error:
            document["error"] = library.error(error.value)
        for index in range(document["count"] or 0):
            document["gpus"].append(Gpu(library, index).read())
            write(arguments.out, document)
        library.note("")
    document["complete"] = True
    write(arguments.out, document)
    sys.stdout.flush()
    os._exit(0)  # no farewell to the driver: it has nothing to say that could be waited for


if __name__ == "__main__":
    main()
