# SPDX-License-Identifier: Apache-2.0
"""What the checks of tiers 0 to 2 share: how they are called, and what facts and observation say of the GPUs.

A look is a function ``look(c, answer, …)`` that returns one check, made with ``answer(status, message, …)``.
"""

from __future__ import annotations

import gates

MIB = 1 << 20
#: Words of NVML for what a GPU or its driver does not have. Anything else that could not be read is a fault.
NOT_THERE = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NOT_APPLICABLE_MIG")


def answers(identity, tier, target="host"):
    """Return what makes this check: ``answer(status, message, reason_code, …)``.

    SKIP is never required; its reason code is NOT_APPLICABLE where none is given.
    """

    def answer(status, message, reason_code=None, **more):
        if status == "SKIP":
            more.setdefault("required", False)
        code = reason_code or {"PASS": "OK", "SKIP": "NOT_APPLICABLE"}.get(status, status)
        return gates.check(identity, target, status, message, code, tier=tier, **more)

    return answer


def look_at_all(c, rows, tier):
    """Call all looks; one that breaks makes its check UNKNOWN and leaves the others alone.

    :param rows: tuples (check id, target, look, further arguments …)
    """
    found = []
    for identity, target, look, *arguments in rows:
        answer = answers(identity, tier, target)
        try:
            found.append(look(c, answer, *arguments))
        except Exception as error:  # what it was given is malformed in a way nobody thought of: that is no PASS
            words = "this could not be judged: %s: %s" % (type(error).__name__, error)
            found.append(answer("UNKNOWN", words, "ERROR"))
    return found


def part(value, *keys):
    """Return what lies below some keys, None where anything on the way is missing or no dictionary."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def rows(value, *keys):
    """Return the dictionaries of a list below some keys, None where there is no list."""
    value = part(value, *keys)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else None


def number(value):
    """Return a count or quantity that can be compared, None for anything else, a negative number among it."""
    return value if gates.is_number(value) and value >= 0 else None


def is_name(value):
    """Tell whether a value is text that says something."""
    return isinstance(value, str) and bool(value)


def names(words, most=5):
    """Name a few and count the rest."""
    words = [gates.text(word, 160) for word in words]
    return ", ".join(words[:most]) + (" and %d more" % (len(words) - most) if len(words) > most else "")


def counted(count, noun):
    """Return ``1 GPU`` and ``2 GPUs``."""
    return "%d %s%s" % (count, noun, "" if count == 1 else "s")


def why_unknown(facts, *keys):
    """Return in brackets why a fact is not known, as far as the facts tell."""
    unknown = part(facts, "unknown") or {}
    reasons = [gates.text(unknown[key]) for key in keys if unknown.get(key)]
    return " (%s)" % reasons[0] if reasons else ""


# --- the host --------------------------------------------------------------------------------------------------------


def container(c):
    """Return the kind of container that this is; its kernel and driver are somebody else's."""
    return part(c.facts, "container")


def kernels(c):
    """Return the releases of the running kernel and of the one that boots next; None where one is not known."""
    found = rows(c.facts, "kernels") or []
    running = next((row.get("release") for row in found if row.get("running")), None)
    following = next((row.get("release") for row in found if row.get("next_boot")), None)
    return running or part(c.facts, "kernel"), following


def planned_driver(c):
    """Return the planned driver where this project installs it, else None."""
    driver = part(c.expected, "driver")
    return driver if isinstance(driver, dict) and driver.get("source") != "preinstalled" else None


def accepts_hardware(c):
    """Tell whether a person has said that other hardware than before is meant."""
    return part(c.expected, "accept_hardware") is True or part(c.settings, "accept_hardware") is True


# --- the GPUs --------------------------------------------------------------------------------------------------------


def on_bus(c):
    """Return the facts' NVIDIA GPUs, None where the bus cannot be read."""
    return rows(c.facts, "gpus")


def off_the_bus(c):
    """Tell whether GPUs that are there are not to be seen on the bus: in WSL they are Windows', and NVML alone shows
    them."""
    return container(c) == "wsl" and on_bus(c) == []


def bound_elsewhere(gpu):
    """Return the name of the driver that has this GPU instead of NVIDIA's, else None."""
    driver = gpu.get("driver")
    return driver if driver and not str(driver).startswith("nvidia") else None


def nvml_gpus(c):
    """Return the GPUs that NVML shows, None where it did not answer."""
    return rows(c.observation, "nvml", "gpus")


def seen(c, bdf):
    """Return what NVML says of one GPU, or None."""
    return next((gpu for gpu in nvml_gpus(c) or () if gpu.get("bdf") == bdf), None)


def targets(c):
    """Return ``[(PCI address, target)]`` of the GPUs that must be well: on the bus or known to the driver.

    Left out are those that another driver has, and in a container those that were not given to it. The target is the
    UUID; of a GPU that does not tell it the one known from before, else the address. Without any GPU there is one row
    for the host, so that nobody takes an empty list for a healthy one.
    """
    shown = nvml_gpus(c) or []
    addresses = {bdf for bdf, _ in _addressed(shown)}
    if not (container(c) and addresses):
        addresses |= {gpu["bus"] for gpu in on_bus(c) or () if is_name(gpu.get("bus")) and not bound_elsewhere(gpu)}
    uuids = {}
    for source in (rows(c.known, "gpus"), rows(c.observation, "smi", "gpus"), shown):
        uuids.update({bdf: gates.text(gpu["uuid"], 80) for bdf, gpu in _addressed(source) if is_name(gpu.get("uuid"))})
    return [(bdf, uuids.get(bdf) or gates.text(bdf, 80)) for bdf in sorted(addresses, key=str)] or [(None, "host")]


def _addressed(gpus):
    return [(gpu["bdf"], gpu) for gpu in gpus or () if is_name(gpu.get("bdf"))]


def product(c, bdf):
    """Return the product's name by which the tables know the GPU at an address, or None."""
    for gpu in rows(c.expected, "gpus") or ():
        if gpu.get("bus") == bdf and gpu.get("product"):
            return gpu["product"]
    return next((device.product for device in c.devices or () if device.bdf == bdf and device.product), None)


def reference(c, bdf, key):
    """Return what the table of products says of the GPU at an address under ``pcie`` or ``nvlink``, or None."""
    table = part(c.products, "products")
    row = part(table if isinstance(table, dict) else c.products, product(c, bdf))
    value = part(row, key)
    return value if isinstance(value, dict) else None


def named(c, bdf, gpu=None):
    """Return how a GPU is called in a message: ``the H100 SXM5 80GB at 0000:1b:00.0``."""
    return "the %s at %s" % (gates.text(product(c, bdf) or (gpu or {}).get("name") or "GPU", 80), gates.text(bdf, 40))


def not_there(gpu, *keys):
    """Tell whether a GPU, or its driver, does not have what one of these keys stands for (``ecc``, ``pcie.gen``)."""
    why = part(gpu, "why") or {}
    return any(str(why.get(key) or "").upper() in NOT_THERE for key in keys)


def reason(gpu, *keys):
    """Return in brackets why a value of a GPU is not known."""
    why = part(gpu, "why") or {}
    found = [gates.text(why[key], 120) for key in keys if why.get(key)]
    return " (%s)" % found[0] if found else ""


def processes(gpu):
    """Return the processes that NVML lists on a GPU, None where it does not list any."""
    return rows(gpu, "processes")


def works(gpu):
    """Tell whether a GPU computes for somebody at this moment, by what NVML says of it."""
    busy = number(part(gpu, "utilization", "gpu")) or 0
    return busy > 0 or any(row.get("kind") != "graphics" for row in processes(gpu) or ())


def passed_through(gpu):
    """Tell whether a hypervisor gives this whole GPU to a virtual machine: the slot is not the one that it sits in, and
    what it was wired with may be elsewhere."""
    return part(gpu, "virtualization") == "passthrough"


def unlinked(c, gpu):
    """Tell whether what this GPU is wired with need not be in this machine: there are no NVSwitches, and it was passed
    through or is the only one."""
    if part(c.facts, "nvswitches"):
        return False
    counts = [len(found or ()) for found in (on_bus(c), nvml_gpus(c), rows(c.expected, "gpus"))]
    return passed_through(gpu) or max(counts) <= 1


def virtual(gpu):
    """Tell whether this is a part of a GPU that a hypervisor hands out: bus, links and counters are not its own."""
    return part(gpu, "virtualization") == "vgpu"
