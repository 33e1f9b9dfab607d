# SPDX-License-Identifier: Apache-2.0
"""Runs of the driver's playbooks on posing hosts, and what their output says."""

from __future__ import annotations

import json
import re
from typing import Any

from posing_hosts import PosingHost, play
from project_tree import ROOT

PLAYBOOKS = ROOT / "playbooks"
REQUEST = {"profile": "gpu", "cuda_toolkits": [], "cudnn": "none", "environments": []}


def variables_of(server: Any, published: Any, request: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return the variables of a host that takes NVIDIA's packages from the stand-in."""
    return {
        "gpu_stack": {**REQUEST, **(request or {})},
        "nvidia_driver_repository_url": server.url(published),
        "nvidia_driver_repository_key": server.key_url(published),
        "nvidia_driver_repository_fingerprints": [published.key.fingerprint],
        "nvidia_driver_manage_kernel_module": "true",
        **more,
    }


def steps_said(output: str, host: str) -> list[str]:
    """Return the steps that a run in check mode names for a host."""
    return re.findall(rf"^changed: \[{host}\] => \(item=(\w+)\)", output, re.M)


def steps_taken(output: str, host: str) -> list[str]:
    """Return the steps that a real run takes on a host, in its order."""
    found = []
    for step, names in re.findall(r"^included: .*/step_(\w+)\.yml for ([\w, -]+)", output, re.M):
        if host in names.split(", ") and step not in found:
            found.append(step)
    return found


def facts_of(host: PosingHost, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a host as site.yml gathers them."""
    text = """
- hosts: all
  gather_facts: false
  tasks:
    - gpu_facts:
    - ansible.builtin.copy:
        content: "{{ ansible_facts['gpu_facts'] | to_json }}"
        dest: /srv/facts.json
        mode: "0644"
"""
    done = play(text, {host.name: host}, variables={host.name: variables})
    assert done.status == 0, done.output
    return dict(json.loads(host.read("/srv/facts.json")))


def provision(host: PosingHost, variables: dict[str, Any], *arguments: str) -> Any:
    """Provision one host."""
    return play(PLAYBOOKS / "provision.yml", {host.name: host}, *arguments, variables={host.name: variables})
