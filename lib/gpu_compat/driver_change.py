# SPDX-License-Identifier: Apache-2.0
"""What must be done to a host's driver: the plan minus the facts, as steps that each say why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from gpu_compat.driver_packages import in_family
from gpu_compat.hosts import next_boot_kernel
from gpu_compat.installed import drift
from gpu_compat.versions import branch_of, same_version

#: In the order in which they are taken.
STEPS = (
    "repository",
    "headers",
    "signing",
    "packages",
    "modules",
    "nouveau",
    "settings",
    "hold",
    "reboot",
    "services",
)
#: Counts up when a step does more than before, so that hosts that were set up earlier take it again.
REVISION = 1
#: Variables that are asked anew at each run, so they are nothing that a host is set up with.
_CONSENT = tuple(
    f"nvidia_driver_{name}"
    for name in (
        *("plan", "change", "version", "source", "kernel_module", "manage_kernel_module"),
        *("reboot_", "busy_", "drain_", "resume_", "lock_timeout", "install_timeout", "ca_bundle"),
        *("mok_password", "docker_restart_allowed"),
    )
)
#: What of ``plan.driver`` a host is set up with. Kernels come and go, and what archives move is no change of the plan.
_DIGESTED = (
    "branch",
    "kernel_module",
    "source",
    "packages",
    "module_stream",
    "package_version",
    "build_packages",
    "repository",
    "runfile",
    "signed",
    "hold",
    "hold_kernel",
    "extras",
)
_SOURCES = {"nvidia_repo": "NVIDIA's repository", "distro": "the distribution's archive", "runfile": "a runfile"}
#: Which step writes a file of ours; the first that the path contains. All others are written with the settings.
_WRITTEN_BY = (
    ("/sources.list.d/", "repository"),
    ("/keyrings/", "repository"),
    ("/yum.repos.d/", "repository"),
    ("/etc/pki/", "repository"),
    ("/preferences.d/", "packages"),
    ("/apt.conf.d/", "hold"),
    ("nouveau", "nouveau"),
    ("/etc/dkms/", "signing"),
)


def driver_change(
    planned: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Compare the planned driver with what a host has; None where nothing is to be done.

    Args:
        planned: the value of ``plan`` in the answer of :func:`gpu_compat.plan`.
        facts: what the module ``gpu_facts`` returned; what is missing is not known, and needs no step.
        settings: the lab's variables ``nvidia_driver_*``.
    """
    driver = planned["driver"]
    if driver is None or driver["source"] == "preinstalled":
        return None
    return Comparison(planned, facts, settings or {}).change()


def driver_digest(planned: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Digest what a driver is set up with: the plan, the lab's settings, and what this version does with them."""
    driver, fabric, secure = planned["driver"], planned["fabric_manager"], planned["secure_boot"]
    parts = {
        "revision": REVISION,
        "driver": {key: driver[key] for key in _DIGESTED},
        "version": driver["version"] if driver["exact"] else None,
        "compat": planned["cuda_compat_package"],
        "fabric_manager": fabric and {key: fabric[key] for key in ("package", "extra_packages")},
        "secure_boot": secure and secure["method"],
        "settings": {
            name: value
            for name, value in (settings or {}).items()
            if name.startswith("nvidia_driver_") and not name.startswith(_CONSENT)
        },
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Comparison:
    """One planned driver beside the facts of one host."""

    def __init__(self, planned: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.planned, self.facts, self.settings = planned, facts, settings
        self.driver: Mapping[str, Any] = planned["driver"]
        self.found: Mapping[str, Any] = facts.get("driver") or {}
        self.digest = driver_digest(planned, settings)

    def change(self) -> dict[str, Any] | None:
        """Return the change, None where no step is needed."""
        steps = [
            {"step": step, "why": "; ".join(dict.fromkeys(reasons))}
            for step in STEPS
            if (reasons := getattr(self, f"_{step}")())
        ]
        if not steps:
            return None
        return {
            "from": {"version": self.installed, "kernel_module": self.module, "source": self.source},
            "to": {key: self.driver[key] for key in ("version", "kernel_module", "source")},
            "steps": steps,
            "remove": self._remove(),
            "remove_runfile": self.source == "runfile" and bool(self.replaced),
            "headers": self.missing_headers,
            "kernels": list(self.kernels),
            "build": list(self.lacking),
            "hold": self.unheld,
            "console": self.key_pending,
            "disruptive": self._disruptive(),
            "digest": self.digest,
        }

    # --- what the host has -----------------------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> str | None:
        """The version of the loaded module."""
        return self.found.get("loaded_version")

    @cached_property
    def installed(self) -> str | None:
        """The version that is installed; facts that do not say so know the loaded one alone."""
        return self.found.get("installed_version") or (None if "installed_version" in self.found else self.loaded)

    @cached_property
    def module(self) -> str | None:
        """The flavour of the installed kernel module."""
        of_loaded = self.found.get("module") if self.installed == self.loaded else None
        return self.found.get("installed_module") or of_loaded

    @cached_property
    def source(self) -> str | None:
        """Where the installed driver came from."""
        return self.found.get("source")

    @cached_property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that a module must exist for, that of the next boot first."""
        return tuple(dict.fromkeys(kernel for kernel in (self.next_boot, self.facts.get("kernel")) if kernel))

    @cached_property
    def next_boot(self) -> str | None:
        """The kernel that the boot loader takes next."""
        return next_boot_kernel(self.facts)

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """The installed packages of the family."""
        return self.found.get("packages") or {}

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """What was written down when this project set the driver up, empty where it has not."""
        found = self.facts.get("state")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def set_up(self) -> bool | None:
        """Whether this project has set the driver up before; None where the facts cannot say."""
        return bool(self.state) if "state" in self.facts else None

    @cached_property
    def stale(self) -> bool:
        """Whether it was set up by another plan, other settings or an older version of this project."""
        return bool(self.state) and self.state.get("digest") != self.digest

    @cached_property
    def key_pending(self) -> bool:
        """Whether a person must confirm the machine owner key at the console before a module can be loaded."""
        key = self.facts.get("machine_owner_key") or {}
        return self._signs() and key.get("enrolled") is False

    # --- what differs ----------------------------------------------------------------------------------------------

    @cached_property
    def replaced(self) -> list[str]:
        """Why the driver must be installed or replaced."""
        if self.installed is None:
            return ["no NVIDIA driver is installed"]
        found = []
        if not self.is_planned(self.installed):
            found.append(f"driver {self.installed} is installed")
        if self.source not in (None, self.driver["source"]):
            found.append(f"it was installed from {_SOURCES.get(self.source, self.source)}")
        if self.module not in (None, self.driver["kernel_module"]):
            found.append(f"its {self.module} kernel module is installed")
        return found

    @cached_property
    def incomplete(self) -> list[str]:
        """Why packages beside the driver itself are needed, or must be put in order."""
        found = []
        if broken := self.found.get("broken"):
            found.append(f"half-configured: {_names(broken)}")
        if self.found.get("packages") is None:
            return found
        compat = self.planned["cuda_compat_package"]
        if compat and compat not in self.packages:
            found.append(f"{compat} is not installed")
        return found + self._fabric()

    def _fabric(self) -> list[str]:
        wanted = self.planned["fabric_manager"]
        if not wanted:
            return []
        found = [f"{name} is not installed" for name in wanted["extra_packages"] if name not in self.packages]
        version = self.packages.get(wanted["package"])
        if version is None:
            return [f"{wanted['package']} is not installed", *found]
        right = str(self.installed if self.installed and not self.replaced else wanted["version"])
        if not same_version(version, right):
            found.append(f"{wanted['package']} is {version}, and the driver {right}")
        return found

    @cached_property
    def lacking(self) -> dict[str, str]:
        """The kernels without the module that they need, with what is wrong."""
        rows: Mapping[str, Any] = self.found.get("modules") or {}
        found = {}
        for kernel in self.kernels if self.found.get("modules") is not None else ():
            words = f"Linux {kernel}" + (", which boots next" if kernel == self.next_boot else "")
            row = rows.get(kernel)
            if row is None:
                found[kernel] = f"there is no module for {words}"
            elif wrong := self._wrong_module(row):
                found[kernel] = f"the module for {words} {wrong}"
        return found

    def _wrong_module(self, row: Mapping[str, Any]) -> str:
        right = self.installed if self.installed and not self.replaced else self.driver["version"]
        if row.get("version") and not same_version(row["version"], right):
            return f"is of driver {row['version']}"
        license_wanted = self.driver["licenses"].get("nvidia")
        if row.get("license") and license_wanted and row["license"] != license_wanted:
            return f"has the licence '{row['license']}', not '{license_wanted}'"
        if self._signs() and "signer" in row and row["signer"] is None:
            return "is not signed"
        return ""

    @cached_property
    def missing_headers(self) -> list[str]:
        """The packages with headers that kernels lack."""
        known = {row["release"]: row.get("headers") for row in self.facts.get("kernels") or ()}
        wanted = self.driver["headers"]
        return list(dict.fromkeys(name for kernel in wanted if known.get(kernel) is False for name in wanted[kernel]))

    @cached_property
    def unheld(self) -> list[str]:
        """Installed packages of the family that nothing keeps at their version."""
        held = self.found.get("held")
        if not self.driver["hold"] or held is None or not _switch(self.settings, "nvidia_driver_hold"):
            return []
        return sorted(name for name in self.packages if in_family(name, self.driver["hold"]) and name not in held)

    def drift(self, step: str) -> list[str]:
        """Say which files of ours that a step writes were changed or removed by other hands."""
        return [text for path, text in drift(self.facts, "driver") if _writer(path) == step]

    def is_planned(self, version: str) -> bool:
        """Tell whether a version is what the plan means, another one of the branch where an archive decides it."""
        if self.driver["exact"]:
            return same_version(version, self.driver["version"])
        return bool(branch_of(version) == self.driver["branch"])

    def _signs(self) -> bool:
        return bool((self.planned["secure_boot"] or {}).get("method") == "machine_owner_key")

    # --- the steps, each with its reasons ----------------------------------------------------------------------------

    def _repository(self) -> list[str]:
        if self.driver["repository"] is None:
            return []
        wanted = f"the driver comes from {_SOURCES[self.driver['source']]}"
        missing = self.replaced or [text for text in self.incomplete if "is not installed" in text]
        return [*([wanted] if missing else []), *self._outdated(), *self.drift("repository")]

    def _headers(self) -> list[str]:
        if self.missing_headers:
            return [f"a module is built with {_names(self.missing_headers)}"]
        if self.replaced and self.driver["build_packages"]:
            return [f"the module is built here, with {_names(self.driver['build_packages'])}"]
        return []

    def _signing(self) -> list[str]:
        if not self._signs():
            return []
        drift, key = self.drift("signing"), self.facts.get("machine_owner_key")
        if key is None:
            return ["Secure Boot is on, and the module must be signed", *drift] if self.replaced else drift
        if not key.get("certificate") and key.get("enrolled") is not True:
            return ["Secure Boot is on, and there is no machine owner key to sign the module with", *drift]
        if key.get("enrolled") is False:
            waits = "waits for its confirmation at the console" if key.get("pending") else "is not enrolled"
            return [f"the machine owner key {waits}", *drift]
        return drift

    def _packages(self) -> list[str]:
        found = [*self.replaced, *self.incomplete, *self.drift("packages")]
        if self.driver["signed"] and not self.replaced:
            found += self.lacking.values()
        return found

    def _nouveau(self) -> list[str]:
        nouveau = self.facts.get("nouveau") or {}
        found = ["nouveau is loaded"] if nouveau.get("loaded") else []
        found += ["nothing keeps nouveau from being loaded"] if nouveau.get("blacklisted") is False else []
        found += ["nouveau is in the initramfs"] if nouveau.get("in_initramfs") else []
        return found + self.drift("nouveau")

    def _settings(self) -> list[str]:
        first = ["this project has not set it up yet"] if self.set_up is False else []
        return [*first, *self._outdated(), *self.drift("settings")]

    def _hold(self) -> list[str]:
        if not self.driver["hold"] or not _switch(self.settings, "nvidia_driver_hold"):
            return []
        found = ["its packages are to stay at their version"] if self.replaced else []
        if self.unheld:
            found.append(f"not held: {_names(self.unheld)}")
        manager = self.facts.get("package_manager") or {}
        if manager.get("unattended_upgrades") and manager.get("our_blacklist") is False:
            found.append("unattended upgrades may touch it")
        return [*found, *self._outdated(), *self.drift("hold")]

    def _services(self) -> list[str]:
        units = self.facts.get("units")
        wanted = wanted_units(self.planned, self.settings)
        if units is None:
            return [f"{_names(wanted)} must run"] if wanted and self.replaced else []
        idle = [name for name in wanted if (units.get(name) or {}).get("active") is not True]
        if self.replaced or self.set_up is False or self.stale:
            return [f"{_names(idle)} must run"] if idle else []
        stopped = [name for name in idle if (units.get(name) or {"active": False}).get("active") is False]
        loaded = self.loaded is not None and self._is_loaded()
        return [f"{_names(stopped)}: not running"] if stopped and loaded else []

    def _modules(self) -> list[str]:
        if self.replaced:
            kernels = _names([f"Linux {kernel}" for kernel in self.kernels]) or "the kernel"
            return [f"a module must exist for {kernels}"]
        return list(self.lacking.values())

    def _reboot(self) -> list[str]:
        if self._is_loaded():
            return []
        if self.loaded is None:
            nouveau = (self.facts.get("nouveau") or {}).get("loaded")
            found = ["nouveau drives the GPU" if nouveau else "no NVIDIA driver is loaded"]
        elif self.found.get("module") not in (None, self.driver["kernel_module"]):
            found = [f"the {self.found['module']} module of driver {self.loaded} is loaded"]
        else:
            found = [f"driver {self.loaded} is loaded"]
        return [*found, *(["the key must be confirmed at the console first"] if self.key_pending else [])]

    def _is_loaded(self) -> bool:
        """Tell whether what is loaded is what is, or will be, installed."""
        if self.loaded is None or self.found.get("module") not in (None, self.driver["kernel_module"]):
            return False
        right = self.driver["version"] if self.replaced else self.installed
        return same_version(self.loaded, right or self.driver["version"])

    def _outdated(self) -> list[str]:
        return ["plan or settings have changed since it was set up"] if self.stale else []

    # --- what goes with the steps ------------------------------------------------------------------------------------

    def _remove(self) -> list[str]:
        """Return the packages that go before the new ones come: all of the family where its source, flavour or branch
        changes, or where it was never finished; else only what pins the old version.

        Packages that the new driver has as well go with the others: what stays of an old family keeps apt from
        removing the rest, because the parts depend on each other.
        """
        broken = list(self.found.get("broken") or ())
        if not self.replaced or (self.installed is None and not broken):
            return []
        family = sorted({name for name in (*self.packages, *broken) if in_family(name, self.driver["family"])})
        whole = (
            self.installed is None
            or branch_of(self.installed) != self.driver["branch"]
            or self.source not in (None, self.driver["source"])
            or self.module not in (None, self.driver["kernel_module"])
        )
        pins = [name for name in family if name.startswith("nvidia-driver-pinning-")]
        return family if whole else [name for name in pins if name not in self.driver["packages"]]

    def _disruptive(self) -> bool:
        """Tell whether programs on the GPU would notice. Building a module or writing a file is not that."""
        in_use = self.loaded is not None or bool((self.facts.get("busy") or {}).get("processes"))
        nouveau = bool((self.facts.get("nouveau") or {}).get("loaded"))
        return in_use and bool(self.replaced or self.incomplete or nouveau or self._reboot())


def _writer(path: str) -> str:
    """Return the step that writes a file of this project."""
    return next((step for part, step in _WRITTEN_BY if part in path), "settings")


def wanted_units(planned: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the units that run beside the planned driver."""
    fabric = planned["fabric_manager"]
    found = ["nvidia-persistenced"] if _switch(settings, "nvidia_driver_persistence") else []
    return found + (["nvidia-fabricmanager"] if fabric else [])


def _switch(settings: Mapping[str, Any], name: str) -> bool:
    """Return a setting that is on where it is not given; on a command line everything is a word."""
    return str(settings.get(name, True)).lower() not in ("false", "no", "off", "0")


def _names(names: Iterable[str], most: int = 5) -> str:
    """Name a few and count the rest."""
    every: Sequence[str] = list(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")
