# SPDX-License-Identifier: Apache-2.0
"""What belongs to the project: the working tree without anything that is built or ignored."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Directories that never belong to it; consulted only where there is no git to ask.
BUILT = {".ansible", ".git", ".venv", ".venv-test", "__pycache__", "results"}


def project_files(root: Path = ROOT) -> list[Path]:
    """Return the project's files, sorted and relative to `root`: tracked ones, and new ones not ignored."""
    listing = subprocess_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], root)
    found = walk(root) if listing is None else [Path(name) for name in listing.split("\0") if name]
    return sorted(path for path in set(found) if (root / path).is_file() or (root / path).is_symlink())


def subprocess_output(command: list[str], directory: Path) -> str | None:
    """Return what a command prints, or None where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def walk(root: Path) -> list[Path]:
    """List files without git: everything but what BUILT names and caches."""
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in BUILT and not name.endswith("_cache")]
        found += [(Path(directory) / name).relative_to(root) for name in files]
    return found
