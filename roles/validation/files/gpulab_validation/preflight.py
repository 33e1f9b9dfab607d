# SPDX-License-Identifier: Apache-2.0
"""Tier 0: what can be said of a host without asking its driver. Facts in, checks out.

In the profile cpu only what also matters there is judged, and but for the GPUs themselves nothing is worse than WARN.
"""

from __future__ import annotations

import os
import types

import looks

TIER = 0
#: Programs that keep a GPU for the screen. They hold its devices as long as somebody may log in.
DISPLAY = {
    "Xorg", "Xorg.bin", "X", "Xwayland", "Xvnc", "xrdp", "x11vnc", "gnome-shell", "gnome-remote-desktop-daemon",
    "mutter", "muffin", "kwin_wayland", "kwin_x11", "plasmashell", "cinnamon", "weston", "sway", "wayfire", "labwc",
    "niri", "Hyprland", "gamescope", "xfwm4", "marco", "metacity", "compiz", "picom", "budgie-wm", "nvidia-settings",
}  # fmt: skip
#: Helpers of a session and greeters, and how the names of many begin; where the driver says that one computes, it does.
HELPERS = {
    "nautilus", "gjs", "kded5", "kded6", "ksmserver", "krunner", "ksplashqml", "ksystemstats", "systemsettings",
    "xwaylandvideobridge", "swaybg", "waybar", "xfdesktop", "slick-greeter", "unity-greeter",
}  # fmt: skip
HELPERS_BEGIN = (
    "gnome-", "gdm-", "gsd-", "mutter-", "xdg-desktop-portal", "plasma-", "kscreen", "polkit-kde-", "sddm", "lightdm",
    "xfce4-", "cinnamon-", "mate-", "budgie-", "cosmic-", "weston-", "evolution-alarm",
)  # fmt: skip
#: Daemons that the driver may list as if they computed; what works through them is listed by itself.
SERVANTS = {"nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nv-hostengine", "dcgm-exporter"}
#: The kernel cuts a process' name after so many letters, and the driver's list has such names.
NAME = 15


def required(c):
    """Return the pairs (check id, target) that the profile demands."""
    return [row[:2] for row in _looks(c)]


def checks(c):
    """Judge tier 0."""
    found = looks.look_at_all(c, _looks(c), TIER)
    if c.profile == "cpu":
        found = [row if row["id"] in ("host.gpu_evidence", "pci.inventory") else _warn_at_most(row) for row in found]
    return found


def judge_busy(c):
    """Make the check gpu.busy again, for what the driver knows of processes once it was asked."""
    return looks.look_at_all(c, [("gpu.busy", "host", busy)], TIER)[0]


def judge_evidence(c):
    """Make the check host.gpu_evidence again: in WSL the driver alone shows the GPUs."""
    return looks.look_at_all(c, [("host.gpu_evidence", "host", evidence)], TIER)[0]


def judge_inventory(c):
    """Make the check pci.inventory again, for the same reason."""
    return looks.look_at_all(c, [("pci.inventory", "host", inventory)], TIER)[0]


def _looks(c):
    found = [("host.gpu_evidence", "host", evidence)]
    if c.profile == "gpu" or looks.part(c.expected, "gpus") or looks.part(c.expected, "declared_gpus"):
        found.append(("pci.inventory", "host", inventory))
    if c.profile == "gpu":
        found += [("os.kernel_headers", "host", kernel_headers), ("os.nouveau", "host", nouveau)]
        found += [("os.secureboot", "host", secure_boot)]
    found += [("os.disk", "host", disk), ("os.pkgmgr", "host", package_manager)]
    found += [("os.pending_reboot", "host", pending_reboot)]
    if c.profile == "gpu":
        found += [("gpu.busy", "host", busy)]
    return found


def _warn_at_most(row):
    return dict(row, status="WARN") if row["status"] in ("FAIL", "UNKNOWN") else row


# --- the bus ---------------------------------------------------------------------------------------------------------


def evidence(c, answer):
    """host.gpu_evidence: whether the bus says what the profile says."""
    gpus = looks.on_bus(c)
    if gpus is None:
        words = "the PCI bus cannot be read, so nothing is known about GPUs%s" % looks.why_unknown(c.facts, "gpus")
        return answer("UNKNOWN", words, "PCI_UNREADABLE")
    found = sorted(str(gpu.get("bus")) for gpu in gpus)
    measured = {"nvidia_gpus": found}
    if c.profile == "cpu" and found:
        message = "an NVIDIA GPU is there (%s), but the profile is cpu: it was not used and nothing is claimed about it"
        return answer("WARN", message % looks.names(found, 8), "GPU_PRESENT", measured=measured)
    if c.profile == "gpu" and looks.off_the_bus(c):
        return _evidence_of_the_driver(c, answer)
    if c.profile == "gpu" and not found:
        others = looks.names([row.get("name") or "a GPU of another vendor" for row in c.facts.get("other_gpus") or ()])
        message = "the profile is gpu, but the PCI bus shows no NVIDIA GPU" + (" (only %s)" % others if others else "")
        return answer("FAIL", message, "NO_GPU", measured=measured)
    message = "%s on the PCI bus, profile %s" % (looks.counted(len(found), "NVIDIA GPU"), c.profile)
    return answer("PASS", message, measured=measured)


def _evidence_of_the_driver(c, answer):
    """Judge a Linux in Windows: the bus never shows the GPU there, so what the driver shows counts."""
    gpus = looks.nvml_gpus(c)
    if gpus is None:
        words = "in WSL the bus shows no GPU, and the driver has not told of any"
        return answer("UNKNOWN", words, "NOT_OBSERVED", measured={"nvidia_gpus": []})
    measured = {"nvidia_gpus": sorted(str(gpu.get("bdf")) for gpu in gpus)}
    if not gpus:
        words = "the profile is gpu, but neither the bus nor Windows' driver shows an NVIDIA GPU"
        return answer("FAIL", words, "NO_GPU", measured=measured)
    words = "%s of Windows, as its driver says; in WSL the bus shows none" % looks.counted(len(gpus), "NVIDIA GPU")
    return answer("PASS", words, measured=measured)


def inventory(c, answer):
    """pci.inventory: the GPUs on the bus are those that the plan was made for and that the inventory declares."""
    gpus = looks.on_bus(c)
    if gpus is None:
        message = "the PCI bus cannot be read%s" % looks.why_unknown(c.facts, "gpus")
        return answer("UNKNOWN", message, "PCI_UNREADABLE")
    planned = looks.rows(c.expected, "gpus")
    if c.profile == "gpu" and looks.off_the_bus(c):
        gpus = looks.nvml_gpus(c)
        if gpus is None:
            message = "in WSL the bus shows no GPU, and the driver has not told of any"
            return answer("UNKNOWN", message, "NOT_OBSERVED")
        gpus = [{"bus": gpu.get("bdf"), "device": None} for gpu in gpus]
        # The plan was made from the bus, which shows none here either; NVML has no PCI number to compare with.
        planned = [dict(gpu, device=None) for gpu in planned or ()] or None
    now = {gpu.get("bus"): gpu for gpu in gpus}
    declared = looks.part(c.expected, "declared_gpus")
    declared = declared if isinstance(declared, list) else None
    measured = {"gpus": sorted("%s %s" % (bus, gpu.get("device")) for bus, gpu in now.items())}
    threshold = {"planned": len(planned) if planned is not None else None, "declared": declared}
    more = {"measured": measured, "threshold": threshold}
    if planned is not None:
        row = _against_plan(c, answer, now, {gpu.get("bus"): gpu for gpu in planned}, more)
        if row is not None:
            return row
    if declared is not None:
        row = _against_declaration(c, answer, now, declared, planned or (), more)
        if row is not None:
            return row
    if planned is None and declared is None:
        known = looks.rows(c.known, "gpus")
        if known is None:
            message = "%s on the bus, and nothing to compare with: neither plan nor inventory says what there should be"
            return answer("WARN", message % looks.counted(len(now), "GPU"), "NO_INVENTORY", **more)
        row = _against_plan(c, answer, now, {gpu.get("bdf"): gpu for gpu in known}, more)
        if row is not None:
            return row
    return answer("PASS", "%s on the bus, as planned" % looks.counted(len(now), "GPU"), **more)


def _against_plan(c, answer, now, wanted, more):
    """Compare by address; None where all is as planned."""
    missing = sorted(set(wanted) - set(now), key=str)
    added = sorted(set(now) - set(wanted), key=str)
    other = sorted(
        bus
        for bus in set(now) & set(wanted)
        if wanted[bus].get("device") and now[bus].get("device") != wanted[bus]["device"]
    )
    accepted = looks.accepts_hardware(c)
    said = []
    if missing:
        said.append("missing: %s" % looks.names("%s (%s)" % (bus, _name_of(wanted[bus])) for bus in missing))
    if added:
        said.append("not planned: %s" % looks.names(added))
    if other:
        said.append("another model than planned: %s" % looks.names(other))
    if not said:
        return None
    count = "%d of %d planned GPUs are on the bus" % (len(set(now) & set(wanted)), len(wanted))
    words = "%s; %s" % (count, "; ".join(said))
    code = "GPU_MISSING" if missing else "GPU_ADDED" if added else "GPU_CHANGED"
    if accepted:
        return answer("WARN", words + "; acknowledged", code, **more)
    if missing:
        hint = "look at the kernel's log for a GPU that fell off the bus; a reboot may bring it back, else it is broken"
        return answer("FAIL", "%s; %s" % (words, hint), code, action="reboot", **more)
    return answer("FAIL", words + "; plan the host again if this is meant", code, **more)


def _name_of(gpu):
    return gpu.get("product") or gpu.get("name") or gpu.get("device") or "GPU"


def _against_declaration(c, answer, now, declared, planned, more):
    """Compare with the names that the inventory gives; None where they agree."""
    if len(declared) != len(now):
        words = "the inventory declares %s, the bus shows %s" % (
            looks.counted(len(declared), "GPU"),
            looks.counted(len(now), "GPU"),
        )
        missing = len(now) < len(declared)
        code = "GPU_MISSING" if missing else "GPU_ADDED"
        if looks.accepts_hardware(c):
            return answer("WARN", words + "; acknowledged", code, **more)
        return answer("FAIL", words, code, action="reboot" if missing else "none", **more)
    found = [gpu.get("product") for gpu in planned if gpu.get("bus") in now]
    if found and None not in found and not _fit(declared, found):
        words = "the inventory declares %s, the bus shows %s" % (looks.names(declared, 8), looks.names(found, 8))
        return answer("WARN", words, "DECLARED_OTHER", **more)
    return None


def _fit(declared, products):
    """Tell whether each declared name stands for one of the products: all its words are in the product's name.

    A PCI number is not compared, for which product it means is known to the control node alone.
    """
    left = [_words(name) for name in products]
    # The most telling names first: "H100" fits everything that "H100 PCIe" does.
    for words in sorted((_words(name) for name in declared if ":" not in str(name)), key=len, reverse=True):
        fitting = next((product for product in left if words <= product), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True


def _words(name):
    return set(str(name).lower().split())


# --- the kernel ------------------------------------------------------------------------------------------------------


def kernel_headers(c, answer):
    """os.kernel_headers: what a module is built with is there for the kernel that runs and for the next one."""
    if looks.container(c):
        return answer("SKIP", "in a container (%s): the kernel is its host's" % looks.container(c))
    listed = looks.rows(c.facts, "kernels")
    running, following = looks.kernels(c)
    if not listed or not running:
        return answer("UNKNOWN", "the kernels are not known%s" % looks.why_unknown(c.facts, "kernel"), "NOT_READABLE")
    modules = looks.part(c.facts, "driver", "modules") or {}
    if modules and not looks.part(c.facts, "driver", "dkms") and looks.part(c.facts, "driver", "source") != "runfile":
        return answer("SKIP", "the driver's module comes ready-made, nothing is built on this host")
    has = {row.get("release"): row.get("headers") for row in listed}
    # Where nobody knows what boots next, each kernel that can be booted may.
    wanted = [following] if following else [row.get("release") for row in listed if row.get("image")]
    wanted = list(dict.fromkeys([running, *wanted]))
    lacking = [release for release in wanted if has.get(release) is not True]
    measured = {"headers": {str(release): has.get(release) for release in wanted}}
    if not lacking:
        message = "headers are there for %s" % looks.names(wanted)
        return answer("PASS", message, measured=measured)
    words = "the headers that a module is built with are missing for %s" % looks.names(lacking)
    driverless = [release for release in lacking if release not in modules]
    if any(release in (running, following) for release in driverless):
        return answer(
            "FAIL", words + ", and so is the driver's module: install them", "HEADERS_MISSING", measured=measured
        )
    return answer(
        "WARN", words + ": the next change of the driver would not build", "HEADERS_MISSING", measured=measured
    )


def nouveau(c, answer):
    """os.nouveau: it is not loaded, and will not be."""
    found = looks.part(c.facts, "nouveau")
    loaded, blacklisted, inside = (looks.part(found, key) for key in ("loaded", "blacklisted", "in_initramfs"))
    measured = {"loaded": loaded, "blacklisted": blacklisted, "in_initramfs": inside}
    if not isinstance(loaded, bool):
        return answer("UNKNOWN", "whether nouveau is loaded is not known", "NOT_READABLE", measured=measured)
    if loaded:
        hint = "blacklist it, rebuild the initramfs and reboot"
        if blacklisted and inside is False:
            hint = "reboot; nothing loads nouveau then"
        message = "nouveau is loaded, so NVIDIA's module cannot have the GPU: %s" % hint
        return answer("FAIL", message, "NOUVEAU_LOADED", action="reboot", measured=measured)
    if looks.container(c):
        return answer(
            "SKIP", "not loaded; what the next boot loads is the container's host's affair", measured=measured
        )
    if inside is True:
        message = "nouveau is in the initramfs, which loads it at the next boot: blacklist it and rebuild the initramfs"
        return answer("FAIL", message, "NOUVEAU_IN_INITRAMFS", measured=measured)
    if blacklisted is False:
        message = "nothing keeps nouveau from being loaded at the next boot: blacklist it"
        return answer("WARN", message, "NOUVEAU_BACK", measured=measured)
    if blacklisted is not True or inside is not False:
        key = "nouveau.in_initramfs"
        words = "nouveau is not loaded; whether the next boot loads it is not known%s" % looks.why_unknown(c.facts, key)
        return answer("WARN", words, "NOT_READABLE", measured=measured)
    return answer("PASS", "nouveau is not loaded and will not be", measured=measured)


def secure_boot(c, answer):
    """os.secureboot: the firmware lets the driver's module be loaded."""
    if looks.container(c):
        return answer("SKIP", "in a container (%s): the module is its host's" % looks.container(c))
    on = looks.part(c.facts, "secure_boot")
    loaded = looks.part(c.facts, "driver", "loaded_version")
    running, following = looks.kernels(c)
    modules = looks.part(c.facts, "driver", "modules") or {}
    key = looks.part(c.facts, "machine_owner_key") or {}
    measured = {"secure_boot": on, "enrolled": key.get("enrolled"), "pending": key.get("pending")}
    if on is False:
        return answer("PASS", "Secure Boot is off", measured=measured)
    if on is not True:
        if loaded and running and running == following:
            message = (
                "whether Secure Boot is on is not known, but the module is loaded in the kernel that boots next too"
            )
            return answer("PASS", message, measured=measured)
        message = "whether Secure Boot is on is not known%s" % looks.why_unknown(c.facts, "secure_boot")
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    unread = [release for release in modules if looks.why_unknown(c.facts, "driver.modules.%s" % release)]
    kernels = [release for release in (running, following) if release in modules]
    unsigned = [release for release in dict.fromkeys(kernels) if not looks.part(modules, release, "signer")]
    measured["signers"] = {release: looks.part(modules, release, "signer") for release in dict.fromkeys(kernels)}
    known = [release for release in unsigned if release not in unread]
    if known:
        message = "Secure Boot is on, and the driver's module for %s is not signed: it will not be loaded"
        return answer("FAIL", message % looks.names(known), "NOT_SIGNED", measured=measured)
    if not loaded and key.get("certificate") and key.get("enrolled") is False:
        if key.get("pending"):
            message = "the machine owner key waits for its confirmation at the console; until then no module loads"
            return answer("FAIL", message, "KEY_PENDING", action="reboot", measured=measured)
        message = "Secure Boot does not know the key that the module is signed with: enroll it and reboot"
        return answer("FAIL", message, "KEY_NOT_ENROLLED", measured=measured)
    if unsigned or not kernels:
        message = "Secure Boot is on, and who signed the driver's module is not known"
        keys = ["driver.modules.%s" % release for release in unsigned]
        return answer("UNKNOWN", message + looks.why_unknown(c.facts, *keys), "NOT_READABLE", measured=measured)
    if not loaded:
        message = (
            "Secure Boot is on and the module is signed, but it is not loaded: whether its key is trusted is not known"
        )
        return answer("UNKNOWN", message, "NOT_LOADED", measured=measured)
    return answer("PASS", "Secure Boot is on, and the module is signed", measured=measured)


# --- disk, packages, reboot ------------------------------------------------------------------------------------------


def disk(c, answer):
    """os.disk: there is room for what this run writes, and for the next change."""
    free = looks.part(c.facts, "disk")
    base = looks.part(c.facts, "base_dir")
    table = c.table["identity"]["disk"]
    if not isinstance(free, dict) or not free:
        return answer("UNKNOWN", "how much space is free is not known", "NOT_READABLE")
    full, low, unknown, measured = [], [], [], {}
    for place, limits in table["mib"].items():
        path = base if place == "base_dir" else place
        if place == "/boot" and looks.container(c):
            continue
        value = looks.number(free.get(path)) if path else None
        measured[str(path)] = value
        if value is None:
            if limits["needed"]:
                unknown.append(str(path))
            continue
        words = "%s has %d MiB free, and %d MiB are needed"
        if not (value >= limits["fail"] * looks.MIB):
            full.append(words % (path, value // looks.MIB, limits["fail"]))
        elif not (value >= limits["warn"] * looks.MIB):
            low.append(words % (path, value // looks.MIB, limits["warn"]) + " for the next change")
    more = {"measured": measured, "threshold": table["mib"], "threshold_source": table["source"]}
    if full:
        return answer("FAIL", "; ".join(full) + ": remove what is not needed", "DISK_FULL", **more)
    if unknown:
        words = "how much space is free in %s is not known" % looks.names(unknown)
        return answer("UNKNOWN", words, "NOT_READABLE", **more)
    if low:
        return answer("WARN", "; ".join(low), "DISK_LOW", **more)
    return answer("PASS", "there is room on every file system that is written to", **more)


def package_manager(c, answer):
    """os.pkgmgr: nothing is half installed, and nobody has been at work for too long."""
    manager = looks.part(c.facts, "package_manager")
    kind = looks.part(manager, "kind")
    if not isinstance(manager, dict):
        return answer("UNKNOWN", "the state of the packages is not known", "NOT_READABLE")
    if kind is None:
        return answer("SKIP", "there is neither apt nor dnf here%s" % looks.why_unknown(c.facts, "packages"))
    broken, lock = manager.get("broken"), manager.get("lock")
    measured = {"broken": broken, "lock": lock}
    if not isinstance(broken, list):
        message = "the list of packages cannot be read%s" % looks.why_unknown(c.facts, "packages")
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    if broken:
        command = "dnf check" if kind == "dnf" else "dpkg --configure -a"
        words = "packages are half-configured: %s; let the package manager finish them: %s"
        return answer("FAIL", words % (looks.names(broken, 8), command), "PACKAGES_BROKEN", measured=measured)
    if lock:
        limit = c.table["identity"]["lock_seconds"]
        more = {"measured": measured, "threshold": {"seconds": limit["value"]}, "threshold_source": limit["source"]}
        age = looks.number(looks.part(lock, "age_s"))
        command = looks.part(lock, "command") or "a process"
        words = "%s (pid %s) holds the package manager's lock" % (command, looks.part(lock, "pid"))
        if age is not None and not (age <= limit["value"]):
            words += " for %d minutes: look whether it waits for an answer, and let it end" % (age // 60)
            return answer("FAIL", words, "LOCKED", **more)
        return answer("WARN", words + ": wait until it has ended", "LOCKED", **more)
    return answer(
        "PASS", "no package is half installed, and nobody holds the package manager's lock", measured=measured
    )


def pending_reboot(c, answer):
    """os.pending_reboot: nothing waits for a reboot."""
    needed = looks.part(c.facts, "reboot", "required")
    packages = looks.part(c.facts, "reboot", "packages") or []
    running, following = looks.kernels(c)
    measured = {"required": needed, "packages": packages, "running": running, "next_boot": following}
    if not isinstance(needed, bool):
        return answer(
            "UNKNOWN", "whether the system waits for a reboot is not known", "NOT_READABLE", measured=measured
        )
    if needed:
        of = " for %s" % looks.names(packages) if packages else ""
        message = "the system waits for a reboot%s: reboot when it suits" % of
        return answer("WARN", message, "REBOOT_PENDING", measured=measured)
    if following and running and following != running and not looks.container(c):
        message = "kernel %s runs and %s boots next: what was proven holds for the first alone" % (running, following)
        return answer("WARN", message, "REBOOT_PENDING", measured=measured)
    return answer("PASS", "nothing waits for a reboot", measured=measured)


# --- who works on the GPUs -------------------------------------------------------------------------------------------


def busy(c, answer):
    """gpu.busy: nobody computes on the GPUs, so nobody is disturbed and nobody disturbs."""
    processes = looks.rows(c.facts, "busy", "processes")
    listed = _lists_all(c)
    jobs, screens, idle = [], [], []
    for row in _holders(c, processes):
        kind = _kind_of(row, listed)
        (jobs if kind == "job" else screens if kind == "screen" else idle).append(row)
    shown = [{key: row.get(key) for key in ("pid", "user", "command", "age_s")} for row in [*jobs, *idle][:64]]
    measured = {"processes": shown}
    if jobs:
        message = "the GPUs are in use: %s; wait until this has ended"
        return answer("FAIL", message % looks.names(map(_told, jobs), 4), "BUSY", measured=measured)
    if processes is None or (looks.part(c.facts, "busy", "complete") is not True and not listed):
        why = looks.part(c.facts, "busy", "reason")
        message = "who works on the GPUs is not known%s" % (" (%s)" % why if why else "")
        return answer("UNKNOWN", message, "NOT_READABLE", measured=measured)
    if screens:
        names = dict.fromkeys(_program(row.get("command")) for row in screens)
        message = "a screen is driven by the GPU (%s): figures will be lower, and memory is shared" % looks.names(names)
        if idle:
            message += "; the GPUs are held by %s too" % looks.names(map(_told, idle), 4)
        return answer("WARN", message, "DISPLAY", measured=measured)
    if idle:
        message = "the GPUs are held by %s; nothing of it computes, as the driver says: figures may be lower"
        return answer("WARN", message % looks.names(map(_told, idle), 4), "HELD", measured=measured)
    gpus = looks.nvml_gpus(c)
    limit = c.table["identity"]["busy_memory_mib"]
    used = {gpu.get("bdf"): looks.number(looks.part(gpu, "memory", "used")) for gpu in gpus or () if _owns_memory(gpu)}
    above = [bdf for bdf, value in used.items() if value is not None and not (value <= limit["value"] * looks.MIB)]
    measured["memory_used"] = used
    more = {"measured": measured, "threshold": {"mib": limit["value"]}, "threshold_source": limit["source"]}
    if above:
        message = (
            "memory is in use on %s though no process shows: another container or virtual machine may compute there"
        )
        return answer("WARN", message % looks.names(above), "MEMORY_IN_USE", **more)
    return answer("PASS", "nobody computes on the GPUs", **more)


def _holders(c, processes):
    """Return one row for each process that the kernel or the driver tells of, with the ``kinds`` of work that the
    driver lists it for. In a container the driver's numbers may be those of another namespace: nothing is joined."""
    found = {row.get("pid"): dict(row, kinds=set()) for row in processes or ()}
    for gpu in looks.nvml_gpus(c) or ():
        for row in looks.processes(gpu) or ():
            pid = row.get("pid")
            key = ("driver", pid) if looks.container(c) else pid
            known = found.setdefault(key, {"pid": pid, "command": row.get("name"), "kinds": set()})
            known["command"] = known.get("command") or row.get("name")
            known["kinds"].add(str(row.get("kind")))
    return list(found.values())


def _kind_of(row, listed):
    """Say what a process is: a job, a screen, or idle.

    :param listed: whether the driver's list of processes is known to be whole, so that what is not in it holds devices
        and does not compute
    """
    name = _program(row.get("command"))
    if _is(name, DISPLAY) or row["kinds"] == {"graphics"}:
        return "screen"
    if row["kinds"]:
        return "idle" if _is(name, SERVANTS) else "job"
    if _is(name, HELPERS) or name.startswith(HELPERS_BEGIN):
        return "screen"
    return "idle" if listed and row.get("devices") else "job"


def _lists_all(c):
    """Tell whether NVML's list of processes is whole: of every GPU that is ours, and of processes that we see too, so
    that the numbers are those of our own namespace. Of a divided GPU root alone is told everything."""
    gpus = looks.nvml_gpus(c)
    if not gpus or looks.container(c):
        return False
    addresses = {gpu.get("bdf") for gpu in gpus}
    ours = [gpu.get("bus") for gpu in looks.on_bus(c) or () if not looks.bound_elsewhere(gpu)]
    root = looks.part(c.facts, "busy", "complete") is True
    return all(bus in addresses for bus in ours) and all(
        looks.processes(gpu) is not None
        and not gpu.get("lost")
        and (root or looks.part(gpu, "mig", "current") is not True)
        and all(row.get("start") is not None for row in looks.processes(gpu))
        for gpu in gpus
    )


def _told(row):
    return "%s (pid %s, %s)" % (row.get("command") or "?", row.get("pid"), row.get("user") or "?")


def _is(name, known):
    return name in known or name in {word[:NAME] for word in known}


def _program(command):
    words = str(command or "").split()
    return os.path.basename(words[0]) if words else ""


def _owns_memory(gpu):
    """Tell whether what is used on this GPU is somebody's: without persistence it is still waking up for us, and the
    first version of NVML's question counts in what the driver keeps for itself."""
    divided = looks.part(gpu, "mig", "current") is True or looks.virtual(gpu)
    return gpu.get("persistence") is True and not divided and not looks.part(gpu, "why", "memory")


# --- self test -------------------------------------------------------------------------------------------------------


def self_test(table):
    """Feed the gates hosts that must be refused, and one that must not; return ``{what: True when they behaved}``."""
    gpu = {"bus": "0000:01:00.0", "vendor": "0x10de", "device": "0x2330", "driver": "nvidia"}
    space = dict.fromkeys(("/opt/gpulab", "/tmp", "/", "/boot", "/usr", "/var"), 1 << 40)

    def c(profile="gpu", expected=None, **facts):
        held = {"processes": [], "complete": True, "reason": None}
        base = {"gpus": [gpu], "disk": space, "base_dir": "/opt/gpulab", "busy": held}
        return types.SimpleNamespace(
            facts=dict(base, **facts), expected=expected or {"gpus": [gpu]}, observation=None, profile=profile,
            table=table, known=None, settings={}, devices=[], products={},
        )  # fmt: skip

    def status(look, context):
        return look(context, looks.answers("self-test", TIER))["status"]

    job = {"pid": 1, "command": "python train.py", "user": "ada"}
    return {
        "good_host_accepted": {status(look, c()) for look in (evidence, inventory, disk, busy)} == {"PASS"},
        "no_gpu_rejected": status(evidence, c(gpus=[])) == "FAIL",
        "unreadable_bus_is_unknown": status(evidence, c("cpu", gpus=None)) == "UNKNOWN",
        "missing_gpu_rejected": status(inventory, c(expected={"gpus": [gpu, dict(gpu, bus="0000:02:00.0")]})) == "FAIL",
        "full_disk_rejected": status(disk, c(disk=dict(space, **{"/tmp": 1}))) == "FAIL",
        "busy_gpu_rejected": status(busy, c(busy={"processes": [job], "complete": True})) == "FAIL",
        "unknown_processes_are_unknown": status(busy, c(busy={"processes": [], "complete": False})) == "UNKNOWN",
    }
