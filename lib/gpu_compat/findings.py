# SPDX-License-Identifier: Apache-2.0
"""What the doctor returns, and the action that repairs most of it."""

from __future__ import annotations

from typing import Any

Finding = dict[str, Any]
PROVISION = "Provision the host; a run repairs this"
COMMAND = "./provision --limit HOST"


def finding(name: str, severity: str, what: str, action: str = PROVISION, command: str | None = COMMAND) -> Finding:
    """Return a finding; ``HOST`` in a command stands for the host's name."""
    return {"id": name, "severity": severity, "what": what, "action": action, "command": command}
