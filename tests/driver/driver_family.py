# SPDX-License-Identifier: Apache-2.0
"""The packages that one version of the driver consists of, as each repository cuts it up.

Names and relations are those of the originals as far as one host's driver needs them; graphics libraries are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stub_contents import (
    DAEMON,
    DKMS,
    LICENCES_OF_FLAVOURS,
    SLOW,
    daemon,
    dkms_source,
    fabric_manager,
    headers,
    kernel_image,
    libraries,
    persistence,
    ready_module,
    shell,
    smi,
)
from stub_packages import Content, Package

DEB_LIB = "/usr/lib/x86_64-linux-gnu"
RPM_LIB = "/usr/lib64"
#: An older release of branch 580, to upgrade from and downgrade to.
OLDER = ("580.126.09", "580")
#: Branches whose packages for Ubuntu have the branch in their names.
OLD_BRANCHES = ("515", "520", "525", "530", "535", "545", "550", "555", "560", "565", "570", "575", "580")


def _deb(name: str, version: str, branch: str | None = None, lines: Iterable[str] = (), **rest: Any) -> Package:
    """Return a .deb whose set-up can be told to fail once."""
    scripts = {"postinst": shell(lines, name)}
    scripts.update(rest.pop("scripts", {}))
    return Package(name, version, branch=branch, scripts=scripts, **rest)


def _dkms_scripts(version: str, package: str) -> dict[str, str]:
    """Return maintainer scripts that have DKMS build and remove the module, with Debian's helper of DKMS."""
    build = f'/usr/lib/dkms/common.postinst nvidia {version} "" "$(dpkg --print-architecture)" "$2"\n'
    remove = f"""\
#!/bin/sh
set -e
case $1 in
    remove | upgrade | deconfigure)
        [ -z "$(dkms status -m nvidia -v {version})" ] || dkms remove -m nvidia -v {version} --all ;;
esac
"""
    return {"postinst": shell([SLOW, build], package), "prerm": remove}


def deb_dkms(name: str, version: str, full: str, branch: str, flavour: str, **rest: Any) -> Package:
    """Return the package whose set-up builds the module."""
    return Package(
        name,
        full,
        branch=branch,
        files=dkms_source("nvidia", version, LICENCES_OF_FLAVOURS[flavour]),
        scripts=_dkms_scripts(version, name),
        **rest,
    )


def pinning(version: str, branch: str, full: str) -> list[Package]:
    """Return the packages that pin the family to one version, or to its branch; one does for all of a branch."""
    packages = []
    older = (version, branch) == OLDER
    for wanted, release in ((version, full), (branch, f"{branch}-2")):
        text = (
            "Package: *nvidia*:any cuda-drivers*:any libcuda1:any xserver-xorg-video-nvidia*:any\n"
            f"Pin: version {wanted}{'-' if wanted == version else '.'}*\nPin-Priority: 1000\n"
        )
        if wanted == branch and older:
            continue
        packages.append(
            Package(
                f"nvidia-driver-pinning-{wanted}",
                release,
                arch="all",
                branch=branch,
                provides=["nvidia-driver-pinning"],
                conflicts=["nvidia-driver-pinning"],
                replaces=["nvidia-driver-pinning"],
                files={"/etc/apt/preferences.d/nvidia-driver-pinning": text},
            )
        )
    return packages


def deb_beside(version: str, branch: str, full: str) -> list[Package]:
    """Return what lies beside the driver at its version under the same name in every apt repository."""
    old = int(branch) < 580
    suffix = f"-{branch}" if old else ""
    packages = [
        _deb("nvidia-modprobe", full, branch, files={"/usr/bin/nvidia-modprobe": "#!/bin/sh\n"}),
        _deb("nvidia-settings", full, branch, files={"/usr/bin/nvidia-settings": "#!/bin/sh\n"}),
        _deb(f"nvidia-fabricmanager{suffix}", f"{version}-1", branch, files=fabric_manager(version)),
        _deb(f"nvidia-imex{suffix}", f"{version}-1", branch, files=daemon("nvidia-imex", "NVIDIA IMEX")),
        _deb(
            f"libnvidia-nscq{suffix}", f"{version}-1", branch, files={f"{DEB_LIB}/libnvidia-nscq.so.{version}": "-\n"}
        ),
    ]
    return packages + (pinning(version, branch, full) if not old else [])


def ubuntu_family(version: str, branch: str, kinds: Sequence[str]) -> list[Package]:
    """Return the driver as NVIDIA's repository for Ubuntu has it: names carry the branch up to 580."""
    suffix = f"-{branch}" if int(branch) < 590 else ""
    full = f"{version}-{'0ubuntu1' if suffix else '1ubuntu1'}"
    same = f"(= {full})"

    def part(
        name: str, depends: Sequence[str] = (), files: dict[str, Content] | None = None, tail: str = ""
    ) -> Package:
        # Parts of two branches, or of NVIDIA's and Ubuntu's, are in each other's way: one virtual name for all.
        virtual = [f"{name}{tail}"] if suffix else []
        return _deb(
            f"{name}{suffix}{tail}",
            full,
            branch,
            depends=depends,
            provides=[f"{name}{tail}"] * bool(suffix),
            conflicts=virtual,
            replaces=virtual,
            files=files or {},
        )

    common = [f"nvidia-kernel-common{suffix} {same}"]
    packages = [
        part("libnvidia-compute", files=libraries(version, DEB_LIB)),
        part("libnvidia-cfg1", files={f"{DEB_LIB}/libnvidia-cfg.so.{version}": "-\n"}),
        part("nvidia-kernel-common", files={"/usr/lib/udev/rules.d/71-nvidia.rules": "# stand-in\n"}),
        part("nvidia-firmware", files={f"/usr/lib/firmware/nvidia/{version}/gsp_ga10x.bin": "-\n"}),
        part("nvidia-utils", [f"libnvidia-compute{suffix} {same}"], smi(version)),
    ]
    if suffix:
        depends = [f"libnvidia-compute{suffix} {same}"]
        packages.append(part("nvidia-compute-utils", depends, persistence(version)))
        runs = f"nvidia-compute-utils{suffix} {same}"
    else:
        old = ["nvidia-compute-utils"]
        packages.append(
            _deb("nvidia-persistenced", full, branch, conflicts=old, replaces=old, files=persistence(version))
        )
        runs = f"nvidia-persistenced {same}"
    for flavour in kinds:
        tail = "-open" if flavour == "open" else ""
        dkms = f"nvidia-dkms{suffix}{tail}"
        firmware = [f"nvidia-firmware{suffix} {same}"]
        packages.append(
            deb_dkms(
                dkms,
                version,
                full,
                branch,
                flavour,
                depends=["dkms", *common, *firmware],
                provides=["nvidia-dkms-kernel"],
                conflicts=["nvidia-dkms-kernel"],
                replaces=["nvidia-dkms-kernel"],
            )
        )
        parts = [f"libnvidia-compute{suffix} {same}", f"libnvidia-cfg1{suffix} {same}", f"nvidia-utils{suffix} {same}"]
        driver = f"nvidia-driver{suffix}{tail}"
        packages.append(
            _deb(
                driver,
                full,
                branch,
                depends=[*parts, *common, runs, f"{dkms} {same}"],
                conflicts=["nvidia-driver-binary"],
                replaces=["nvidia-driver-binary"],
                provides=["nvidia-driver-binary"],
            )
        )
        meta = "nvidia-open" if flavour == "open" else "cuda-drivers"
        packages += _metas(meta, suffix, branch, full, driver)
    return packages + deb_beside(version, branch, full)


def _metas(meta: str, suffix: str, branch: str, full: str, driver: str) -> list[Package]:
    """Return the meta packages of a flavour: the one that follows every branch, and, up to 580, its branch's own."""
    depends = [f"{driver} (= {full})", "nvidia-modprobe", "nvidia-settings"]
    if not suffix:
        # Without its branch in the name it takes the place of every older one.
        older = [f"{meta}-{number}" for number in OLD_BRANCHES]
        return [Package(meta, full, branch=branch, depends=depends, conflicts=older, replaces=older)]
    own = Package(f"{meta}{suffix}", full, branch=branch, depends=depends)
    return [own, Package(meta, full, branch=branch, depends=[f"{meta}{suffix} (= {full})"])]


def debian_family(version: str, branch: str, kinds: Sequence[str]) -> list[Package]:
    """Return the driver as NVIDIA's repository for Debian has it: names without the branch, but for meta packages."""
    full = f"{version}-1"
    same = f"(= {full})"
    packages = [
        _deb("libcuda1", full, branch, files={f"{DEB_LIB}/libcuda.so.{version}": "-\n"}),
        _deb("libnvidia-ml1", full, branch, files=_only(libraries(version, DEB_LIB), "libnvidia-ml")),
        _deb(
            "nvidia-driver-cuda",
            full,
            branch,
            depends=[f"libcuda1 {same}", f"libnvidia-ml1 {same}"],
            files=smi(version),
        ),
        _deb("nvidia-persistenced", full, branch, files=persistence(version)),
        _deb("nvidia-kernel-support", full, branch, files={"/etc/modprobe.d/nvidia.conf": "# stand-in\n"}),
        _deb("firmware-nvidia-gsp", full, branch, files={f"/usr/lib/firmware/nvidia/{version}/gsp_ga10x.bin": "-\n"}),
        _deb(
            "nvidia-driver",
            full,
            branch,
            depends=[
                f"nvidia-driver-cuda {same}",
                f"nvidia-kernel-dkms {same} | nvidia-open-kernel {same}",
                f"nvidia-persistenced {same}",
            ],
        ),
    ]
    names = {"open": "nvidia-kernel-open-dkms", "proprietary": "nvidia-kernel-dkms"}
    for flavour in kinds:
        other = [name for key, name in names.items() if key != flavour]
        packages.append(
            deb_dkms(
                names[flavour],
                version,
                full,
                branch,
                flavour,
                depends=["dkms", f"nvidia-kernel-support {same}", f"firmware-nvidia-gsp {same}"],
                provides=[f"nvidia-open-kernel {same}"] if flavour == "open" else [],
                conflicts=other,
                replaces=other,
            )
        )
        meta = "nvidia-open" if flavour == "open" else "cuda-drivers"
        depends = [f"nvidia-driver {same}", f"{names[flavour]} {same}", "nvidia-modprobe", "nvidia-settings"]
        packages.append(Package(meta, full, branch=branch, depends=depends))
        if int(branch) <= 580:
            packages.append(Package(f"{meta}-{branch}", full, branch=branch, depends=[f"{meta} {same}"]))
    return packages + deb_beside(version, branch, full)


def _only(files: dict[str, Content], name: str) -> dict[str, Content]:
    return {path: content for path, content in files.items() if f"/{name}." in path}


def deb_others(cudas: Iterable[str]) -> list[Package]:
    """Return the packages of NVIDIA's apt repository that have versions of their own."""
    packages = [
        _deb("nvlsm", "2025.06.11-1", files=daemon("nvlsm", "NVIDIA subnet manager")),
        _deb("nvidia-container-toolkit-base", "1.19.1-1", files={"/usr/bin/nvidia-ctk": CTK}),
        _deb("libnvidia-container1", "1.19.1-1"),
        _deb(
            "nvidia-container-toolkit",
            "1.19.1-1",
            depends=["nvidia-container-toolkit-base (= 1.19.1-1)", "libnvidia-container1"],
        ),
        _deb("datacenter-gpu-manager-4-core", "1:4.5.0-1", files=daemon("nv-hostengine", "NVIDIA DCGM", DAEMON)),
        Package("cuda-keyring", "1.1-1", arch="all", files={"/usr/share/doc/cuda-keyring/readme": "stand-in\n"}),
    ]
    for major in ("12", "13"):
        depends = ["datacenter-gpu-manager-4-core (= 1:4.5.0-1)"]
        packages.append(_deb(f"datacenter-gpu-manager-4-cuda{major}", "1:4.5.0-1", depends=depends))
    return packages + [_deb(f"cuda-compat-{cuda.replace('.', '-')}", f"{cuda}.0-1") for cuda in cudas]


CTK = """\
#!/bin/sh
# nvidia-ctk: `cdi generate --output=FILE` writes a description, `runtime configure` the settings of docker.
for word in "$@"; do
    case $word in
        --output=*) mkdir -p "$(dirname "${word#*=}")" && echo "cdiVersion: 0.5.0" >"${word#*=}" ;;
    esac
done
case "$1 $2" in
    "runtime configure")
        mkdir -p /etc/docker
        echo '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}' >/etc/docker/daemon.json ;;
    "--version ") echo "NVIDIA Container Toolkit CLI version 1.19.1" ;;
esac
"""


# --- the distributions' own archives ---------------------------------------------------------------------------------


def deb_kernels(releases: Sequence[str], flavour: str) -> list[Package]:
    """Return kernels, their headers, and the packages that follow the newest."""
    packages = []
    for release in releases:
        version = release.removesuffix(f"-{flavour}").replace("-", ".") + ".1"
        run = [
            "hooks=/etc/kernel/postinst.d",
            f'[ ! -d "$hooks" ] || run-parts --arg={release} --arg=/boot/vmlinuz-{release} "$hooks"',
        ]
        packages += [
            _deb(f"linux-image-{release}", version, lines=run, files=kernel_image(release)),
            _deb(f"linux-headers-{release}", version, files=headers(release, f"/usr/src/linux-headers-{release}")),
        ]
    newest = releases[-1]
    version = packages[-1].version
    packages += [
        Package(f"linux-image-{flavour}", version, depends=[f"linux-image-{newest}"]),
        Package(f"linux-headers-{flavour}", version, depends=[f"linux-headers-{newest}"]),
    ]
    if flavour == "generic":
        needs = [f"linux-image-generic (= {version})", f"linux-headers-generic (= {version})"]
        packages.append(Package("linux-generic", version, depends=needs))
    return packages


def ubuntu_server_family(version: str, branch: str, kinds: Sequence[str], releases: Sequence[str]) -> list[Package]:
    """Return the driver as Ubuntu's archive has it: modules signed by Ubuntu, one package for each kernel."""
    suffix = f"-{branch}-server"
    full = f"{version}-0ubuntu0.24.04.1"
    same = f"(= {full})"

    def part(name: str, depends: Sequence[str] = (), files: dict[str, Content] | None = None) -> Package:
        return _deb(
            f"{name}{suffix}",
            full,
            branch,
            depends=depends,
            provides=[name],
            conflicts=[name],
            replaces=[name],
            files=files or {},
            component="restricted",
        )

    packages = [
        part("libnvidia-compute", files=libraries(version, DEB_LIB)),
        part("nvidia-kernel-common", files={"/usr/lib/udev/rules.d/71-nvidia.rules": "# stand-in\n"}),
        part("nvidia-utils", [f"libnvidia-compute{suffix} {same}"], smi(version)),
        part("nvidia-compute-utils", [f"libnvidia-compute{suffix} {same}"], persistence(version)),
        _deb(f"nvidia-fabricmanager-{branch}", full, branch, files=fabric_manager(version), component="restricted"),
    ]
    for flavour in kinds:
        tail = "-open" if flavour == "open" else ""
        needs = [
            f"libnvidia-compute{suffix} {same}",
            f"nvidia-kernel-common{suffix} {same}",
            f"nvidia-compute-utils{suffix} {same}",
        ]
        headless = f"nvidia-headless-no-dkms{suffix}{tail}"
        exclusive = [f"nvidia-headless-no-dkms{suffix}{other}" for other in ("", "-open") if other != tail]
        packages += [
            _deb(headless, full, branch, depends=needs, conflicts=exclusive, component="restricted"),
            _deb(
                f"nvidia-headless{suffix}{tail}",
                full,
                branch,
                depends=[f"{headless} {same}", f"nvidia-dkms{suffix}{tail} {same}"],
                component="restricted",
            ),
            deb_dkms(
                f"nvidia-dkms{suffix}{tail}",
                version,
                full,
                branch,
                flavour,
                depends=["dkms", f"nvidia-kernel-common{suffix} {same}"],
                provides=["nvidia-dkms-kernel"],
                conflicts=["nvidia-dkms-kernel"],
                component="restricted",
            ),
        ]
        packages += _ubuntu_modules(version, branch, tail, LICENCES_OF_FLAVOURS[flavour], releases)
    return packages


def _ubuntu_modules(version: str, branch: str, tail: str, licence: str, releases: Sequence[str]) -> list[Package]:
    """Return the signed modules, one package for each kernel, and the package that follows the newest."""
    packages = []
    base = f"linux-modules-nvidia-{branch}-server{tail}"
    for release in releases:
        number = release.removesuffix("-generic").replace("-", ".") + ".1"
        place = f"/lib/modules/{release}/kernel/nvidia-{branch}srv{tail}"
        files: dict[str, Content] = {
            f"{place}/{name}.ko": ready_module(version, licence, release, name) for name in ("nvidia", "nvidia-uvm")
        }
        packages.append(
            _deb(
                f"{base}-{release}",
                number,
                branch,
                [f"depmod {release} 2>/dev/null || :"],
                depends=[f"linux-image-{release}", f"nvidia-kernel-common-{branch}-server"],
                provides=[f"linux-modules-nvidia-{release}"],
                conflicts=[f"linux-modules-nvidia-{release}"],
                files=files,
                component="restricted",
            )
        )
    newest = packages[-1]
    for follower in (f"{base}-generic",):
        needs = [f"{newest.name} (= {newest.version})"]
        packages.append(_deb(follower, newest.version, branch, depends=needs, component="restricted"))
    return packages


# --- rpm -------------------------------------------------------------------------------------------------------------


def rpm_family(version: str, branch: str, kinds: Sequence[str], dist: str) -> list[Package]:
    """Return the driver as NVIDIA's dnf repositories have it."""
    release = f"1.{dist}"
    evr = f"3:{version}-{release}"

    def part(name: str, depends: Sequence[str] = (), **rest: Any) -> Package:
        epoch = rest.pop("epoch", "3")
        return Package(name, version, release, str(epoch), depends=depends, branch=branch, **rest)

    manager = "nvidia-fabricmanager" if int(branch) >= 580 else "nvidia-fabric-manager"
    packages = [
        part("libnvidia-ml", files=_only(libraries(version, RPM_LIB), "libnvidia-ml")),
        part("libnvidia-cfg", files={f"{RPM_LIB}/libnvidia-cfg.so.{version}": "-\n"}),
        part("nvidia-driver-cuda-libs", [f"libnvidia-ml = {evr}"], files=_only(libraries(version, RPM_LIB), "libcuda")),
        part("nvidia-driver-libs", [f"libnvidia-cfg = {evr}"]),
        part("nvidia-persistenced", files=persistence(version)),
        part("nvidia-modprobe", files={"/usr/bin/nvidia-modprobe": "#!/bin/sh\n"}),
        part("nvidia-settings", files={"/usr/bin/nvidia-settings": "#!/bin/sh\n"}),
        part(
            "nvidia-kmod-common",
            ["nvidia-kmod = " + evr],
            arch="noarch",
            files={"/usr/lib/modprobe.d/nvidia.conf": "# stand-in\n"},
        ),
        part(
            "nvidia-driver-cuda",
            [f"nvidia-driver-cuda-libs = {evr}", f"nvidia-kmod-common = {evr}", f"nvidia-persistenced = {evr}"],
            files=smi(version),
        ),
        part("nvidia-driver", [f"nvidia-driver-libs = {evr}", f"nvidia-kmod-common = {evr}"]),
        part(
            manager, epoch="", files=fabric_manager(version), provides=["nvidia-fabric-manager"] * (int(branch) >= 580)
        ),
        part("nvidia-imex", epoch="", files=daemon("nvidia-imex", "NVIDIA IMEX")),
        part("libnvidia-nscq", epoch="", files={f"{RPM_LIB}/libnvidia-nscq.so.{version}": "-\n"}),
    ]
    names = {"open": ("kmod-nvidia-open-dkms", "nvidia-open"), "proprietary": ("kmod-nvidia-latest-dkms", "nvidia")}
    for flavour in kinds:
        package, module = names[flavour]
        packages.append(
            part(
                package,
                ["dkms"],
                arch="noarch",
                provides=[f"nvidia-kmod = {evr}"],
                conflicts=[name for name, _ in names.values() if name != package],
                files=dkms_source(module, version, LICENCES_OF_FLAVOURS[flavour]),
                scripts=_rpm_dkms_scripts(module, version, package),
            )
        )
        meta = "nvidia-open" if flavour == "open" else "cuda-drivers"
        needs = [
            f"nvidia-driver = {evr}",
            f"nvidia-driver-cuda = {evr}",
            f"{package} = {evr}",
            f"nvidia-modprobe = {evr}",
        ]
        packages.append(part(meta, needs, arch="noarch"))
    return packages


def _rpm_dkms_scripts(module: str, version: str, package: str) -> dict[str, str]:
    """Return scriptlets like the originals': a build that fails does not fail the transaction."""
    one = f"-m {module} -v {version}"
    return {
        "%post": f"{SLOW}dkms add {one} || :\ndkms build {one} || :\ndkms install {one} --force || :\n",
        "%preun": f"dkms remove {one} --all || :\n",
    }


def rpm_others(cudas: Iterable[str]) -> list[Package]:
    """Return the packages of NVIDIA's dnf repositories that have versions of their own."""
    packages = [
        Package("nvlsm", "2025.06.11", files=daemon("nvlsm", "NVIDIA subnet manager")),
        Package("nvidia-container-toolkit-base", "1.19.1", files={"/usr/bin/nvidia-ctk": CTK}),
        Package("nvidia-container-toolkit", "1.19.1", depends=["nvidia-container-toolkit-base = 1.19.1-1"]),
        Package(
            "datacenter-gpu-manager-4-core", "4.5.0", epoch="1", files=daemon("nv-hostengine", "NVIDIA DCGM", DAEMON)
        ),
    ]
    for major in ("12", "13"):
        depends = ["datacenter-gpu-manager-4-core = 1:4.5.0-1"]
        packages.append(Package(f"datacenter-gpu-manager-4-cuda{major}", "4.5.0", epoch="1", depends=depends))
    return packages + [Package(f"cuda-compat-{cuda.replace('.', '-')}", f"{cuda}.0") for cuda in cudas]


def rpm_archive() -> list[Package]:
    """Return tools of the distribution and of EPEL. Debian's own files serve for most of them."""
    packages = [Package("dkms", "3.2.2", arch="noarch", files={"/usr/sbin/dkms": DKMS})]
    tools = (
        "gcc",
        "make",
        "glibc-devel",
        "openssl",
        "mokutil",
        "epel-release",
        "python3-dnf-plugin-versionlock",
        "pciutils",
    )
    packages += [Package(name, "99", arch="noarch") for name in tools]
    # Every package with scriptlets asks for the shell by its path.
    packages.append(Package("bash", "5.1.8", provides=["/bin/sh", "/usr/bin/sh"]))
    return packages


def rpm_kernels(release: str) -> list[Package]:
    """Return one kernel and its headers."""
    version, _, rest = release.removesuffix(".x86_64").partition("-")
    beside = ["installonlypkg(kernel)"]  # several of them are installed side by side
    uname = f"kernel-uname-r = {release}"
    return [
        Package("kernel-core", version, rest, files=kernel_image(release), provides=[uname, *beside]),
        Package("kernel", version, rest, depends=[f"kernel-core = {version}-{rest}"], provides=beside),
        Package("kernel-devel", version, rest, files=headers(release, f"/usr/src/kernels/{release}"), provides=beside),
        Package("kernel-headers", version, rest, files={f"/usr/share/kernel-headers-{release}": "-\n"}),
    ]
