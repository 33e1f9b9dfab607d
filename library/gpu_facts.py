#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What a host is, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
author: gpulab contributors
version_added: "0.1.0"
short_description: gather everything that plan, change and validation need from a host
description:
  - Reads operating system, kernels, privileges, interpreters, NVIDIA and other GPUs on the PCI bus, the driver that is
    loaded and the one that is installed, Secure Boot, nouveau, packages, services, CUDA, cuDNN, compilers, settings of
    the loader and of shells, who works on the GPUs, free disk space, and what this project keeps on the host.
  - Needs no driver, no lspci and no root; without root some things cannot be seen. Standard library only. Changes
    nothing. Never runs nvidia-smi, which hangs when the driver does, and waits for no command without a bound.
  - On the control node product and compute capability of each GPU are added from the tables of the engine.
  - What cannot be read is null, and C(unknown) says why.
options:
  root:
    description:
      - Directory that stands for C(/). Anything but C(/) marks the facts as simulated, and then no command is run that
        would speak of the real host, except for what O(scope) needs.
    type: path
    default: /
  scope:
    description:
      - V(system) is for all users of the host and needs root, V(user) lies below the user's data directory.
      - V(auto) is V(system) with root, with sudo that asks for no password, or where O(become_password_given) is true.
    type: str
    choices: [auto, system, user]
    default: auto
  become_password_given:
    description: whether Ansible was given a password to become root with.
    type: bool
    default: false
  base_dir:
    description: where this project keeps its files in system scope.
    type: path
    default: /opt/gpulab
  user_base_dir:
    description: the same in user scope; empty means C(gpulab) below the user's data directory (XDG_DATA_HOME).
    type: str
    default: ""
  again:
    description:
      - Look a second time at a host that has been looked at. Where it keeps its files and who logs in are taken over
        from the facts that are there; a task that runs as root by then would otherwise take root for that user.
    type: bool
    default: false
  privilege:
    description: C(privilege) of earlier facts; the action plugin hands it over for O(again).
    type: dict
attributes:
  check_mode: {support: full, description: Changes nothing.}
"""

EXAMPLES = r"""
- name: Gather facts
  gpu_facts:
"""

RETURN = r"""
ansible_facts:
  description: the facts, below the key C(gpu_facts).
  returned: always
  type: dict
  contains:
    gpu_facts:
      description: see docs/facts.md for every key.
      type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_all import Host


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            scope=dict(type="str", choices=["auto", "system", "user"], default="auto"),
            become_password_given=dict(type="bool", default=False, no_log=False),
            base_dir=dict(type="path", default="/opt/gpulab"),
            user_base_dir=dict(type="str", default=""),
            again=dict(type="bool", default=False),
            privilege=dict(type="dict"),
        ),
        supports_check_mode=True,
    )
    for option in ("base_dir", "user_base_dir"):
        if module.params[option] and not os.path.isabs(os.path.expanduser(module.params[option])):
            variable = {"base_dir": "gpulab_base_dir", "user_base_dir": "gpulab_user_base_dir"}[option]
            module.fail_json(
                msg=f"{variable} is '{module.params[option]}'; write an absolute path, which begins with /"
            )
    module.exit_json(changed=False, ansible_facts={"gpu_facts": Host(module.params).facts()})


if __name__ == "__main__":
    main()
