# SPDX-License-Identifier: Apache-2.0
"""Shells that people work in, and the systems of modules that they choose software with."""

from __future__ import annotations

import re

_LMOD = ("usr/share/lmod/lmod", "usr/local/lmod/lmod", "opt/apps/lmod/lmod", "opt/lmod/lmod")
_ENVIRONMENT_MODULES = ("usr/share/modules", "usr/share/Modules")
#: What Red Hat's packages of both read, though no file of theirs that we could ask says so.
_RED_HATS = "/etc/modulefiles"


def shells(files):
    """Name those of bash and zsh that are installed."""
    return [name for name in ("bash", "zsh") if any(files.exists(f"{place}/{name}") for place in ("usr/bin", "bin"))]


def module_systems(files):
    """Return ``{system: directory}``: where its modulefiles go, None where it is not installed or that is not known."""
    settings = "etc/environment-modules"
    return dict(
        lmod=_directory(files, "lmod", _LMOD, ["etc/lmod/modulespath"]),
        environment_modules=_directory(
            files, "environment_modules", _ENVIRONMENT_MODULES, [f"{settings}/modulespath", f"{settings}/initrc"]
        ),
    )


def _directory(files, name, homes, settings):
    home = next((home for home in homes if files.is_dir(f"{home}/init")), None)
    if home is None:
        return None
    named = []
    for place in settings:
        content = files.small(place, f"module_systems.{name}") or b""
        for line in content.decode("utf-8", "replace").splitlines():
            line = re.sub(r"^\s*module\s+use\b|(?<!\S)--?\w+|[{}\"]", " ", line.partition("#")[0])
            named += [word.rstrip("/") for part in line.split() for word in part.split(":")]
    there = [path for path in [*named, _RED_HATS] if path.startswith("/") and files.is_dir(path[1:])]
    # A directory of the administrator's before one whose content belongs to packages.
    found = next((path for path in there if path.startswith("/etc/")), None) or next(iter(there), None)
    if found is None:
        said = f"/{home} is there, and no file that is read says where its modulefiles lie"
        files.unknown.setdefault(f"module_systems.{name}", said)
    return found
