# SPDX-License-Identifier: Apache-2.0
"""Who works on the GPUs, by the device files that processes hold. NVIDIA's own tools are not asked: they hang when the
driver does."""

from __future__ import annotations

import contextlib
import os
import pwd
import re

from ansible.module_utils.host_files import Child

#: What every such file begins with; cheaper to ask for than the pattern.
_PREFIX = "/dev/nvidia"
_DELETED = " (deleted)"
_DEVICE = re.compile(r"/dev/(nvidia\d+|nvidia-uvm(-tools)?|nvidia-caps/\S+)$")
#: The kernel cuts a process' name after so many letters.
_NAME = 15
#: Programs that keep the devices open and do no work on them: NVIDIA's daemons, exporters and monitors, what hands GPUs
#: out to containers. Work that goes through one of them, as under MPS, holds the devices itself.
_SERVANTS = frozenset(
    name[:_NAME]
    for name in (
        "nvidia-persistenced", "nv-fabricmanager", "nv-hostengine", "nvidia-imex", "nvidia-imex-ctl", "nvidia-powerd",
        "nvidia-topologyd", "nvidia-gridd", "nvidia-vgpud", "nvidia-smi", "nvidia-cuda-mps-control",
        "nvidia-cuda-mps-server", "nvidia-device-plugin", "nvidia-mig-manager", "gpu-feature-discovery",
        "gpu-kubelet-plugin", "nomad-device-nvidia", "dcgm-exporter", "prometheus-dcgm", "nvidia_gpu_exporter",
        "nvidia_gpu_prometheus_exporter", "nvidia_exporter", "nvidia-smi-exporter", "nvtop", "nvitop", "gpustat",
        "btop", "zabbix_agent2", "slurmd",
    )
)  # fmt: skip
#: Reading of a process may wait for a lock of its memory, which one that hangs in the driver never gives back.
_SECONDS = 5
_CUT = 200


class Busy:
    """Looks through all processes, in a child of ours that is left behind when it takes too long."""

    def __init__(self, files):
        self.files = files
        self.child = None
        if files.exists("sys/module/nvidia") or files.names("dev", "nvidia*"):
            self.child = Child(lambda: scan(files), _SECONDS)

    def result(self):
        """Return ``{processes, complete, reason}``. Without NVIDIA's kernel module nobody works on a GPU."""
        if self.child is None:
            return dict(processes=[], complete=True, reason=None)
        answer = self.child.answer()
        if answer is None:
            return dict(
                processes=[], complete=False, reason="reading what processes hold open took too long: one may hang"
            )
        return answer


def scan(files):
    """Look through the processes that we may look into."""
    found, closed, total = [], 0, 0
    for pid in files.names("proc", "[0-9]*"):
        devices, readable = _devices(files, pid)
        total += 1
        closed += not readable
        if not devices:
            continue
        row = _describe(files, pid)
        if row is not None and row.pop("name")[:_NAME] not in _SERVANTS:
            found.append(dict(row, devices=sorted(devices)))
    complete, reason = True, None
    if closed or (files.root == "/" and os.geteuid() != 0):  # other users' processes may be hidden altogether
        complete = False
        reason = f"not root: what {closed or 'some'} of {total} processes hold open cannot be seen"
    return dict(processes=sorted(found, key=lambda row: row["pid"]), complete=complete, reason=reason)


def _devices(files, pid):
    """Return the devices that a process holds, and whether we may know."""
    directory = files.path(f"proc/{pid}/fd")
    targets = []
    try:
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                targets.append(os.readlink(os.path.join(directory, name)))
    except PermissionError:
        return set(), False
    except OSError:  # the process ended meanwhile
        return set(), True
    found = _gpus(targets)
    # What is mapped stays in use after its descriptor is closed. A process that waits in the kernel is not asked: it
    # may never let go of the lock that the answer needs.
    if _state(files, pid) != "D":
        try:
            with open(files.path(f"proc/{pid}/maps"), "rb") as stream:
                content = stream.read()
        except OSError:
            content = b""
        if _PREFIX.encode() in content:
            lines = (line.split(None, 5) for line in content.decode("utf-8", "replace").splitlines())
            found.update(_gpus(words[5] for words in lines if len(words) == 6))
    return found, True


def _gpus(paths):
    """Return those of the paths that are devices of GPUs; a device that is made anew leaves a deleted one behind."""
    paths = (path[: -len(_DELETED)] if path.endswith(_DELETED) else path for path in paths if path.startswith(_PREFIX))
    return {path for path in paths if _DEVICE.match(path)}


def _stat(files, pid):
    """Return the fields of /proc/PID/stat after the name, which may hold blanks and brackets itself."""
    try:
        with open(files.path(f"proc/{pid}/stat"), "rb") as stream:
            return stream.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _state(files, pid):
    return (_stat(files, pid) or ["?"])[0]


def _describe(files, pid):
    name = files.text(f"proc/{pid}/comm")
    if name is None:
        return None  # it ended meanwhile
    fields = _stat(files, pid)
    line = b""
    if fields[:1] != ["D"]:
        line = (files.data(f"proc/{pid}/cmdline") or b"").replace(b"\0", b" ")
    return dict(
        pid=int(pid),
        user=_user(files, pid),
        command=" ".join(line.decode("utf-8", "replace").split())[:_CUT] or name,
        age_s=_age(files, fields),
        name=name,
    )


def _age(files, fields):
    """Return for how many seconds the process has run."""
    try:
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0, int(float((files.text("proc/uptime") or "").split()[0]) - started))
    except (IndexError, ValueError):
        return None


def _user(files, pid):
    """Return the user's name, or its number where it has none."""
    found = re.search(r"(?m)^Uid:\s*(\d+)", files.text(f"proc/{pid}/status") or "")
    if not found:
        return None
    number = found.group(1)
    for line in (files.text("etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == number:
            return fields[0]
    if files.root != "/":
        return number
    try:
        return pwd.getpwuid(int(number)).pw_name  # a directory service may know it
    except KeyError:
        return number
