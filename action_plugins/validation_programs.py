# SPDX-License-Identifier: Apache-2.0
"""Runs the module validation_programs, and sends a host only those programs that it lacks or has in another version."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

MODULE_UTILS = Path(__file__).resolve().parent.parent / "module_utils"
#: The module that gathers the facts of a host; what it imports of this project travels with it.
FACTS = "host_all"
PREFIX = "ansible.module_utils"
#: What of the role's directory of programs belongs on a host.
SUFFIXES = (".py", ".json", ".nhc")
NVML_MISSING = (
    "NVIDIA's Python module for its driver library is not on the control node: run `pip install nvidia-ml-py` in the "
    "environment that Ansible runs in"
)


def facts_modules(directory: Path) -> dict[str, str]:
    """Return the modules that gather facts, by their path on the host.

    They keep their package's name. Its __init__.py goes with them: an `ansible` that is installed on the host would
    be found instead of a package that has none.

    :raises AnsibleActionFail: when one imports a module that is not this project's
    """
    package = f"facts_modules/{PREFIX.replace('.', '/')}"
    line = "# SPDX-License-Identifier: Apache-2.0\n"
    found = {"facts_modules/ansible/__init__.py": line, f"{package}/__init__.py": line}
    names = [FACTS]
    for name in names:
        path = directory / f"{name}.py"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise AnsibleActionFail(f"the modules that gather facts cannot be read: {error}") from error
        found[f"{package}/{name}.py"] = text
        names += [other for other in imported(text) if other not in names]
    return found


def imported(text: str) -> list[str]:
    """List the modules below ansible.module_utils that a module imports, each once and without the prefix."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == PREFIX:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PREFIX}."):
            names.append(str(node.module).removeprefix(f"{PREFIX}.").partition(".")[0])
        elif isinstance(node, ast.Import):
            inside = (alias.name for alias in node.names if alias.name.startswith(f"{PREFIX}."))
            names += [name.removeprefix(f"{PREFIX}.").partition(".")[0] for name in inside]
    return list(dict.fromkeys(names))


def nvml_module() -> str | None:
    """Return the text of nvidia-ml-py's one module, or None where it is not installed.

    Another distribution has a package of the same name; that one is of no use here.
    """
    try:
        found = importlib.util.find_spec("pynvml")
    except (ImportError, ValueError):
        return None
    origin = Path(found.origin) if found and found.origin else None
    if origin is None or origin.name != "pynvml.py":
        return None
    return origin.read_text(encoding="utf-8")


def role_files(source: Path) -> dict[str, str]:
    """Return the role's programs and tables by their path below ``source``.

    :raises AnsibleActionFail: when there are none
    """
    paths = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not paths:
        raise AnsibleActionFail(f"there are no validation programs in {source}")
    return {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in paths}


# Ansible loads this file before it starts a process for each host; what is read here is read once for all of them.
try:
    SHARED = facts_modules(MODULE_UTILS)
except AnsibleActionFail:  # said when a task wants them
    SHARED = {}


class ActionModule(ActionBase):
    """One round trip on a host that has all programs, a second one where some differ."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the module what differs, and hand it just that."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        contents = self._contents(arguments)
        arguments["digests"] = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
        arguments["mnist"] = {name: row["sha256"] for name, row in mnist_files(contents).items()}
        arguments["contents"] = {}
        answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        if answer.get("wanted") and not answer.get("failed") and not self._task.check_mode:
            arguments["contents"] = {name: contents[name] for name in answer["wanted"] if name in contents}
            answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.update(answer)
        return result

    def _contents(self, arguments: dict[str, Any]) -> dict[str, str]:
        """Return all files that belong on the host by their path below the directory of the programs."""
        source = arguments.pop("source", None)
        if not source:
            raise AnsibleActionFail("source is missing: the directory of the programs on the control node")
        profile = (arguments.get("config") or {}).get("profile")
        contents = role_files(Path(source)) | (SHARED or facts_modules(MODULE_UTILS))
        nvml = nvml_module()
        if nvml is not None:
            contents["vendor/pynvml.py"] = nvml
        elif profile == "gpu":
            raise AnsibleActionFail(NVML_MISSING)
        return contents


def mnist_files(contents: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the rows of the table that describe the original files of MNIST, by name of the file."""
    files: dict[str, dict[str, Any]] = json.loads(contents["thresholds.json"])["datasets"]["mnist"]["files"]
    return files
