# SPDX-License-Identifier: Apache-2.0
"""T5: figures are judged against those of the very product, and what was not measured is never a PASS.

No GPU and no framework is here: what the pretended programs answer is invented.
"""

from __future__ import annotations

import collections
import copy
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import observe
import performance
import pytest
import verdict
import yaml
from nvml import observations, standin
from nvml.laboratory import Laboratory
from processes import Outcome

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ROOT / "roles" / "validation" / "files" / "gpulab_validation"
TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
PRODUCTS = json.loads((PROGRAMS / "products.json").read_text())
H100 = "H100 SXM5 80GB"
Device = collections.namedtuple("Device", "index uuid bdf name product memory")
TORCH = {"name": "torch", "python": "/opt/torch/bin/python", "frameworks": {"pytorch": "2.13.0"}, "keras_backend": None}
#: What a healthy H100 reaches, roughly.
HEALTHY = {
    "matmul_fp32": 50.0, "matmul_tf32": 380.0, "matmul_bf16": 700.0, "matmul_fp16": 700.0, "memory_bandwidth": 2900.0,
    "host_to_device": 55.0, "device_to_host": 54.0,
}  # fmt: skip


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def device(index: int = 0, **changes: Any) -> Any:
    row = observations.gpu(index)
    fields = {"index": index, "uuid": row["uuid"], "bdf": row["bdf"], "name": row["name"], "product": H100}
    return Device(**{**fields, "memory": row["memory"]["total"], **changes})


def result(figures: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return what a performance program writes; a figure None leaves it out."""
    rows = []
    for metric, value in {**HEALTHY, **(figures or {})}.items():
        if value is not None:
            runs = value if isinstance(value, list) else [value * 0.99, value, value * 1.01]
            unit = "TFLOP/s" if metric.startswith("matmul") else "GB/s"
            method = "pinned" if metric in ("host_to_device", "device_to_host") else None
            rows.append({"metric": metric, "unit": unit, "runs": runs, "size": 8192, "method": method})
    answer = {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "figures": rows, "not_measured": {}}
    return {**answer, **changes}


def look(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what the watch saw of a GPU that worked."""
    answer = {
        "uuid": observations.gpu(index)["uuid"], "samples": 12, "gen_max_seen": 5, "width_max_seen": 16,
        "reasons": ["sw_power_cap"], "temperature_max": 62, "power_w_max": 690.0, "utilization_max": 100,
        "nvlink_errors_delta": 0,
    }  # fmt: skip
    return {**answer, **changes}


class Host:
    """A pretended host: its context, and programs that answer what they are told to."""

    def __init__(self, count: int = 1, profile: str = "gpu", **changes: Any) -> None:
        self.answers: dict[str, Any] = {}
        self.looks = [look(index) for index in range(count)]
        self.problem, self.started = "", list[dict[str, Any]]()
        gpus = [observations.gpu(index) for index in range(count)]
        self.gpus = gpus
        runner = SimpleNamespace(
            start=self.start, together=lambda calls: [call() for call in calls], progress=lambda words: None,
            result_path=lambda name: f"/scratch/{name}", result=lambda name: self.answer(name)[1:],
        )  # fmt: skip
        self.context = SimpleNamespace(
            settings={"performance": True, "simulated": False}, table=TABLE, products=PRODUCTS, profile=profile,
            environments=[TORCH], devices=[device(index) for index in range(count)] if profile == "gpu" else [],
            observation={"simulated": False, "nvml": {"gpus": gpus}}, runner=runner, expected={"gpus": []},
            facts={"gpus": [{"bus": row["bdf"]} for row in gpus], "nvswitches": [{"bus": "0000:05:00.0"}]},
        )  # fmt: skip
        vars(self.context).update(changes)

    def start(self, environment: Any, program: str, arguments: list[str], log: str, timeout: float, **more: Any) -> Any:
        self.started.append({"program": program, "arguments": arguments, "timeout": timeout, **more})
        return self.answer(log.replace(".log", ".json"))[0]

    def answer(self, name: str) -> Any:
        """Return (outcome, result, problem) of a program, by the end of its name: 0, all, cpu."""
        key = name.removesuffix(".json").rpartition("-")[2]
        given = self.answers.get(key)
        if given is None:
            reduced = {"device_name": "NVIDIA H100 80GB HBM3", "figures": [
                {"metric": "all_reduce", "unit": "GB/s", "runs": [440.0, 441.0, 442.0], "method": "nccl"}
            ]}  # fmt: skip
            given = reduced if key == "all" else result()
        return given if isinstance(given, tuple) else (Outcome("finished", 0, 9.5, ""), given, "")

    def run(self) -> tuple[dict[tuple[str, str], Any], Any]:
        checks, section = performance.run(self.context)
        found = {(row["id"], row["target"].rpartition("@")[2]): row for row in checks}
        assert len(found) == len(checks)
        assert {row["tier"] for row in checks} == {5}
        assert set(performance.required(self.context)) <= {(row["id"], row["target"]) for row in checks}
        json.dumps([checks, section], allow_nan=False)
        return found, section


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a pretended watch in the place of the real one; it says what the pretended host tells it."""

    class Watch:
        def __init__(self, runner: Any) -> None:
            self.host = runner.start.__self__

        def __enter__(self) -> Watch:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def result(self) -> dict[str, Any]:
            host = self.host
            return {"simulated": False, "problem": host.problem, "samples": 12, "gpus": host.looks, "processes": []}

    monkeypatch.setitem(sys.modules, "observe", SimpleNamespace(Watch=Watch))
    return iter(())  # type: ignore[return-value]


UUID = observations.gpu(0)["uuid"]


def one(host: Host, identity: str, where: str = UUID) -> Any:
    return host.run()[0][identity, where]


# --- a healthy host -------------------------------------------------------------------------------------------------


def test_a_healthy_gpu_passes_everything() -> None:
    found, section = Host().run()
    assert {row["status"] for row in found.values()} == {"PASS"}
    assert {identity for identity, _ in found} == {
        "perf.measured", "perf.baseline", "perf.gemm", "perf.membw", "perf.pcie", "perf.pcie_link", "perf.throttle",
        "perf.nvlink",
    }  # fmt: skip
    bf16 = next(row for row in section["rows"] if row["metric"] == "matmul_bf16")
    assert (bf16["product"], bf16["median"], bf16["reference"], bf16["kind"]) == (H100, 700.0, 794.5, "measured")
    assert bf16["ratio"] == pytest.approx(700 / 794.5)
    assert "Maximum Achievable Matmul FLOPS" in bf16["source"]
    assert bf16["simulated"] is False


def test_eight_gpus_are_measured_each_by_itself_and_then_together() -> None:
    host = Host(8)
    found, section = host.run()
    assert {row["status"] for row in found.values()} == {"PASS"}
    assert [[gpu.index for gpu in call["devices"]] for call in host.started] == [[i] for i in range(8)] + [
        list(range(8))
    ]
    assert host.started[-1]["arguments"][-4:] == ["--part", "all_reduce", "--devices", "8"]
    assert all("/scratch/performance-turn" in call["arguments"] for call in host.started[:-1])
    assert len({row["target"] for row in section["rows"]}) == 9
    assert found["perf.all_reduce", "all"]["threshold"] == {"all_reduce": pytest.approx(0.75 * 460)}


def test_figures_of_a_stand_in_say_so() -> None:
    host = Host()
    host.context.observation["simulated"] = True
    assert all(row["simulated"] for row in host.run()[1]["rows"])


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "figures", "status", "reason"),
    [
        ("perf.gemm", {"matmul_bf16": 0.75 * 794.5}, "PASS", "OK"),
        ("perf.gemm", {"matmul_bf16": 0.749 * 794.5}, "FAIL", "TOO_SLOW"),
        ("perf.gemm", {"matmul_tf32": 0.49 * 494.5}, "WARN", "SLOW"),
        ("perf.gemm", {"matmul_tf32": 0.24 * 494.5}, "FAIL", "TOO_SLOW"),
        ("perf.gemm", {"matmul_fp32": 380.0}, "UNKNOWN", "IMPLAUSIBLE"),
        ("perf.membw", {"memory_bandwidth": 0.55 * 3350}, "WARN", "SLOW"),
        ("perf.membw", {"memory_bandwidth": 0.39 * 3350}, "FAIL", "TOO_SLOW"),
        ("perf.membw", {"memory_bandwidth": 5000.0}, "UNKNOWN", "IMPLAUSIBLE"),
        ("perf.pcie", {"host_to_device": 48.0}, "PASS", "OK"),
        ("perf.pcie", {"host_to_device": 47.9}, "FAIL", "TOO_SLOW"),
        ("perf.pcie", {"device_to_host": 12.0}, "FAIL", "TOO_SLOW"),
    ],
)
def test_a_figure_is_judged_by_the_kind_of_its_reference(
    identity: str, figures: dict[str, float], status: str, reason: str
) -> None:
    host = Host()
    host.answers["0"] = result(figures)
    row = one(host, identity)
    assert (row["status"], row["reason_code"]) == (status, reason)
    assert row["action"] == ("isolate" if status == "FAIL" else "none")
    assert row["threshold_source"]


@pytest.mark.parametrize(
    ("runs", "status", "reason"),
    [
        ([700.0, float("nan"), 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, 0.0, 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, -1.0, 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, None, 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, "700", 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, float("inf"), 700.0], "FAIL", "NOT_A_NUMBER"),
        ([700.0, 700.0], "UNKNOWN", "NOT_REPEATED"),
        ([], "UNKNOWN", "NOT_REPEATED"),
        (None, "UNKNOWN", "NOT_MEASURED"),
    ],
)
def test_a_figure_that_cannot_be_used_is_never_a_pass(runs: Any, status: str, reason: str) -> None:
    host = Host()
    host.answers["0"] = result({"matmul_bf16": runs})
    found, section = host.run()
    assert (found["perf.measured", UUID]["status"], found["perf.measured", UUID]["reason_code"]) == (status, reason)
    assert found["perf.gemm", UUID]["status"] == "UNKNOWN"
    assert "matmul_bf16" not in {row["metric"] for row in section["rows"]}


def test_a_figure_that_is_there_twice_is_not_used() -> None:
    host = Host()
    answer = result()
    answer["figures"].append(copy.deepcopy(answer["figures"][0]))
    host.answers["0"] = answer
    assert one(host, "perf.measured")["status"] == "UNKNOWN"


def test_the_reason_why_nothing_was_measured_is_told() -> None:
    host = Host()
    host.answers["0"] = result({"matmul_bf16": None}, not_measured={"matmul_bf16": "RuntimeError: no kernel\nimage"})
    assert "matmul_bf16: RuntimeError: no kernel image" in one(host, "perf.measured")["message"]


@pytest.mark.parametrize("answer", [{}, {"figures": None}, {"figures": [None, 3]}, {"figures": []}])
def test_an_empty_result_is_unknown(answer: dict[str, Any]) -> None:
    host = Host()
    host.answers["0"] = {"device_name": "NVIDIA H100 80GB HBM3", **answer}
    found, section = host.run()
    assert found["perf.measured", UUID]["status"] == "UNKNOWN"
    assert found["perf.gemm", UUID]["status"] == "UNKNOWN"
    assert section["rows"] == []


def test_what_the_compute_capability_lacks_is_not_demanded() -> None:
    host = Host()
    host.gpus[0]["compute_capability"] = "7.5"
    host.context.devices[0] = device(product="Tesla T4", name=None)
    host.answers["0"] = result(
        {"matmul_tf32": None, "matmul_bf16": None, "matmul_fp32": 5.0, "memory_bandwidth": 240.0}
    )
    found, _ = host.run()
    assert found["perf.measured", UUID]["status"] == "PASS"
    assert found["perf.gemm", UUID]["status"] == "PASS"


def test_a_program_cannot_talk_itself_out_of_a_format_the_driver_knows() -> None:
    host = Host()
    host.answers["0"] = result({"matmul_tf32": None, "matmul_bf16": None}, compute_capability="7.5")
    assert one(host, "perf.measured")["status"] == "UNKNOWN"


# --- programs that do not do as they should -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "answer", "problem", "status", "reason", "action"),
    [
        (Outcome("timeout", None, 120, ""), None, "", "UNKNOWN", "TIMEOUT", "none"),
        (Outcome("abandoned", None, 140, ""), None, "", "FAIL", "TIMEOUT", "reboot"),
        (Outcome("not_started", None, 0, "no python"), None, "", "FAIL", "TOOL_MISSING", "none"),
        (Outcome("finished", -9, 3, ""), None, "", "FAIL", "CRASHED", "none"),
        (Outcome("finished", 1, 3, "Traceback"), None, "", "UNKNOWN", "NO_RESULT", "none"),
        (Outcome("finished", 0, 3, ""), None, "", "UNKNOWN", "NO_RESULT", "none"),
        (Outcome("finished", 0, 3, ""), None, "is not JSON", "UNKNOWN", "PARSE", "none"),
        (Outcome("finished", 1, 3, ""), {"error": {"reason_code": "NO_GPU"}}, "", "FAIL", "NO_GPU", "none"),
        (Outcome("finished", 1, 3, ""), result(), "", "UNKNOWN", "NO_RESULT", "none"),
    ],
)  # fmt: skip
def test_a_program_without_a_result(
    outcome: Any, answer: Any, problem: str, status: str, reason: str, action: str
) -> None:
    host = Host(2)
    host.answers["0"] = host.answers["all"] = (outcome, answer, problem)
    found, section = host.run()
    for where in ((("perf.measured", UUID)), ("perf.all_reduce", "all")):
        row = found[where]
        assert (row["status"], row["reason_code"], row["action"]) == (status, reason, action)
    assert found["perf.gemm", UUID]["status"] == "UNKNOWN"
    other = observations.gpu(1)["uuid"]
    assert found["perf.gemm", other]["status"] == "PASS"
    assert {row["target"].rpartition("@")[2] for row in section["rows"]} == {other}


def test_a_result_of_another_gpu_is_not_taken() -> None:
    host = Host()
    host.answers["0"] = result(device_name="NVIDIA A100-SXM4-80GB")
    found, section = host.run()
    assert (found["perf.measured", UUID]["status"], found["perf.measured", UUID]["reason_code"]) == (
        "UNKNOWN",
        "FOREIGN_RESULT",
    )
    assert section["rows"] == []


# --- products -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", [None, "H100 SXM6", "h100 sxm5 80gb", "GeForce RTX 3070", ""])
def test_an_unknown_product_is_a_warn_and_never_judged_by_another_ones_figures(product: Any) -> None:
    host = Host()
    host.context.devices[0] = device(product=product)
    host.answers["0"] = result({"matmul_bf16": 1.0})
    found, section = host.run()
    baseline = found["perf.baseline", UUID]
    assert (baseline["status"], baseline["reason_code"]) == ("WARN", "PERF_BASELINE_NONE")
    assert "perf_baseline: none" in baseline["message"]
    assert {found[name, UUID]["status"] for name in ("perf.gemm", "perf.membw", "perf.pcie")} == {"SKIP"}
    assert {row["reference"] for row in section["rows"]} == {None}
    composed, _ = verdict.compose(list(found.values()), performance.required(host.context), "gpu", False)
    assert composed["status"] == "WARN"


def test_mixed_products_are_judged_each_by_its_own_figures() -> None:
    host = Host(2)
    host.context.devices[1] = device(1, product="A100 SXM4 80GB", name="NVIDIA A100-SXM4-80GB")
    a100 = {"matmul_fp32": 18.0, "matmul_tf32": 120.0, "matmul_bf16": 250.0, "matmul_fp16": 250.0}
    host.answers["1"] = result(
        {**a100, "memory_bandwidth": 1700.0, "host_to_device": 24.0, "device_to_host": 24.0},
        device_name="NVIDIA A100-SXM4-80GB",
    )
    found, section = host.run()
    assert {row["status"] for row in found.values()} == {"PASS"}
    assert "no figure to compare with" in found["perf.all_reduce", "all"]["message"]
    assert {row["product"] for row in section["rows"]} == {H100, "A100 SXM4 80GB", None}
    host.answers["1"] = result(device_name="NVIDIA A100-SXM4-80GB")  # an H100's figures on an A100
    found, _ = host.run()
    assert found["perf.gemm", observations.gpu(1)["uuid"]]["status"] == "UNKNOWN"


def test_copies_from_ordinary_memory_are_not_judged_by_figures_for_page_locked_memory() -> None:
    host = Host()
    answer = result({"host_to_device": 9.0, "device_to_host": 9.0})
    for figure in answer["figures"]:
        figure["method"] = "pageable"
    host.answers["0"] = answer
    row = one(host, "perf.pcie")
    assert (row["status"], row["required"]) == ("SKIP", False)
    assert "ordinary memory" in row["message"]


def test_adding_up_is_judged_only_with_as_many_gpus_as_the_figure_is_for() -> None:
    slow = {"figures": [{"metric": "all_reduce", "unit": "GB/s", "runs": [300.0] * 3}]}
    for count, status in ((8, "FAIL"), (4, "PASS")):
        host = Host(count)
        host.answers["all"] = slow
        assert one(host, "perf.all_reduce", "all")["status"] == status


def test_a_part_of_a_gpu_is_shown_and_not_judged() -> None:
    host = Host(1)
    parts = [device(uuid=f"MIG-{index}", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb") for index in range(2)]
    host.context.devices = [part._replace(index=index) for index, part in enumerate(parts)]
    host.answers["0"] = host.answers["1"] = result({"matmul_bf16": 80.0})
    found, section = host.run()
    for identity in ("perf.baseline", "perf.gemm", "perf.membw", "perf.pcie"):
        assert found[identity, "MIG-0"]["status"] == "SKIP"
    assert found["perf.all_reduce", "all"]["status"] == "SKIP"
    assert found["perf.pcie_link", "MIG-1"]["status"] == "PASS"  # the bus is the whole GPU's
    assert {row["reference"] for row in section["rows"]} == {None}


# --- what the driver saw meanwhile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "changes", "status", "reason"),
    [
        ("perf.pcie_link", {"gen_max_seen": 1}, "FAIL", "PCIE_DEGRADED"),
        ("perf.pcie_link", {"width_max_seen": 8}, "FAIL", "PCIE_DEGRADED"),
        ("perf.pcie_link", {"width_max_seen": None}, "UNKNOWN", "NOT_READABLE"),
        ("perf.pcie_link", {"gen_max_seen": float("nan")}, "UNKNOWN", "NOT_READABLE"),
        ("perf.pcie_link", {"gen_max_seen": 0}, "UNKNOWN", "NOT_READABLE"),
        ("perf.throttle", {"reasons": []}, "PASS", "OK"),
        ("perf.throttle", {"reasons": ["hw_thermal", "sw_power_cap"]}, "FAIL", "THROTTLED"),
        ("perf.throttle", {"reasons": ["hw_power_brake"]}, "FAIL", "THROTTLED"),
        ("perf.throttle", {"reasons": ["hw_slowdown"]}, "FAIL", "THROTTLED"),
        ("perf.throttle", {"reasons": ["sw_thermal"]}, "WARN", "THROTTLED"),
        ("perf.throttle", {"reasons": ["unknown_0x4000"]}, "WARN", "THROTTLED"),
        ("perf.throttle", {"reasons": None}, "UNKNOWN", "NOT_READABLE"),
        ("perf.nvlink", {"nvlink_errors_delta": 1}, "FAIL", "NVLINK_ERRORS"),
        ("perf.nvlink", {"nvlink_errors_delta": None}, "UNKNOWN", "NOT_READABLE"),
        ("perf.nvlink", {"nvlink_errors_delta": float("nan")}, "UNKNOWN", "NOT_READABLE"),
    ],
)
def test_what_the_driver_saw_under_load(identity: str, changes: dict[str, Any], status: str, reason: str) -> None:
    host = Host()
    host.looks = [look(**changes)]
    row = one(host, identity)
    assert (row["status"], row["reason_code"]) == (status, reason)
    assert row["action"] == ("isolate" if status == "FAIL" else "none")


@pytest.mark.parametrize("looks", [[], [look(1)], [look(samples=0)], [None]])
def test_a_gpu_that_nobody_watched_is_unknown(looks: Any) -> None:
    host = Host()
    host.looks, host.problem = looks, "the watch did not stop"
    found, _ = host.run()
    assert {found[name, UUID]["status"] for name in performance.LOOKED_AT} == {"UNKNOWN"}
    assert "the watch did not stop" in found["perf.throttle", UUID]["message"]


def test_a_slow_link_without_anything_copied_over_it_is_unknown() -> None:
    host = Host()
    host.looks = [look(gen_max_seen=1)]
    host.answers["0"] = result({"host_to_device": None, "device_to_host": None})
    assert one(host, "perf.pcie_link")["reason_code"] == "NO_LOAD"


def test_a_slow_slot_is_measured_by_what_slot_and_gpu_can_do_together() -> None:
    host = Host()
    host.gpus[0]["pcie"].update(gen_max=3)
    host.looks = [look(gen_max_seen=3)]
    assert one(host, "perf.pcie_link")["status"] == "PASS"


@pytest.mark.parametrize(
    "changes",
    [
        {"virtualization": "vgpu"},
        {"pcie": dict.fromkeys(("gen", "gen_max", "width", "width_max")), "why": {"pcie.gen_max": "NOT_SUPPORTED"}},
    ],
)  # fmt: skip
def test_a_gpu_without_a_pcie_link_is_left_out(changes: dict[str, Any]) -> None:
    host = Host()
    host.gpus[0].update(changes)
    row = one(host, "perf.pcie_link")
    assert (row["status"], row["required"]) == ("SKIP", False)


def test_a_gpu_without_nvlink_is_left_out_and_one_that_should_have_it_is_not() -> None:
    host = Host()
    host.gpus[0]["nvlink"] = []
    host.looks = [look(nvlink_errors_delta=None)]
    assert one(host, "perf.nvlink")["status"] == "UNKNOWN"  # 18 links are known of this product
    host.context.devices[0] = device(product="H100 PCIe")  # its links hang on a bridge
    assert one(host, "perf.nvlink")["status"] == "SKIP"


@pytest.mark.parametrize("product", ["A100 PCIe 80GB", "H100 PCIe", "GeForce RTX 3090", "a product nobody knows"])
def test_a_card_whose_bridge_is_not_mounted_has_no_nvlink_to_judge(product: str) -> None:
    host = Host()
    unread = dict.fromkeys(("crc_flit", "crc_data", "replay", "recovery"))
    host.gpus[0]["nvlink"] = [{"link": link, "active": False, "errors": dict(unread)} for link in range(12)]
    host.looks = [look(nvlink_errors_delta=None)]
    host.context.devices[0] = device(product=product)
    assert one(host, "perf.nvlink")["status"] == "SKIP"
    host.gpus[0]["nvlink"][0]["active"] = True  # a bridge is there: its errors must be counted
    assert one(host, "perf.nvlink")["status"] == "UNKNOWN"
    host.gpus[0]["nvlink"][0]["active"] = None
    assert one(host, "perf.nvlink")["status"] == "UNKNOWN"


def test_the_only_gpu_of_a_machine_without_nvswitches_has_nothing_to_be_joined_with() -> None:
    host = Host()
    for link in host.gpus[0]["nvlink"]:
        link["active"] = False
    host.looks = [look(nvlink_errors_delta=None)]
    assert one(host, "perf.nvlink")["status"] == "UNKNOWN"
    host.context.facts["nvswitches"] = []
    assert one(host, "perf.nvlink")["status"] == "SKIP"


INTERPRETER = """#!{python}
import json, os, sys, time
time.sleep(1.2)
result = {result!r}
with open(sys.argv[sys.argv.index("--result") + 1], "w") as stream:
    json.dump(result, stream)
with open({seen!r}, "a") as stream:
    stream.write(os.environ["CUDA_VISIBLE_DEVICES"] + chr(10))
"""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"perf.pcie_link": "PASS", "perf.throttle": "PASS", "perf.nvlink": "PASS"}),
        ({"pcie_gen": 1}, {"perf.pcie_link": "FAIL", "perf.throttle": "PASS", "perf.nvlink": "PASS"}),
        ({"pcie_width": 8}, {"perf.pcie_link": "FAIL", "perf.throttle": "PASS", "perf.nvlink": "PASS"}),
        ({"reasons": "0x48"}, {"perf.pcie_link": "PASS", "perf.throttle": "FAIL", "perf.nvlink": "PASS"}),
    ],
)
def test_the_real_watch_sees_a_pretended_driver_while_programs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: dict[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "observe", observe)
    description = standin.h100x8()
    description["gpus"] = [standin.h100(0), standin.h100(1, **changes)]
    lab = Laboratory(tmp_path, monkeypatch, description)
    lab.runner.prepare()
    python = tmp_path / "python"
    python.write_text(INTERPRETER.format(python=sys.executable, result=result(), seen=str(tmp_path / "seen")))
    python.chmod(0o755)
    host = Host(2, runner=lab.runner, environments=[{**TORCH, "python": str(python)}])
    host.context.observation = observe.observe(lab.runner)
    found, section = host.run()
    first, second = (observations.gpu(index)["uuid"] for index in range(2))
    assert {found[name, first]["status"] for name in expected} == {"PASS"}
    assert {name: found[name, second]["status"] for name in expected} == expected
    assert (tmp_path / "seen").read_text().split() in (
        [first, second, f"{first},{second}"],
        [second, first, f"{first},{second}"],
    )
    assert {row["simulated"] for row in section["rows"]} == {True}
    assert section["watch"]["samples"] >= 2


# --- who measures, and when nobody does -----------------------------------------------------------------------------


def environment(name: str, backend: str | None = None, **frameworks: str) -> dict[str, Any]:
    return {"name": name, "python": "/x", "frameworks": frameworks, "keras_backend": backend}


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        (
            [environment("tf", tensorflow="2"), environment("jax", jax="0"), environment("pt", pytorch="2")],
            "pt/pytorch",
        ),
        ([environment("tf", tensorflow="2"), environment("all", jax="0", tensorflow="2")], "all/jax"),
        ([environment("k", "torch", keras="3")], "k/pytorch"),
        ([environment("k", "tensorflow", keras="3", tensorflow="2")], "k/tensorflow"),
    ],
)
def test_one_framework_measures(environments: Any, expected: str) -> None:
    host = Host(environments=environments)
    assert host.run()[1]["framework"] == expected
    assert host.started[0]["program"] == f"performance_{expected.rpartition('/')[2]}.py"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"performance": False}}, "NOT_REQUESTED"),
        ({"environments": []}, "NOT_APPLICABLE"),
        ({"environments": [environment("k", keras="3")]}, "NOT_APPLICABLE"),
    ],
)
def test_where_nobody_measures_that_is_said(changes: dict[str, Any], reason: str) -> None:
    host = Host(**changes)
    found, section = host.run()
    (row,) = found.values()
    assert (row["status"], row["required"], row["reason_code"]) == ("SKIP", False, reason)
    assert (host.started, section["rows"], performance.required(host.context)) == ([], [], [])


def test_no_gpu_in_the_profile_gpu_is_unknown() -> None:
    host = Host(0)
    assert one(host, "perf.measured", "gpu")["status"] == "UNKNOWN"
    assert performance.required(host.context) == [("perf.measured", "torch/pytorch@gpu")]


def test_the_processor_is_measured_without_any_claim() -> None:
    host = Host(profile="cpu", observation=None)
    host.answers["cpu"] = result({name: None for name in HEALTHY if name not in ("matmul_fp32", "memory_bandwidth")})
    found, section = host.run()
    (row,) = found.values()
    assert (row["id"], row["status"]) == ("perf.measured", "PASS")
    assert "shown, not judged" in row["message"]
    assert {(row["product"], row["reference"]) for row in section["rows"]} == {(None, None)}
    host.answers["cpu"] = result({"memory_bandwidth": None})
    assert one(host, "perf.measured", "cpu")["status"] == "UNKNOWN"


def test_hostile_words_stay_one_line() -> None:
    host = Host()
    host.context.devices[0] = device(product="evil\n\u202ename", name=None)
    host.answers["0"] = result(device_name='x"</script>\n', not_measured={"matmul_fp32": "a\x00b"})
    found, section = host.run()
    assert all("\n" not in row["message"] and "\u202e" not in row["message"] for row in found.values())
    assert {row["device_name"] for row in section["rows"]} == {'x"</script>'}


# --- the gates and the tables ---------------------------------------------------------------------------------------


def test_the_gates_refuse_what_they_must() -> None:
    assert set(performance.self_test(TABLE).values()) == {True}


@pytest.mark.parametrize("floor", [0.0, float("nan")])
def test_gates_that_do_not_hold_are_found_out(floor: float) -> None:
    table = copy.deepcopy(TABLE)
    table["performance"]["floors"]["measured"]["fail"] = floor
    assert False in performance.self_test(table).values()


def figures_of_products() -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, key, row[key]) for name, row in PRODUCTS["products"].items() for key in row]


def test_every_product_is_one_of_the_compatibility_data() -> None:
    known = yaml.safe_load((ROOT / "lib" / "gpu_compat" / "data" / "gpus.yml").read_text())["products"]
    assert set(PRODUCTS["products"]) <= {row["name"] for row in known}
    assert len(PRODUCTS["products"]) > 60


def test_every_figure_has_a_source_and_is_of_a_kind_that_has_a_floor() -> None:
    floors = TABLE["performance"]["floors"]
    for name, key, figure in figures_of_products():
        assert figure["source"] in PRODUCTS["sources"], (name, key)
        if key in ("pcie", "nvlink"):
            continue
        assert key in {*performance.SINCE, *performance.BANDWIDTHS, "all_reduce"}, (name, key)
        assert figure["value"] > 0
        assert figure["kind"] in PRODUCTS["kinds"]
        warn, fail, source = performance.limits(key, figure, TABLE)
        assert 0 < fail <= warn <= figure["value"]
        assert source
    assert {figure["source"] for _, _, figure in figures_of_products()} == set(PRODUCTS["sources"])
    assert all(floor["source"] for floor in floors.values())


def test_the_figures_of_a_product_fit_together() -> None:
    for name, row in PRODUCTS["products"].items():
        speeds = [row[key]["value"] for key in ("matmul_fp32", "matmul_tf32", "matmul_bf16") if key in row]
        assert speeds == sorted(speeds), name
        if "pcie" in row:
            assert row["pcie"]["gen"] in (3, 4, 5)
            assert row["pcie"]["width"] in (8, 16)
            # 2 GB/s a lane in generation 4, before any overhead.
            most = row["pcie"]["width"] * 2 * 2.0 ** (row["pcie"]["gen"] - 4)
            for key in ("host_to_device", "device_to_host"):
                assert row.get(key, {"value": 0})["value"] < most, name


# --- what the programs share ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PROGRAMS / "jobs"))
    try:
        yield load("gpulab_jobs_performance", PROGRAMS / "jobs" / "performance.py")
    finally:
        sys.path.remove(str(PROGRAMS / "jobs"))
        sys.modules.pop("job", None)


def test_a_rate_is_work_over_time(shared: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    meter = shared.Meter(shared.arguments(["--device", "cpu", "--repeats", "3"]), lambda: None)
    meter.measure("x", "GB/s", lambda: time.sleep(0.002), 2_000_000, seconds=0.02, size=5)
    (figure,) = meter.figures
    assert len(figure["runs"]) == 3
    assert all(0.3 < run <= 1.0 for run in figure["runs"])
    assert figure["size"] == 5
    assert "x: " in capsys.readouterr().out


def test_the_device_is_waited_for_within_the_time(shared: ModuleType) -> None:
    pending: list[int] = []

    def synchronize() -> None:
        time.sleep(0.001 * len(pending))
        pending.clear()

    meter = shared.Meter(shared.arguments(["--device", "cpu", "--repeats", "3"]), synchronize)
    meter.measure("x", "GB/s", lambda: pending.append(1), 1_000_000, seconds=0.01)
    assert all(run <= 1.0 for run in meter.figures[0]["runs"])  # at most one million bytes a millisecond


def test_what_cannot_be_measured_does_not_hide_the_rest(shared: ModuleType) -> None:
    meter = shared.Meter(shared.arguments(["--device", "cpu"]), lambda: None)

    def broken() -> None:
        raise RuntimeError("first line\nsecond line")

    def absent() -> None:
        meter.keep("b", "GB/s", [1.0])
        raise shared.NotMeasured("no such thing")

    meter.attempt("a", broken)
    meter.attempt("b", absent)
    meter.attempt("c", lambda: meter.keep("c", "GB/s", [2.0]))
    assert meter.not_measured == {"a": "RuntimeError: first line", "b": "no such thing"}
    assert [figure["metric"] for figure in meter.figures] == ["c"]


def test_buffers_are_made_to_fit(shared: ModuleType) -> None:
    assert shared.fitting(1024 * 2**20, None) == 1024 * 2**20
    assert shared.fitting(1024 * 2**20, 2**30) == 256 * 2**20
    assert shared.fitting(1024 * 2**20, 0) == 16 * 2**20
    assert shared.fitting(1024 * 2**20, -5) == 16 * 2**20


def test_programs_take_turns(shared: ModuleType, tmp_path: Path) -> None:
    path, inside, most = str(tmp_path / "turn"), [], []

    def work(name: str) -> None:
        with shared.turn(path):
            inside.append(name)
            time.sleep(0.02)
            most.append(len(inside))
            inside.remove(name)

    threads = [threading.Thread(target=work, args=(str(index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    with shared.turn(""):  # alone nobody waits
        pass


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), ["fp32", "tf32", "bf16", "fp16"]), ((7, 5), ["fp32", "fp16"]), ((5, 2), ["fp32"]),
    ],
)  # fmt: skip
def test_formats_follow_the_compute_capability(shared: ModuleType, capability: Any, expected: list[str]) -> None:
    assert shared.precisions(shared.arguments(["--device", "gpu"]), capability) == expected
    assert shared.precisions(shared.arguments(["--device", "cpu"]), capability) == ["fp32"]
    wanted = [name for name, since in performance.SINCE.items() if capability >= since]
    assert wanted == [f"matmul_{name}" for name in expected]


def test_no_error_leaves_the_program_without_a_sentence(
    shared: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    path = tmp_path / "result"
    monkeypatch.setattr(sys, "argv", ["x", "--device", "cpu", "--result", str(path)])
    assert shared.run("pytorch", broken, broken) == 1
    assert json.loads(path.read_text())["error"]["reason_code"] == "OUT_OF_MEMORY"
    assert "CUDA out of memory" in capsys.readouterr().err
