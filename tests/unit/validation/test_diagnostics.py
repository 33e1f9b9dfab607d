# SPDX-License-Identifier: Apache-2.0
"""T6: what NVIDIA's diagnostics, the NCCL tests and the soak say, and what of it is believed.

dcgmi and all_reduce_perf are stand-ins that print what they are told to; no GPU is here.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diagnostics
import gates
import pytest
import verdict
from nvml import observations

PROGRAMS = Path(diagnostics.__file__).parent
TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
PRODUCTS = json.loads((PROGRAMS / "products.json").read_text())
Device = collections.namedtuple("Device", "index uuid bdf name product memory")


class Host:
    """A host with GPUs, a directory of tools and one for logs."""

    def __init__(self, place: Path, count: int = 2, *asked: str, profile: str = "gpu") -> None:
        self.tools, self.rounds = place / "tools", list[Any]()
        self.tools.mkdir()
        gpus = [observations.gpu(index) for index in range(count)]
        self.gpus = gpus
        runner = SimpleNamespace(
            run_directory=str(place), scratch=str(place), user=None, progress=lambda words: None,
            probe_variables=lambda: {"PATH": f"{self.tools}{os.pathsep}/usr/bin{os.pathsep}/bin", "LC_ALL": "C"},
        )  # fmt: skip
        product = "H100 SXM5 80GB"
        self.context = SimpleNamespace(
            settings={"diagnostics": list(asked), "soak_minutes": 1}, table=json.loads(json.dumps(TABLE)),
            products=PRODUCTS, profile=profile, runner=runner, observation={"nvml": {"gpus": gpus}},
            devices=[Device(row["index"], row["uuid"], row["bdf"], row["name"], product, 0) for row in gpus],
        )  # fmt: skip

    def tool(self, name: str, output: str = "", code: int = 0, body: str = "") -> None:
        """Put a stand-in tool on the path."""
        path = self.tools / name
        text = f"#!{sys.executable}\nimport sys, time\nsys.stdout.write({output!r})\nsys.stdout.flush()\n{body}\n"
        path.write_text(f"{text}sys.exit({code})\n")
        path.chmod(0o755)

    def run(self) -> tuple[dict[tuple[str, str], Any], Any]:
        checks, section = diagnostics.run(self.context)
        json.dumps([checks, section], allow_nan=False)
        assert {row["tier"] for row in checks} <= {6}
        assert set(diagnostics.required(self.context)) <= {(row["id"], row["target"]) for row in checks}
        return {(row["id"], row["target"]): row for row in checks}, section


UUIDS = [observations.gpu(index)["uuid"] for index in range(2)]


def dcgm4(*statuses: str, category: str = "Hardware", summary: str = "Pass", **more: Any) -> str:
    """Return what dcgmi of DCGM 4 prints: the software test, and one of the hardware with a status for each GPU."""
    results = [
        {"entity_group": "GPU", "entity_group_id": 1, "entity_id": index, "status": status, **more}
        for index, status in enumerate(statuses)
    ]
    software = [{"entity_group": "GPU", "entity_id": index, "status": "Pass"} for index in range(len(statuses))]
    categories = [
        {"category": "Deployment", "tests": [{"name": "software", "results": software}]},
        {"category": category, "tests": [{"name": "memory", "results": results, "test_summary": {"status": summary}}]},
    ]
    document = {"DCGM Diagnostic": {"test_categories": categories}, "metadata": {"version": "4.4.2"}}
    return json.dumps(document, indent=1)


def dcgm3(*statuses: str) -> str:
    """Return what dcgmi of DCGM 3 prints."""
    results = [{"gpu_id": str(index), "status": status} for index, status in enumerate(statuses)]
    categories = [
        {"category": "Deployment", "tests": [{"name": "Denylist", "results": [{"status": "Pass"}]}]},
        {"category": "Hardware", "tests": [{"name": "GPU Memory", "results": results}]},
    ]
    return "Successfully ran diagnostic for group.\n" + json.dumps(
        {"DCGM GPU Diagnostic": {"test_categories": categories}}
    )


def dcgm(place: Path, output: str, code: int = 0) -> tuple[dict[str, Any], Any]:
    """Return the checks of dcgmi by host, 0 and 1, and the section."""
    host = Host(place, 2, "dcgm")
    host.tool("dcgmi", output, code)
    found, section = host.run()
    names = {"host": "host", **{uuid: str(index) for index, uuid in enumerate(UUIDS)}}
    return {names[target]: row for (_, target), row in found.items()}, section["dcgm"]


# --- what was asked for ---------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_nothing_run(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.run() == ({}, {"requested": [], "dcgm": None, "nccl_tests": None, "soak": None})
    assert diagnostics.required(host.context) == []


def test_without_a_gpu_only_the_soak_means_anything(tmp_path: Path) -> None:
    host = Host(tmp_path, 0, "dcgm", "nccl_tests", profile="cpu")
    found, _ = host.run()
    assert {(row["status"], row["required"]) for row in found.values()} == {("SKIP", False)}
    assert diagnostics.required(host.context) == []


@pytest.mark.parametrize(("name", "targets"), [("dcgm", ["host", *UUIDS]), ("nccl_tests", ["host"])])
def test_a_tool_that_was_asked_for_and_is_missing_is_unknown(tmp_path: Path, name: str, targets: list[str]) -> None:
    host = Host(tmp_path, 2, name)
    found, _ = host.run()
    assert {target: (row["status"], row["reason_code"]) for (_, target), row in found.items()} == dict.fromkeys(
        targets, ("UNKNOWN", "TOOL_MISSING")
    )
    composed, _ = verdict.compose(list(found.values()), diagnostics.required(host.context), "gpu", False)
    assert composed["status"] == "UNKNOWN"


# --- dcgmi ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [dcgm4("Pass", "Pass"), dcgm3("Pass", "Pass"), dcgm4("PASS", "pass")])
def test_what_passes_passes(tmp_path: Path, output: str) -> None:
    found, section = dcgm(tmp_path, output)
    assert {row["status"] for row in found.values()} == {"PASS"}
    assert set(found) == {"host", "0", "1"}
    assert (section["code"], section["level"]) == (0, 2)
    assert found["host"]["evidence"] == ["dcgmi.log"]


@pytest.mark.parametrize("output", [dcgm4("Pass", "Fail"), dcgm3("Pass", "Fail")])
@pytest.mark.parametrize("code", [0, 226])
def test_a_failure_is_told_of_its_gpu_whatever_the_exit_status(tmp_path: Path, output: str, code: int) -> None:
    found, _ = dcgm(tmp_path, output, code)
    assert {name: row["status"] for name, row in found.items()} == {"host": "FAIL", "0": "PASS", "1": "FAIL"}
    assert found["1"]["action"] == "isolate"


@pytest.mark.parametrize(("severity", "action"), [(1, "none"), (2, "isolate"), (4, "isolate"), (6, "reset_gpu")])
def test_the_action_is_what_dcgm_asks_for(tmp_path: Path, severity: int, action: str) -> None:
    warnings = [{"warning": "row remapping failed", "error_id": 95, "error_severity": severity}]
    found, _ = dcgm(tmp_path, dcgm4("Fail", "Fail", warnings=warnings))
    assert (found["0"]["action"], found["host"]["action"]) == (action, action)
    assert "row remapping failed" in found["0"]["message"]


def test_parts_of_gpus_among_the_devices_do_not_shift_dcgms_numbers(tmp_path: Path) -> None:
    host = Host(tmp_path, 2, "dcgm")
    divided, whole = host.context.devices
    parts = [divided._replace(index=n, uuid=f"MIG-{n}") for n in range(7)]
    host.context.devices = [*parts, whole._replace(index=7)]
    host.tool("dcgmi", dcgm4("Pass", "Fail"))
    found, _ = host.run()
    assert set(found) == {("diag.dcgm", "host"), ("diag.dcgm", whole.uuid)}
    assert found["diag.dcgm", whole.uuid]["status"] == "FAIL"
    assert diagnostics.whole_gpus(host.context) == {whole.uuid: 1}


@pytest.mark.parametrize("index", [None, True, "1"])
def test_of_a_gpu_whose_number_is_not_known_dcgm_says_nothing(tmp_path: Path, index: Any) -> None:
    host = Host(tmp_path, 2, "dcgm")
    host.gpus[1]["index"] = index
    host.tool("dcgmi", dcgm4("Pass", "Pass"))
    found, _ = host.run()
    assert [found["diag.dcgm", uuid]["status"] for uuid in UUIDS] == ["PASS", "UNKNOWN"]


def test_status_226_with_nothing_failed_is_unknown_and_told_as_dcgms_own_number(tmp_path: Path) -> None:
    found, _ = dcgm(tmp_path, dcgm4("Pass", "Pass"), 226)
    assert (found["host"]["status"], found["host"]["reason_code"]) == ("UNKNOWN", "EXIT_STATUS")
    assert "status 226, DCGM's code -30" in found["host"]["message"]


@pytest.mark.parametrize(
    "output",
    [
        "",
        "Error: unable to establish a connection to the specified host: localhost\n",
        "{}",
        "[]",
        "{",
        dcgm4("Pass", "Pass")[:-40],
        '{"DCGM Diagnostic": null}',
        '{"DCGM Diagnostic": {"test_categories": []}}',
        '{"DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": null}]}}',
        '{"DCGM Diagnostic": {"runtime_error": "the diagnostic is already running"}}',
        "\ufffd\x1b[31m{\n",
        "{" * 100_000,
    ],
)
@pytest.mark.parametrize("code", [0, 226])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, output: str, code: int) -> None:
    found, _ = dcgm(tmp_path, output, code)
    assert {row["status"] for row in found.values()} == {"UNKNOWN"}
    assert all(gates.text(row["message"], 600) == row["message"] for row in found.values())


def test_an_error_of_the_diagnostic_itself_outweighs_tests_that_passed(tmp_path: Path) -> None:
    output = json.loads(dcgm4("Pass", "Pass"))
    output["DCGM Diagnostic"]["runtime_error"] = "the diagnostic was interrupted"
    found, _ = dcgm(tmp_path, json.dumps(output))
    assert {row["status"] for row in found.values()} == {"UNKNOWN"}
    assert "the diagnostic was interrupted" in found["host"]["message"]


def test_a_warning_of_the_diagnostic_itself_is_a_warn(tmp_path: Path) -> None:
    output = json.loads(dcgm4("Pass", "Pass"))
    output["DCGM Diagnostic"]["warning"] = "other processes use these GPUs"
    found, _ = dcgm(tmp_path, json.dumps(output))
    assert {name: row["status"] for name, row in found.items()} == {"host": "WARN", "0": "PASS", "1": "PASS"}


@pytest.mark.parametrize("status", ["Skip", "Not Run", "", "None", "Passed"])
def test_a_test_that_did_not_run_is_no_pass(tmp_path: Path, status: str) -> None:
    found, _ = dcgm(tmp_path, dcgm4(status, status))
    assert {found[name]["status"] for name in ("0", "1")} == {"UNKNOWN"}


def test_a_gpu_that_no_test_names_is_unknown(tmp_path: Path) -> None:
    found, _ = dcgm(tmp_path, dcgm4("Pass"))
    assert {name: row["status"] for name, row in found.items()} == {"host": "PASS", "0": "PASS", "1": "UNKNOWN"}


def test_software_tests_alone_prove_no_gpu(tmp_path: Path) -> None:
    found, _ = dcgm(tmp_path, dcgm4("Pass", "Pass", category="Deployment"))
    assert {row["reason_code"] for row in found.values()} == {"NOTHING_RAN"}


def test_a_pass_that_reports_an_error_is_doubted(tmp_path: Path) -> None:
    warnings = [{"warning": "Not enough memory could be allocated\nfor the test", "error_id": 26}]
    found, _ = dcgm(tmp_path, dcgm4("Pass", "Pass", warnings=warnings))
    assert {(row["status"], row["reason_code"]) for row in found.values()} == {("WARN", "KNOWN_FALSE_PASS")}
    assert "Not enough memory could be allocated for the test" in found["0"]["message"]


def test_an_error_in_the_summary_alone_is_seen(tmp_path: Path) -> None:
    assert dcgm(tmp_path, dcgm4("Pass", "Pass", summary="Fail"))[0]["host"]["status"] == "FAIL"


def test_a_warn_stays_a_warn(tmp_path: Path) -> None:
    found, _ = dcgm(tmp_path, dcgm4("Pass", "Warn"))
    assert {name: row["status"] for name, row in found.items()} == {"host": "WARN", "0": "PASS", "1": "WARN"}


def test_a_pass_with_nvlinks_down_is_doubted(tmp_path: Path) -> None:
    host = Host(tmp_path, 2, "dcgm")
    host.gpus[1]["nvlink"][3]["active"] = False
    host.tool("dcgmi", dcgm4("Pass", "Pass"))
    found, _ = host.run()
    row = found["diag.dcgm", UUIDS[1]]
    assert (row["status"], row["reason_code"]) == ("WARN", "KNOWN_FALSE_PASS")
    assert "1 NVLinks" in row["message"]
    assert found["diag.dcgm", UUIDS[0]]["status"] == "PASS"


def test_a_diagnostic_that_hangs_is_stopped(tmp_path: Path) -> None:
    host = Host(tmp_path, 1, "dcgm")
    host.context.table["performance"]["dcgm"]["timeout_s"] = 0.3
    host.tool("dcgmi", dcgm4("Pass")[:50], body="time.sleep(60)")
    started = time.monotonic()
    found, _ = host.run()
    assert time.monotonic() - started < 10
    assert {(row["status"], row["reason_code"]) for row in found.values()} == {("UNKNOWN", "TIMEOUT")}


@pytest.mark.parametrize(
    ("state", "status", "action"), [("abandoned", "FAIL", "reboot"), ("timeout", "UNKNOWN", "none")]
)
def test_what_survives_sigkill_needs_a_reboot(state: str, status: str, action: str) -> None:
    answer = diagnostics.unusable(SimpleNamespace(state=state, code=None, tail="", seconds=1))
    assert (answer[0], answer[3]) == (status, action)


# --- NCCL tests -----------------------------------------------------------------------------------------------------

NCCL = """# nThread 1 nGpus 8 minBytes 1073741824
#       size         count      type   redop    root     time   algbw   busbw #wrong
  1073741824     268435456     float     sum      -1   4105.7  261.5  457.67      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 457.673
"""


def nccl(place: Path, output: str, code: int = 0, count: int = 8) -> Any:
    host = Host(place, count, "nccl_tests")
    host.tool("all_reduce_perf", output, code)
    return host.run()[0]["diag.nccl_tests", "host"]


@pytest.mark.parametrize(
    ("output", "code", "count", "status", "reason"),
    [
        (NCCL, 0, 8, "PASS", "OK"),
        (NCCL.replace(": 457.673", ": 345.0"), 0, 8, "PASS", "OK"),
        (NCCL.replace(": 457.673", ": 344.9"), 0, 8, "FAIL", "TOO_SLOW"),
        (NCCL.replace(": 457.673", ": nan"), 0, 8, "UNKNOWN", "PARSE"),
        (NCCL.replace(": 457.673", ": 0"), 0, 8, "UNKNOWN", "PARSE"),
        (NCCL.replace(": 457.673", ": N/A"), 0, 8, "UNKNOWN", "PARSE"),
        (NCCL.replace("0 OK", "3 FAILED"), 0, 8, "FAIL", "WRONG_RESULT"),
        (NCCL.replace("0 OK", "3 FAILED"), 1, 8, "FAIL", "WRONG_RESULT"),
        (NCCL, 1, 8, "UNKNOWN", "EXIT_STATUS"),
        (NCCL.replace("# Out", "# In"), 0, 8, "UNKNOWN", "PARSE"),
        (NCCL + NCCL, 0, 8, "UNKNOWN", "PARSE"),
        ("", 0, 8, "UNKNOWN", "PARSE"),
        ("Test NCCL failure common.cu:958 'unhandled cuda error'", 3, 8, "UNKNOWN", "EXIT_STATUS"),
        (NCCL, 0, 4, "WARN", "PERF_BASELINE_NONE"),
        (NCCL, 0, 1, "SKIP", "NOT_APPLICABLE"),
    ],
)
def test_nccl_tests(tmp_path: Path, output: str, code: int, count: int, status: str, reason: str) -> None:
    row = nccl(tmp_path, output, code, count)
    assert (row["status"], row["reason_code"]) == (status, reason)


def test_nccl_tests_see_the_gpus_by_their_uuids(tmp_path: Path) -> None:
    host = Host(tmp_path, 2, "nccl_tests")
    host.tool("all_reduce_perf", body="import os; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:])")
    host.run()
    log = (tmp_path / "nccl-tests.log").read_text()
    assert ",".join(UUIDS) in log
    assert "-g 2" in log


# --- soak -----------------------------------------------------------------------------------------------------------


def soak(place: Path, monkeypatch: pytest.MonkeyPatch, *rounds: list[Any], seconds: float = 25.0) -> Any:
    """Run the soak; every round takes some seconds of a pretended clock, the last one repeats."""
    host, clock = Host(place, 1, "soak"), SimpleNamespace(now=0.0)

    def run(_: Any) -> Any:
        checks = rounds[min(len(host.rounds), len(rounds) - 1)]
        host.rounds.append(checks)
        clock.now += seconds
        return checks, {}

    monkeypatch.setitem(sys.modules, "numerics", SimpleNamespace(run=run))
    checks, section = diagnostics.run_soak(host.context, clock=lambda: clock.now)
    json.dumps(section)
    return checks[0], section, len(host.rounds)


def numeric(status: str, **more: Any) -> Any:
    return gates.check("num.fwd_bwd.fp32", "torch/pytorch@GPU-1", status, "words", more.pop("reason", "OK"), **more)


def test_the_soak_repeats_until_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, section, rounds = soak(tmp_path, monkeypatch, [numeric("PASS"), numeric("SKIP", required=False)])
    assert (row["status"], rounds, section["rounds"], section["seconds"]) == ("PASS", 3, 3, 75.0)


@pytest.mark.parametrize(("status", "expected"), [("FAIL", "FAIL"), ("UNKNOWN", "UNKNOWN"), ("odd", "UNKNOWN")])
def test_the_first_bad_round_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, expected: str
) -> None:
    bad = numeric(status, reason="WRONG_RESULT", action="isolate")
    row, section, rounds = soak(tmp_path, monkeypatch, [numeric("PASS")], [numeric("PASS"), bad])
    assert (row["status"], row["reason_code"], rounds) == (expected, "WRONG_RESULT", 2)
    assert row["action"] == ("isolate" if expected == "FAIL" else "none")
    assert "round 2 after 50 s, torch/pytorch@GPU-1" in row["message"]
    assert section["failed"][0]["target"] == "torch/pytorch@GPU-1"


@pytest.mark.parametrize("checks", [[], [numeric("SKIP", required=False)]])
def test_a_round_that_checks_nothing_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: list[Any]
) -> None:
    row, _, rounds = soak(tmp_path, monkeypatch, checks)
    assert (row["status"], rounds) == ("UNKNOWN", 1)


def test_a_round_longer_than_the_soak_is_one_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, _, rounds = soak(tmp_path, monkeypatch, [numeric("PASS")], seconds=500.0)
    assert (row["status"], rounds) == ("PASS", 1)


def test_the_gates_refuse_what_they_must() -> None:
    assert set(diagnostics.self_test(TABLE).values()) == {True}
