# SPDX-License-Identifier: Apache-2.0
"""The doctor: what is wrong on a host, the worst first, each with the one action that repairs it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gpu_compat import doctor_cuda
from gpu_compat.cuda_change import cudnn_change, toolkit_change
from gpu_compat.driver_change import STEPS, Comparison, wanted_units
from gpu_compat.findings import COMMAND as _COMMAND
from gpu_compat.findings import PROVISION as _PROVISION
from gpu_compat.findings import Finding
from gpu_compat.findings import finding as _finding
from gpu_compat.render import WIDTH
from gpu_compat.space import lacking_space
from gpu_compat.versions import at_least, same_version

SEVERITIES = ("error", "warning", "info")
#: A package manager that has been at work for so long is stuck, or waits for an answer.
LOCK_SECONDS = 900


def examine(
    planned: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
    change: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    conflicts: Iterable[Mapping[str, Any]] = (),
    settings_by_role: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Finding]:
    """Return what is wrong on a host, sorted by severity.

    Args:
        planned: the value of ``plan`` in the answer of :func:`gpu_compat.plan`; None where the host cannot be planned.
        facts: what the module ``gpu_facts`` returned. What they do not say is not judged.
        change: what :func:`gpu_compat.change` returned; computed where it is not given.
        settings: the lab's variables ``nvidia_driver_*``.
        conflicts: why the host cannot be planned.
        settings_by_role: the lab's variables of the roles ``cuda_toolkit`` and ``cudnn``.

    Returns:
        ``id``, ``severity`` (error, warning or info), ``what`` and ``action`` (sentences) and ``command`` (or None);
        ``HOST`` in a command stands for the host's name. The same input always gives the same output.
    """
    host = _Host(planned, facts, settings or {})
    found = [finding for look in _LOOKS for finding in look(host)]
    found += doctor_cuda.look(doctor_cuda.Place(planned, facts, settings_by_role or {}))
    found += [_unplannable(conflict) for conflict in conflicts]
    if all(row["severity"] == "info" for row in found):
        found += _pending(_left(host, settings_by_role or {}) if change is None else change)
    return sorted(found, key=lambda row: (SEVERITIES.index(row["severity"]), row["id"], row["what"]))


class _Host:
    """Plan and facts of one host, with what several looks ask for."""

    def __init__(
        self,
        planned: Mapping[str, Any] | None,
        facts: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.planned, self.facts, self.settings = planned, facts, settings
        self.driver: Mapping[str, Any] = (planned or {}).get("driver") or {}
        self.found: Mapping[str, Any] = facts.get("driver") or {}
        self.manager: Mapping[str, Any] = facts.get("package_manager") or {}
        self.ours = bool(self.driver) and self.driver["source"] != "preinstalled"
        self.compared = Comparison(planned, facts, settings) if planned and self.ours else None

    @property
    def packages_kind(self) -> str | None:
        """The package manager: apt or dnf."""
        kind: str | None = self.manager.get("kind")
        return kind


def _unplannable(conflict: Mapping[str, Any]) -> Finding:
    what = f"the host cannot be planned: {conflict['message']}"
    action = "Mend the request, or add what is missing; the plan shows what would make it possible"
    command = ".venv/bin/ansible-playbook playbooks/plan.yml --limit HOST"
    return _finding("cannot_plan", "error", what, action, command)


# --- the driver itself -----------------------------------------------------------------------------------------------


def _driver(host: _Host) -> Iterator[Finding]:
    """What is installed against what is planned."""
    compared = host.compared
    if compared is None:
        return
    if compared.installed is None:
        yield _finding("driver_missing", "error", f"no NVIDIA driver is installed; {_wanted(host)} is planned")
        return
    version, wanted = compared.installed, host.driver["version"]
    if not compared.is_planned(version):
        older = at_least(wanted, version)
        held = set(host.found.get("held") or ()) & set(compared.packages)
        kept = f", and {len(held)} packages are held there" if older and held else ""
        name = "driver_held_back" if kept else "driver_older" if older else "driver_newer"
        yield _finding(name, "warning", f"driver {version} is installed{kept}; {wanted} is planned")
    others = [text for text in compared.replaced if not text.startswith("driver ")]
    if others:
        yield _finding("driver_differs", "warning", f"of driver {version}, {' and '.join(others)}; {_wanted(host)}")


def _wanted(host: _Host) -> str:
    return f"{host.driver['version']} ({host.driver['kernel_module']} module, {host.driver['source']})"


def _loaded(host: _Host) -> Iterator[Finding]:
    """What is loaded against what is installed."""
    loaded, installed = host.found.get("loaded_version"), host.found.get("installed_version")
    waits = bool(host.compared and host.compared.key_pending)
    if host.found.get("mismatch"):
        text = str(host.found["mismatch"]).rstrip(".")
        fits = host.compared and not host.compared.replaced and not host.compared.incomplete
        if fits and not same_version(str(loaded), str(installed)):
            yield _finding("driver_mismatch", "error", text, "Reboot, so that the installed module is loaded", "reboot")
        else:
            yield _finding("driver_mismatch", "error", text)
    elif host.facts.get("gpus") and installed and loaded is None and host.driver and not waits:
        reason = f" ({host.found['reason']})" if host.found.get("reason") else ""
        action = "Load the module; where that fails, the kernel's log says why"
        yield _finding(
            "driver_not_loaded", "error", f"driver {installed} is not loaded{reason}", action, "modprobe nvidia"
        )


def _modules(host: _Host) -> Iterator[Finding]:
    """A module for each kernel, and what builds it."""
    if host.compared is None or host.compared.installed is None:
        return
    for kernel, text in host.compared.lacking.items():
        command = None if host.driver["signed"] else f"dkms autoinstall -k {kernel}"
        action = _PROVISION if command is None else "Build it"
        if host.compared.missing_headers or host.compared.replaced:
            action, command = _PROVISION, _COMMAND
        yield _finding("module_missing", "error", text, action, command or _COMMAND)
    if host.compared.missing_headers:
        names = " ".join(host.compared.missing_headers)
        manager = "dnf" if host.packages_kind == "dnf" else "apt-get"
        what = f"the headers that a module is built with are missing: {names}"
        yield _finding("headers_missing", "warning", what, "Install them", f"{manager} install {names}")


def _nouveau(host: _Host) -> Iterator[Finding]:
    """Whether nouveau is back."""
    nouveau = host.facts.get("nouveau")
    if not nouveau or not host.ours:
        return
    if nouveau.get("loaded"):
        what = "nouveau is loaded, so NVIDIA's module cannot have the GPU"
        if nouveau.get("blacklisted") and nouveau.get("in_initramfs") is False:
            yield _finding("nouveau_loaded", "error", what, "Reboot; nothing loads nouveau then", "reboot")
        else:
            yield _finding("nouveau_loaded", "error", what)
    elif nouveau.get("blacklisted") is False:
        yield _finding("nouveau_back", "warning", "nothing keeps nouveau from being loaded at the next boot")
    elif nouveau.get("in_initramfs"):
        yield _finding("nouveau_back", "warning", "nouveau is in the initramfs, which loads it at the next boot")


def _bound(host: _Host) -> Iterator[Finding]:
    """GPUs that another driver has."""
    for gpu in host.facts.get("gpus") or ():
        bound = gpu.get("driver")
        if bound and not bound.startswith("nvidia") and bound != "nouveau":
            what = f"{_named(gpu)} is bound to {bound}, so CUDA does not see it"
            action = "Take it out of the settings that bind it, if the host is to compute on it; then reboot"
            yield _finding("gpu_bound_elsewhere", "warning", what, action, None)


def _links(host: _Host) -> Iterator[Finding]:
    """Links that are narrower than GPU and slot could be. The speed is no sign: it falls when a GPU idles."""
    for gpu in host.facts.get("gpus") or ():
        link = gpu.get("link") or {}
        width, most = str(link.get("width") or ""), str(link.get("width_max") or "")
        if width.isdigit() and most.isdigit() and 0 < int(width) < int(most):
            what = f"{_named(gpu)} has {width} of {most} PCIe lanes"
            yield _finding("link_narrow", "info", what, "Look at slot, riser and the BIOS, if this is not meant", None)


def _named(gpu: Mapping[str, Any]) -> str:
    return f"the {gpu.get('product') or 'GPU'} at {gpu['bus']}"


# --- Secure Boot, reboots and daemons --------------------------------------------------------------------------------


def _keys(host: _Host) -> Iterator[Finding]:
    """A machine owner key that nobody has confirmed."""
    if host.compared is None or not host.compared.key_pending:
        return
    key = host.facts.get("machine_owner_key") or {}
    if key.get("pending"):
        action = "Reboot with somebody at the console, or its remote replacement: choose Enroll MOK there"
        what = "the machine owner key waits for its confirmation at the console; until then no module loads"
        yield _finding("key_pending", "error", what, action, "mokutil --list-new")
    else:
        yield _finding("key_not_enrolled", "error", "Secure Boot does not know the key that the module is signed with")


def _reboots(host: _Host) -> Iterator[Finding]:
    """A reboot that something waits for."""
    reboot = host.facts.get("reboot") or {}
    if reboot.get("required"):
        packages = [str(name) for name in reboot.get("packages") or ()]
        of = f" for {', '.join(packages[:5])}" if packages else ""
        yield _finding(
            "reboot_pending", "warning", f"the system waits for a reboot{of}", "Reboot when it suits", "reboot"
        )


def _units(host: _Host) -> Iterator[Finding]:
    """Daemons that should run while a driver is loaded."""
    units = host.facts.get("units")
    if units is None or not host.planned or not host.driver or host.found.get("loaded_version") is None:
        return
    for name in wanted_units(host.planned, host.settings):
        if (units.get(name) or {}).get("active") is False:
            severity = "error" if name == "nvidia-fabricmanager" else "warning"
            what = f"{name} is not running" + ("; without it CUDA does not start" if severity == "error" else "")
            action = "Start it; its log says why it stopped"
            yield _finding(
                f"{name.removeprefix('nvidia-')}_stopped", severity, what, action, f"systemctl restart {name}"
            )


def _fabric(host: _Host) -> Iterator[Finding]:
    """A fabric manager that is not of the driver's version does not start."""
    if host.compared and host.compared.installed and host.planned and host.planned["fabric_manager"]:
        package = host.planned["fabric_manager"]["package"]
        for text in host.compared.incomplete:
            if text.startswith(package):
                yield _finding("fabric_manager_version", "error", text)


# --- packages --------------------------------------------------------------------------------------------------------


def _packages(host: _Host) -> Iterator[Finding]:
    """Packages half-configured, and who holds the package manager."""
    broken = sorted({*(host.manager.get("broken") or ()), *(host.found.get("broken") or ())})
    if broken:
        what = f"packages are half-configured: {', '.join(broken[:8])}" + (" and more" if len(broken) > 8 else "")
        command = "dnf check" if host.packages_kind == "dnf" else "dpkg --configure -a"
        yield _finding("packages_broken", "error", what, "Let the package manager finish them", command)
    lock = host.manager.get("lock")
    if lock:
        age = lock.get("age_s")
        long = age is not None and age >= LOCK_SECONDS
        told = f" for {int(age) // 60} minutes" if long else ""
        what = f"{lock.get('command') or 'a process'} (pid {lock.get('pid')}) holds the package manager's lock{told}"
        action = "Look whether it waits for an answer, and let it end" if long else "Wait until it has ended"
        command = f"ps -o pid,etime,args -p {lock.get('pid')}"
        yield _finding("lock_held", "warning" if long else "info", what, action, command)


def _held(host: _Host) -> Iterator[Finding]:
    """What keeps the family at its version."""
    if host.compared is None or host.compared.installed is None:
        return
    unheld = host.compared.unheld
    if unheld:
        what = f"an upgrade may replace part of the driver; not held: {', '.join(unheld[:5])}"
        what += f" and {len(unheld) - 5} more" if len(unheld) > 5 else ""
        yield _finding("not_held", "warning", what)
    if host.manager.get("unattended_upgrades") and host.manager.get("our_blacklist") is False and unheld:
        yield _finding("unattended_upgrades", "warning", "unattended upgrades are on, and may replace the driver")


def _files(host: _Host) -> Iterator[Finding]:
    """Files of this project that other hands have changed, and a repository key that is not the plan's."""
    if host.compared is None:
        return
    for step in STEPS:
        name = "repository_changed" if step == "repository" else "file_changed"
        yield from (_finding(name, "warning", text) for text in host.compared.drift(step))
    known = host.compared.state.get("fingerprints")
    own = host.settings.get("nvidia_driver_repository_fingerprints")  # of a mirror that the lab signs itself
    wanted = own or (host.driver["repository"] or {}).get("fingerprints")
    if known and wanted and not set(known) & set(wanted):
        what = f"the repository's key on the host ({', '.join(known)}) is out of date; {', '.join(wanted)} signs it now"
        yield _finding("repository_key", "warning", what)


def _boot(host: _Host) -> Iterator[Finding]:
    """Room for the next kernel."""
    for what in lacking_space(host.facts.get("disk"), "next_kernel"):
        old = "dnf remove --oldinstallonly" if host.packages_kind == "dnf" else "apt-get autoremove --purge"
        yield _finding("boot_full", "warning", what, "Remove kernels that are no longer booted", old)


def _left(host: _Host, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run would change beside environments."""
    if host.planned is None:
        return {}
    toolkits = toolkit_change(host.planned, host.facts, settings.get("cuda_toolkit"))
    return {
        "driver": host.compared.change() if host.compared else None,
        "cuda_toolkit": toolkits,
        "cudnn": cudnn_change(host.planned, host.facts, settings.get("cudnn"), toolkits),
    }


def _pending(change: Mapping[str, Any]) -> Iterator[Finding]:
    """What a run would do although nothing is wrong."""
    rows = [row for role in ("driver", "cuda_toolkit", "cudnn") for row in (change.get(role) or {}).get("steps", ())]
    if rows:
        steps = "; ".join(f"{row['step']}: {row['why']}" for row in rows)
        yield _finding("not_applied", "info", f"the host is not yet as planned ({steps})", "Provision the host")


_LOOKS: tuple[Callable[[_Host], Iterable[Finding]], ...] = (
    _driver,
    _loaded,
    _modules,
    _nouveau,
    _bound,
    _links,
    _keys,
    _reboots,
    _units,
    _fabric,
    _packages,
    _held,
    _files,
    _boot,
)


# --- for people ------------------------------------------------------------------------------------------------------


def doctor_text(findings_by_host: Mapping[str, Iterable[Finding]]) -> str:
    """Return the findings of hosts as text, and how many hosts have none."""
    blocks, well = [], []
    for host, findings in findings_by_host.items():
        lines = [line for finding in findings for line in _lines(finding, host)]
        if lines:
            blocks.append("\n".join([f"{host}:", *lines]))
        else:
            well.append(host)
    count = len(well) + len(blocks)
    last = f"{len(well)} of {count} host{'' if count == 1 else 's'} without findings"
    return "\n\n".join([*blocks, last])


def _lines(finding: Finding, host: str) -> list[str]:
    command = finding["command"].replace("HOST", host) if finding["command"] else None
    rows = [f"{finding['severity']}: {finding['what']} [{finding['id']}]", f"{finding['action']}."]
    rows += [command] if command else []
    wrapped = []
    for index, row in enumerate(rows):
        indent = "  " if index == 0 else "      "
        wrapped += textwrap.wrap(
            row,
            WIDTH,
            initial_indent=indent,
            subsequent_indent="      ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return wrapped
