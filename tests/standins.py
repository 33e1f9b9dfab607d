# SPDX-License-Identifier: Apache-2.0
"""Stand-ins that tests make for themselves: packages that hold nothing but can be installed and imported."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path


def make_wheel(directory: Path, name: str, version: str, files: dict[str, str], needs: Sequence[str] = ()) -> Path:
    """Write a pure wheel with the given files and requirements, and return its path."""
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return wheel


def make_package(directory: Path, name: str, version: str, needs: Sequence[str] = ()) -> Path:
    """Write a wheel of one module that knows its version and nothing else."""
    module = name.replace("-", "_")
    return make_wheel(directory, module, version, {f"{module}.py": f"__version__ = {version!r}\n"}, needs)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
