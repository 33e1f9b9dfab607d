# SPDX-License-Identifier: Apache-2.0
"""Installed packages as dpkg's own files or rpm's tell of them, and what state the package manager is in."""

from __future__ import annotations

import fnmatch
import os
import re

from ansible.module_utils.host_files import Command

#: The driver's packages, by name, on Debian, Ubuntu and Red Hat systems, NVIDIA's own and the distributions'.
_FAMILY = re.compile(
    r"(lib)?nvidia-.+|cuda-drivers.*|linux-(modules|objects|signatures)-nvidia-.+|xserver-xorg-video-nvidia.*|kmod-nvidia.*"
    r"|libcuda1|libcudadebugger1|libnvcuvid1|libnvoptix1|libxnvctrl0|lib(glx|egl|gles|gl1)-nvidia.*|firmware-nvidia-.+"
    r"|cuda-compat-.+|nvlsm|libnvsdm.*"
)
#: Packages that are called like the driver's and live at versions of their own.
_OTHERS = re.compile(
    r"(lib)?nvidia-(container|docker).*|libnvidia-egl-.*|nvidia-egl-(wayland|gbm).*"
    r"|nvidia-(cuda|cudnn|nsight|openjdk|texture-tools|profiler|visual-profiler|fs|gds|mig-).*"
)
#: Packages of CUDA that are not the driver's, NVIDIA's and the distributions'. ``libcublas-dev-12-9`` is of a toolkit,
#: ``libcublas12`` a distribution's.
_CUDA_FAMILY = re.compile(
    r"cuda(-.+)?|nvidia-cuda-.+|nvidia-cudnn|(lib)?cudnn.*|libnccl.*|gds-tools-.+|nsight-(compute|systems)-.+"
    r"|lib(cu|npp|nv)[a-z0-9-]*?(-dev|-devel|-static)?-\d+-\d+"
    r"|lib(accinj64|cublas|cublaslt|cudart|cufft|cufftw|cuinj64|cupti|curand|cusolver|cusolvermg|cusparse|nppc|npp[a-z]+"
    r"|nvblas|nvjitlink|nvjpeg|nvrtc|nvrtc-builtins|nvtoolsext|nvvm)-?\d.*"
)
#: Packages that own a compiler of CUDA or files of cuDNN.
_OWNING = ("*cudnn*", "*nvcc*", "cuda-core*", "nvidia-cuda-toolkit*")
_OWNING_LIST = re.compile(r"cudnn|nvcc|^cuda-core|^nvidia-cuda-toolkit")
_LARGEST_LIST = 4 * 1024 * 1024
_APT_LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock")
_DPKG = "var/lib/dpkg/status"
_RPM = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_RPM_FORMAT = "%{NAME}\\t%{EPOCHNUM}\\t%{VERSION}-%{RELEASE}\\t%{ARCH}\\n"


def of_driver(name):
    """Tell whether a package is one of the driver's family."""
    return _FAMILY.fullmatch(name) is not None and _OTHERS.fullmatch(name) is None


def of_cuda(name):
    """Tell whether a package is one of CUDA's or cuDNN's, and none of the driver's family."""
    return _CUDA_FAMILY.fullmatch(name) is not None and not of_driver(name)


class Packages:
    """All that is installed. ``rows`` maps names to dicts with version, state, held and maintainer; ``kind`` is apt,
    dnf or None. What rpm is asked runs beside us until ``read`` is called."""

    def __init__(self, files, family):
        self.files = files
        self.rows = {}
        self.command = None
        database = next((place for place in _RPM if files.names(place, "*")), None)
        dpkg = files.exists(_DPKG)
        self.kind = "dnf" if database and (family == "rhel" or not dpkg) else "apt" if dpkg else None
        if self.kind == "dnf":
            self.command = Command(["rpm", "--dbpath", files.path(database), "-qa", "--qf", _RPM_FORMAT])

    def read(self):
        """Read the database. Where it cannot be read ``rows`` is None, and the reason is kept."""
        if self.kind == "apt":
            self.rows = self._from_dpkg()
        elif self.kind == "dnf":
            answer = self.command.output()
            self.rows = None if answer is None else read_rpm(answer)
            if self.rows is not None:
                lock_file = "etc/dnf/plugins/versionlock.list"
                lock_file = lock_file if self.files.exists(lock_file) else "etc/yum/pluginconf.d/versionlock.list"
                for name in held_by_versionlock(self.files.text(lock_file) or "", self.rows):
                    self.rows[name]["held"] = True
        if self.kind is None or self.rows is None:
            self.files.unknown["packages"] = (
                "rpm did not list the packages" if self.kind else "neither dpkg nor rpm keeps a list of packages here"
            )

    def _from_dpkg(self):
        content = self.files.text(_DPKG, "packages")
        if content is None:
            return None
        # What an interrupted dpkg did not get to write into its status file lies in numbered files beside it.
        journal = [
            self.files.text(f"var/lib/dpkg/updates/{name}") or ""
            for name in self.files.names("var/lib/dpkg/updates")
            if name.isdecimal()
        ]
        return read_dpkg("\n\n".join([content, *journal]))

    def installed(self):
        """Return ``{name: version}`` of the driver's packages that are installed as they should be; this, like ``held``
        and ``broken``, is None where the database could not be read."""
        if self.rows is None:
            return None
        return {name: row["version"] for name, row in self._family() if row["state"] == "installed"}

    def held(self):
        """Name the driver's packages that are held at their version."""
        if self.rows is None:
            return None
        return [name for name, row in self._family() if row["held"] and row["state"] == "installed"]

    def broken(self, everything=False):
        """Name the packages, the driver's or all, whose installation began and did not end."""
        if self.rows is None:
            return None
        rows = sorted(self.rows.items()) if everything else self._family()
        return [name for name, row in rows if row["state"] != "installed"]

    def cuda(self):
        """Return ``{name: {version, held}}`` of CUDA's and cuDNN's packages that are installed as they should be."""
        if self.rows is None:
            return None
        return {
            name: dict(version=row["version"], held=row["held"])
            for name, row in sorted(self.rows.items())
            if row["state"] == "installed" and of_cuda(name.partition(":")[0])
        }

    def has(self, name):
        """Tell whether a package is installed as it should be."""
        return (self.rows or {}).get(name, {}).get("state") == "installed"

    def _family(self):
        return [(name, row) for name, row in sorted(self.rows.items()) if of_driver(name.partition(":")[0])]

    def manager(self):
        """Describe the package manager: what is half done, who works with it, what would upgrade by itself."""
        return dict(
            kind=self.kind,
            broken=self.broken(everything=True),
            lock=_apt_lock(self.files) if self.kind == "apt" else _dnf_lock(self.files) if self.kind else None,
            unattended_upgrades=self._unattended(),
            our_blacklist=_our_blacklist(self.files),
        )

    def _unattended(self):
        if self.rows is None or self.kind is None:
            return None
        if self.kind == "apt":
            return self.has("unattended-upgrades") and _apt_runs_unattended(self.files)
        return _dnf_runs_unattended(self.files)


# --- databases -------------------------------------------------------------------------------------------------------

_FIELD = re.compile(r"^(Package|Status|Version|Architecture|Maintainer):[ \t]*(.*)$", re.MULTILINE)


def read_dpkg(text):
    """Read dpkg's status file. A later paragraph about a package replaces an earlier one. Packages of a foreign
    architecture are called ``name:architecture``, as dpkg calls them."""
    found, native = {}, None
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(_FIELD.findall(paragraph))
        words = fields.get("Status", "").split()
        if "Package" not in fields or len(words) != 3:
            continue
        name, architecture = fields["Package"].strip(), fields.get("Architecture", "").strip()
        if name == "dpkg":
            native = architecture
        found[(name, architecture)] = dict(
            version=fields.get("Version", "").strip(),
            state=words[2] if words[1] == "ok" or words[2] in ("not-installed", "config-files") else "broken",
            held=words[0] == "hold",
            maintainer=fields.get("Maintainer", "").strip(),
        )
    rows = {}
    for (name, architecture), row in found.items():
        if row["state"] in ("not-installed", "config-files"):
            continue
        foreign = native is not None and architecture not in (native, "all", "")
        rows[f"{name}:{architecture}" if foreign else name] = row
    return rows


def read_rpm(text):
    """Read what rpm was asked for, one package a line; of several versions (kernels) the last line counts."""
    rows = {}
    for line in text.splitlines():
        name, separator, rest = line.partition("\t")
        words = rest.split("\t")
        if separator and len(words) == 3 and name != "gpg-pubkey":
            rows[name] = dict(
                version=words[1], state="installed", held=False, maintainer="", epoch=words[0], arch=words[2]
            )
    return rows


def held_by_versionlock(text, rows):
    """Name the packages that dnf's version lock holds; it holds a name, whatever version is installed."""
    patterns = []
    for line in text.splitlines():
        entry = line.partition("#")[0].strip()
        if entry:  # one that begins with "!" keeps a version out and matches no name
            patterns.append(entry)
    return [name for name, row in rows.items() if any(_locks(pattern, name, row) for pattern in patterns)]


def _locks(pattern, name, row):
    # dnf writes name-epoch:version-release.*; people write names and globs.
    named = re.match(r"(.+?)-\d+:[^-]+(-[^-]+)?$", pattern) or re.match(r"(.+?)-\d[^-]*-[^-]*$", pattern)
    if named and fnmatch.fnmatchcase(name, named.group(1)):
        return True
    full = f"{name}-{row['version']}"
    with_epoch = f"{name}-{row.get('epoch', '0')}:{row['version']}"
    arch = row.get("arch", "")
    forms = (name, f"{name}.{arch}", full, f"{full}.{arch}", with_epoch, f"{with_epoch}.{arch}")
    return any(fnmatch.fnmatchcase(form, pattern) for form in forms)


class Owners:
    """Who owns files of CUDA and cuDNN, looked up in the lists of their packages alone. rpm runs beside us until the
    first question, and is not asked about a tree that stands for a host."""

    def __init__(self, files, paths, kind):
        self.found = {}
        self.paths = set(paths)
        self.command = None
        if kind == "apt" and paths:
            for name in filter(_OWNING_LIST.search, files.names("var/lib/dpkg/info", "*.list")):
                content = files.small(f"var/lib/dpkg/info/{name}", limit=_LARGEST_LIST)
                package = name[: -len(".list")].partition(":")[0]
                self._note((path, package) for path in (content or b"").decode("utf-8", "replace").splitlines())
        elif kind == "dnf" and paths and files.root == "/":
            self.command = Command(["rpm", "-qa", "--qf", "[%{FILENAMES}\\t%{=NAME}\\n]", *_OWNING], seconds=2)

    def of(self, path):
        """Name the package that owns a file, None where none of those that could own it does."""
        if self.command is not None:
            answer, self.command = self.command.output() or "", None
            self._note(line.rsplit("\t", 1) for line in answer.splitlines() if "\t" in line)
        return self.found.get(path)

    def _note(self, rows):
        for path, package in rows:
            # /lib may be a link to /usr/lib, and an old package may still write /lib.
            for name in (path, "/usr" + path if path.startswith("/lib") else path):
                if name in self.paths:
                    self.found[name] = package


# --- who works with it -----------------------------------------------------------------------------------------------


def process_row(files, pid):
    """Return ``{pid, command}`` of a process; the command as its name where the whole line is closed to us."""
    name = files.text(f"proc/{pid}/comm") or None
    words = (files.data(f"proc/{pid}/cmdline") or b"").replace(b"\0", b" ").decode("utf-8", "replace").split()
    return dict(pid=int(pid), command=" ".join(words)[:200] or name)


def _apt_lock(files):
    """Return who holds one of apt's locks. /proc/locks names files by inode (the device it names is not always the one
    that programs see, on overlayfs and btrfs)."""
    inodes = {str(stamp.st_ino) for stamp in filter(None, map(files.status, _APT_LOCKS))}
    for pid, inode in read_locks(files.text("proc/locks") or ""):
        if inode in inodes:
            return process_row(files, pid)
    return None


def read_locks(text):
    """Return ``(pid, inode)`` of those who hold a lock for writing; ``->`` marks who waits for one."""
    return re.findall(r"(?m)^\d+:\s+(?:POSIX|FLOCK|OFDLCK)\s+\S+\s+WRITE\s+([1-9]\d*)\s+[^:\s]+:[^:\s]+:(\d+)\s", text)


def _dnf_lock(files):
    places = ["var/lib/dnf/rpmdb_lock.pid"] + [
        f"var/cache/dnf/{name}" for name in files.names("var/cache/dnf", "*.pid")
    ]
    for place in places:
        pid = files.text(place, "package_manager.lock") or ""
        if pid.isdecimal() and files.is_dir(f"proc/{pid}"):
            return process_row(files, pid)
    return None


# --- what upgrades by itself -----------------------------------------------------------------------------------------


def _apt_settings(files):
    names = files.names("etc/apt/apt.conf.d")
    places = ["etc/apt/apt.conf"] + [f"etc/apt/apt.conf.d/{name}" for name in names if re.match(r"[\w.-]+$", name)]
    return "\n".join(re.sub(r"(?m)^\s*(//|#).*$", "", files.text(place) or "") for place in places)


def _apt_runs_unattended(files):
    timer = "apt-daily-upgrade.timer"
    if files.link(f"etc/systemd/system/{timer}") == os.devnull:
        return False
    shipped = any(files.exists(f"{place}/systemd/system/{timer}") for place in ("usr/lib", "lib"))
    if shipped and files.link(f"etc/systemd/system/timers.target.wants/{timer}") is None:
        return False
    text = re.sub(r"APT\s*::\s*Periodic\s*\{|APT\s*\{\s*Periodic\s*\{", "APT::Periodic::", _apt_settings(files))
    said = dict(re.findall(r"\b(Unattended-Upgrade|APT::Periodic::Enable)\s+\"?([^\s\";]+)\"?\s*;", text))
    off = ("0", "false", "no", "off")
    return said.get("Unattended-Upgrade", "0") not in off and said.get("APT::Periodic::Enable", "1") not in off


def _dnf_runs_unattended(files):
    for name in files.names("etc/systemd/system/timers.target.wants", "dnf*-automatic*.timer"):
        if "install" in name:
            return True
        if "notify" in name or "download" in name:
            continue
        places = ("etc/dnf/automatic.conf", "etc/dnf/dnf5-plugins/automatic.conf")
        settings = "\n".join(files.text(place) or "" for place in places)
        if re.search(r"(?mi)^\s*apply_updates\s*=\s*(yes|true|1|on)\b", settings):
            return True
    return False


def _our_blacklist(files):
    """Tell whether this project's word to unattended-upgrades is in place."""
    return any(
        "Package-Blacklist" in (files.text(f"etc/apt/apt.conf.d/{name}") or "")
        for name in files.names("etc/apt/apt.conf.d", "*gpulab*")
    )
