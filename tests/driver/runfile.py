# SPDX-License-Identifier: Apache-2.0
"""A stand-in of NVIDIA's runfile: one shell script with an archive behind it, NVIDIA's options, and its refusals.

`write_runfile(directory, "580.126.09")` writes NVIDIA-Linux-x86_64-580.126.09.run and, beside it, the file with its
SHA-256. `truncated()` and `corrupted()` return damaged copies.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from stub_contents import LICENCES_OF_FLAVOURS, NVIDIA_SMI, PERSISTENCED, dkms_source, filled
from stub_packages import Content, packed

#: So that the script is a small part of the file, as it is of the original.
PADDING = 400_000
#: The first branch that takes the open module where nobody asks for one.
OPEN_FIRST = 560
#: The first branch without the proprietary module.
OPEN_ONLY = 615

START = r"""#!/bin/sh
# NVIDIA-Linux-x86_64-@VERSION@: stand-in of the tests, it drives nothing.
version=@VERSION@ sum=@SUM@ size=@SIZE@ skip=@SKIP@ proprietary=@PROPRIETARY@ default=@DEFAULT@
label="NVIDIA Accelerated Graphics Driver for Linux-x86_64 $version"
original_arguments=$* file=$0 log=/var/log/nvidia-installer.log record=/var/lib/nvidia/log
action=install silent='' dkms='' type='' modules=yes x_check=yes nouveau_check=yes disable_nouveau='' tmp=/tmp

payload() { tail -n +"$skip" "$file"; }
verify() {
    [ "$(payload | wc -c)" = "$size" ] || {
        echo "Unexpected archive size: $(payload | wc -c) instead of $size bytes." >&2
        exit 1
    }
    found=$(payload | md5sum | cut -d' ' -f1)
    [ "$found" = "$sum" ] || {
        echo "Error in MD5 checksums: $found is different from $sum" >&2
        exit 1
    }
}
usage() {
    cat <<END
$file [options]
    --check                verify the archive
    --info, --version, -v  say what this is
    --help, -h; --advanced-options, -A
    --extract-only, -x; --tmpdir=DIRECTORY
    --silent, -s; --ui=none; --no-questions, -q; --accept-license, -a
    --dkms; --kernel-module-type=open|proprietary, -M; --no-kernel-modules; --no-kernel-module
    --no-x-check; --no-nouveau-check; --disable-nouveau, --no-disable-nouveau; --install-libglvnd; --no-cc-version-check
    --log-file-name=FILE; --uninstall
END
}
while [ $# -gt 0 ]; do
    case $1 in
        --check) action=check ;;
        --info | --version | -v | -i) action=info ;;
        --help | -h | --advanced-options | -A) action=usage ;;
        --extract-only | -x) action=extract ;;
        --uninstall) action=uninstall ;;
        --silent | -s | --ui=none) silent=yes ;;
        --no-questions | -q | --accept-license | -a | --install-libglvnd | --no-cc-version-check | --no-backup) : ;;
        --no-disable-nouveau | --no-rebuild-initramfs | --rebuild-initramfs | --skip-depmod) : ;;
        --dkms) dkms=yes ;;
        --kernel-module-type=* | -M=*) type=${1#*=} ;;
        --kernel-module-type | -M) type=$2; shift ;;
        -m=kernel-open | --kernel-module-build-directory=kernel-open) type=open ;;
        -m=kernel | --kernel-module-build-directory=kernel) type=proprietary ;;
        --no-kernel-modules | --no-kernel-module) modules='' ;;
        --no-x-check) x_check='' ;;
        --no-nouveau-check) nouveau_check='' ;;
        --disable-nouveau) disable_nouveau=yes ;;
        --log-file-name=*) log=${1#*=} ;;
        --log-file-name) log=$2; shift ;;
        --tmpdir=*) tmp=${1#*=} ;;
        --tmpdir) tmp=$2; shift ;;
        *) echo "nvidia-installer: unrecognized option '$1'" >&2
            echo "ERROR: Invalid commandline, please run \`$file --help\` for usage information." >&2
            exit 1 ;;
    esac
    shift
done
case $action in
    usage) usage; exit 0 ;;
    info) echo "$label"; exit 0 ;;
    check) echo "Verifying archive integrity..."; verify; echo "OK"; echo "All good."; exit 0 ;;
esac
echo "Verifying archive integrity... "
verify
echo "OK"
echo "Uncompressing $label"
if [ "$action" = extract ]; then
    mkdir -p "NVIDIA-Linux-x86_64-$version" && payload | tar -xz -C "NVIDIA-Linux-x86_64-$version"
    exit
fi
tree=$(mktemp -d "$tmp/selfgz.XXXXXX") || exit 1
trap 'rm -rf "$tree"' EXIT
payload | tar -xz -C "$tree" || exit 1
. "$tree/installer"
"""

# The part that real life has in a program of its own. It is installed as nvidia-installer, too, to uninstall.
INSTALLER = r"""
[ "$(id -u)" = 0 ] || { echo "ERROR: nvidia-installer must be run as root" >&2; exit 1; }
kernel=$(uname -r)
: >"$log"
to_log() { echo "$*" >>"$log"; }
say() { to_log "$*"; [ -n "$silent" ] || echo "$*"; }
fail() {
    to_log "ERROR: $*"
    last="ERROR: Installation has failed.  Please see the file '$log' for details."
    to_log "$last"
    { echo; echo "ERROR: $*"; echo; echo "$last"; } >&2
    exit 1
}
to_log "nvidia-installer log file '$log'"
to_log "creation time: $(date)"
to_log "installer version: $version"
to_log ""
to_log "nvidia-installer command line:"
to_log "    ./nvidia-installer"
for word in $original_arguments; do to_log "    $word"; done
to_log ""
to_log "Using built-in stream user interface"
say "-> Detected $(nproc) CPUs online; setting concurrency level to $(nproc)."

remove_all() {
    [ -e "$record" ] || return 0
    old=$(head -n 1 "$record")
    if command -v dkms >/dev/null && [ -d "/var/lib/dkms/nvidia/$old" ]; then
        dkms remove -m nvidia -v "$old" --all >>"$log" 2>&1
    fi
    tail -n +2 "$record" | while read -r path; do rm -f "$path"; done
    rm -rf "/usr/src/nvidia-$old" "$record"
    rmdir /var/lib/nvidia 2>/dev/null
    for release in /lib/modules/*; do depmod "${release##*/}" 2>/dev/null; done
    say "-> Uninstallation of existing driver: NVIDIA Accelerated Graphics Driver for Linux-x86_64 ($old) is complete."
}

if [ "$action" = uninstall ]; then
    [ -e "$record" ] || { say "-> There is no NVIDIA driver currently installed."; exit 0; }
    remove_all
    exit 0
fi

if [ -n "$x_check" ]; then
    for lock in /tmp/.X[0-9]*-lock; do
        [ -e "$lock" ] && kill -0 "$(tr -d ' ' <"$lock")" 2>/dev/null \
            && fail "You appear to be running an X server; please exit X before installing."
    done
fi
if [ -n "$modules" ]; then
    if [ -n "$nouveau_check" ] && { [ -d /sys/module/nouveau ] || grep -q '^nouveau ' /proc/modules 2>/dev/null; }; then
        if [ -n "$disable_nouveau" ]; then
            printf '# generated by nvidia-installer\nblacklist nouveau\noptions nouveau modeset=0\n' \
                >/etc/modprobe.d/nvidia-installer-disable-nouveau.conf
            to_log "-> One or more modprobe configuration files to disable Nouveau have been written."
        fi
        fail "The Nouveau kernel driver is currently in use by your system.  This driver is incompatible with the" \
            "NVIDIA driver, and must be disabled before proceeding."
    fi
    if [ -d /sys/module/nvidia ]; then
        if [ "$(cat /sys/module/nvidia/refcnt 2>/dev/null)" != 0 ] || ! modprobe -r nvidia 2>>"$log"; then
            fail "An NVIDIA kernel module 'nvidia' appears to be already loaded in your kernel.  It may be in use" \
                "(for example, by an X server, a CUDA program, or the NVIDIA Persistence Daemon)."
        fi
    fi
    type=${type:-$default}
    case $type in
        open) : ;;
        proprietary)
            [ -n "$proprietary" ] || fail "Invalid kernel module type 'proprietary': this driver has only the open." ;;
        *) fail "Invalid kernel module type '$type'." ;;
    esac
    [ -e "/lib/modules/$kernel/build/Makefile" ] || fail "Unable to find the kernel source tree for the currently" \
        "running kernel.  Please make sure you have installed the kernel source files for your kernel."
    [ -z "$dkms" ] || command -v dkms >/dev/null || fail "Failed to find dkms on the system!"
    command -v cc >/dev/null || command -v gcc >/dev/null || [ -e /etc/redhat-release ] || fail \
        "Unable to find the development tool \`cc\` in your path; please make sure that 'gcc' is installed."
fi
[ ! -e /etc/standin/slow ] || sleep "$(cat /etc/standin/slow)"
remove_all
say "-> Installing NVIDIA driver version $version."
library=/usr/lib/x86_64-linux-gnu
[ ! -e /etc/redhat-release ] || library=/usr/lib64
mkdir -p /var/lib/nvidia "$library"
echo "$version" >"$record"
put() { # FROM TO
    mkdir -p "$(dirname "$2")"
    cp -P "$1" "$2" && echo "$2" >>"$record"
}
for name in libcuda libnvidia-ml; do
    put "$tree/$name.so.$version" "$library/$name.so.$version"
    ln -sfn "$name.so.$version" "$library/$name.so.1" && echo "$library/$name.so.1" >>"$record"
done
for name in nvidia-smi nvidia-persistenced nvidia-modprobe nvidia-settings nvidia-uninstall nvidia-installer; do
    put "$tree/bin/$name" "/usr/bin/$name"
done
if [ -n "$modules" ]; then
    mkdir -p "/usr/src/nvidia-$version"
    cp "$tree/$type/"* "/usr/src/nvidia-$version/"
    if [ -n "$dkms" ]; then
        dkms add -m nvidia -v "$version" >>"$log" 2>&1
        say "-> Building kernel modules"
        if ! dkms build -m nvidia -v "$version" -k "$kernel" >"$tree/out" 2>&1 \
            || ! dkms install -m nvidia -v "$version" -k "$kernel" >>"$tree/out" 2>&1; then
            cat "$tree/out" >>"$log"
            made=/var/lib/dkms/nvidia/$version/build/make.log
            [ ! -e "$made" ] || { to_log "-> $made:"; cat "$made" >>"$log"; }
            fail "Failed to run \`/usr/sbin/dkms build -m nvidia -v $version -k $kernel\`: $(head -n 1 "$tree/out")"
        fi
        cat "$tree/out" >>"$log"
    else
        ( cd "$tree/$type" && python3 ./build-module "$kernel" ) >"$tree/out" 2>&1 || {
            cat "$tree/out" >>"$log"
            fail "An error occurred while performing the step: \"Building kernel modules\". See $log for details."
        }
        mkdir -p "/lib/modules/$kernel/kernel/drivers/video"
        for module in "$tree/$type/"*.ko; do
            put "$module" "/lib/modules/$kernel/kernel/drivers/video/${module##*/}"
        done
        depmod "$kernel" 2>>"$log"
    fi
    if ! modprobe nvidia 2>"$tree/out"; then
        cat "$tree/out" >>"$log"
        fail "Unable to load the kernel module 'nvidia.ko'.  It may have been built against the wrong kernel sources," \
            "or another driver, such as nouveau, is present, or the kernel takes signed modules only."
    fi
fi
say "-> Installation of the NVIDIA driver for Linux-x86_64 (version: $version) is now complete."
exit 0
"""

UNINSTALL = r"""#!/bin/sh
version=@VERSION@ file=$0 log=/var/log/nvidia-uninstall.log record=/var/lib/nvidia/log
action=uninstall silent='' original_arguments=$*
case " $* " in *" --silent "* | *" -s "*) silent=yes ;; esac
"""
INSTALLED = r"""#!/bin/sh
case " $* " in
    *" --uninstall "*) exec /usr/bin/nvidia-uninstall "$@" ;;
    *" --version "* | *" -v "*) echo "nvidia-installer:  version @VERSION@" ;;
    *) echo "ERROR: the packages of the driver are not here" >&2; exit 1 ;;
esac
"""


def write_runfile(directory: Path, version: str, *, padding: int = PADDING) -> Path:
    """Write the runfile of a driver and the file with its checksum; return the runfile."""
    name = f"NVIDIA-Linux-x86_64-{version}.run"
    has_proprietary = int(version.split(".")[0]) < OPEN_ONLY
    files: dict[str, Content] = {
        "installer": INSTALLER,
        "bin/nvidia-smi": filled(NVIDIA_SMI, version=version),
        "bin/nvidia-persistenced": PERSISTENCED.replace("exec sleep infinity", "sleep infinity &"),  # a daemon
        "bin/nvidia-modprobe": "#!/bin/sh\n",
        "bin/nvidia-settings": "#!/bin/sh\n",
        "bin/nvidia-uninstall": filled(UNINSTALL, version=version) + INSTALLER,
        "bin/nvidia-installer": filled(INSTALLED, version=version),
        "padding": random.Random(version).randbytes(padding),
    }
    for library in ("libcuda", "libnvidia-ml"):
        files[f"{library}.so.{version}"] = f"stand-in of {library} {version}\n"
    for flavour, licence in LICENCES_OF_FLAVOURS.items():
        if flavour == "open" or has_proprietary:
            for path, content in dkms_source("nvidia", version, licence).items():
                files[f"{flavour}/{path.rpartition('/')[2]}"] = content
    payload = packed((path, content, 0o755) for path, content in sorted(files.items()))
    values = {
        "version": version,
        "sum": hashlib.md5(payload).hexdigest(),
        "size": str(len(payload)),
        "proprietary": "yes" if has_proprietary else "''",
        "default": "open" if int(version.split(".")[0]) >= OPEN_FIRST else "proprietary",
        "skip": str(START.count("\n") + 1),
    }
    file = directory / name
    directory.mkdir(parents=True, exist_ok=True)
    file.write_bytes(filled(START, **values).encode() + payload)
    file.chmod(0o755)
    write_sum(file)
    return file


def write_sum(file: Path, digest: str = "") -> Path:
    """Write the checksum that is published beside a runfile; a wrong one on request."""
    sums = file.with_name(f"{file.name}.sha256sum")
    sums.write_text(f"{digest or hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    return sums


def truncated(file: Path, target: Path) -> Path:
    """Write the first two thirds of a runfile, as an interrupted download leaves it."""
    data = file.read_bytes()
    target.write_bytes(data[: len(data) * 2 // 3])
    return target


def corrupted(file: Path, target: Path) -> Path:
    """Write a runfile of the right length in which one byte near the end is wrong."""
    data = bytearray(file.read_bytes())
    data[-1000] ^= 0xFF
    target.write_bytes(data)
    return target
