# SPDX-License-Identifier: Apache-2.0
"""The host's facts, by the same modules that Ansible gathers them with. They lie beside the programs."""

from __future__ import annotations

import os
import sys

MODULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "facts_modules")


def collect(settings, root="/"):
    """Return the facts of this host, see docs/facts.md; products have no names here.

    :param root: a directory that stands for ``/`` (for tests); the facts are simulated then
    :raises ImportError: when the modules are not beside the programs
    """
    if MODULES not in sys.path:
        sys.path.insert(0, MODULES)
    from ansible.module_utils.host_all import Host

    scope, base_dir = settings["scope"], settings["base_dir"]
    # Nobody asks sudo here: the validator runs as it was started.
    privilege = {"uid": os.geteuid(), "user": None, "home": None, "root": os.geteuid() == 0, "how": "validator"}
    parameters = dict(root=root, scope=scope, base_dir=base_dir, user_base_dir=base_dir, privilege=privilege)
    return Host(parameters).facts()
