# SPDX-License-Identifier: Apache-2.0
"""The compatibility engine: request and facts in, plan or conflict out. Plain Python; imports no Ansible."""

from __future__ import annotations

from gpu_compat.change import change, provided
from gpu_compat.compilers import taking_own_compiler
from gpu_compat.doctor import doctor_text, examine
from gpu_compat.errors import CompatError, Mistake
from gpu_compat.fleet import check_requests
from gpu_compat.hosts import host_from_facts, read_host
from gpu_compat.plan import plan
from gpu_compat.removal import removal, removal_cuda
from gpu_compat.request import read_request
from gpu_compat.space import lacking_space

__all__ = [
    "CompatError",
    "Mistake",
    "change",
    "check_requests",
    "doctor_text",
    "examine",
    "host_from_facts",
    "lacking_space",
    "plan",
    "provided",
    "read_host",
    "read_request",
    "removal",
    "removal_cuda",
    "taking_own_compiler",
]
