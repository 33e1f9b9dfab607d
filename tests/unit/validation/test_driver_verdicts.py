# SPDX-License-Identifier: Apache-2.0
"""A pretended driver is read as a real one would be, and what is read is judged: the faults of whole hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import health
import identity
import observe
import pytest
from nvml import laboratory, standin
from observations import context, h100_facts

SHARED = {"cuda.toolkit SKIP none"}
#: What a card for games cannot be asked for.
GAPS = {f"{name} SKIP none" for name in ("ecc.uncorrected", "ecc.corrected", "row_remap", "nvlink")}
SILENT = {
    f"{name} UNKNOWN none"
    for name in (
        "smi.agrees", "gpu.uuid", "recovery_action", "ecc.uncorrected", "ecc.corrected", "row_remap", "pcie.max",
        "nvlink", "thermal", "persistence", "fabricmanager",
    )
}  # fmt: skip
OUTCOMES: dict[str, set[str]] = {
    "h100x8": set(),
    "lost": {"smi.sane FAIL reboot", "gpu.uuid FAIL reboot"},
    "mig": {"row_remap SKIP none", "nvlink SKIP none"},
    "vgpu": {f"{name} SKIP none" for name in ("recovery_action", "row_remap", "pcie.max", "nvlink")},
    "consumer": GAPS | {"persistence WARN none", "fabricmanager SKIP none"},
    "ecc": {"ecc.uncorrected FAIL rma", "ecc.corrected WARN none"},
    "throttled": {"thermal FAIL isolate"},
    "remap_pending": {"recovery_action FAIL reset_gpu", "row_remap FAIL reset_gpu"},
    "mismatch": {"drv.answers FAIL reboot", "drv.match FAIL reboot", "smi.sane FAIL reboot"} | SILENT,
    "not_loaded": {"drv.answers FAIL none", "smi.sane FAIL none"} | SILENT,
    "unknown": {"drv.answers FAIL none", "smi.sane FAIL none"} | SILENT,
    "no_gpus": {"drv.answers FAIL none", "smi.sane FAIL none", "gpu.uuid FAIL reboot"}
    | (SILENT - {"gpu.uuid UNKNOWN none"}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_what_is_made_of_a_pretended_host(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = laboratory.Laboratory(tmp_path, monkeypatch, standin.DESCRIPTIONS[name]())
    observed = observe.observe(host.runner)
    assert observed["simulated"] is True
    described = observed["nvml"]["gpus"] or [{"bdf": "0000:17:00.0"}]
    facts = h100_facts()
    facts["gpus"] = [{**facts["gpus"][0], "bus": row["bdf"]} for row in described if row["bdf"]]
    if name == "consumer":
        facts["nvswitches"] = []
    c: Any = context(facts=facts, observation=observed, expected={"gpus": []})
    checks = identity.checks(c) + health.checks(c)
    told = {f"{row['id']} {row['status']} {row['action']}" for row in checks if row["status"] != "PASS"}
    silent = {"fabricmanager UNKNOWN none"} - told  # with an answer that names no GPU it judges the daemon alone
    assert told - SHARED == OUTCOMES[name] - silent
    wanted = identity.required(c) + health.required(c)
    assert [(row["id"], row["target"]) for row in checks] == wanted
