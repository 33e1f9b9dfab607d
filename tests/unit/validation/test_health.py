# SPDX-License-Identifier: Apache-2.0
"""Tier 2: what driver and kernel have counted, and what is made of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import health
import looks
import pytest
from observations import BUSES, TABLE, bare, consumer, context, gpu, h100_facts, log, observation, one, verdicts, xid

EACH = ("recovery_action", "ecc.uncorrected", "ecc.corrected", "row_remap", "pcie.max", "nvlink", "thermal")
ACTIONS = {"none", "restart_app", "reset_gpu", "reboot", "isolate", "rma"}


def single(row: dict[str, Any], **changes: Any) -> Any:
    """Return a context with one GPU on the bus."""
    c = context(observation=observation(row), **changes)
    c.facts["gpus"] = [gpu_row for gpu_row in c.facts["gpus"] if gpu_row["bus"] == row["bdf"]]
    return c


def judged(name: str, row: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return one check of a single GPU."""
    return one(health.checks(single(row or gpu(), **changes)), name)


def put(*path_and_value: Any, of: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a GPU with one value changed: ``put("ecc", "current", False)``."""
    *path, last, value = path_and_value
    row = copy.deepcopy(of or gpu())
    place = row
    for key in path:
        place = place[key]
    place[last] = value
    return row


def test_a_host_that_is_well_passes_everything() -> None:
    c = context()
    checks = health.checks(c)
    assert verdicts(checks) == {}
    assert [(row["id"], row["target"]) for row in checks] == health.required(c)
    assert {row["tier"] for row in checks} == {2}
    assert len(checks) == 8 * len(EACH) + 3


def test_the_gates_of_tier_2_behave() -> None:
    assert set(health.self_test(TABLE).values()) == {True}


def test_in_the_profile_cpu_no_gpu_is_judged() -> None:
    assert health.checks(bare()) == []
    assert health.required(bare()) == []


def test_what_nobody_observed_is_unknown() -> None:
    checks = health.checks(context(observation=None, kernel_log=None))
    assert {row["status"] for row in checks} == {"UNKNOWN"}
    assert {row["target"] for row in checks} == {"host", *(f"0000:{bus}:00.0" for bus in BUSES)}
    c = context(observation=None, kernel_log=None)
    c.facts["gpus"] = []
    assert {row["status"] for row in health.checks(c)} == {"UNKNOWN"}
    assert ("ecc.uncorrected", "host") in health.required(c)


@pytest.mark.parametrize("key", sorted(gpu()))
@pytest.mark.parametrize("broken", [None, [], {}, "ERR!", "[N/A]", 7, True, float("nan")], ids=repr)
def test_malformed_values_of_a_gpu_never_break_the_judging(key: str, broken: Any) -> None:
    c = context()
    c.observation["nvml"]["gpus"][0][key] = broken
    checks = health.checks(c)
    assert [(row["id"], row["target"]) for row in checks] == health.required(c)
    json.dumps(checks)
    for row in checks:
        assert row["action"] in ACTIONS


def empty(value: Any) -> Any:
    """Return a value with all that it holds null; words stay."""
    if isinstance(value, dict):
        return {key: empty(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [empty(entry) for entry in value]
    return None


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("ecc", {"ecc.uncorrected", "ecc.corrected"}),
        ("row_remap", {"row_remap"}),
        ("recovery_action", {"recovery_action"}),
        ("pcie", {"pcie.max"}),
        ("nvlink", {"nvlink"}),
        ("clocks_event_reasons", {"thermal"}),
        ("persistence", {"persistence"}),
    ],
)
@pytest.mark.parametrize("how", ["missing", "null", "empty", "nan", "N/A"])
def test_what_cannot_be_read_is_unknown(key: str, names: set[str], how: str) -> None:
    row = gpu()
    whole = {"missing": None, "null": None, "N/A": "[N/A]", "nan": float("nan"), "empty": empty(row[key])}[how]
    row[key] = whole
    if how == "missing":
        del row[key]
    row["why"] = {key: "UNKNOWN"}
    checks = health.checks(single(row))
    if key == "clocks_event_reasons" and how == "empty":
        return  # an empty list of reasons is an answer
    found = {check["id"] for check in checks if check["status"] == "UNKNOWN" and check["required"]}
    assert names <= found, verdicts(checks)


@pytest.mark.parametrize("value", [float("nan"), "ERR!", "[N/A]", None, -1, True], ids=repr)
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ecc.uncorrected", ("ecc", "volatile", "uncorrected")),
        ("ecc.uncorrected", ("ecc", "sram_aggregate_uncorrected")),
        ("ecc.corrected", ("ecc", "volatile", "corrected")),
        ("recovery_action", ("recovery_action",)),
        ("row_remap", ("row_remap", "uncorrected")),
        ("pcie.max", ("pcie", "width_max")),
        ("pcie.max", ("pcie", "gen_max")),
    ],
)
def test_counts_that_are_no_numbers_are_unknown(name: str, path: tuple[str, ...], value: Any) -> None:
    assert judged(name, put(*path, value))["status"] == "UNKNOWN"


# --- a GPU that is gone, and GPUs that have less ---------------------------------------------------------------------


def test_of_a_lost_gpu_one_check_fails_and_the_rest_is_unknown() -> None:
    c = context()
    c.observation["nvml"]["gpus"][2] = {**gpu(2), "lost": True, "uuid": None, "ecc": None, "nvlink": None}
    rows = {row["id"]: row for row in health.checks(c) if row["target"] == gpu(2)["uuid"]}  # nvidia-smi knows it
    assert set(rows) == set(EACH)
    assert (rows["recovery_action"]["status"], rows["recovery_action"]["action"]) == ("FAIL", "reboot")
    assert {row["status"] for name, row in rows.items() if name != "recovery_action"} == {"UNKNOWN"}


def test_a_gpu_that_the_driver_does_not_show_is_unknown_throughout() -> None:
    c = context()
    for source in ("nvml", "smi"):
        del c.observation[source]["gpus"][2]
    rows = [row for row in health.checks(c) if row["target"] == "0000:52:00.0"]
    assert {row["id"] for row in rows} == set(EACH)
    assert {row["status"] for row in rows} == {"UNKNOWN"}


def test_a_consumer_card_has_gaps_that_are_named() -> None:
    c = single(consumer(), facts={**h100_facts(), "nvswitches": []})
    c.expected["gpus"] = [{"bus": "0000:1b:00.0", "product": "GeForce RTX 4090"}]
    checks = health.checks(c)
    skipped = {row["id"]: row for row in checks if row["status"] == "SKIP"}
    assert set(skipped) == {
        "recovery_action",
        "ecc.uncorrected",
        "ecc.corrected",
        "row_remap",
        "nvlink",
        "fabricmanager",
    }
    assert not any(row["required"] for row in skipped.values())
    assert "has no ECC: errors in its memory go unnoticed" in skipped["ecc.uncorrected"]["message"]
    assert {row["status"] for row in checks if row["id"] not in skipped} == {"PASS"}


def test_in_mig_mode_rows_and_links_are_not_asked_for() -> None:
    row = gpu(mig={"current": True, "pending": True, "instances": []}, row_remap=None, fabric=None)
    row["why"] = {"row_remap": "NOT_APPLICABLE_MIG", "retired_pages": "NOT_SUPPORTED", "fabric": "NOT_SUPPORTED"}
    for name in ("row_remap", "nvlink"):
        check = judged(name, row)
        assert (check["status"], check["required"]) == ("SKIP", False)
    assert "MIG" in judged("row_remap", row)["message"]


def test_a_part_of_a_gpu_is_not_asked_for_what_its_hypervisor_has() -> None:
    row = gpu(virtualization="vgpu", pcie=None, row_remap=None, nvlink=None, retired_pages=None)
    for name in ("row_remap", "nvlink", "pcie.max"):
        assert judged(name, row)["status"] == "SKIP"


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "code", "action"),
    [
        (put("ecc", "volatile", "uncorrected", 1), "UNCORRECTED", "reset_gpu"),
        (put("ecc", "sram_threshold_exceeded", True), "SRAM_THRESHOLD", "isolate"),
        (put("ecc", "sram_aggregate_uncorrected", 5), "SRAM_ERRORS", "rma"),
    ],
)
def test_uncorrectable_errors_are_a_failure(row: dict[str, Any], code: str, action: str) -> None:
    check = judged("ecc.uncorrected", row)
    assert (check["status"], check["reason_code"], check["action"]) == ("FAIL", code, action)


def test_four_errors_in_sram_are_borne_and_an_old_gpu_does_not_count_them() -> None:
    assert judged("ecc.uncorrected", put("ecc", "sram_aggregate_uncorrected", 4))["status"] == "PASS"
    row = gpu(why={"ecc.sram_aggregate_uncorrected": "NOT_SUPPORTED", "ecc.sram_threshold_exceeded": "NOT_SUPPORTED"})
    row["ecc"].update(sram_aggregate_uncorrected=None, sram_threshold_exceeded=None)
    assert judged("ecc.uncorrected", row)["status"] == "PASS"


@pytest.mark.parametrize("value", [None, "ERR!", 0, float("nan")], ids=repr)
def test_a_threshold_of_sram_that_is_neither_crossed_nor_kept_is_unknown(value: Any) -> None:
    assert judged("ecc.uncorrected", put("ecc", "sram_threshold_exceeded", value))["status"] == "UNKNOWN"


def test_an_error_that_came_is_told_although_another_counter_cannot_be_read() -> None:
    row = put("ecc", "volatile", "uncorrected", None)
    row["ecc"]["sram_threshold_exceeded"] = True
    assert judged("ecc.uncorrected", row)["status"] == "FAIL"


def test_ecc_that_is_off_is_a_warning() -> None:
    for name in ("ecc.uncorrected", "ecc.corrected"):
        check = judged(name, put("ecc", "current", False))
        assert (check["status"], check["reason_code"]) == ("WARN", "ECC_OFF")
    assert judged("ecc.uncorrected", put("ecc", "pending", False))["reason_code"] == "ECC_PENDING"
    assert "switched off" in judged("ecc.uncorrected", put("ecc", "pending", False))["message"]


def corrected(now: int, before: int | None, boot: str = "boot-1") -> dict[str, Any]:
    checks = [{"id": "ecc.corrected", "target": gpu()["uuid"], "measured": {"volatile": before}}]
    previous = {"host": {"boot_id": boot}, "checks": checks} if before is not None else None
    return judged("ecc.corrected", put("ecc", "volatile", "corrected", now), previous=previous)


def test_corrected_errors_are_judged_by_how_many_came_since_the_last_run() -> None:
    assert corrected(1_000_010, 1_000_000)["status"] == "PASS"
    assert corrected(1_000_011, 1_000_000)["status"] == "WARN"
    assert corrected(11, None)["status"] == "WARN"
    assert corrected(11, 5, boot="another boot")["status"] == "WARN"  # all of them came in this boot
    assert corrected(9, 100)["measured"]["new"] == 9  # the driver was loaded anew in between
    assert corrected(50_000_000, None)["status"] != "FAIL"


@pytest.mark.parametrize(
    ("row", "code", "action"),
    [
        (put("row_remap", "pending", True), "REMAP_PENDING", "reset_gpu"),
        (put("row_remap", "failure", True), "REMAP_FAILURE", "isolate"),
        (put("row_remap", "uncorrected", 512), "REMAP_FULL", "isolate"),
        (
            gpu(row_remap=None, retired_pages={"single_bit": 1, "double_bit": 0, "pending": True}),
            "RETIREMENT_PENDING",
            "reboot",
        ),
        (
            gpu(row_remap=None, retired_pages={"single_bit": 60, "double_bit": 3, "pending": False}),
            "RETIRED_PAGES",
            "isolate",
        ),
    ],
)
def test_memory_that_must_be_replaced_is_a_failure(row: dict[str, Any], code: str, action: str) -> None:
    check = judged("row_remap", row)
    assert (check["status"], check["reason_code"], check["action"]) == ("FAIL", code, action)


def test_pages_of_an_older_gpu_that_were_retired_long_ago_pass() -> None:
    pages = {"single_bit": 60, "double_bit": 2, "pending": False}
    assert judged("row_remap", gpu(row_remap=None, retired_pages=pages))["status"] == "PASS"
    assert judged("row_remap", gpu(row_remap=None, retired_pages={**pages, "pending": None}))["status"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("reset", "reset_gpu"),
        ("bus_reset", "reset_gpu"),
        ("drain_and_reset", "reset_gpu"),
        ("reboot", "reboot"),
        ("system_reboot", "reboot"),
        ("drain_p2p", "restart_app"),
        ("recover_imex_domain", "isolate"),
    ],
)
def test_what_the_driver_asks_for_is_a_failure_with_that_action(word: str, action: str) -> None:
    check = judged("recovery_action", gpu(recovery_action=word))
    assert (check["status"], check["action"]) == ("FAIL", action)


def test_a_recovery_action_that_nobody_knows_is_unknown() -> None:
    assert judged("recovery_action", gpu(recovery_action="unknown_9"))["status"] == "UNKNOWN"


def test_a_gpu_whose_handle_cannot_be_opened_is_a_failure() -> None:
    row = gpu(problem="GPU requires reset", recovery_action=None, why={"handle": "RESET_REQUIRED"})
    check = judged("recovery_action", row)
    assert (check["status"], check["action"]) == ("FAIL", "reset_gpu")
    row = gpu(problem="insufficient power", recovery_action=None, why={"handle": "INSUFFICIENT_POWER"})
    check = judged("recovery_action", row)
    assert (check["status"], check["reason_code"]) == ("FAIL", "INSUFFICIENT_POWER")


# --- links -----------------------------------------------------------------------------------------------------------


def test_an_idle_link_that_runs_slowly_is_no_fault() -> None:
    assert judged("pcie.max", put("pcie", "gen", 1))["status"] == "PASS"


def test_missing_lanes_are_a_failure_on_a_board_and_a_warning_in_a_slot() -> None:
    check = judged("pcie.max", put("pcie", "width_max", 8))
    assert (check["status"], check["reason_code"], check["action"]) == ("FAIL", "LINK_NARROW", "isolate")
    assert "8 of 16 PCIe lanes" in check["message"]
    for product in ("GeForce RTX 4090", "A100 PCIe 80GB", "a product nobody knows"):
        gpus = [{"bus": "0000:1b:00.0", "product": product}]
        check = judged("pcie.max", put("pcie", "width_max", 8), expected={"gpus": gpus})
        assert (check["status"], check["reason_code"]) == ("WARN", "LINK_NARROW")


def test_a_slot_of_an_older_generation_is_a_warning() -> None:
    assert judged("pcie.max", put("pcie", "gen_max", 4))["reason_code"] == "LINK_SLOW"


def test_a_link_of_which_nobody_knows_what_it_should_be_is_a_warning() -> None:
    facts = {**h100_facts(), "gpus": [{**row, "link": None} for row in h100_facts()["gpus"]]}
    row = put("pcie", "width_max_gpu", None)
    assert judged("pcie.max", row, expected={"gpus": []}, facts=facts)["reason_code"] == "NO_REFERENCE"
    assert judged("pcie.max", put("pcie", "width_max", 0))["status"] == "UNKNOWN"


def test_how_many_lanes_the_gpu_alone_could_use_is_asked_of_the_kernel() -> None:
    row = put("pcie", "width_max_gpu", None)
    assert judged("pcie.max", row, expected={"gpus": []})["status"] == "PASS"
    row["pcie"]["width_max"] = 8
    assert judged("pcie.max", row, expected={"gpus": []})["reason_code"] == "LINK_NARROW"


def links(up: int, down: int = 0, errors: int = 0) -> dict[str, Any]:
    rows = [{"link": n, "active": n < up, "errors": {"replay": errors if n == 0 else 0}} for n in range(up + down)]
    return gpu(nvlink=rows)


def test_an_inactive_nvlink_is_a_failure_where_the_product_has_it() -> None:
    check = judged("nvlink", links(17, 1))
    assert (check["status"], check["reason_code"], check["action"]) == ("FAIL", "NVLINK_INACTIVE", "reset_gpu")
    assert "17 of 18" in check["message"]
    assert judged("nvlink", links(17))["status"] == "FAIL"  # a link that is not even told of
    check = judged("nvlink", gpu(nvlink=[]))
    assert (check["status"], check["action"]) == ("FAIL", "reset_gpu")
    assert judged("nvlink", gpu(nvlink=[], why={"nvlink": "NOT_SUPPORTED"}))["status"] == "FAIL"


def test_beside_nvswitches_every_link_must_be_up_whatever_the_product() -> None:
    assert judged("nvlink", links(11, 1), expected={"gpus": []})["status"] == "FAIL"
    alone = {**h100_facts(), "nvswitches": []}
    check = judged("nvlink", links(11, 1), expected={"gpus": []}, facts=alone)
    assert (check["status"], check["reason_code"]) == ("WARN", "NVLINK_INACTIVE")


def test_a_gpu_that_nobody_knows_may_stand_beside_nvswitches_without_being_joined() -> None:
    row = gpu(nvlink=[], why={"nvlink": "NOT_SUPPORTED"})
    check = judged("nvlink", row, expected={"gpus": []})
    assert (check["status"], check["reason_code"]) == ("WARN", "NVLINK_INACTIVE")


def test_a_card_without_its_bridge_is_no_fault() -> None:
    alone = {**h100_facts(), "nvswitches": []}
    bridged = {"gpus": [{"bus": "0000:1b:00.0", "product": "A100 PCIe 80GB"}]}
    assert judged("nvlink", links(0, 12), expected=bridged, facts=alone)["status"] == "SKIP"
    assert judged("nvlink", links(12), expected=bridged, facts=alone)["status"] == "PASS"
    assert judged("nvlink", links(8, 4), expected=bridged, facts=alone)["status"] == "WARN"


def test_a_gpu_whose_neighbours_are_not_in_this_machine_has_no_nvlink_to_miss() -> None:
    alone = {**h100_facts(), "nvswitches": []}
    planned = {"gpus": [{"bus": "0000:1b:00.0", "product": "H100 SXM5 80GB"}]}
    absent = gpu(nvlink=[], why={"nvlink": "NOT_SUPPORTED"})
    for row in (links(0, 18), absent):
        for kind in ("none", "passthrough"):
            check = judged("nvlink", {**row, "virtualization": kind}, expected=planned, facts=dict(alone))
            assert (check["status"], check["action"]) == ("SKIP", "none")
            assert "in this machine" in check["message"]
    some = judged("nvlink", {**links(6, 12), "virtualization": "passthrough"}, expected=planned, facts=dict(alone))
    assert (some["status"], some["reason_code"]) == ("WARN", "NVLINK_INACTIVE")
    # One that is planned beside it is missing, not outside.
    assert judged("nvlink", links(0, 18), facts=dict(alone))["status"] == "FAIL"
    # With its NVSwitches in the virtual machine the whole board is there.
    assert judged("nvlink", {**links(0, 18), "virtualization": "passthrough"})["status"] == "FAIL"


def test_gpus_that_were_passed_through_together_and_are_not_joined_are_a_warning() -> None:
    for row in (links(0, 18), gpu(nvlink=[], why={"nvlink": "NOT_SUPPORTED"})):
        rows = [{**gpu(n), "nvlink": row["nvlink"], "why": row["why"], "virtualization": "passthrough"} for n in (0, 1)]
        c = context(observation=observation(*rows), facts={**h100_facts(), "nvswitches": []})
        check = one(health.checks(c), "nvlink", rows[0]["uuid"])
        assert (check["status"], check["reason_code"]) == ("WARN", "NVLINK_INACTIVE")
        for other in rows:
            other["virtualization"] = "none"
        assert one(health.checks(c), "nvlink", rows[0]["uuid"])["status"] == "FAIL"


def test_a_virtual_port_with_fewer_lanes_is_a_warning() -> None:
    row = {**put("pcie", "width_max", 1), "virtualization": "passthrough"}
    check = judged("pcie.max", row)
    assert (check["status"], check["reason_code"]) == ("WARN", "LINK_NARROW")
    assert "virtual machine" in check["message"]


def test_a_link_that_is_down_needs_no_counters() -> None:
    alone = {**h100_facts(), "nvswitches": []}
    row = links(2, 2)
    for link in row["nvlink"][2:]:
        link["errors"] = {"replay": None}
    check = judged("nvlink", row, expected={"gpus": []}, facts=alone)
    assert (check["status"], check["reason_code"]) == ("WARN", "NVLINK_INACTIVE")
    row["nvlink"][0]["errors"] = {"replay": None}
    row["nvlink"] = row["nvlink"][:2]
    check = judged("nvlink", row, expected={"gpus": []}, facts=alone)
    assert (check["status"], check["reason_code"]) == ("WARN", "NVLINK_ERRORS_UNREAD")


def test_errors_on_nvlink_are_a_warning() -> None:
    assert judged("nvlink", links(18, errors=4))["status"] == "PASS"
    assert judged("nvlink", links(18, errors=5))["reason_code"] == "NVLINK_ERRORS"
    row = links(18)
    for link in row["nvlink"]:
        link["errors"] = {"replay": None}
    assert judged("nvlink", row)["reason_code"] == "NVLINK_ERRORS_UNREAD"
    uncounted = {**row, "why": {f"nvlink.{n}.errors.replay": "NOT_SUPPORTED" for n in range(18)}}
    assert judged("nvlink", uncounted)["status"] == "PASS"
    uncounted["why"]["nvlink.3.errors.replay"] = "UNKNOWN"
    assert judged("nvlink", uncounted)["reason_code"] == "NVLINK_ERRORS_UNREAD"
    row["nvlink"][3]["active"] = None
    assert judged("nvlink", row)["status"] == "UNKNOWN"


# --- heat, power, daemons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        ([], "PASS"),
        (["idle"], "PASS"),
        (["idle", "sw_power_cap", "applications_clocks"], "PASS"),
        (["sw_thermal"], "WARN"),
        (["unknown_0x400"], "WARN"),
        (["idle", "ERR!"], "WARN"),
        ([None], "WARN"),
        (["hw_slowdown"], "FAIL"),
        (["hw_slowdown", "hw_thermal"], "FAIL"),
        (["idle", "hw_power_brake"], "FAIL"),
    ],
)
def test_what_may_slow_an_idle_gpu_down(reasons: list[str], status: str) -> None:
    check = judged("thermal", gpu(clocks_event_reasons=reasons))
    assert (check["status"], check["action"]) == (status, "isolate" if status == "FAIL" else "none")


@pytest.mark.parametrize("reason", ["hw_thermal", "hw_power_brake", "sw_thermal"])
@pytest.mark.parametrize(
    "work",
    [
        {"processes": [{"pid": 5, "start": 1, "used_memory": 1, "kind": "compute", "name": "train"}]},
        {"utilization": {"gpu": 97, "memory": 40}, "processes": None},
    ],
    ids=["a process", "its utilization"],
)
def test_a_gpu_that_works_may_be_slowed_down(reason: str, work: dict[str, Any]) -> None:
    check = judged("thermal", gpu(clocks_event_reasons=["hw_slowdown", reason], **work))
    assert (check["status"], check["reason_code"]) == ("WARN", "SLOWDOWN")
    assert "while somebody works on it" in check["message"]
    assert "nothing runs" not in check["message"]


def test_a_screen_alone_is_no_work_that_makes_a_gpu_hot() -> None:
    screen = {"pid": 900, "start": 1, "used_memory": 1, "kind": "graphics", "name": "Xorg"}
    check = judged("thermal", gpu(clocks_event_reasons=["hw_thermal"], processes=[screen]))
    assert (check["status"], check["action"]) == ("FAIL", "isolate")


def test_persistence_that_is_off_is_a_warning_that_names_the_daemon() -> None:
    check = judged("persistence", gpu(persistence=False))
    assert (check["status"], check["reason_code"]) == ("WARN", "PERSISTENCE_OFF")
    assert "nvidia-persistenced" in check["message"]
    row = gpu(persistence=None, why={"persistence": "NOT_SUPPORTED"})
    assert judged("persistence", row)["status"] == "SKIP"


def fabric(active: Any = True, state: Any = "completed", container: Any = None, **more: Any) -> dict[str, Any]:
    facts = {**h100_facts(), "container": container}
    if active == "absent":
        facts["units"] = {}
    else:
        facts["units"]["nvidia-fabricmanager"]["active"] = active
    facts["driver"]["packages"].update(more.pop("packages", {}))
    value = {"state": state, "status": 0, "health": 0, "health_summary": "healthy", **more} if state else None
    return judged("fabricmanager", gpu(fabric=value), facts=facts)


def test_nvswitches_need_a_fabric_manager_that_runs_in_the_drivers_version() -> None:
    assert fabric()["status"] == "PASS"
    assert fabric(active=False, state="not_started")["reason_code"] == "FABRIC_MANAGER_STOPPED"
    assert fabric(active=False, state=None)["status"] == "FAIL"
    assert fabric(active="absent", state=None)["reason_code"] == "FABRIC_MANAGER_MISSING"
    assert fabric(active=None, state=None)["status"] == "UNKNOWN"
    assert fabric(active=False)["status"] == "WARN"
    other = {"nvidia-fabricmanager": "580.95.05-1"}
    assert fabric(packages=other)["reason_code"] == "FABRIC_MANAGER_VERSION"


@pytest.mark.parametrize("state", ["in_progress", "not_started", "unknown", None])
def test_a_fabric_that_is_not_set_up_is_a_failure(state: Any) -> None:
    facts = {**h100_facts(), "units": {"nvidia-fabricmanager": {"enabled": True, "active": True}}}
    row = gpu(fabric={"state": state, "status": None, "health": None})
    assert judged("fabricmanager", row, facts=facts)["reason_code"] == "FABRIC_NOT_READY"


def test_a_fabric_that_is_not_healthy_is_a_failure() -> None:
    check = fabric(status=999)
    assert (check["status"], check["reason_code"], check["action"]) == ("FAIL", "FABRIC_UNHEALTHY", "reboot")
    assert fabric(status=None)["reason_code"] == "FABRIC_UNHEALTHY"
    assert fabric(health_summary="unhealthy")["status"] == "FAIL"


def test_in_a_container_the_fabric_itself_is_the_evidence() -> None:
    assert fabric(active="absent", container="docker")["status"] == "PASS"
    assert fabric(active="absent", state=None, container="docker")["status"] == "WARN"


def test_without_nvswitches_no_fabric_manager_is_missed() -> None:
    facts = {**h100_facts(), "nvswitches": [], "units": {}}
    row = gpu(fabric={"state": "not_supported", "status": None, "health": None})
    assert judged("fabricmanager", row, facts=facts)["status"] == "SKIP"


# --- the kernel's log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "action"),
    [
        (79, "FAIL", "reboot"),
        (48, "FAIL", "reset_gpu"),
        (119, "FAIL", "reset_gpu"),
        (64, "FAIL", "reset_gpu"),
        (74, "FAIL", "reset_gpu"),
        (95, "FAIL", "reset_gpu"),
        (120, "FAIL", "reset_gpu"),
        (140, "FAIL", "reset_gpu"),
        (143, "FAIL", "reset_gpu"),
        (13, "WARN", "none"),
        (31, "WARN", "none"),
        (43, "WARN", "none"),
        (45, "WARN", "none"),
        (94, "WARN", "none"),
        (63, "PASS", "none"),
        (92, "PASS", "none"),
        (9999, "WARN", "none"),
        (None, "WARN", "none"),
    ],
)
def test_reports_of_the_driver_while_the_run_is_under_way(number: Any, status: str, action: str) -> None:
    check = health.judge_xids(log(xid(number)))
    assert (check["id"], check["target"], check["status"], check["action"]) == ("xid", "host", status, action)
    if status != "PASS":
        assert str(number) in check["message"]
        assert "0000:1b:00.0" in check["message"]


def test_earlier_reports_of_this_boot_are_a_warning_and_those_of_another_are_told() -> None:
    check = health.judge_xids(log(xid(79, after_start=False)))
    assert (check["status"], check["reason_code"]) == ("WARN", "XID_EARLIER")
    check = health.judge_xids(log(xid(79, after_start=False, this_boot=False)))
    assert check["status"] == "PASS"
    assert "1 report of other boots" in check["message"]


def test_a_report_of_another_boot_is_never_a_failure_of_this_one() -> None:
    assert health.judge_xids(log(xid(79, this_boot=False)))["status"] == "PASS"
    assert health.judge_xids(log(xid(79, this_boot=None)))["status"] == "PASS"


def test_a_report_that_a_reset_has_cleared_is_no_warning_any_more() -> None:
    text = "NVRM: Xid (PCI:0000:1b:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
    reset = xid(154, after_start=False, text=text)
    before = xid(48, after_start=False)
    assert health.judge_xids(log(before, reset))["status"] == "PASS"
    assert health.judge_xids(log(reset, before))["status"] == "WARN"
    assert health.judge_xids(log(before, {**reset, "bdf": "0000:43:00.0"}))["status"] == "WARN"


@pytest.mark.parametrize(
    ("words", "status", "action"),
    [
        ("0x0 (None)", "PASS", "none"),
        ("0x1 (GPU Reset Required)", "FAIL", "reset_gpu"),
        ("0x2 (Node Reboot Required)", "FAIL", "reboot"),
        ("0x3 (Drain P2P)", "FAIL", "restart_app"),
        ("0x4 (Drain and Reset)", "FAIL", "reset_gpu"),
        ("0x9 (Something New)", "WARN", "none"),
        ("nothing that could be read", "WARN", "none"),
    ],
)
def test_a_changed_recovery_action_is_judged_by_what_it_asks_for(words: str, status: str, action: str) -> None:
    text = "Xid (PCI:0000:1b:00): 154, GPU recovery action changed from 0x0 (None) to %s" % words
    check = health.judge_xids(log(xid(154, text=text)))
    assert (check["status"], check["action"]) == (status, action)


def test_the_gravest_of_several_reports_gives_the_action() -> None:
    check = health.judge_xids(log(xid(48), xid(31, process="python", after_start=False), xid(79)))
    assert (check["status"], check["action"]) == ("FAIL", "reboot")
    told = [(row["xid"], row["effect"], row["after_start"]) for row in check["measured"]["xids"]]
    assert told == [(48, "FAIL", True), (31, "WARN", False), (79, "FAIL", True)]


def test_the_program_that_a_report_names_is_told() -> None:
    assert "by python" in health.judge_xids(log(xid(31, process="python\n\x00")))["message"]


@pytest.mark.parametrize(
    "broken",
    [None, {}, log(source="none"), log(problem="not allowed"), {"source": "journal"}, log(xids=None), "text"],
    ids=repr,
)
def test_a_log_that_cannot_be_read_is_unknown_and_in_a_container_a_warning(broken: Any) -> None:
    check = health.judge_xids(broken)
    assert (check["status"], check["required"]) == ("UNKNOWN", True)
    assert health.judge_xids(broken, container="docker")["status"] == "WARN"


def test_many_reports_stay_short() -> None:
    check = health.judge_xids(log(*[xid(31, pid=number) for number in range(5000)]))
    assert len(check["measured"]["xids"]) == 200
    assert len(check["message"]) <= 600


def test_the_table_of_reports_is_sound() -> None:
    table = health.load_xids()
    sources = json.loads(Path(health.XIDS).read_text())["sources"]
    assert len(table) > 100
    for number, row in table.items():
        assert number == str(int(number))
        assert set(row) == {"title", "effect", "action", "source"}
        assert row["effect"] in ("FAIL", "WARN", "INFO")
        assert row["action"] in ACTIONS
        assert (row["effect"] != "FAIL") or row["action"] != "none", number
        assert row["source"]
        assert set(row["source"]) <= set(sources)


# --- what all tiers share --------------------------------------------------------------------------------------------


def test_every_number_of_the_tables_has_a_source() -> None:
    for section in ("identity", "health"):
        for name, row in TABLE[section].items():
            assert isinstance(row, dict), name
            assert row["source"], name


def test_a_look_that_breaks_makes_its_check_unknown_alone() -> None:
    def breaks(c: Any, answer: Any) -> Any:
        raise KeyError("a\nkey")

    rows = looks.look_at_all(context(), [("broken", "host", breaks), ("xid", "host", health.xid)], 2)
    assert [(row["status"], row["reason_code"]) for row in rows] == [("UNKNOWN", "ERROR"), ("PASS", "OK")]
    assert "\n" not in rows[0]["message"]
