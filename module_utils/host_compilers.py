# SPDX-License-Identifier: Apache-2.0
"""Compilers that nvcc could work with, as their names, links and directories tell; none of them is run."""

from __future__ import annotations

import os
import platform
import re

#: Programs that call a compiler of the same name further down the search path.
_WRAPPERS = ("ccache", "distcc", "icecc", "sccache")
_GCC = re.compile(r"gcc-(\d+)(?:\.\d+)*")
_CLANG = re.compile(r"clang\+\+-(\d+)(?:\.\d+)*")
#: The major version in the name of what `gcc` or `clang++` leads to: x86_64-linux-gnu-gcc-12, llvm-14/bin/clang.
_NAMED = re.compile(r"(?:gcc|clang(?:\+\+)?)-(\d+)(?:\.\d+)*$|/llvm-?(\d+)/bin/[^/]+$")
#: Where shells look first, and nvcc with them.
_PREFIXES = ("usr/local", "usr")
_TOOLSETS = "opt/rh"


def compilers(files):
    """Return the host's own gcc, which nvcc takes by itself, and every gcc and clang, the newest first."""
    programs = {prefix: files.names(f"{prefix}/bin") for prefix in _PREFIXES}
    default = _default(files, programs)
    gcc, clang = {}, {}
    for prefix, names in programs.items():
        for name in names:
            found = _GCC.fullmatch(name)
            if found and files.exists(f"{prefix}/bin/{name}"):
                cxx = f"{prefix}/bin/{name.replace('gcc', 'g++')}"
                gcc.setdefault(found.group(1), _row(files, found.group(1), f"{prefix}/bin/{name}", cxx))
            found = _CLANG.fullmatch(name)
            if found and files.exists(f"{prefix}/bin/{name}"):
                clang.setdefault(found.group(1), dict(major=found.group(1), cxx=f"/{prefix}/bin/{name}"))
    if default and default["major"]:
        place = default["cc"][1:]
        gcc.setdefault(default["major"], _row(files, default["major"], place, place[: -len("gcc")] + "g++"))
    for place, major in _toolsets(files):
        gcc.setdefault(major, _row(files, major, f"{place}/bin/gcc", f"{place}/bin/g++"))
    for prefix in _PREFIXES:
        major = _plain_clang(files, prefix) if "clang++" in programs[prefix] else None
        if major:
            clang.setdefault(major, dict(major=major, cxx=f"/{prefix}/bin/clang++"))
    return dict(default=default, gcc=_newest_first(gcc), clang=_newest_first(clang))


def _row(files, major, cc, cxx):
    return dict(major=major, cc=f"/{cc}", cxx=f"/{cxx}" if files.exists(cxx) else None)


def _newest_first(rows):
    return [rows[major] for major in sorted(rows, key=int, reverse=True)]


def _default(files, programs):
    for prefix, names in programs.items():
        place = f"{prefix}/bin/gcc"
        if "gcc" not in names or not files.exists(place):
            continue
        real = files.real(place)
        if os.path.basename(real) in _WRAPPERS:
            continue
        major = _named(real) or _same_file(files, prefix, names) or _only_one(_installed(files, prefix))
        if major is None:
            files.unknown["compilers.default"] = f"/{place}: neither its name nor {prefix}/lib/gcc tells its version"
        return dict(cc=f"/{place}", major=major)
    return None


def _named(real):
    found = _NAMED.search(real)
    return (found.group(1) or found.group(2)) if found else None


def _same_file(files, prefix, names):
    """Return the version of a longer name that the same file has; Red Hat's packages give it two."""
    own = files.status(f"{prefix}/bin/gcc")
    for name in names:
        found = re.fullmatch(r"\S+-gcc-(\d+)(?:\.\d+)*", name)
        other = files.status(f"{prefix}/bin/{name}") if found else None
        if other and own and (other.st_dev, other.st_ino) == (own.st_dev, own.st_ino):
            return found.group(1)
    return None


def _installed(files, prefix):
    """Return the versions of gcc that are installed for this machine; a directory without cc1 is a library's."""
    found = set()
    for target in files.names(f"{prefix}/lib/gcc", f"{platform.machine()}-*linux*"):
        for name in files.names(f"{prefix}/lib/gcc/{target}"):
            places = (f"{prefix}/{lib}/gcc/{target}/{name}/cc1" for lib in ("libexec", "lib"))
            if re.fullmatch(r"\d+(\.\d+)*", name) and any(map(files.exists, places)):
                found.add(name.partition(".")[0])
    return found


def _only_one(majors):
    return next(iter(majors)) if len(majors) == 1 else None


def _toolsets(files):
    """Yield Red Hat's further compilers, which lie below directories of their own."""
    for name in files.names(_TOOLSETS, "*toolset-*"):
        place = f"{_TOOLSETS}/{name}/root/usr"
        if files.exists(f"{place}/bin/gcc"):
            major = _only_one(_installed(files, place))
            if major:
                yield place, major


def _plain_clang(files, prefix):
    place = f"{prefix}/bin/clang++"
    if not files.exists(place):
        return None
    majors = {name.partition(".")[0] for name in files.names(f"{prefix}/lib/clang") if re.match(r"\d+(\.|$)", name)}
    major = _named(files.real(place)) or _only_one(majors)
    if major is None:
        files.unknown["compilers.clang"] = f"/{place}: neither its name nor {prefix}/lib/clang tells its version"
    return major
