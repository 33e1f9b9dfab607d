# SPDX-License-Identifier: Apache-2.0
"""Tier 1: the driver answers, is one version throughout, and shows the GPUs that were there before.

Versions are compared for equality alone; which versions fit each other is for the control node to say.
"""

from __future__ import annotations

import collections
import copy
import fnmatch
import types

import gates
import looks

TIER = 1
#: What NVML's error codes mean to a person, and what helps. Others are told as NVML tells them.
NVML_ERRORS = {
    4: ("NVML may not ask the driver: look at the permissions of /dev/nvidia*", "none"),
    9: ("the driver is not loaded", "none"),
    12: ("the library libnvidia-ml.so.1 is not there: install the driver's user space", "none"),
    15: ("a GPU is lost: it fell off the bus", "reboot"),
    16: ("a GPU must be reset before it can be used", "reset_gpu"),
    18: ("the loaded module and the library are of different versions", "reboot"),
    999: ("the driver gives no reason; the kernel's log may", "none"),
}
#: Exit statuses of nvidia-smi: what they mean, and what helps.
SMI_CODES = {
    4: ("it may not ask the driver: look at the permissions of /dev/nvidia*", "none"),
    6: ("it finds no GPU", "none"),
    8: ("a power cable of a GPU is not connected", "isolate"),
    9: ("the driver is not loaded", "none"),
    10: ("the kernel has a problem with a GPU's interrupts", "reboot"),
    12: ("the library libnvidia-ml.so.1 is not there", "none"),
    13: ("the library is too old for it: the driver's parts are of different versions", "none"),
    14: ("a GPU's infoROM is damaged", "isolate"),
    15: ("a GPU is lost: it fell off the bus", "reboot"),
    18: ("the loaded module and the library are of different versions", "reboot"),
}


def required(c):
    """Return the pairs (check id, target) that the profile demands."""
    return [row[:2] for row in _looks(c)]


def checks(c):
    """Judge tier 1; nothing in the profile cpu."""
    return looks.look_at_all(c, _looks(c), TIER)


def _looks(c):
    if c.profile != "gpu":
        return []
    found = (
        ("drv.loaded", loaded),
        ("drv.answers", driver_answers),
        ("drv.match", match),
        ("drv.hold", hold),
        ("smi.bounded", smi_bounded),
        ("smi.sane", smi_sane),
        ("smi.agrees", smi_agrees),
        ("gpu.uuid", uuids),
        ("cuda.toolkit", toolkit),
    )
    return [(identity, "host", look) for identity, look in found]


# --- the driver ------------------------------------------------------------------------------------------------------


def loaded(c, answer):
    """drv.loaded: NVIDIA's kernel module is loaded."""
    driver = looks.part(c.facts, "driver")
    if not isinstance(driver, dict):
        return answer("UNKNOWN", "nothing is known about the driver", "NOT_READABLE")
    version, installed = driver.get("loaded_version"), driver.get("installed_version")
    measured = {"loaded": version, "installed": installed, "module": driver.get("module")}
    if version:
        return answer("PASS", "driver %s is loaded" % version, measured=measured)
    if looks.container(c) == "wsl" and looks.nvml_gpus(c):
        return answer("SKIP", "the kernel module is Windows' own affair here", measured=measured)
    if not installed:
        message = "no NVIDIA driver is installed, and none is loaded"
        return answer("FAIL", message, "DRIVER_MISSING", measured=measured)
    reason = " (%s)" % driver["reason"] if driver.get("reason") else ""
    message = "driver %s is not loaded%s: load the module; where that fails, the kernel's log says why"
    return answer("FAIL", message % (installed, reason), "DRIVER_NOT_LOADED", measured=measured)


def driver_answers(c, answer):
    """drv.answers: NVML can be used, in time, and shows a GPU."""
    nvml = looks.part(c.observation, "nvml")
    if not isinstance(nvml, dict):
        return answer("UNKNOWN", "the driver was not asked", "NOT_OBSERVED")
    outcome, error = nvml.get("outcome"), nvml.get("error")
    seconds = looks.number(nvml.get("seconds"))
    more = {"measured": {"outcome": outcome, "seconds": seconds}, "duration_s": seconds}
    stuck = " in %s" % nvml["stuck"] if nvml.get("stuck") else ""
    if outcome == "abandoned":
        message = "the driver does not answer%s, and the process that asks cannot be killed: it hangs in the kernel"
        return answer("FAIL", message % stuck, "TIMEOUT", action="reboot", **more)
    if outcome == "timeout":
        message = "the driver did not answer in time%s: it hangs; the kernel's log may say why"
        return answer("FAIL", message % stuck, "TIMEOUT", action="reboot", **more)
    if error:
        code, name = looks.part(error, "code"), gates.text(looks.part(error, "name") or "ERROR", 40)
        more["measured"]["error"] = {"code": code, "name": name}
        if code is None:  # the binding is missing, or nothing readable came of it: that is no word about the driver
            message = "the driver could not be asked: %s" % (looks.part(error, "message") or name)
            return answer("UNKNOWN", message, name, **more)
        words, action = NVML_ERRORS.get(code, (looks.part(error, "message") or "it does not say why", "none"))
        return answer("FAIL", "NVML cannot be used (%s): %s" % (name, words), "NVML_%s" % name, action=action, **more)
    if outcome == "crashed":
        message = "the process that asks the driver died: %s" % (nvml.get("tail") or "it left no word")
        return answer("FAIL", message, "CRASHED", **more)
    if outcome != "finished":
        return answer("UNKNOWN", "the driver could not be asked (%s)" % outcome, "NOT_OBSERVED", **more)
    gpus = looks.nvml_gpus(c)
    if not gpus:
        message = "the driver answers and shows no GPU" if gpus == [] else "the driver's answer names no GPUs"
        return answer("FAIL" if gpus == [] else "UNKNOWN", message, "NO_GPU", **more)
    message = "the driver answers and shows %s" % looks.counted(len(gpus), "GPU")
    return answer("PASS", message, **more)


def match(c, answer):
    """drv.match: module, library, packages and plan are of one version."""
    driver = looks.part(c.facts, "driver") or {}
    module, library = driver.get("loaded_version"), driver.get("library_version")
    told = looks.part(c.observation, "nvml", "driver_version")
    error = looks.part(c.observation, "nvml", "error", "code")
    plan = looks.planned_driver(c)
    measured = {"module": module, "library": library, "installed": driver.get("installed_version"), "nvml": told}
    more = {"measured": measured, "threshold": {"planned": (plan or {}).get("version")}}
    running, following = looks.kernels(c)
    if error == 18 or (module and library and module != library):
        words = driver.get("mismatch") or "the loaded module is %s, the library is %s" % (module, library)
        if module == library:
            words = "NVML says that the loaded module and its library are of different versions"
        on_disk = looks.part(driver, "modules", running, "version")
        if on_disk and library and on_disk != library and following in (None, running):
            hint = "the module on disk is %s: install the driver anew" % on_disk
            return answer("FAIL", "%s; %s" % (words, hint), "MISMATCH", **more)
        hint = "reboot, so that the installed module is loaded"
        return answer("FAIL", "%s; %s" % (words, hint), "MISMATCH", action="reboot", **more)
    if driver.get("mismatch"):
        return answer("FAIL", "%s; install the driver anew" % driver["mismatch"], "MISMATCH", **more)
    if told and module and told != module:
        words = "NVML speaks of driver %s, the loaded module is %s: another library is found first" % (told, module)
        return answer("FAIL", words, "MISMATCH", **more)
    if not module and not told:
        return answer("UNKNOWN", "no driver is loaded, so there is nothing to compare", "NOT_LOADED", **more)
    if not library and not told:
        message = "driver %s is loaded, and no user-space library is installed: install libnvidia-ml of that version"
        return answer("FAIL", message % module, "LIBRARY_MISSING", **more)
    version = module or told
    if plan:
        row = _against_plan(c, answer, plan, version, driver, more)
        if row is not None:
            return row
    modules = driver.get("modules")
    if isinstance(modules, dict) and modules and following and following not in modules and not looks.container(c):
        built = [row.get("state") for row in looks.rows(driver, "dkms") or () if row.get("kernel") == following]
        stuck = (
            "DKMS has it %s: its make.log says why" % built[0]
            if built
            else "build it: dkms autoinstall -k " + following
        )
        message = "kernel %s boots next, and there is no module of the driver for it; %s" % (following, stuck)
        return answer("FAIL", message, "MODULE_MISSING", **more)
    after = looks.part(driver, "modules", following, "version")
    if after and library and after != library and following != running:
        message = "kernel %s boots next, and its module is %s while the library is %s"
        return answer("WARN", message % (following, after, library), "NEXT_BOOT", **more)
    planned = ", as planned" if plan else ""
    return answer("PASS", "module and library are %s%s" % (version, planned), **more)


def _against_plan(c, answer, plan, version, driver, more):
    """Compare with the plan, None where it agrees. An archive may have another version of the branch than was planned;
    then what this project noted when it was installed counts."""
    allowed = {plan.get("version")}
    if plan.get("exact") is False:
        allowed.add(looks.part(c.facts, "state", "version"))
    if version not in allowed:
        message = "driver %s is loaded; %s is planned: provision the host" % (version, plan.get("version"))
        return answer("FAIL", message, "NOT_AS_PLANNED", **more)
    flavour, wanted = driver.get("module"), plan.get("kernel_module")
    if flavour and wanted and flavour != wanted:
        message = "the %s flavour of the kernel module is loaded; %s is planned" % (flavour, wanted)
        return answer("FAIL", message, "NOT_AS_PLANNED", **more)
    return None


def hold(c, answer):
    """drv.hold: what keeps the driver at its version is still there."""
    plan = looks.planned_driver(c)
    driver = looks.part(c.facts, "driver") or {}
    packages, held = driver.get("packages"), driver.get("held")
    source = driver.get("source") or (plan or {}).get("source")
    if looks.container(c):
        return answer("SKIP", "in a container the driver is its host's")
    if not plan or source == "runfile" or plan.get("hold") == []:
        return answer("SKIP", "the driver is not one of packages that this project keeps at their version")
    if not isinstance(packages, dict) or not isinstance(held, list):
        message = "the list of packages cannot be read%s" % looks.why_unknown(c.facts, "packages")
        return answer("UNKNOWN", message, "NOT_READABLE")
    if not packages:
        return answer("UNKNOWN", "no package of the driver is installed, so there is nothing to keep", "NOT_INSTALLED")
    patterns = plan.get("hold")
    if isinstance(patterns, list):
        wanted = [name for name in packages if any(fnmatch.fnmatchcase(name, str(pattern)) for pattern in patterns)]
    else:  # what was kept when this host was last well
        wanted = _held_before(c)
    free = sorted(name for name in wanted if name in packages and name not in held)
    measured = {"held": sorted(held), "not_held": free}
    if free:
        message = "an upgrade may replace part of the driver; not held: %s: provision the host"
        return answer("FAIL", message % looks.names(free), "NOT_HELD", measured=measured)
    if not held:
        upgrades = looks.part(c.facts, "package_manager", "unattended_upgrades")
        words = "nothing keeps the driver's packages at their version"
        if upgrades and looks.part(c.facts, "package_manager", "our_blacklist") is False:
            words += ", unattended upgrades are on, and may replace the driver"
        return answer("WARN", words, "NOT_HELD", measured=measured)
    return answer(
        "PASS", "%s of the driver held at their version" % looks.counted(len(held), "package"), measured=measured
    )


def _held_before(c):
    for row in looks.rows(c.previous, "checks") or ():
        if row.get("id") == "drv.hold" and row.get("status") in ("PASS", "FAIL"):
            before = looks.part(row, "measured", "held") or []
            lost = looks.part(row, "measured", "not_held") or []
            return [str(name) for name in [*before, *lost]]
    return []


# --- nvidia-smi ------------------------------------------------------------------------------------------------------


def smi_bounded(c, answer):
    """smi.bounded: nvidia-smi ends within its time."""
    table = c.table["identity"]["smi_seconds"]
    smi = looks.part(c.observation, "smi")
    more = {"threshold": {"slow": table["slow"], "most": table["most"]}, "threshold_source": table["source"]}
    if c.observation is None:
        return answer("UNKNOWN", "nvidia-smi was not run", "NOT_OBSERVED", **more)
    if not isinstance(smi, dict):
        return answer("UNKNOWN", "there is no nvidia-smi: install the driver's utilities", "TOOL_MISSING", **more)
    outcome, seconds = smi.get("outcome"), looks.number(smi.get("seconds"))
    more.update(measured={"outcome": outcome, "seconds": seconds}, duration_s=seconds)
    if outcome == "abandoned":
        message = "nvidia-smi did not end and cannot be killed: it hangs in the driver; reboot"
        return answer("FAIL", message, "TIMEOUT", action="reboot", **more)
    if outcome == "timeout":
        message = "nvidia-smi did not end in %s seconds: the driver hangs; the kernel's log may say why"
        return answer("FAIL", message % table["most"], "TIMEOUT", action="reboot", **more)
    if outcome not in ("finished", "crashed") or seconds is None:
        message = "nvidia-smi could not be run: %s" % (smi.get("problem") or outcome)
        return answer("UNKNOWN", message, "NOT_STARTED", **more)
    if not (seconds <= table["most"]):
        message = "nvidia-smi took %.0f seconds, at most %s are allowed"
        return answer("FAIL", message % (seconds, table["most"]), "TIMEOUT", **more)
    if not (seconds <= table["slow"]):
        message = "nvidia-smi took %.0f seconds: without persistence, or with many GPUs, that happens"
        return answer("WARN", message % seconds, "SLOW", **more)
    return answer("PASS", "nvidia-smi answered in %.1f seconds" % seconds, **more)


def smi_sane(c, answer):
    """smi.sane: nvidia-smi reports no value that it could not read, and no GPU that must be reset."""
    smi = looks.part(c.observation, "smi")
    if c.observation is None:
        return answer("UNKNOWN", "nvidia-smi was not run", "NOT_OBSERVED")
    if not isinstance(smi, dict):
        return answer("UNKNOWN", "there is no nvidia-smi", "TOOL_MISSING")
    code, suspicious = smi.get("code"), smi.get("suspicious")
    gpus = looks.rows(smi, "gpus")
    measured = {"code": code, "suspicious": suspicious, "gpus": None if gpus is None else len(gpus)}
    if smi.get("outcome") in ("timeout", "abandoned"):
        return answer("UNKNOWN", "nvidia-smi did not end, so there is nothing to read", "TIMEOUT", measured=measured)
    if suspicious:
        words = suspicious if isinstance(suspicious, list) else [suspicious]
        message = "nvidia-smi reports %s" % looks.names(words, 4)
        reset = any("requires reset" in str(word).lower() for word in words)
        lost = any("is lost" in str(word).lower() for word in words)
        action = "reboot" if lost else "reset_gpu" if reset else "none"
        return answer("FAIL", message, "SUSPICIOUS", action=action, measured=measured)
    if code != 0 or smi.get("outcome") == "crashed":
        words, action = SMI_CODES.get(code, ("", "none"))
        message = "nvidia-smi ended with status %s: %s" % (code, words)
        if not words:
            message = smi.get("problem") or "nvidia-smi ended with status %s" % code
        return answer("FAIL", message, "SMI_%s" % code, action=action, measured=measured)
    if smi.get("outcome") != "finished" or smi.get("problem") or not isinstance(suspicious, list):
        message = "what nvidia-smi printed cannot be used: %s" % (smi.get("problem") or "it was not judged")
        return answer("UNKNOWN", message, "PARSE", measured=measured)
    if not gpus or not smi.get("driver_version"):
        return answer("UNKNOWN", "nvidia-smi names no GPU, or no driver", "PARSE", measured=measured)
    declared = smi.get("declared")
    if declared is not None and declared != len(gpus):
        message = "nvidia-smi counts %s GPUs and describes %d" % (declared, len(gpus))
        return answer("UNKNOWN", message, "PARSE", measured=measured)
    return answer("PASS", "nvidia-smi reports nothing unusual", measured=measured)


def smi_agrees(c, answer):
    """smi.agrees: nvidia-smi and NVML tell of the same driver and the same GPUs."""
    ours, theirs = looks.nvml_gpus(c), looks.rows(c.observation, "smi", "gpus")
    nvml, smi = looks.part(c.observation, "nvml"), looks.part(c.observation, "smi")
    usable = looks.part(nvml, "outcome") == "finished" and not looks.part(nvml, "error")
    if not (usable and ours and theirs and looks.part(smi, "outcome") == "finished"):
        message = "one of NVML and nvidia-smi did not tell of any GPU, so they cannot be compared"
        return answer("UNKNOWN", message, "NOT_OBSERVED")
    differences = []
    versions = [nvml.get("driver_version"), smi.get("driver_version")]
    if versions[0] != versions[1]:
        differences.append("driver %s and %s" % tuple(versions))
    mine, others = ({gpu.get("bdf"): gpu for gpu in gpus if not gpu.get("lost")} for gpus in (ours, theirs))
    for bdf in sorted(set(mine) ^ set(others), key=str):
        differences.append("%s is told of by %s alone" % (bdf, "NVML" if bdf in mine else "nvidia-smi"))
    for bdf in sorted(set(mine) & set(others), key=str):
        for key in ("uuid", "name", "vbios"):
            pair = (mine[bdf].get(key), others[bdf].get(key))
            # What one of them does not have may be null; the UUID may not.
            if pair[0] != pair[1] and (key == "uuid" or None not in pair):
                differences.append("%s of %s is %s and %s" % (key, bdf, *pair))
    measured = {"nvml": len(mine), "smi": len(others), "differences": [gates.text(words) for words in differences[:16]]}
    if not mine or None in mine:
        return answer("UNKNOWN", "NVML does not tell the addresses of its GPUs", "NOT_OBSERVED", measured=measured)
    if differences:
        message = "NVML and nvidia-smi disagree: %s" % looks.names(differences, 3)
        return answer("FAIL", message, "DISAGREE", measured=measured)
    if versions[0] is None:
        return answer("UNKNOWN", "neither NVML nor nvidia-smi tells the driver's version", "PARSE", measured=measured)
    return answer("PASS", "NVML and nvidia-smi tell of the same driver and GPUs", measured=measured)


# --- the GPUs --------------------------------------------------------------------------------------------------------


def inventory(c):
    """Return what is to be remembered of the GPUs of a host that is well: ``[{bdf, uuid, name, vbios}]``."""
    keys = ("bdf", "uuid", "name", "vbios")
    return [{key: gpu.get(key) for key in keys} for gpu in looks.nvml_gpus(c) or () if gpu.get("uuid")]


def targets(c):
    """Return ``[(PCI address, target)]`` of the GPUs that tier 2 judges, see :func:`looks.targets`."""
    return looks.targets(c)


def uuids(c, answer):
    """gpu.uuid: the driver shows every GPU of the bus, each once, and they are those of before."""
    gpus = looks.nvml_gpus(c)
    nvml = looks.part(c.observation, "nvml")
    if gpus is None or looks.part(nvml, "outcome") != "finished" or looks.part(nvml, "error"):
        return answer("UNKNOWN", "the driver tells of no GPUs", "NOT_OBSERVED")
    measured = {"gpus": inventory(c), "models": _groups(gpus)}
    lost = [gpu for gpu in gpus if gpu.get("lost")]
    if lost:
        where = looks.names(gpu.get("bdf") or "GPU %s" % gpu.get("index") for gpu in lost)
        message = "%s lost: %s fell off the bus; reboot, and replace what is lost again"
        return answer(
            "FAIL", message % (looks.counted(len(lost), "GPU"), where), "GPU_LOST", action="reboot", measured=measured
        )
    shown = {gpu.get("bdf") for gpu in gpus}
    bus = looks.on_bus(c) or []
    missing = [gpu["bus"] for gpu in bus if gpu.get("bus") not in shown and not looks.bound_elsewhere(gpu)]
    bound = [gpu for gpu in bus if looks.bound_elsewhere(gpu)]
    if missing and not looks.container(c):
        message = "the driver shows %d of %d GPUs on the bus: not %s; the kernel's log says why"
        words = message % (len(gpus), len(bus), looks.names(missing))
        return answer("FAIL", words, "GPU_MISSING", action="reboot", measured=measured)
    told = [gpu.get("uuid") for gpu in gpus]
    if not gpus or not all(isinstance(uuid, str) and uuid.startswith("GPU-") for uuid in told) or None in shown:
        broken = looks.names(gpu.get("problem") for gpu in gpus if gpu.get("problem"))
        message = "a GPU does not tell its UUID or address%s" % (": %s" % broken if broken else "")
        return answer("UNKNOWN", message, "NO_UUID", measured=measured)
    if len(set(told)) != len(told) or len(shown) != len(gpus):
        return answer("FAIL", "two GPUs have the same UUID or address", "DUPLICATE", measured=measured)
    gone, changed = _changes(c, gpus)
    accepted = looks.accepts_hardware(c)
    if gone and not accepted:
        message = "a GPU of the last good run is gone: %s" % looks.names(gone)
        return answer("FAIL", message, "GPU_MISSING", action="reboot", measured=measured)
    if changed and not accepted:
        message = "the hardware is not that of the last good run: %s; acknowledge it (validation_accept_hardware)"
        return answer("WARN", message % looks.names(changed, 3), "HARDWARE_CHANGED", measured=measured)
    if bound:
        message = "%s is bound to %s, so CUDA does not see it"
        words = message % (looks.names(gpu.get("bus") for gpu in bound), looks.bound_elsewhere(bound[0]))
        return answer("WARN", words, "BOUND_ELSEWHERE", measured=measured)
    mixed = _mixed_vbios(gpus)
    if mixed:
        message = "GPUs of one model have different VBIOS: %s" % looks.names(mixed)
        return answer("WARN", message, "MIXED_VBIOS", measured=measured)
    words = ["%d x %s" % (count, gates.text(name, 60)) for name, count in sorted(measured["models"].items())]
    message = "the GPUs are those of the last good run" if c.known else "nothing earlier to compare with"
    if accepted and (gone or changed):
        message = "other hardware than before, acknowledged: %s" % looks.names([*gone, *changed], 3)
    if missing:
        message += "; the container was given %d of %d GPUs" % (len(gpus), len(bus))
    return answer("PASS", "%s; %s" % (", ".join(words), message), measured=measured)


def _groups(gpus):
    return dict(collections.Counter(str(gpu.get("name")) for gpu in gpus))


def _mixed_vbios(gpus):
    found = {}
    for gpu in gpus:
        if gpu.get("name") and gpu.get("vbios"):
            found.setdefault(gpu["name"], set()).add(gpu["vbios"])
    return [
        "%s: %s" % (name, " and ".join(sorted(values))) for name, values in sorted(found.items()) if len(values) > 1
    ]


def _changes(c, gpus):
    """Compare with the last good run.

    :returns: sentences about what is gone without anything in its place, and about what else has changed
    """
    known = looks.rows(c.known, "gpus")
    if not known:
        return [], []
    now, before = ({gpu.get("uuid"): gpu for gpu in listed} for listed in (gpus, known))
    places = {gpu.get("bdf"): gpu for gpu in gpus}
    gone, changed = [], []
    for uuid, gpu in sorted(before.items(), key=str):
        bdf, name = gpu.get("bdf"), gpu.get("name") or "GPU"
        if uuid not in now and bdf in places:
            changed.append("at %s is %s instead of %s" % (bdf, places[bdf].get("uuid"), uuid))
        elif uuid not in now:
            gone.append("%s (%s) at %s" % (uuid, name, bdf))
        else:
            other = now[uuid]
            changed += [
                "%s of %s was %s and is %s" % (key, uuid, gpu.get(key), other.get(key))
                for key in ("bdf", "name", "vbios")
                if gpu.get(key) and other.get(key) != gpu.get(key)
            ]
    taken = {gpu.get("bdf") for gpu in known}
    changed += [
        "%s at %s is new" % (uuid, gpu.get("bdf"))
        for uuid, gpu in sorted(now.items(), key=str)
        if uuid not in before and gpu.get("bdf") not in taken
    ]
    return gone, changed


# --- CUDA ------------------------------------------------------------------------------------------------------------


def toolkit(c, answer):
    """cuda.toolkit: every planned toolkit is there, whole, and the driver is new enough for it.

    That it compiles is proven where it is installed.
    """
    wanted = looks.part(c.expected, "cuda_toolkits")
    if not wanted:
        return answer("SKIP", "no CUDA toolkit is planned", "NOT_REQUESTED")
    found = looks.rows(c.facts, "cuda")
    if found is None:
        return answer("UNKNOWN", "which toolkits there are is not known", "NOT_READABLE")
    able = looks.part(c.observation, "nvml", "cuda_driver_version")
    able = able if isinstance(able, int) and not isinstance(able, bool) and able > 0 else None
    store = {row.get("path"): row for row in looks.rows(c.facts, "toolkit_store") or ()}
    measured = {"toolkits": sorted(str(row.get("version")) for row in found), "cuda_driver_version": able}
    problems, unknown, demands = [], [], {}
    for row in wanted:
        version = str(looks.part(row, "version") if isinstance(row, dict) else row)
        have = [kit for kit in found if kit.get("version") == version]
        if not have:
            problems.append(("TOOLKIT_MISSING", "CUDA toolkit %s is planned and not there" % version))
            continue
        if not any(kit.get("nvcc") for kit in have):
            problems.append(("TOOLKIT_DAMAGED", "CUDA toolkit %s has no nvcc" % version))
        for kit in have:
            kept = store.get(kit.get("real"))
            if kept and (kept.get("damaged") or kept.get("state") == "half-made"):
                told = looks.names(kept.get("damaged") or ["half-made"])
                problems.append(("TOOLKIT_DAMAGED", "CUDA toolkit %s is damaged: %s" % (version, told)))
        least = _least_driver(row, version)
        demands[version] = least
        if able is None or least is None:
            unknown.append("whether the driver is new enough for CUDA %s is not known" % version)
        elif not (able >= least):
            words = "the driver is made for CUDA %d.%d, too old for CUDA %s" % (
                able // 1000,
                able % 1000 // 10,
                version,
            )
            problems.append(("DRIVER_TOO_OLD", words))
    more = {"measured": measured, "threshold": {"cuda_driver_version": demands}}
    if problems:
        words = looks.names([words for _, words in problems], 3)
        return answer("FAIL", words + ": provision the host", problems[0][0], **more)
    if unknown:
        return answer("UNKNOWN", looks.names(unknown, 3), "NOT_OBSERVED", **more)
    return answer("PASS", "CUDA toolkit %s is there" % looks.names(demands), **more)


def _least_driver(row, version):
    """Return the number that the driver's CUDA version must reach: what is given, else that of the major version, to
    which drivers of one major version are compatible."""
    given = looks.part(row, "cuda_driver_min")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    major = version.partition(".")[0]
    return int(major) * 1000 if major.isdecimal() else None


# --- self test -------------------------------------------------------------------------------------------------------


def self_test(table):
    """Feed the gates hosts that must be refused, and one that must not; return ``{what: True when they behaved}``."""
    gpu = {"index": 0, "bdf": "0000:01:00.0", "uuid": "GPU-1", "name": "A", "vbios": "1", "lost": False}
    driver = {"loaded_version": "580.1", "library_version": "580.1", "installed_version": "580.1", "mismatch": None}
    nvml = {"outcome": "finished", "error": None, "seconds": 0.1, "driver_version": "580.1", "gpus": [gpu]}
    smi = {"outcome": "finished", "code": 0, "problem": "", "seconds": 1.0, "suspicious": [], "driver_version": "580.1"}
    good = types.SimpleNamespace(
        facts={"driver": driver, "gpus": [{"bus": "0000:01:00.0", "driver": "nvidia"}]}, expected={}, settings={},
        observation={"nvml": nvml, "smi": dict(smi, gpus=[gpu])}, known={"gpus": [dict(gpu)]}, previous=None,
        table=table, products={}, devices=[], profile="gpu",
    )  # fmt: skip

    def status(look, change=lambda c: None):
        c = copy.copy(good)
        c.facts, c.observation, c.known = (copy.deepcopy(value) for value in (good.facts, good.observation, good.known))
        change(c)
        return look(c, looks.answers("self-test", TIER))["status"]

    times = table["identity"]["smi_seconds"]
    between = (times["slow"] + times["most"]) / 2
    looked = (loaded, driver_answers, match, smi_bounded, smi_sane, smi_agrees, uuids)
    return {
        "good_driver_accepted": {status(look) for look in looked} == {"PASS"},
        "absent_driver_rejected": status(loaded, lambda c: c.facts["driver"].update(loaded_version=None)) == "FAIL",
        "mismatch_rejected": status(match, lambda c: c.facts["driver"].update(library_version="580.2")) == "FAIL",
        "hanging_driver_rejected": status(driver_answers, lambda c: c.observation["nvml"].update(outcome="abandoned"))
        == "FAIL",
        "err_in_output_rejected": status(smi_sane, lambda c: c.observation["smi"].update(suspicious=["ERR!"]))
        == "FAIL",
        "missing_tool_is_unknown": status(smi_sane, lambda c: c.observation.update(smi=None)) == "UNKNOWN",
        "slow_tool_is_told": status(smi_bounded, lambda c: c.observation["smi"].update(seconds=between)) == "WARN",
        "nan_seconds_are_unknown": status(smi_bounded, lambda c: c.observation["smi"].update(seconds=float("nan")))
        == "UNKNOWN",
        "swapped_gpu_is_told": status(uuids, lambda c: c.known["gpus"][0].update(uuid="GPU-2")) == "WARN",
        "lost_gpu_rejected": status(uuids, lambda c: c.observation["nvml"]["gpus"][0].update(lost=True)) == "FAIL",
    }
