# SPDX-License-Identifier: Apache-2.0
"""Tier 2: how the GPUs are, by what driver and kernel have counted. Nothing is put under load here."""

from __future__ import annotations

import copy
import json
import os
import re
import types

import gates
import looks

TIER = 2
XIDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "xid.json")
#: Xid 154 says in brackets what has become of the GPU's recovery action.
RECOVERY = re.compile(r"to\s+0x[0-9a-fA-F]+\s*\(([^)]*)\)")
RECOVERY_WORDS = (
    ("none", "INFO", "none"),
    ("reboot", "FAIL", "reboot"),
    ("reset", "FAIL", "reset_gpu"),
    ("drain", "FAIL", "restart_app"),
)
#: What NVML's recovery action asks for, and how it is said.
ACTIONS = {
    "reset": ("reset_gpu", "reset the GPU"),
    "bus_reset": ("reset_gpu", "reset the GPU's bus"),
    "reboot": ("reboot", "reboot the host"),
    "system_reboot": ("reboot", "reboot the host"),
    "drain_p2p": ("restart_app", "end everything that works across GPUs"),
    "drain_and_reset": ("reset_gpu", "let the work on the GPU end, then reset it"),
    "recover_imex_domain": ("isolate", "recover the IMEX domain"),
}
#: Reasons for slower clocks that no idle GPU has.
SLOWED = {
    "hw_slowdown": "the hardware slows it down",
    "hw_thermal": "it is too hot",
    "hw_power_brake": "the power supply brakes it",
}
#: Reasons that are no trouble on an idle GPU.
HARMLESS = ("idle", "applications_clocks", "sw_power_cap", "sync_boost", "display_clock")


def required(c):
    """Return the pairs (check id, target) that the profile demands."""
    return [row[:2] for row in _looks(c)]


def checks(c):
    """Judge tier 2; nothing in the profile cpu."""
    return looks.look_at_all(c, _looks(c), TIER)


def _looks(c):
    if c.profile != "gpu":
        return []
    found = [("xid", "host", xid)]
    each = (
        ("recovery_action", recovery_action),
        ("ecc.uncorrected", ecc_uncorrected),
        ("ecc.corrected", ecc_corrected),
        ("row_remap", row_remap),
        ("pcie.max", pcie),
        ("nvlink", nvlink),
        ("thermal", thermal),
    )
    for bdf, target in looks.targets(c):
        found += [(identity, target, _of_gpu, look, bdf, target) for identity, look in each]
    return [*found, ("persistence", "host", persistence), ("fabricmanager", "host", fabric_manager)]


def _of_gpu(c, answer, look, bdf, target):
    """Judge one GPU; of one that the driver does not show, or that is lost, nothing else is known."""
    if bdf is None:
        return answer("UNKNOWN", "neither bus nor driver shows a GPU that could be judged", "NO_GPU")
    gpu = looks.seen(c, bdf)
    if gpu is None:
        return answer("UNKNOWN", "the driver tells nothing of %s" % looks.named(c, bdf), "NOT_OBSERVED")
    if gpu.get("lost") and look is not recovery_action:
        return answer("UNKNOWN", "%s is lost, so nothing can be read" % looks.named(c, bdf, gpu), "GPU_LOST")
    return look(c, answer, gpu, bdf, target)


# --- the kernel's log ------------------------------------------------------------------------------------------------


def xid(c, answer):
    """xid: what the driver has written into the kernel's log."""
    return _judge_log(c.kernel_log, load_xids(), looks.container(c), answer)


def judge_xids(log, xids=None, container=None):
    """Judge a kernel's log by itself, as at the end of a run; return the check xid.

    Counted as FAIL are grave entries behind the log's start; earlier ones of this boot are a WARN, unless the GPU was
    reset since; those of other boots are told alone.

    :param log: what kernel_log.read returned, or None
    :param xids: the content of xid.json; read where it is not given
    :param container: the kind of container that this is, or None
    """
    return _judge_log(log, load_xids() if xids is None else xids, container, looks.answers("xid", TIER))


def load_xids(path=XIDS):
    """Return what is known of Xids, by number: title, effect (FAIL, WARN or INFO), action, source."""
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)["xids"]


def _judge_log(log, xids, container, answer):
    entries = looks.rows(log, "xids")
    source = looks.part(log, "source")
    if entries is None or source in (None, "none") or looks.part(log, "problem"):
        why = looks.part(log, "problem") or "no source of it can be read"
        message = "the kernel's log cannot be read: %s" % why
        if container:
            return answer("WARN", "in a container (%s) %s" % (container, message), "NOT_READABLE")
        return answer("UNKNOWN", message, "NOT_READABLE")
    measured = {"source": source, "xids": [], "other_boots": 0}
    here = []
    for entry in entries:
        if entry.get("this_boot") is not True:
            measured["other_boots"] += 1
            continue
        effect, action, title = _effect(entry, xids)
        here.append((entry, effect, action, title))
        told = {key: entry.get(key) for key in ("xid", "bdf", "pid", "process", "time")}
        told.update(effect=effect, after_start=entry.get("after_start") is True)
        measured["xids"] = [*measured["xids"], told][-200:]
    more = {"measured": measured, "threshold_source": "xid.json"}
    now, early = [], []
    for index, (entry, effect, action, title) in enumerate(here):
        words = _told(entry, title)
        if effect == "INFO":
            continue
        if entry.get("after_start") is True:
            now.append((effect, action, words))
        elif effect == "WARN" or not _cleared(here[index + 1 :], entry.get("bdf")):
            early.append(words)
    grave = [(action, words) for effect, action, words in now if effect == "FAIL"]
    if grave:
        worst = max((action for action, _ in grave), key=_rank)
        message = "while this ran the driver reported %s" % looks.names(_once(words for _, words in grave), 3)
        return answer("FAIL", message, "XID", action=worst, **more)
    light = _once(words for _, _, words in now)
    if light:
        return answer("WARN", "while this ran the driver reported %s" % looks.names(light, 3), "XID", **more)
    if early:
        message = "earlier in this boot the driver reported %s" % looks.names(_once(early), 3)
        return answer("WARN", message, "XID_EARLIER", **more)
    message = "the driver has reported no fault in this boot"
    if measured["other_boots"]:
        message += " (%s of other boots are not judged)" % looks.counted(measured["other_boots"], "report")
    return answer("PASS", message, **more)


def _effect(entry, xids):
    """Return effect, action and title of one entry; what is not listed is a WARN."""
    row = xids.get(str(entry.get("xid")))
    if row is None:
        return "WARN", "none", "not listed"
    if entry.get("xid") == 154:
        found = RECOVERY.search(str(entry.get("text") or ""))
        words = found.group(1).strip().lower() if found else ""
        for word, effect, action in RECOVERY_WORDS:
            if word in words:
                return effect, action, "%s: %s" % (row["title"], words)
        return "WARN", "none", row["title"]
    return row["effect"], row["action"], row["title"]


def _cleared(later, bdf):
    """Tell whether the driver said later that this GPU needs nothing any more."""
    return bdf is not None and any(
        entry.get("xid") == 154 and entry.get("bdf") == bdf and effect == "INFO" for entry, effect, _, _ in later
    )


def _told(entry, title):
    who = " by %s" % gates.text(entry["process"], 40) if entry.get("process") else ""
    return "Xid %s (%s) at %s%s" % (entry.get("xid"), title, entry.get("bdf") or "an unknown GPU", who)


def _once(words):
    return list(dict.fromkeys(words))


def _rank(action):
    order = ("none", "restart_app", "reset_gpu", "reboot", "isolate", "rma")
    return order.index(action) if action in order else 0


# --- each GPU --------------------------------------------------------------------------------------------------------


def recovery_action(c, answer, gpu, bdf, target):
    """recovery_action: the driver asks for nothing to bring this GPU back."""
    name = looks.named(c, bdf, gpu)
    if gpu.get("lost"):
        return answer("FAIL", "%s is lost: it fell off the bus; reboot" % name, "GPU_LOST", action="reboot")
    word = gpu.get("recovery_action")
    measured = {"recovery_action": word}
    handle = looks.part(gpu, "why", "handle")
    if handle == "RESET_REQUIRED":
        message = "%s must be reset before it can be used" % name
        return answer("FAIL", message, "RECOVERY_ACTION", action="reset_gpu", measured=measured)
    if gpu.get("problem"):
        return answer("FAIL", "%s cannot be used: %s" % (name, gpu["problem"]), handle or "UNUSABLE", measured=measured)
    if word == "none":
        return answer("PASS", "%s needs no recovery" % name, measured=measured)
    if word in ACTIONS:
        action, words = ACTIONS[word]
        return answer("FAIL", "%s: %s" % (name, words), "RECOVERY_ACTION", action=action, measured=measured)
    if word is None and looks.not_there(gpu, "recovery_action"):
        return answer("SKIP", "this driver or GPU does not tell of recovery actions", measured=measured)
    message = "what %s needs is not known%s" % (name, looks.reason(gpu, "recovery_action"))
    return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)


def ecc_uncorrected(c, answer, gpu, bdf, target):
    """ecc.uncorrected: no memory error that could not be put right."""
    table, name = c.table["health"]["ecc_uncorrected"], looks.named(c, bdf, gpu)
    more = {"threshold": {"volatile": table["volatile"], "sram_aggregate": table["sram_aggregate"]}}
    more["threshold_source"] = table["source"]
    row = _without_ecc(answer, gpu, name)
    if row is not None:
        return row
    volatile = looks.number(looks.part(gpu, "ecc", "volatile", "uncorrected"))
    sram = looks.number(looks.part(gpu, "ecc", "sram_aggregate_uncorrected"))
    exceeded = looks.part(gpu, "ecc", "sram_threshold_exceeded")
    total = looks.number(looks.part(gpu, "ecc", "aggregate", "uncorrected"))
    more["measured"] = {"volatile": volatile, "aggregate": total, "sram_aggregate": sram, "sram_threshold": exceeded}
    if sram is not None and not (sram <= table["sram_aggregate"]):
        message = "%s: %d uncorrectable errors in SRAM in its life, more than %d: have it replaced"
        return answer("FAIL", message % (name, sram, table["sram_aggregate"]), "SRAM_ERRORS", action="rma", **more)
    if exceeded is True:
        message = "%s: the errors in SRAM have crossed NVIDIA's threshold: take it out of service" % name
        return answer("FAIL", message, "SRAM_THRESHOLD", action="isolate", **more)
    if volatile is not None and not (volatile <= table["volatile"]):
        message = "%s: %d uncorrectable memory errors since the driver was loaded: reset it" % (name, volatile)
        return answer("FAIL", message, "UNCORRECTED", action="reset_gpu", **more)
    if volatile is None:
        message = "the memory errors of %s cannot be read%s" % (name, looks.reason(gpu, "ecc.volatile", "ecc"))
        return answer("UNKNOWN", message, "NOT_READABLE", **more)
    exceeded = exceeded if isinstance(exceeded, bool) else None
    for key, value in (("ecc.sram_aggregate_uncorrected", sram), ("ecc.sram_threshold_exceeded", exceeded)):
        if value is None and not looks.not_there(gpu, key, "ecc.sram", "ecc.aggregate"):
            message = "the errors in SRAM of %s cannot be read%s" % (name, looks.reason(gpu, key, "ecc.sram"))
            return answer("UNKNOWN", message, "NOT_READABLE", **more)
    current, pending = looks.part(gpu, "ecc", "current"), looks.part(gpu, "ecc", "pending")
    if isinstance(pending, bool) and pending != current:
        message = "%s: ECC will be switched off by the next reboot" % name
        return answer("WARN", message, "ECC_PENDING", **more)
    return answer("PASS", "%s: no uncorrectable memory error" % name, **more)


def ecc_corrected(c, answer, gpu, bdf, target):
    """ecc.corrected: errors that were put right do not come quickly. No number of them alone is a fault."""
    table, name = c.table["health"]["ecc_corrected"], looks.named(c, bdf, gpu)
    more = {"threshold": {"since_last_run": table["since_last_run"]}, "threshold_source": table["source"]}
    row = _without_ecc(answer, gpu, name)
    if row is not None:
        return row
    volatile = looks.number(looks.part(gpu, "ecc", "volatile", "corrected"))
    total = looks.number(looks.part(gpu, "ecc", "aggregate", "corrected"))
    more["measured"] = {"volatile": volatile, "aggregate": total}
    if volatile is None:
        message = "the corrected errors of %s cannot be read%s" % (name, looks.reason(gpu, "ecc.volatile", "ecc"))
        return answer("UNKNOWN", message, "NOT_READABLE", **more)
    before = _before(c, "ecc.corrected", target)
    old = looks.number(looks.part(before, "volatile"))
    same_boot = looks.part(c.previous, "host", "boot_id") == looks.part(c.facts, "boot_id") is not None
    # Since the driver was loaded anew all of them are new.
    new = volatile - old if same_boot and old is not None and old <= volatile else volatile
    more["measured"]["new"] = new
    if not (new <= table["since_last_run"]):
        since = "the last run" if new != volatile else "the driver was loaded"
        message = "%s: %d corrected memory errors since %s, more than %d: watch it"
        return answer("WARN", message % (name, new, since, table["since_last_run"]), "CORRECTED", **more)
    return answer("PASS", "%s: %s" % (name, looks.counted(int(new), "new corrected memory error")), **more)


def _without_ecc(answer, gpu, name):
    """Return the check for a GPU whose errors nobody counts, None where they are."""
    current = looks.part(gpu, "ecc", "current")
    if current is True:
        return None
    if current is None and looks.not_there(gpu, "ecc", "ecc.current"):
        return answer("SKIP", "%s has no ECC: errors in its memory go unnoticed" % name)
    if current is False:
        return answer("WARN", "ECC is off on %s: errors in its memory go unnoticed" % name, "ECC_OFF")
    message = "whether %s has ECC on is not known%s" % (name, looks.reason(gpu, "ecc.current", "ecc"))
    return answer("UNKNOWN", message, "NOT_READABLE")


def _before(c, identity, target):
    """Return what the same check measured in the last run."""
    for row in looks.rows(c.previous, "checks") or ():
        if row.get("id") == identity and row.get("target") == target:
            return row.get("measured")
    return None


def row_remap(c, answer, gpu, bdf, target):
    """row_remap: no bad row of memory waits to be replaced, and none could not be. Older GPUs retire pages."""
    table, name = c.table["health"]["row_remap"], looks.named(c, bdf, gpu)
    remap, pages = gpu.get("row_remap"), gpu.get("retired_pages")
    more = {"threshold": {"uncorrected": table["uncorrected"], "retired_pages": table["retired_pages"]}}
    more.update(threshold_source=table["source"], measured={"row_remap": remap, "retired_pages": pages})
    if isinstance(remap, dict):
        uncorrected = looks.number(remap.get("uncorrected"))
        if remap.get("failure") is True:
            message = "%s: a bad row of its memory could not be replaced: take it out of service" % name
            return answer("FAIL", message, "REMAP_FAILURE", action="isolate", **more)
        if uncorrected is not None and not (uncorrected < table["uncorrected"]):
            message = "%s: %d rows of its memory were replaced, all there are to spare" % (name, uncorrected)
            return answer("FAIL", message, "REMAP_FULL", action="isolate", **more)
        if remap.get("pending") is True:
            message = "%s: a bad row of its memory is replaced at the next reset: reset it" % name
            return answer("FAIL", message, "REMAP_PENDING", action="reset_gpu", **more)
        if remap.get("failure") is not False or remap.get("pending") is not False or uncorrected is None:
            message = "the state of %s's rows of memory is not known" % name
            return answer("UNKNOWN", message, "NOT_READABLE", **more)
        return answer("PASS", "%s: no row of its memory waits to be replaced" % name, **more)
    if isinstance(pages, dict):
        counts = [looks.number(pages.get(key)) for key in ("single_bit", "double_bit")]
        if pages.get("pending") is True:
            message = "%s: a bad page of its memory is retired at the next reboot: reboot" % name
            return answer("FAIL", message, "RETIREMENT_PENDING", action="reboot", **more)
        if None in counts or pages.get("pending") is not False:
            return answer("UNKNOWN", "the retired pages of %s are not known" % name, "NOT_READABLE", **more)
        if not (sum(counts) < table["retired_pages"]):
            message = "%s: %d pages of its memory are retired, hardly any are left to spare" % (name, sum(counts))
            return answer("FAIL", message, "RETIRED_PAGES", action="isolate", **more)
        return answer("PASS", "%s: %s" % (name, looks.counted(int(sum(counts)), "retired page")), **more)
    if looks.part(gpu, "mig", "current") is True:
        return answer("SKIP", "%s is in MIG mode: what became of bad rows cannot be asked" % name, **more)
    if looks.virtual(gpu):
        return answer("SKIP", "%s is a part of a GPU: its hypervisor knows of bad rows" % name, **more)
    if looks.not_there(gpu, "row_remap") and looks.not_there(gpu, "retired_pages"):
        return answer("SKIP", "%s neither replaces rows nor retires pages of its memory" % name, **more)
    message = "what became of bad rows of %s is not known%s" % (name, looks.reason(gpu, "row_remap", "retired_pages"))
    return answer("UNKNOWN", message, "NOT_READABLE", **more)


# --- links -----------------------------------------------------------------------------------------------------------


def pcie(c, answer, gpu, bdf, target):
    """pcie.max: GPU and slot together can do what the GPU can. How fast the link runs is judged under load alone."""
    name, link = looks.named(c, bdf, gpu), gpu.get("pcie")
    keys = ("gen", "gen_max", "gen_max_gpu", "width", "width_max", "width_max_gpu", "replays")
    measured = {key: looks.part(link, key) for key in keys}
    wanted = looks.reference(c, bdf, "pcie") or {}
    more = {"measured": measured}
    if looks.virtual(gpu):
        return answer("SKIP", "%s is a part of a GPU, its link is not its own" % name, **more)
    most = {key: looks.number(looks.part(link, key + "_max")) for key in ("gen", "width")}
    can = {key: looks.number(looks.part(link, key + "_max_gpu")) for key in ("gen", "width")}
    # NVML does not tell how many lanes the GPU alone could use; the kernel does.
    can["width"] = can["width"] or _lanes(c, bdf)
    target_value = {key: looks.number(wanted.get(key)) or can[key] for key in ("gen", "width")}
    more.update(threshold=target_value, threshold_source=_source(wanted) or "what the GPU says that it can do")
    if None in most.values() or 0 in most.values():
        if looks.not_there(gpu, "pcie", "pcie.gen_max", "pcie.width_max"):
            return answer("SKIP", "%s has no PCIe link that could be asked" % name, **more)
        message = "what the PCIe link of %s can do is not known%s" % (name, looks.reason(gpu, "pcie", "pcie.gen_max"))
        return answer("UNKNOWN", message, "NOT_READABLE", **more)
    if None in target_value.values():
        message = "%s: a link of generation %d with %d lanes, and nothing to compare with"
        return answer("WARN", message % (name, most["gen"], most["width"]), "NO_REFERENCE", **more)
    if not (most["width"] >= target_value["width"]):
        words = "%s has %d of %d PCIe lanes: look at slot, riser and the BIOS"
        message = words % (name, most["width"], target_value["width"])
        if looks.passed_through(gpu):
            message = "%s shows %d of %d PCIe lanes through the port that its virtual machine has: look at the host"
            message %= (name, most["width"], target_value["width"])
            return answer("WARN", message, "LINK_NARROW", **more)
        # On a board of its maker all lanes are wired; in a slot somebody may have meant it.
        if looks.reference(c, bdf, "nvlink") and not _bridged(c, bdf):
            return answer("FAIL", message, "LINK_NARROW", action="isolate", **more)
        return answer("WARN", message, "LINK_NARROW", **more)
    if not (most["gen"] >= target_value["gen"]):
        message = "%s: the slot has PCIe generation %d, the GPU can do %d: copies to it will be slower"
        return answer("WARN", message % (name, most["gen"], target_value["gen"]), "LINK_SLOW", **more)
    message = "%s: PCIe generation %d with %d lanes" % (name, most["gen"], most["width"])
    return answer("PASS", message, **more)


def _lanes(c, bdf):
    """Return how many lanes the kernel says that the function at an address has, None where it does not."""
    found = [gpu for gpu in looks.on_bus(c) or () if gpu.get("bus") == bdf]
    return looks.number(looks.part(found[0], "link", "width_max")) if found else None


def _source(row):
    value = looks.part(row, "source")
    return "products.json: %s" % gates.text(value) if value else None


def _bridged(c, bdf):
    return looks.part(looks.reference(c, bdf, "nvlink"), "bridge") is True


def nvlink(c, answer, gpu, bdf, target):
    """nvlink: every link that the product has is up."""
    name, links = looks.named(c, bdf, gpu), looks.rows(gpu, "nvlink")
    wanted = looks.reference(c, bdf, "nvlink")
    count = looks.number(looks.part(wanted, "links"))
    switches = bool(looks.part(c.facts, "nvswitches"))
    table = c.table["health"]["nvlink"]
    up = sum(1 for link in links or () if link.get("active") is True)
    down = [link.get("link") for link in links or () if link.get("active") is False]
    errors, unread = _link_errors(gpu, links or ())
    more = {"measured": {"active": up, "inactive": down, "errors": errors}, "threshold_source": table["source"]}
    more["threshold"] = {"links": count, "errors": table["errors"]}
    if looks.virtual(gpu) or looks.part(gpu, "mig", "current") is True:
        return answer("SKIP", "%s is divided: its parts do not work across NVLink" % name, **more)
    bridged, unlinked = _bridged(c, bdf), looks.unlinked(c, gpu)
    expected = (count if not bridged else None) or (len(links or ()) if switches else None)
    # What it was wired with stayed outside: then it is for the hypervisor's people to say what should be up.
    outside = expected if unlinked else None
    expected = None if unlinked else expected
    if not links:
        if looks.not_there(gpu, "nvlink") or (links == [] and not looks.part(gpu, "why", "nvlink")):
            if expected:
                message = "%s shows no NVLink, and its product has %d" % (name, expected)
                return answer("FAIL", message, "NVLINK_INACTIVE", action="reset_gpu", **more)
            if switches and count is None:
                message = "%s shows no NVLink, though there are NVSwitches; what its product has is not known" % name
                return answer("WARN", message, "NVLINK_INACTIVE", **more)
            if outside:
                return _without_its_neighbours(c, answer, name, more)
            return answer("SKIP", "%s has no NVLink" % name, **more)
        message = "the NVLinks of %s are not known%s" % (name, looks.reason(gpu, "nvlink"))
        return answer("UNKNOWN", message, "NOT_READABLE", **more)
    if any(not isinstance(link.get("active"), bool) for link in links):
        return answer("UNKNOWN", "the state of an NVLink of %s cannot be read" % name, "NOT_READABLE", **more)
    if expected and not (up >= expected):
        message = "%s: %d of %d NVLinks are up: reset it; look at the fabric manager first" % (name, up, expected)
        return answer("FAIL", message, "NVLINK_INACTIVE", action="reset_gpu", **more)
    if up == 0 and outside:
        return _without_its_neighbours(c, answer, name, more)
    if up == 0:
        return answer("SKIP", "no NVLink of %s is up: no bridge is mounted" % name, **more)
    if outside and not (up >= outside):
        message = "%s: %d of %d NVLinks are up; whether more should be, the machine below knows" % (name, up, outside)
        return answer("WARN", message, "NVLINK_INACTIVE", **more)
    if down:
        message = "%s: %d of %d NVLinks are up; whether a bridge is loose is not known" % (name, up, len(links))
        return answer("WARN", message, "NVLINK_INACTIVE", **more)
    if unread:
        message = "%s: all %d NVLinks are up; their errors cannot be read" % (name, up)
        return answer("WARN", message, "NVLINK_ERRORS_UNREAD", **more)
    if errors is None:
        return answer("PASS", "%s: all %d NVLinks are up; it does not count their errors" % (name, up), **more)
    if not (errors < table["errors"]):
        message = "%s: %d errors on its NVLinks since the driver was loaded; whether more come is judged under load"
        return answer("WARN", message % (name, errors), "NVLINK_ERRORS", **more)
    return answer("PASS", "%s: all %d NVLinks are up" % (name, up), **more)


def _without_its_neighbours(c, answer, name, more):
    """Judge a GPU whose links lead out of this machine, and none of which is up."""
    if len(looks.nvml_gpus(c) or ()) > 1:
        message = "no NVLink of %s is up: the GPUs of this virtual machine work together across the bus alone" % name
        return answer("WARN", message, "NVLINK_INACTIVE", **more)
    message = "no NVLink of %s is up: no GPU or NVSwitch that it could reach is in this machine"
    return answer("SKIP", message % name, **more)


def _link_errors(gpu, links):
    """Return the sum of the counters that there are, and the numbers of active links whose counters cannot be read;
    a GPU that has no such counters has nothing that could not be read."""
    counters, unread = [], []
    for link in links:
        values = link.get("errors")
        keys = ["nvlink.%s.errors.%s" % (link.get("link"), key) for key in values] if isinstance(values, dict) else []
        values = [looks.number(value) for value in values.values()] if isinstance(values, dict) else []
        values = [value for value in values if value is not None]
        counters += values
        if link.get("active") is True and not values and not looks.not_there(gpu, "nvlink.errors", *keys):
            unread.append(link.get("link"))
    return (sum(counters) if counters else None), unread


# --- heat and power --------------------------------------------------------------------------------------------------


def thermal(c, answer, gpu, bdf, target):
    """thermal: nothing slows the GPU down while it idles. What slows down one that works is no fault by itself."""
    name, reasons = looks.named(c, bdf, gpu), gpu.get("clocks_event_reasons")
    measured = {"reasons": reasons, "temperature": gpu.get("temperature"), "power_w": gpu.get("power_w")}
    if not isinstance(reasons, list):
        if looks.not_there(gpu, "clocks_event_reasons"):
            return answer("SKIP", "%s does not tell what slows it down" % name, measured=measured)
        message = "what slows %s down is not known%s" % (name, looks.reason(gpu, "clocks_event_reasons"))
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    works = looks.works(gpu)
    measured["works"] = works
    found = [SLOWED[word] for word in SLOWED if word in reasons]
    if found:
        # The general word says nothing where a special one is there too.
        found = found[1:] if len(found) > 1 and "hw_slowdown" in reasons else found
        if works:
            message = "%s: %s while somebody works on it: look at cooling and power" % (name, " and ".join(found))
            return answer("WARN", message, "SLOWDOWN", measured=measured)
        message = "%s: %s although nothing runs on it: look at cooling and power" % (name, " and ".join(found))
        return answer("FAIL", message, "SLOWDOWN", action="isolate", measured=measured)
    if "sw_thermal" in reasons:
        when = "while somebody works on it" if works else "although nothing runs on it"
        message = "%s: the driver slows it down for heat %s: look at cooling" % (name, when)
        return answer("WARN", message, "SLOWDOWN", measured=measured)
    told = [word for word in reasons if word not in HARMLESS]
    if told:
        message = "%s: slowed down for a reason that is not known here (%s)" % (name, looks.names(told))
        return answer("WARN", message, "SLOWDOWN", measured=measured)
    return answer("PASS", "%s: neither heat nor power slows it down" % name, measured=measured)


# --- daemons ---------------------------------------------------------------------------------------------------------


def persistence(c, answer):
    """persistence: the driver stays set up while nobody computes."""
    gpus = [gpu for gpu in looks.nvml_gpus(c) or () if not gpu.get("lost")]
    if not gpus:
        return answer("UNKNOWN", "the driver tells of no GPUs", "NOT_OBSERVED")
    told = {str(gpu.get("bdf")): gpu.get("persistence") for gpu in gpus}
    measured = {"persistence": told}
    if all(value is None for value in told.values()) and all(looks.not_there(gpu, "persistence") for gpu in gpus):
        return answer("SKIP", "these GPUs have no persistence mode", measured=measured)
    off = sorted(bdf for bdf, value in told.items() if value is False)
    unknown = sorted(bdf for bdf, value in told.items() if not isinstance(value, bool))
    if off:
        unit = looks.part(c.facts, "units", "nvidia-persistenced")
        stopped = "nvidia-persistenced is not running: start it" if unit else "start nvidia-persistenced"
        message = "persistence is off on %s: each first job is slow, and counters are lost between jobs; %s"
        return answer("WARN", message % (looks.names(off), stopped), "PERSISTENCE_OFF", measured=measured)
    if unknown:
        message = "whether persistence is on is not known for %s" % looks.names(unknown)
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    return answer("PASS", "persistence is on", measured=measured)


def fabric_manager(c, answer):
    """fabricmanager: where GPUs are joined by NVSwitch the fabric is set up, by a daemon of the driver's version."""
    gpus = [gpu for gpu in looks.nvml_gpus(c) or () if not gpu.get("lost")]
    switches = looks.rows(c.facts, "nvswitches") or []
    joined = {str(gpu.get("bdf")): gpu["fabric"] for gpu in gpus if isinstance(gpu.get("fabric"), dict)}
    joined = {bdf: fabric for bdf, fabric in joined.items() if fabric.get("state") != "not_supported"}
    states = {bdf: fabric.get("state") for bdf, fabric in joined.items()}
    unit = looks.part(c.facts, "units", "nvidia-fabricmanager")
    active = looks.part(unit, "active")
    version, module = _fabric_manager_version(c), looks.part(c.facts, "driver", "loaded_version")
    measured = {"nvswitches": len(switches), "states": states, "active": active, "version": version}
    if not gpus and looks.part(c.observation, "nvml", "gpus") is None:
        return answer("UNKNOWN", "the driver tells of no GPUs", "NOT_OBSERVED", measured=measured)
    if not switches and not joined:
        return answer("SKIP", "no NVSwitch joins the GPUs of this host", measured=measured)
    broken = sorted(
        bdf
        for bdf, fabric in joined.items()
        if fabric.get("state") == "completed" and (fabric.get("status") != 0 or _unhealthy(fabric))
    )
    if broken:
        message = "the fabric of %s is not healthy: reset all GPUs, or reboot" % looks.names(broken)
        return answer("FAIL", message, "FABRIC_UNHEALTHY", action="reboot", measured=measured)
    if module and version and version != module:
        message = "the fabric manager is of version %s, the driver of %s: it does not start" % (version, module)
        return answer("FAIL", message, "FABRIC_MANAGER_VERSION", measured=measured)
    if active is False and not (joined and all(state == "completed" for state in states.values())):
        message = "nvidia-fabricmanager is not running; without it CUDA does not start"
        return answer("FAIL", message, "FABRIC_MANAGER_STOPPED", measured=measured)
    waiting = sorted(bdf for bdf, state in states.items() if state != "completed")
    if waiting:
        message = "the fabric of %s is not set up (%s): look at the fabric manager's log"
        words = message % (looks.names(waiting), states[waiting[0]])
        return answer("FAIL", words, "FABRIC_NOT_READY", measured=measured)
    if active is False:
        message = "nvidia-fabricmanager is not running, though the fabric is set up: start it"
        return answer("WARN", message, "FABRIC_MANAGER_STOPPED", measured=measured)
    if active is None and not joined:
        if looks.container(c):
            message = "in a container nobody can tell whether the fabric manager runs"
            return answer("WARN", message, "NOT_READABLE", measured=measured)
        if unit is None and looks.part(c.facts, "units") is not None:
            message = "there are %d NVSwitches and no nvidia-fabricmanager: install it" % len(switches)
            return answer("FAIL", message, "FABRIC_MANAGER_MISSING", measured=measured)
        message = "whether nvidia-fabricmanager runs is not known"
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    return answer("PASS", "the GPUs' fabric is set up", measured=measured)


def _unhealthy(fabric):
    return fabric.get("health_summary") in ("unhealthy", "limited_capacity")


def _fabric_manager_version(c):
    """Return the upstream version of the fabric manager's package, None where there is none."""
    packages = looks.part(c.facts, "driver", "packages") or {}
    for name, version in sorted(packages.items()):
        if re.match(r"(nvidia-fabricmanager|nvidia-fabric-manager|cuda-fabricmanager)(-\d+)?$", name):
            return str(version).rpartition(":")[2].partition("-")[0]
    return None


# --- self test -------------------------------------------------------------------------------------------------------


def self_test(table):
    """Feed the gates hosts that must be refused, and one that must not; return ``{what: True when they behaved}``."""
    counts = {"corrected": 0, "uncorrected": 0}
    ecc = {"current": True, "pending": True, "volatile": dict(counts), "aggregate": dict(counts)}
    ecc.update(sram_aggregate_uncorrected=0, sram_threshold_exceeded=False)
    good = {
        "bdf": "0000:01:00.0", "uuid": "GPU-1", "name": "A", "lost": False, "why": {}, "persistence": True,
        "mig": {"current": False}, "ecc": ecc, "recovery_action": "none", "retired_pages": None, "fabric": None,
        "row_remap": {"corrected": 0, "uncorrected": 0, "pending": False, "failure": False},
        "pcie": {"gen": 1, "gen_max": 5, "gen_max_gpu": 5, "width": 16, "width_max": 16, "width_max_gpu": 16},
        "nvlink": [{"link": 0, "active": True, "errors": {"replay": 0}}], "clocks_event_reasons": ["idle"],
    }  # fmt: skip

    def status(look, *path_and_value):
        gpu = copy.deepcopy(good)
        if path_and_value:
            *path, last, value = path_and_value
            place = gpu
            for key in path:
                place = place[key]
            place[last] = value
        c = types.SimpleNamespace(
            facts={"nvswitches": []}, observation={"nvml": {"gpus": [gpu]}}, expected={}, table=table, products={},
            devices=[], previous=None, kernel_log=None,
        )  # fmt: skip
        return look(c, looks.answers("self-test", TIER), gpu, gpu["bdf"], "GPU-1")["status"]

    def xids(**changes):
        entry = dict({"xid": 79, "bdf": "0000:01:00.0", "this_boot": True, "after_start": True}, **changes)
        return judge_xids({"source": "journal", "problem": "", "xids": [entry]})["status"]

    each = (recovery_action, ecc_uncorrected, ecc_corrected, row_remap, pcie, nvlink, thermal)
    return {
        "good_gpu_accepted": {status(look) for look in each} == {"PASS"},
        "uncorrected_error_rejected": status(ecc_uncorrected, "ecc", "volatile", "uncorrected", 1) == "FAIL",
        "nan_errors_are_unknown": status(ecc_uncorrected, "ecc", "volatile", "uncorrected", float("nan")) == "UNKNOWN",
        "missing_errors_are_unknown": status(ecc_uncorrected, "ecc", "volatile", "uncorrected", None) == "UNKNOWN",
        "pending_remap_rejected": status(row_remap, "row_remap", "pending", True) == "FAIL",
        "wanted_reset_rejected": status(recovery_action, "recovery_action", "reset") == "FAIL",
        "unknown_recovery_is_unknown": status(recovery_action, "recovery_action", None) == "UNKNOWN",
        "power_brake_rejected": status(thermal, "clocks_event_reasons", ["hw_power_brake"]) == "FAIL",
        "narrow_link_is_told": status(pcie, "pcie", "width_max", 8) == "WARN",
        "grave_xid_rejected": xids() == "FAIL" and xids(xid=99999) == "WARN",
        "earlier_xid_is_told": xids(after_start=False) == "WARN" and xids(this_boot=False) == "PASS",
        "unreadable_log_is_unknown": judge_xids({"source": "none", "problem": "", "xids": []})["status"] == "UNKNOWN",
    }
