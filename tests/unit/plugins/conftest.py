# SPDX-License-Identifier: Apache-2.0
"""Lets modules find module_utils/ under the name that Ansible gives it on a host."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[3] / "module_utils"))
