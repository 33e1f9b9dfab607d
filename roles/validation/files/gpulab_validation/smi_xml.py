# SPDX-License-Identifier: Apache-2.0
"""Read what ``nvidia-smi -q -x`` prints.

nvidia-smi ends with status 0 even where a GPU answers with ``ERR!`` in every line, prints ``N/A`` for what a GPU does
not have, and is run on systems that colour, translate or cut off what it says. What is not understood is null and
named.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree  # nvidia-smi belongs to the host; declarations of entities are refused below

import gates

#: More is not the answer of nvidia-smi.
LIMIT = 32 << 20
#: How many values with the same suspicious words are named one by one.
SAME_WORDS = 3
COLOUR = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][0-9A-B]|\x1b[=>]")
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Words by which a GPU, or the driver under it, says that it is not well.
SUSPICIOUS = re.compile(
    r"ERR!|unknown error|gpu is lost|requires? (a )?(reset|restart|reboot)|reset required|unable to determine"
    r"|insufficient (external )?power|access blocked|fallen off|corrupted",
    re.IGNORECASE,
)
ABSENT = re.compile(
    r"^\[?(n/a|not supported|not available|none|requested functionality has been deprecated|)\]?$", re.IGNORECASE
)
FORBIDDEN = re.compile(r"^\[?insufficient permissions\]?$", re.IGNORECASE)
NUMBER = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(x|%|c|w|mw|b|kib|mib|gib|tib)?$", re.IGNORECASE)
BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
REASONS = {
    "gpu_idle": "idle", "applications_clocks_setting": "applications_clocks", "sw_power_cap": "sw_power_cap",
    "hw_slowdown": "hw_slowdown", "sync_boost": "sync_boost", "sw_thermal_slowdown": "sw_thermal",
    "hw_thermal_slowdown": "hw_thermal", "hw_power_brake_slowdown": "hw_power_brake",
    "display_clocks_setting": "display_clock", "display_clock_setting": "display_clock",
}  # fmt: skip
#: What drivers before the recovery action said in its place.
RESET_FLAGS = {"reset_required": "reset", "drain_and_reset_recommended": "drain_and_reset"}
#: Elements whose Yes says that a GPU is not well.
TROUBLE = (*RESET_FLAGS, "unrepairable_memory")
#: Names of people's tools and programs stand in these; what they are called says nothing about a GPU.
FOREIGN_NAMES = ("process_name", "timestamp")


def parse(output):
    """Read the output of nvidia-smi.

    :param output: its bytes, with whatever else a system put around the document
    :returns: ``problem`` (a sentence, or an empty string where the document is whole and has a GPU),
        ``driver_version``, ``cuda_version``, ``declared`` (how many GPUs it says there are), ``suspicious``, ``gpus``,
        ``simulated``
    """
    answer = {
        "problem": "", "driver_version": None, "cuda_version": None, "declared": None, "suspicious": [], "gpus": [],
        "simulated": False,
    }  # fmt: skip
    root, answer["problem"] = _document(output)
    if root is None:
        return answer
    answer["simulated"] = root.find("gpulab_stand_in") is not None
    for key in ("driver_version", "cuda_version"):
        words = (root.findtext(key) or "").strip()
        answer[key] = gates.text(words, 40) if words and not ABSENT.match(words) else None
    declared = (root.findtext("attached_gpus") or "").strip()
    answer["declared"] = int(declared) if declared.isdigit() and len(declared) < 6 else None
    elements = root.findall("gpu")
    answer["gpus"] = [_Gpu(element).read() for element in elements]
    answer["suspicious"] = _suspicious(root)
    if not elements:
        answer["problem"] = "nvidia-smi lists no GPU"
    elif answer["declared"] != len(elements):
        said = gates.text(declared) or "not how many"
        answer["problem"] = "nvidia-smi says %s GPUs are attached and describes %d" % (said, len(elements))
    return answer


def _document(output):
    """Return the root of the document in some output and an empty string, or None and what is wrong."""
    if len(output) > LIMIT:
        return None, "nvidia-smi printed %d MiB" % (len(output) >> 20)
    words = NOT_XML.sub("\ufffd", COLOUR.sub(b"", output).decode("utf-8", "replace"))
    if not words.strip():
        return None, "nvidia-smi printed nothing"
    start, end = words.find("<nvidia_smi_log"), words.rfind("</nvidia_smi_log>")
    if start < 0:
        return None, "nvidia-smi printed no XML: %s" % gates.last_line(words)
    if end < 0:
        return None, "what nvidia-smi printed breaks off: %s" % gates.last_line(words)
    if "<!ENTITY" in words[:end]:
        return None, "what nvidia-smi printed declares entities, which nvidia-smi never does"
    try:
        return ElementTree.fromstring(words[start : end + len("</nvidia_smi_log>")]), ""
    except (ElementTree.ParseError, ValueError) as error:
        return None, "what nvidia-smi printed is no XML: %s" % gates.text(error)


def _suspicious(root):
    """List the elements whose text says that something is wrong; of many with the same words the first few."""
    found = {}

    def walk(element, path, whose):
        for child in element:
            if child.tag in FOREIGN_NAMES:
                continue
            here = [*path, child.tag]
            words = (child.text or "").strip()
            if SUSPICIOUS.search(words) or (child.tag in TROUBLE and words.lower() == "yes"):
                found.setdefault((whose, gates.text(words, 80)), []).append(gates.text(".".join(here), 120))
            walk(child, here, whose)

    for part in root:
        if part.tag == "gpu":
            walk(part, [], "gpu %s" % (address(part.get("id")) or gates.text(part.get("id") or "without an id", 40)))
        else:
            outer = ElementTree.Element("outer")
            outer.append(part)
            walk(outer, [], "nvidia-smi")
    answer = []
    for (whose, words), places in found.items():
        answer += ["%s: %s is %s" % (whose, place, words) for place in places[:SAME_WORDS]]
        if len(places) > SAME_WORDS:
            answer.append("%s: %d more values are %s" % (whose, len(places) - SAME_WORDS, words))
    return answer


def address(words):
    """Return a PCI address as the kernel writes it, or None for anything else."""
    match = re.match(r"([0-9a-f]{1,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-9a-f])$", (words or "").strip().lower())
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return "%04x:%s:%s.%s" % (int(domain, 16), bus, device, function)


class _Gpu:
    """One GPU of the document. ``why`` names what is null, and for what reason."""

    def __init__(self, element):
        self.element, self.why, self.lost = element, {}, False

    # -- values --------------------------------------------------------------------------------------------------------

    def words(self, path, *places):
        """Return the text of the first of these places that is there, or None and a note under ``path``."""
        value = next((v for v in (self.element.findtext(place) for place in places) if v is not None), None)
        if value is None:
            return self.nothing(path, "ABSENT")
        value = value.strip()
        if SUSPICIOUS.search(value):
            self.lost = self.lost or "gpu is lost" in value.lower()
            return self.nothing(path, "SUSPICIOUS")
        if FORBIDDEN.match(value):
            return self.nothing(path, "NO_PERMISSION")
        return value

    def nothing(self, path, word):
        """Note why something is null, and return None."""
        self.why[path] = word
        return

    def text(self, path, *places):
        """Return a text; null where the GPU has none."""
        value = self.words(path, *places)
        if value is None:
            return None
        return self.nothing(path, "NOT_SUPPORTED") if ABSENT.match(value) else gates.text(value)

    def number(self, path, *places):
        """Return a number; amounts of memory in bytes."""
        value = self.words(path, *places)
        if value is None:
            return None
        if ABSENT.match(value):
            return self.nothing(path, "NOT_SUPPORTED")
        match = NUMBER.match(value)
        if not match:
            return self.nothing(path, "PARSE")
        number = float(match.group(1)) * BYTES.get((match.group(2) or "").lower(), 1)
        return int(number) if number == int(number) else number

    def flag(self, path, *places):
        """Return true or false."""
        value = self.words(path, *places)
        if value is None:
            return None
        known = {"enabled": True, "yes": True, "active": True, "disabled": False, "no": False, "not active": False}
        if value.lower() in known:
            return known[value.lower()]
        return self.nothing(path, "NOT_SUPPORTED" if ABSENT.match(value) else "PARSE")

    def total(self, path, *places):
        """Return the sum of counters, those left out that this GPU does not have; null where one cannot be read."""
        parts, said = [], []
        for place in places:
            parts.append(self.number(path, place))
            said.append(self.why.pop(path, None))
        bad = [word for word in said if word not in (None, "ABSENT", "NOT_SUPPORTED")]
        have = [part for part in parts if part is not None]
        if bad or not have:
            return self.nothing(path, bad[0] if bad else "NOT_SUPPORTED" if "NOT_SUPPORTED" in said else "ABSENT")
        return sum(have)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def read(self):
        """Return the row of this GPU: the keys of one that NVML described."""
        row = {"index": None, "bdf": address(self.element.get("id")) or address(self.text("bdf", "pci/pci_bus_id"))}
        if row["bdf"] is not None:
            self.why.pop("bdf", None)
        for key, place in (
            ("uuid", "uuid"), ("name", "product_name"), ("vbios", "vbios_version"), ("serial", "serial"),
        ):  # fmt: skip
            row[key] = self.text(key, place)
        row["compute_capability"] = self.nothing("compute_capability", "ABSENT")
        architecture = self.text("architecture", "product_architecture")
        row["architecture"] = architecture.lower().split(" ")[0] if architecture else None
        row["memory"] = {
            key: self.number("memory.%s" % key, "fb_memory_usage/%s" % key)
            for key in ("total", "used", "free", "reserved")
        }
        row["persistence"] = self.flag("persistence", "persistence_mode")
        row["mig"] = self.mig()
        row["ecc"] = self.ecc()
        row["row_remap"] = self.row_remap()
        row["retired_pages"] = self.retired_pages()
        row["recovery_action"] = self.recovery_action()
        row["pcie"] = self.pcie()
        row["nvlink"] = self.nothing("nvlink", "ABSENT")
        row["fabric"] = self.fabric()
        row["clocks_event_reasons"] = self.reasons()
        row["temperature"] = self.number("temperature", "temperature/gpu_temp")
        row["power_w"] = self.number(
            "power_w", "gpu_power_readings/power_draw", "gpu_power_readings/instant_power_draw",
            "gpu_power_readings/average_power_draw", "power_readings/power_draw",
        )  # fmt: skip
        row["power_limit_w"] = self.number(
            "power_limit_w", "gpu_power_readings/current_power_limit", "power_readings/power_limit"
        )
        row["utilization"] = {
            key: self.number("utilization.%s" % key, "utilization/%s_util" % key) for key in ("gpu", "memory")
        }
        row["processes"] = self.processes()
        row["accounting_mode"] = self.flag("accounting_mode", "accounting_mode")
        row["virtualization"] = self.virtualization()
        row.update(lost=self.lost, problem=None, why=self.why)
        return row

    def virtualization(self):
        """Return the word for how a GPU is shared; nvidia-smi writes None for a GPU of bare metal."""
        value = self.words("virtualization", "gpu_virtualization_mode/virtualization_mode")
        if value is None or value.lower() == "none":
            return value and "none"
        if ABSENT.match(value):
            return self.nothing("virtualization", "NOT_SUPPORTED")
        names = {"pass-through": "passthrough", "vgpu": "vgpu", "host vgpu": "host_vgpu", "host vsga": "host_vsga"}
        return names.get(value.lower(), gates.text(value, 40).lower())

    def mig(self):
        """Return the state of multi-instance mode. Instances have no UUID here."""
        return {
            "current": self.flag("mig.current", "mig_mode/current_mig"),
            "pending": self.flag("mig.pending", "mig_mode/pending_mig"),
            "instances": [
                {"uuid": None, "name": None, "memory": _Gpu(device).number("memory", "fb_memory_usage/total")}
                for device in self.element.findall("mig_devices/mig_device")
            ],
        }

    def ecc(self):
        """Return whether memory is checked, and the errors that were counted."""
        answer = {
            "current": self.flag("ecc.current", "ecc_mode/current_ecc"),
            "pending": self.flag("ecc.pending", "ecc_mode/pending_ecc"),
        }
        for counter in ("volatile", "aggregate"):
            inside = "ecc_errors/%s/" % counter
            answer[counter] = {
                "corrected": self.total(
                    "ecc.%s.corrected" % counter, inside + "sram_correctable", inside + "dram_correctable",
                    inside + "single_bit/total",
                ),
                "uncorrected": self.total(
                    "ecc.%s.uncorrected" % counter, inside + "sram_uncorrectable", inside + "sram_uncorrectable_parity",
                    inside + "sram_uncorrectable_secded", inside + "dram_uncorrectable", inside + "double_bit/total",
                ),
            }  # fmt: skip
        answer["sram_aggregate_uncorrected"] = self.total(
            "ecc.sram_aggregate_uncorrected", "ecc_errors/aggregate/sram_uncorrectable",
            "ecc_errors/aggregate/sram_uncorrectable_parity", "ecc_errors/aggregate/sram_uncorrectable_secded",
        )  # fmt: skip
        answer["sram_threshold_exceeded"] = self.flag(
            "ecc.sram_threshold_exceeded", "ecc_errors/aggregate/sram_threshold_exceeded"
        )
        return answer

    def group(self, path, values):
        """Return a group of values; null where none of them can be read, with the reason that they share."""
        if any(value is not None for value in values.values()):
            return values
        said = [self.why.pop("%s.%s" % (path, key), "ABSENT") for key in values]
        whole = (self.element.findtext(WHOLE[path]) or "").strip()
        if whole and SUSPICIOUS.search(whole):
            said = ["SUSPICIOUS"]
        elif whole and ABSENT.match(whole):
            said = ["NOT_SUPPORTED"]
        return self.nothing(path, next((word for word in said if word not in ("ABSENT", "NOT_SUPPORTED")), said[0]))

    def row_remap(self):
        """Return what became of rows of memory that were bad."""
        inside = "remapped_rows/remapped_row_"
        return self.group("row_remap", {
            "corrected": self.number("row_remap.corrected", inside + "corr"),
            "uncorrected": self.number("row_remap.uncorrected", inside + "unc"),
            "pending": self.flag("row_remap.pending", inside + "pending"),
            "failure": self.flag("row_remap.failure", inside + "failure"),
        })  # fmt: skip

    def retired_pages(self):
        """Return how many pages of memory were given up."""
        inside = "retired_pages/"
        return self.group("retired_pages", {
            "single_bit": self.number(
                "retired_pages.single_bit", inside + "multiple_single_bit_retirement/retired_count"
            ),
            "double_bit": self.number("retired_pages.double_bit", inside + "double_bit_retirement/retired_count"),
            "pending": self.flag("retired_pages.pending", inside + "pending_retirement", inside + "pending_blacklist"),
        })  # fmt: skip

    def recovery_action(self):
        """Return what the driver wants done; nvidia-smi writes None where nothing is to be done."""
        flags, said = {}, []
        for place, action in RESET_FLAGS.items():
            flags[action] = self.flag("recovery_action", "gpu_reset_status/%s" % place)
            said.append(self.why.pop("recovery_action", None))
        if True in flags.values():
            return next(action for action, is_set in flags.items() if is_set)
        if self.element.find("gpu_recovery_action") is None:
            bad = [word for word in said if word not in (None, "ABSENT", "NOT_SUPPORTED")]
            if bad or said[0]:  # not every driver and GPU knows of draining, but all of a reset
                return self.nothing("recovery_action", (bad or said)[0])
            return "none"
        value = self.words("recovery_action", "gpu_recovery_action")
        if value is None or value.lower() == "none":
            return value and "none"
        if ABSENT.match(value):
            return self.nothing("recovery_action", "NOT_SUPPORTED")
        return re.sub("^(gpu|node)_", "", gates.text(value, 40).lower().replace(" ", "_"))

    def pcie(self):
        """Return the link to the bus."""
        generation, width = "pci/pci_gpu_link_info/pcie_gen/", "pci/pci_gpu_link_info/link_widths/"
        return {
            "gen": self.number("pcie.gen", generation + "current_link_gen"),
            "gen_max": self.number("pcie.gen_max", generation + "max_link_gen"),
            "width": self.number("pcie.width", width + "current_link_width"),
            "width_max": self.number("pcie.width_max", width + "max_link_width"),
            "gen_max_gpu": self.number("pcie.gen_max_gpu", generation + "max_device_link_gen"),
            "width_max_gpu": self.nothing("pcie.width_max_gpu", "ABSENT"),
            "replays": self.number("pcie.replays", "pci/replay_counter"),
        }

    def fabric(self):
        """Return how this GPU is joined to a fabric of NVLink switches."""
        state = self.text("fabric", "fabric/state")
        if state is None:
            return None
        names = {"completed": "completed", "in progress": "in_progress", "not started": "not_started"}
        status = self.text("fabric.status", "fabric/status")
        number = None if status is None else 0 if status.lower() == "success" else 999
        word = names.get(state.lower(), "unknown")
        return {"state": word, "status": number, "health": None, "health_summary": None}

    def reasons(self):
        """Return why the clocks are as they are."""
        for container in ("clocks_event_reasons", "clocks_throttle_reasons"):
            element = self.element.find(container)
            if element is None:
                continue
            active, seen = [], 0
            for child in element:
                name = re.sub("^clocks_(event|throttle)_reason_", "", child.tag)
                state = (child.text or "").strip().lower()
                if state == "active":
                    active.append(REASONS.get(name, gates.text(name, 40)))
                elif state not in ("not active", "n/a", ""):
                    return self.nothing("clocks_event_reasons", "SUSPICIOUS" if SUSPICIOUS.search(state) else "PARSE")
                seen += state in ("active", "not active")
            if seen:
                return active
            return self.nothing("clocks_event_reasons", "NOT_SUPPORTED")
        return self.nothing("clocks_event_reasons", "ABSENT")

    def processes(self):
        """Return the processes that use this GPU."""
        element = self.element.find("processes")
        if element is None:
            return self.nothing("processes", "ABSENT")
        words = (element.text or "").strip()
        if words and not len(element):
            return self.nothing("processes", "SUSPICIOUS" if SUSPICIOUS.search(words) else "NOT_SUPPORTED")
        rows = []
        for info in element.findall("process_info"):
            reader = _Gpu(info)
            kind = (info.findtext("type") or "").strip()
            name = info.findtext("process_name")
            rows.append({
                "pid": reader.number("pid", "pid"), "start": None,
                "used_memory": reader.number("memory", "used_memory"),
                "kind": "graphics" if kind == "G" else "compute", "name": None if name is None else gates.text(name),
            })  # fmt: skip
        return rows


#: Where nvidia-smi writes one word instead of a group of values.
WHOLE = {"row_remap": "remapped_rows", "retired_pages": "retired_pages"}
