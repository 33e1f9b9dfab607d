# SPDX-License-Identifier: Apache-2.0
"""How toolkits and cuDNN from NVIDIA's archives lie on a host.

Below the base directory::

    toolkits/cuda-<version>-<time>/                   one toolkit, complete once archive.json is there
    toolkits/cudnn-<version>-cuda<major>-<time>/      the same for cuDNN
    toolkits/.lock                                    held by whoever changes something here
    cache/redist/<sha256>-<file>                      downloads, safe to delete

A generation is never changed once it is complete. Links lead to it and are switched in one step, so whatever interrupts
a run leaves what users had, and at most a generation without manifest, which the next run removes.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import shutil
import time

from ansible.module_utils.host_cuda import GENERATION, MANIFEST
from ansible.module_utils.host_files import Child

MIB = 1024 * 1024
#: How long to wait for another run on the same host; a killed controller may have left its last step running.
LOCK_SECONDS = 30
#: For how long to ask about one process.
_PATIENCE = 3
_ALTERNATIVES = "/etc/alternatives"
_HANGS = "unknown: it hangs in the kernel"
#: Descriptors of the locks that are held.
_LOCKS = set()


class Failed(Exception):
    """Something cannot be done; the message is for people."""


def store_path(base_dir):
    """Return the directory of all generations."""
    return os.path.join(base_dir, "toolkits")


def cache_path(base_dir):
    """Return the directory of downloads."""
    return os.path.join(base_dir, "cache", "redist")


def series_of(product, version):
    """Return what shares one link: 12.9 of CUDA 12.9.1, 9 of cuDNN 9.13.0.50."""
    return ".".join(version.split(".")[: 2 if product == "cuda" else 1])


def generations(base_dir, product=None):
    """Return the paths of all generations, oldest first."""
    store = store_path(base_dir)
    try:
        names = [name for name in os.listdir(store) if GENERATION.fullmatch(name)]
    except FileNotFoundError:
        return []
    paths = [os.path.join(store, name) for name in sorted(names, key=_age_key)]
    paths = [path for path in paths if os.path.isdir(path) and not os.path.islink(path)]
    return [path for path in paths if product is None or describe_name(path)["product"] == product]


def _age_key(name):
    found = GENERATION.fullmatch(name)
    return found.group(4), int(found.group(5) or 0), name


def describe_name(path):
    """Return what the name of a generation tells: product, version, cuda_major."""
    found = GENERATION.fullmatch(os.path.basename(path))
    product, version, major = found.group(1, 2, 3)
    return dict(product=product, version=version, cuda_major=int(major or version.split(".")[0]))


def new_generation(base_dir, product, version, cuda_major):
    """Return the path of a generation that is not there yet."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    middle = f"-cuda{cuda_major}" if product == "cudnn" else ""
    path = os.path.join(store_path(base_dir), f"{product}-{version}{middle}-{stamp}")
    number = 1
    while os.path.lexists(path if number == 1 else f"{path}-{number}"):
        number += 1
    return path if number == 1 else f"{path}-{number}"


def read_manifest(path):
    """Return the manifest of a generation, or None where it has none, or one that is not whole: then it is half-made.

    One that is there and cannot be read raises OSError: nothing that people may use is given up for a bad disk.
    """
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as stream:
            manifest = json.load(stream)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("state") == "complete" else None


def half_made(base_dir):
    """Return the generations that an interrupted run left."""
    return [path for path in generations(base_dir) if read_manifest(path) is None]


def damaged(path, manifest):
    """Return the first file of a generation that is missing or has another size than it had, or None."""
    for name, size in sorted(manifest.get("files", {}).items()):
        try:
            if os.lstat(os.path.join(path, name)).st_size != size:
                return name
        except OSError:
            return name
    for name, target in sorted(manifest.get("links", {}).items()):
        try:
            if os.readlink(os.path.join(path, name)) != target:
                return name
        except OSError:
            return name
    return None


def find_complete(base_dir, product, version, cuda_major, digest):
    """Return the newest undamaged generation made for ``digest``, or None."""
    for path in reversed(generations(base_dir, product)):
        manifest = read_manifest(path)
        if (
            manifest is not None
            and (manifest.get("version"), manifest.get("cuda_major")) == (version, cuda_major)
            and manifest.get("digest") == digest
            and damaged(path, manifest) is None
        ):
            return path
    return None


def inside_store(base_dir, path):
    """Tell whether ``path`` lies below the directory of generations, as written or with links of parents followed."""
    path = os.path.normpath(path)
    parents = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    roots = {os.path.normpath(store_path(base_dir)), os.path.realpath(store_path(base_dir))}
    return any(candidate.startswith(root + os.sep) for root in roots for candidate in (path, parents))


def target_of(link):
    """Return where a link leads, one hop, as an absolute path; None where it is no link."""
    try:
        return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return None


def is_ours(base_dir, link):
    """Tell whether a link leads into the store, directly or over another link that does."""
    for _ in range(3):
        target = target_of(link)
        if target is None:
            return False
        if inside_store(base_dir, target):
            return True
        link = target
    return False


def is_alternative(link):
    """Tell whether update-alternatives rules over a link."""
    target = target_of(link)
    return target is not None and os.path.dirname(target) == _ALTERNATIVES and os.path.lexists(target)


def switch(link, target):
    """Point a link at ``target`` in one step."""
    temporary = link + ".gpulab-new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # a killed run left it
    os.symlink(target, temporary)
    os.rename(temporary, link)


def write(path, text):
    """Write a file so that it is there as a whole or not at all."""
    with open(path + ".part", "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".part", path)


def remove_generation(path):
    """Remove a generation; from the first moment on it is half-made, so a killed run never leaves a hollow one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, MANIFEST))
    shutil.rmtree(path)


@contextlib.contextmanager
def locked(base_dir):
    """Keep other runs of this project out of the store meanwhile. The kernel gives the lock back when we die."""
    store = store_path(base_dir)
    os.makedirs(store, exist_ok=True)
    path = os.path.join(store, ".lock")
    deadline = time.monotonic() + LOCK_SECONDS
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise Failed(
                        f"another run is at work in {store} since more than {LOCK_SECONDS} s. Wait until it is done "
                        f"and run again; 'fuser -v {path}' tells which process it is"
                    ) from None
                time.sleep(0.2)
                continue
            if _same(descriptor, path):
                break
            # Whoever held it removed the whole store.
            os.close(descriptor)
            os.makedirs(store, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _LOCKS.add(descriptor)
        yield
    finally:
        _LOCKS.discard(descriptor)
        os.close(descriptor)


def _same(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def users_of(path, proc="/proc"):
    """Return the processes that use a generation, ``[{pid, command, how}]``: program, directory, files, mounts.

    Where that cannot be told, because a process hangs in the kernel and does not let itself be asked, it counts.
    """
    needle = os.path.realpath(path).rstrip("/")
    store_name = "/" + "/".join(needle.split("/")[-2:])
    found, namespaces = [], {}
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        place = os.path.join(proc, str(pid))
        how = _use_of(place, needle) or _mount_of(place, store_name, namespaces)
        if how and pid != os.getpid():
            found.append(dict(pid=pid, command=_command(place, how), how=how))
    return found


def _use_of(place, needle):
    for what, name in (("its program", "exe"), ("its directory", "cwd")):
        if _below(_link(os.path.join(place, name)), needle):
            return what
    with contextlib.suppress(OSError):
        for name in os.listdir(os.path.join(place, "fd")):
            if _below(_link(os.path.join(place, "fd", name)), needle):
                return "an open file"
    maps = os.path.join(place, "maps")
    # Reading may wait for a lock of its memory; mostly the process waits for a disk only and the answer comes at once.
    mapped = Child(lambda: _asked(maps, needle), _PATIENCE).answer() if _waits(place) else _holds(maps, needle)
    return _HANGS if mapped is None else "a library" if mapped else None


def _asked(maps, needle):
    for descriptor in _LOCKS:  # a child that is left behind must not keep the store locked
        os.close(descriptor)
    return _holds(maps, needle)


def _waits(place):
    """Tell whether a process waits in the kernel and cannot be interrupted."""
    with contextlib.suppress(OSError), open(os.path.join(place, "stat"), "rb") as stream:
        return stream.read().rpartition(b")")[2].split()[:1] == [b"D"]
    return False


def _holds(maps, needle):
    try:
        with open(maps, "rb") as stream:
            return (needle + "/").encode() in stream.read()
    except OSError:
        return False  # it ended, or belongs to somebody else


def _mount_of(place, store_name, namespaces):
    """Tell whether the process lives in a container into which the generation is mounted."""
    namespace = _link(os.path.join(place, "ns", "mnt"))
    if not namespace:
        return None
    if namespace not in namespaces:
        namespaces[namespace] = None
        with contextlib.suppress(OSError), open(os.path.join(place, "mountinfo"), encoding="utf-8") as stream:
            roots = [line.split(" ", 4)[3] for line in stream if line.count(" ") > 4]
            if any((root + "/").find(store_name + "/") >= 0 for root in roots):
                namespaces[namespace] = "a mount in its container"
    return namespaces[namespace]


def _link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _below(path, needle):
    return path == needle or path.startswith(needle + "/")


def _command(place, how):
    # Of a process that hangs, its words hang as well; its name does not.
    name = "comm" if how == _HANGS else "cmdline"
    try:
        with open(os.path.join(place, name), "rb") as stream:
            return stream.read(400).replace(b"\0", b" ").decode("utf-8", "replace").strip()[:120]
    except OSError:
        return ""


def free_bytes(path):
    """Return the bytes free for us on the file system of ``path`` or of its nearest existing parent."""
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


def existing(path):
    """Return ``path`` or its nearest parent that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def size_on_disk(path):
    """Return the bytes that a directory occupies."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def explain(error):
    """Say in words what the operating system refused."""
    reasons = {
        errno.ENOSPC: "the disk is full (or has no room for more files)",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission was denied",
        errno.EPERM: "permission was denied",
        errno.EIO: "the disk reported an error",
    }
    words = reasons.get(error.errno, error.strerror or str(error))
    return f"{error.filename}: {words}" if error.filename else words
