#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check the rules of this project that no linter knows.

- No file names the host of a package registry: which index or archive is used is the machine's
  configuration, and a name here would bypass it. (Their names are put together below, not written.)
- No file names a path of the machine it was written on.
- Code and YAML carry the SPDX line.
- Nothing swallows an error or hides a change in Ansible.

Usage: house_rules.py. Prints `FILE:LINE: what` per fault; exit status 0 none, 1 some.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from project_tree import ROOT, project_files

REGISTRIES = ["py" + "pi.org", "python" + "hosted.org", "deb.deb" + "ian.org", "registry.np" + "mjs.org"]
SPDX = "SPDX-License-Identifier: Apache-2.0"
NEEDS_SPDX = {".py", ".sh", ".yml", ".yaml"}

YAML_RULES = {
    r"^\s*(- )?ignore_errors:": "ignore_errors hides failures: say with failed_when what is a failure",
    # In double quotes YAML has made a new line of it before; elsewhere Ansible hands it on as two characters.
    r"""^[^"]*\{\{[^"]*'\\n'[^"]*$""": "\\n stays two characters here: put the text in double quotes",
    r"\bansible_(architecture|distribution|env|hostname|kernel|os_family)\b": "an injected fact",
}


def machine_paths() -> list[str]:
    """Return the paths that only exist on this machine: the checkout, the home, pip's local directories."""
    paths = [str(ROOT), str(Path.home() / ".pyenv")]
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    paths += re.findall(r"(?:file://)?(/[\w./-]+)", " ".join(re.findall(r"(?:find-links|index-url)=.*", listing)))
    paths += os.environ.get("PIP_FIND_LINKS", "").split()
    return sorted({path for path in paths if len(path) > 4 and path.count("/") > 1})


def forbidden(text: str) -> re.Pattern[str]:
    """Return the pattern that finds `text` as a whole name, not as part of a longer one."""
    return re.compile(rf"(?<![\w.]){re.escape(text)}(?![\w-])")


def faults(path: Path, text: str, names: dict[str, str]) -> Iterator[str]:
    """Yield the faults of one file. `names` maps each forbidden name to what is wrong with it."""
    rules = [(forbidden(name), why) for name, why in names.items()]
    if path.suffix in (".yml", ".yaml"):
        rules += [(re.compile(pattern), why) for pattern, why in YAML_RULES.items()]
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, why in rules:
            if pattern.search(line):
                yield f"{path}:{number}: {why}"
    if path.suffix in NEEDS_SPDX and SPDX not in text[:400]:
        yield f"{path}:1: lacks the line `# {SPDX}`"


def main() -> int:
    """Run from the command line; see the module's text."""
    names = dict.fromkeys(REGISTRIES, "names the host of a package registry")
    names |= {path: f"names a path of this machine, {path}" for path in machine_paths()}
    found: list[str] = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += faults(path, text, names)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
