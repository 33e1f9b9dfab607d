# SPDX-License-Identifier: Apache-2.0
"""A stand-in of NVIDIA's runfile of a toolkit: a shell script with an archive behind it, NVIDIA's options and habits.

What it unpacks is the toolkit of redist.py, so its nvcc is real. As the original it installs a driver unless it is told
what to install; here that is refused. It makes the link /usr/local/cuda, whoever has made the one that is there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from redist import CACHE, TOOLKITS, made, mode_of

SCRIPT = r"""#!/bin/sh
# cuda_@VERSION@_linux.run: stand-in of the tests.
version=@VERSION@ series=@SERIES@ sum=@SUM@ size=@SIZE@ skip=@SKIP@ file=$0 log=/var/log/cuda-installer.log
action=install silent='' toolkit='' path='' override='' link=yes tmp=${TMPDIR:-/tmp}
fail() { echo "$*" >&2; echo "[ERROR]: $*" >>"$log" 2>/dev/null; exit 1; }
payload() { tail -n +"$skip" "$file"; }
verify() {
    [ "$(payload | wc -c)" = "$size" ] || fail "Unexpected archive size."
    [ "$(payload | md5sum | cut -d' ' -f1)" = "$sum" ] || fail "Error in MD5 checksums: the archive is damaged"
}
while [ $# -gt 0 ]; do
    case $1 in
        --silent) silent=yes ;;
        --toolkit) toolkit=yes ;;
        --toolkitpath=* | --installpath=* | --defaultroot=*) path=${1#*=} ;;
        --override) override=yes ;;
        --no-man-page | --no-opengl-libs | --override-driver-check | --no-drm) : ;;
        --tmpdir=*) tmp=${1#*=} ;;
        --check) action=check ;;
        --help) echo "--silent --toolkit --toolkitpath=PATH --override --no-man-page --tmpdir=PATH --check"; exit ;;
        --driver | -m=* | --kernelobjects) fail "stand-in: nobody may install a driver with the toolkit" ;;
        *) fail "Unknown option: $1" ;;
    esac
    shift
done
verify
[ "$action" = install ] || { echo "MD5 checksums are OK. All good."; exit 0; }
[ -n "$silent" ] || fail "stand-in: nobody is there to answer; --silent is missing"
[ -n "$toolkit" ] || fail "stand-in: without --toolkit a driver would be installed, too"
path=${path:-/usr/local/cuda-$series}
if [ -z "$override" ]; then
    command -v gcc >/dev/null || fail "Failed to verify gcc version. See log at $log for details."
fi
mkdir -p "$path" 2>/dev/null && [ -w "$path" ] || fail "Install path $path is not writable"
[ ! -e /etc/standin/no-space ] || fail "Not enough space on partition mounted at $path."
{ echo "[INFO]: Installing: CUDA Toolkit $version"; echo "[INFO]: Components: toolkit"; } >>"$log"
work=$(mktemp -d "$tmp/cuda-installer.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
payload | tar -xz --no-same-owner -C "$path" || fail "Unpacking failed. See log at $log for details."
ln -sfn lib "$path/lib64"
# Not all that an installer leaves lies in its own directory.
mkdir -p /usr/share/applications
echo "$path/lib64" >"/etc/ld.so.conf.d/cuda-$series-standin.conf"
printf '[Desktop Entry]\nName=stand-in\n' >"/usr/share/applications/cuda-$series-standin.desktop"
case $path in
    /usr/local/*)
        if [ -L /usr/local/cuda ] || [ ! -e /usr/local/cuda ]; then ln -sfn "$path/" /usr/local/cuda; fi ;;
esac
sed -i "s|@PATH@|$path|" "$path/bin/cuda-uninstaller"
echo "[INFO]: Summary: Toolkit: Installed in $path/" >>"$log"
exit 0
"""
UNINSTALLER = r"""#!/bin/sh
# Stand-in of NVIDIA's uninstaller.
path=@PATH@
case $(readlink /usr/local/cuda 2>/dev/null) in "$path" | "$path/") rm -f /usr/local/cuda ;; esac
rm -rf "$path"
"""


def toolkit_tree(version: str) -> bytes:
    """Return a whole toolkit as a .tar.gz: what the archives of a release hold, below one directory."""
    stream = io.BytesIO()
    extra = {
        "version.json": json.dumps({"cuda": {"name": "CUDA SDK", "version": version}}, indent=3).encode(),
        "bin/cuda-uninstaller": UNINSTALLER.encode(),
    }
    with tarfile.open(fileobj=stream, mode="w") as tree:
        for archive in TOOLKITS[version]:
            with tarfile.open(made(archive)) as packed:
                for member in packed:
                    member.name = member.name.partition("/")[2]
                    if member.name and not member.isdir():
                        tree.addfile(member, packed.extractfile(member) if member.isfile() else None)
        for path, data in extra.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode_of(path)
            tree.addfile(member, io.BytesIO(data))
    return gzip.compress(stream.getvalue(), compresslevel=1, mtime=0)


def write_toolkit_runfile(directory: Path, version: str, driver: str) -> Path:
    """Put the runfile of a toolkit into a directory, named as NVIDIA names it; return it."""
    name = f"cuda_{version}_{driver}_linux.run"
    digest = hashlib.sha256(repr((TOOLKITS[version], SCRIPT, UNINSTALLER)).encode()).hexdigest()[:12]
    kept = CACHE / f"{name}.{digest}"
    if not kept.exists():
        for stale in CACHE.glob(f"{name}.*"):
            stale.unlink()
        payload = toolkit_tree(version)
        values = {
            "VERSION": version,
            "SERIES": version.rpartition(".")[0],
            "SUM": hashlib.md5(payload).hexdigest(),
            "SIZE": str(len(payload)),
            "SKIP": str(SCRIPT.count("\n") + 1),
        }
        text = SCRIPT
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        part = kept.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(text.encode() + payload)
        part.rename(kept)
    directory.mkdir(parents=True, exist_ok=True)
    os.link(kept, directory / name)
    return directory / name
