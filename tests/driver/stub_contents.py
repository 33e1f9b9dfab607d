# SPDX-License-Identifier: Apache-2.0
"""What the stub packages hold: programs that answer as NVIDIA's do, a module that is written rather than compiled,
headers that are enough for DKMS.

A host decides by files how things go there:
    /etc/standin/dkms-fails       releases (shell patterns, one a line) for which the module does not build
    /etc/standin/fails-once       names of packages whose set-up fails the next time, one a line
    /etc/standin/slow             seconds that setting up the module's package takes longer
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable

import fabricated_hosts
from stub_packages import Content, Link

OPEN, PROPRIETARY = fabricated_hosts.OPEN, fabricated_hosts.PROPRIETARY
#: Flavours of the module, and the licence that each names.
LICENCES_OF_FLAVOURS = {"open": OPEN, "proprietary": PROPRIETARY}
MODULES = ("nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm")

# Named `build-module NAME-OF-MODULE...`; run in a copy of its directory, as make would be.
BUILD_MODULE = f'''\
#!/usr/bin/python3
"""Write NVIDIA's kernel modules for one kernel: build-module RELEASE."""
from __future__ import annotations

import fnmatch
import os
import struct
import sys

VERSION, LICENCE = "@VERSION@", "@LICENCE@"
MODULES = {MODULES!r}
TREE = "/var/lib/dkms/@NAME@/@VERSION@/build"


{inspect.getsource(fabricated_hosts.elf_module)}

def words(path):
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def main():
    release = sys.argv[1]
    print("make -j2 KERNEL_UNAME=%s IGNORE_CC_MISMATCH=1 modules" % release)
    print("make[1]: Entering directory '/usr/src/linux-headers-%s'" % release)
    if any(fnmatch.fnmatch(release, pattern) for pattern in words("/etc/standin/dkms-fails")):
        print("  CC [M]  %s/nvidia-drm/nvidia-drm-drv.o" % TREE)
        print("%s/nvidia-drm/nvidia-drm-drv.c: In function 'nv_drm_init_mode_config':" % TREE)
        print("%s/nvidia-drm/nvidia-drm-drv.c:243:10: error: 'const struct drm_mode_config_funcs' has no member"
              " named 'output_poll_changed'" % TREE)
        print("make[3]: *** [scripts/Makefile.build:243: %s/nvidia-drm/nvidia-drm-drv.o] Error 1" % TREE)
        print("make[2]: *** [Makefile:1921: %s] Error 2" % TREE)
        print("make[1]: *** [Makefile:240: __sub-make] Error 2")
        print("make[1]: Leaving directory '/usr/src/linux-headers-%s'" % release)
        print("make: *** [Makefile:115: modules] Error 2")
        return 2
    for module in MODULES:
        said = [("version", VERSION), ("license", LICENCE), ("supported", "external"), ("name", module)]
        said.append(("vermagic", "%s SMP preempt mod_unload modversions " % release))
        with open(module + ".ko", "wb") as file:
            file.write(elf_module(said))
        print("  LD [M]  %s/%s.ko" % (TREE, module))
    print("make[1]: Leaving directory '/usr/src/linux-headers-%s'" % release)
    return 0


sys.exit(main())
'''

# The kernel's own program of this name, as far as it is asked: sign-file HASH KEY CERTIFICATE MODULE.
SIGN_FILE = '''\
#!/usr/bin/python3
"""Append a signature to a kernel module, in the form that the kernel and modinfo read."""
import struct
import subprocess
import sys

digest, key, certificate, module = sys.argv[1:5]
with open(certificate, "rb") as file:
    form = "PEM" if file.read(10).startswith(b"-----BEGIN") else "DER"
if form == "DER":
    command = ["openssl", "x509", "-inform", "DER", "-in", certificate, "-out", module + ".crt"]
    subprocess.run(command, check=True)
    certificate = module + ".crt"
command = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-outform", "DER", "-md", digest]
command += ["-signer", certificate, "-inkey", key, "-in", module]
signature = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
if form == "DER":
    subprocess.run(["rm", module + ".crt"], check=True)
with open(module, "ab") as file:
    file.write(signature + struct.pack(">BBBBBxxxI", 0, 0, 2, 0, 0, len(signature)))
    file.write(b"~Module signature appended~\\n")
'''

DKMS_CONF = """\
PACKAGE_NAME="@NAME@"
PACKAGE_VERSION="@VERSION@"
AUTOINSTALL="yes"
MAKE[0]="python3 ./build-module ${kernelver}"
CLEAN="true"
"""

# DKMS for the hosts that pose as Red Hat's, which have no package of it: the part of its commands that packages use.
DKMS = r"""#!/bin/sh
# dkms add|build|install|uninstall|remove|autoinstall|status [-m MODULE] [-v VERSION] [-k KERNEL] [--all] [--force]
tree=/var/lib/dkms arch=$(uname -m) action=$1
shift
module='' version='' kernel=$(uname -r) all=''
while [ $# -gt 0 ]; do
    case $1 in
        -m) module=$2; shift ;;
        -v) version=$2; shift ;;
        -k) kernel=${2%/*}; shift ;;
        --all) all=yes ;;
        */*) module=${1%/*} version=${1#*/} ;;
    esac
    shift
done
say() { echo "$*"; }
fail() { echo "Error! $*" >&2; exit "${status:-1}"; }
names() { sed -n 's/^BUILT_MODULE_NAME.*="\(.*\)"/\1/p' "$tree/$1/$2/source/dkms.conf"; }
built() { [ -e "$tree/$1/$2/$3/$arch/module" ]; }
installed() { [ "$(readlink "$tree/$1/kernel-$3-$arch")" = "$2/$3/$arch" ]; }
place() { [ -d "/lib/modules/$1/updates/dkms" ] && echo updates/dkms || echo extra; }
sign() {
    key='' certificate='' signer=/lib/modules/$2/build/scripts/sign-file
    for file in /etc/dkms/framework.conf /etc/dkms/framework.conf.d/*.conf; do
        [ ! -e "$file" ] || { mok_signing_key='' mok_certificate=''; . "$file"
            key=${mok_signing_key:-$key} certificate=${mok_certificate:-$certificate}; }
    done
    key=${key:-/var/lib/dkms/mok.key} certificate=${certificate:-/var/lib/dkms/mok.pub}
    [ ! -e "$key" ] || [ ! -x "$signer" ] || "$signer" sha512 "$key" "$certificate" "$1"
}
build() {
    ! built "$1" "$2" "$3" || return 0
    [ -e "$tree/$1/$2/source" ] || status=3 fail "DKMS tree does not contain: $1-$2"
    [ -d "/lib/modules/$3/build/" ] || status=21 fail \
        "Your kernel headers for kernel $3 cannot be found at /lib/modules/$3/build or /lib/modules/$3/source."
    work=$tree/$1/$2/build log=$tree/$1/$2/build/make.log out=$tree/$1/$2/$3/$arch
    rm -rf "$work" && cp -rL "$tree/$1/$2/source" "$work" && cd "$work" || exit 1
    { echo "DKMS make.log for $1-$2 for kernel $3 ($arch)"; date; } >"$log"
    if ! python3 ./build-module "$3" >>"$log" 2>&1; then
        status=10 fail "Bad return status for module build on kernel: $3 ($arch)
Consult $log for more information."
    fi
    mkdir -p "$out/module" "$out/log"
    for name in $(names "$1" "$2"); do
        sign "$work/$name.ko" "$3"
        mv "$work/$name.ko" "$out/module/"
    done
    mv "$log" "$out/log/" && cd / && rm -rf "$work"
}
put() {
    ! installed "$1" "$2" "$3" || return 0
    mkdir -p "/lib/modules/$3/$(place "$3")"
    cp "$tree/$1/$2/$3/$arch/module/"*.ko "/lib/modules/$3/$(place "$3")/"
    ln -sfn "$2/$3/$arch" "$tree/$1/kernel-$3-$arch"
    depmod "$3" 2>/dev/null || :
}
take() {
    installed "$1" "$2" "$3" || return 0
    for name in $(names "$1" "$2"); do rm -f "/lib/modules/$3/$(place "$3")/$name.ko"; done
    rm -f "$tree/$1/kernel-$3-$arch"
    depmod "$3" 2>/dev/null || :
}
kernels_of() { ls "$tree/$1/$2" | grep -v -x -e source -e build || :; }
case $action in
    add)
        [ -e "/usr/src/$module-$version/dkms.conf" ] || fail "Could not find module source directory."
        mkdir -p "$tree/$module/$version"
        ln -sfn "/usr/src/$module-$version" "$tree/$module/$version/source" ;;
    build) build "$module" "$version" "$kernel" ;;
    install) build "$module" "$version" "$kernel" && put "$module" "$version" "$kernel" ;;
    uninstall) take "$module" "$version" "$kernel" ;;
    remove)
        [ -e "$tree/$module/$version" ] || status=3 fail "The module/version combo: $module-$version is not located in
the DKMS tree."
        for one in $(kernels_of "$module" "$version"); do
            [ -n "$all" ] || [ "$one" = "$kernel" ] || continue
            take "$module" "$version" "$one"
            rm -rf "${tree:?}/$module/$version/$one"
        done
        [ -z "$all" ] || { rm -rf "${tree:?}/$module/$version"; rmdir "$tree/$module" 2>/dev/null || :; } ;;
    autoinstall)
        for source in "$tree"/*/*/source; do
            [ -e "$source" ] || continue
            version=$(basename "$(dirname "$source")") module=$(basename "$(dirname "$(dirname "$source")")")
            ( build "$module" "$version" "$kernel" && put "$module" "$version" "$kernel" ) || left=yes
        done
        [ -z "$left" ] || status=11 fail "One or more modules failed to install during autoinstall." ;;
    status)
        for source in "$tree"/*/*/source; do
            [ -e "$source" ] || continue
            version=$(basename "$(dirname "$source")") module=$(basename "$(dirname "$(dirname "$source")")") any=''
            for one in $(kernels_of "$module" "$version"); do
                built "$module" "$version" "$one" || continue
                any=yes state=built
                ! installed "$module" "$version" "$one" || state=installed
                say "$module/$version, $one, $arch: $state"
            done
            [ -n "$any" ] || say "$module/$version: added"
        done ;;
    *) fail "Unknown action specified: \"$action\"" ;;
esac
"""

NVIDIA_SMI = """\
#!/bin/sh
# Answers as the original does without a GPU that answers, or with a module that only seems to be loaded.
version=@VERSION@ loaded=$(sed -n 's/.*  \\([0-9][0-9.]*\\)  .*/\\1/p' /proc/driver/nvidia/version 2>/dev/null)
if [ -z "$loaded" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest" \\
        "NVIDIA driver is installed and running."
    echo
    exit 9
fi
if [ "$loaded" != "$version" ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    echo "NVML library version: ${version%.*}"
    exit 18
fi
echo "NVIDIA-SMI $version   Driver Version: $version"
"""

PERSISTENCED = """\
#!/bin/sh
[ -e /dev/nvidia0 ] || {
    echo "Failed to query NVIDIA devices. Please ensure that the NVIDIA device files (/dev/nvidia*) exist." >&2
    exit 1
}
exec sleep infinity
"""
FABRICMANAGER = """\
#!/bin/sh
loaded=$(cat /sys/module/nvidia/version 2>/dev/null)
grep -q -i -e 0x22a3 -e 0x1af1 -e 0x1ac2 /sys/bus/pci/devices/*/device 2>/dev/null || {
    echo "fabric manager: the system has no NVSwitch; nothing to do" >&2
    exit 1
}
[ "$loaded" = @VERSION@ ] || {
    echo "fabric manager: version @VERSION@ does not match the driver, ${loaded:-which is not loaded}" >&2
    exit 1
}
exec sleep infinity
"""
DAEMON = "#!/bin/sh\nexec sleep infinity\n"
UNIT = """\
[Unit]
Description=@DESCRIPTION@
[Service]
Type=exec
ExecStart=@PROGRAM@
Restart=no
[Install]
WantedBy=multi-user.target
"""

#: Put before every other line of a package's set-up.
FAIL_ONCE = """\
if grep -q -x '@PACKAGE@' /etc/standin/fails-once 2>/dev/null; then
    sed -i '/^@PACKAGE@$/d' /etc/standin/fails-once
    echo "@PACKAGE@: told to fail this once" >&2
    exit 1
fi
"""
SLOW = '[ ! -e /etc/standin/slow ] || sleep "$(cat /etc/standin/slow)"\n'


def filled(text: str, **values: str) -> str:
    """Put values in the places of a text that are named @LIKE_THIS@."""
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", value)
    return text


def dkms_source(name: str, version: str, licence: str) -> dict[str, Content]:
    """Return the sources of the module as DKMS finds them."""
    place = f"/usr/src/{name}-{version}"
    conf = filled(DKMS_CONF, name=name, version=version)
    for number, module in enumerate(MODULES):
        conf += f'BUILT_MODULE_NAME[{number}]="{module}"\nDEST_MODULE_LOCATION[{number}]="/extra"\n'
    build = filled(BUILD_MODULE, name=name, version=version, licence=licence)
    return {f"{place}/dkms.conf": conf, f"{place}/build-module": build}


def ready_module(version: str, licence: str, release: str, module: str) -> bytes:
    """Return a module as a distribution builds it; the signature is only one for the eye."""
    said = [("version", version), ("license", licence), ("name", module), ("vermagic", f"{release} SMP mod_unload ")]
    return fabricated_hosts.elf_module(said, signed=True)


def libraries(version: str, directory: str) -> dict[str, Content]:
    """Return the libraries that programs ask the driver with, under the names that the loader looks for."""
    files: dict[str, Content] = {}
    for name in ("libcuda", "libnvidia-ml"):
        files[f"{directory}/{name}.so.{version}"] = f"stand-in of {name} {version}\n"
        files[f"{directory}/{name}.so.1"] = Link(f"{name}.so.{version}")
    return files


def daemon(program: str, description: str, text: str = DAEMON) -> dict[str, Content]:
    """Return a program and the unit that runs it."""
    unit = filled(UNIT, description=description, program=f"/usr/bin/{program}")
    name = {"nv-fabricmanager": "nvidia-fabricmanager", "nv-hostengine": "nvidia-dcgm"}.get(program, program)
    return {f"/usr/bin/{program}": text, f"/usr/lib/systemd/system/{name}.service": unit}


def smi(version: str) -> dict[str, Content]:
    """Return the program that shows the GPUs."""
    return {"/usr/bin/nvidia-smi": filled(NVIDIA_SMI, version=version)}


def fabric_manager(version: str) -> dict[str, Content]:
    """Return the fabric manager, which runs beside a driver of its own version only."""
    return daemon("nv-fabricmanager", "NVIDIA fabric manager", filled(FABRICMANAGER, version=version))


def persistence(version: str) -> dict[str, Content]:
    """Return the persistence daemon, which wants a device."""
    return daemon("nvidia-persistenced", f"NVIDIA Persistence Daemon {version}", PERSISTENCED)


def headers(release: str, place: str) -> dict[str, Content]:
    """Return headers of a kernel: what DKMS looks for, and the program that signs."""
    return {
        f"{place}/Makefile": f"# headers of {release}\nmodules:\n\t@true\n",
        f"{place}/.config": "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n",
        f"{place}/include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        f"{place}/scripts/sign-file": SIGN_FILE,
        f"/lib/modules/{release}/build": Link(place),
    }


def kernel_image(release: str) -> dict[str, Content]:
    """Return a kernel that cannot run, with the lists that depmod and the initramfs tools want."""
    place = f"/lib/modules/{release}"
    return {
        f"/boot/vmlinuz-{release}": f"stand-in of Linux {release}\n",
        f"/boot/config-{release}": "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\nCONFIG_RD_GZIP=y\n",
        f"{place}/modules.order": "",
        f"{place}/modules.builtin": "",
        f"{place}/modules.builtin.modinfo": "",
        f"{place}/kernel/drivers/gpu/drm/nouveau/nouveau.ko": fabricated_hosts.elf_module(
            [("license", "GPL and additional rights"), ("name", "nouveau"), ("vermagic", f"{release} SMP mod_unload ")]
        ),
    }


def shell(lines: Iterable[str], package: str) -> str:
    """Return a maintainer script for set-up."""
    start = f'#!/bin/sh\nset -e\n[ "$1" = configure ] || exit 0\n{filled(FAIL_ONCE, package=package)}'
    return start + textwrap.dedent("".join(f"{line}\n" for line in lines))
