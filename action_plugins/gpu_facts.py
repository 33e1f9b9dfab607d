# SPDX-License-Identifier: Apache-2.0
"""Runs the module gpu_facts and says what each GPU is: a host knows numbers, the tables know names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types

try:
    import gpu_compat
except ImportError:  # not installed as a package: take it from the checkout that this file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))
    import gpu_compat

from gpu_compat.gpus import Gpu, identify
from gpu_compat.tables import Tables, with_overlay

# Ansible loads this file before it starts a process for each host; what is read here is read once for all of them.
with_overlay(None).rows("gpu_chips.chips")


class ActionModule(ActionBase):
    """One round trip to the host; the rest happens here. A failure of the module is handed on as it is."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and add to its answer."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args | self._earlier(task_vars or {})
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=self._task.async_val))
        facts = (result.get("ansible_facts") or {}).get("gpu_facts") or {}
        if facts.get("gpus"):  # a module that failed has none
            tables = self._tables(task_vars or {})
            facts["gpus"] = [{**gpu, **named(gpu, tables)} for gpu in facts["gpus"]]
        return result

    def _earlier(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Return the options that a second look takes over from the first one."""
        if not boolean(self._task.args.get("again", False)):
            return {}
        facts = (task_vars.get("ansible_facts") or {}).get("gpu_facts")
        if not facts:
            raise AnsibleActionFail("again: true, and there are no facts of a first look; leave it out")
        # Only the one of the two directories that belongs to the scope is used.
        places = dict.fromkeys(("base_dir", "user_base_dir"), facts["base_dir"])
        return {"scope": facts["scope"], "privilege": facts["privilege"], **places}

    def _tables(self, task_vars: dict[str, Any]) -> Tables:
        """Return the tables with the lab's own rows, which may name GPUs that the shipped ones do not know."""
        overlay = self._templar.template(task_vars.get("gpulab_compat_overlay"))
        if not overlay:
            return with_overlay(None)
        from gpu_compat.check import read_overlay  # long, and most labs have no rows of their own

        try:
            return with_overlay(read_overlay(transform_to_native_types(overlay, redact=False), ""))
        except gpu_compat.CompatError as error:
            raise AnsibleActionFail(f"gpulab_compat_overlay cannot be used:\n{error}") from error


def named(gpu: dict[str, Any], tables: Tables) -> dict[str, str | None]:
    """Return product and compute capability of one GPU; None for what the tables do not know."""
    known = Gpu(name="", unknown="the host could not read its PCI id")
    if gpu.get("vendor") and gpu.get("device"):
        known = identify(f"{gpu['vendor']}:{gpu['device']}", tables)
    nameless = bool(known.unknown and not known.capability)
    return {"product": None if nameless else known.name, "compute_capability": known.capability or None}
