# SPDX-License-Identifier: Apache-2.0
"""What NVML says, read by the real binding from a pretended driver. This proves the reading, nothing about a GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import observe
import pytest
from nvml import observations, standin
from nvml.laboratory import Laboratory, gpus

MIB = standin.MIB
Seen = Callable[..., dict[str, Any]]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Return a function that observes a described host."""

    def observe_host(description: standin.Description, **more: Any) -> dict[str, Any]:
        lab = Laboratory(tmp_path, monkeypatch, description, **more)
        return observe.observe(lab.runner)

    return observe_host


def without_times(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in ("seconds", "library", "path")}


def test_eight_healthy_gpus_are_read_as_the_recorded_observation_says(seen: Seen) -> None:
    observation, recorded = seen(standin.h100x8()), observations.h100x8()
    assert observation["simulated"] is True
    for part in ("nvml", "smi"):
        assert without_times(observation[part]) == without_times(recorded[part])
    assert observation["nvml"]["library"].endswith("/driver/libnvidia-ml.so.1")


def test_a_gpu_that_fell_off_the_bus_is_listed_as_lost(seen: Seen) -> None:
    rows = gpus(seen(standin.lost()))
    assert rows[3] == observations.lost_gpu(3)
    assert [row["lost"] for row in rows] == [index == 3 for index in range(8)]


def test_a_gpu_that_is_lost_while_it_is_read_is_asked_no_more(seen: Seen) -> None:
    row = gpus(seen(standin.h100x8(ecc="!15")))[3]
    assert row["lost"] is True
    assert row["uuid"] == standin.uuid(3)
    assert row["temperature"] is None
    assert observe.why(row, "temperature") == "GPU_IS_LOST"
    assert "lost while it was read" in row["problem"]


@pytest.mark.parametrize(
    ("value", "word"), [("!16", "RESET_REQUIRED"), ("!4", "NO_PERMISSION"), ("!8", "INSUFFICIENT_POWER")]
)
def test_a_gpu_that_cannot_be_opened_says_why(seen: Seen, value: str, word: str) -> None:
    row = gpus(seen(standin.h100x8(handle=value)))[3]
    assert (row["lost"], row["uuid"], row["ecc"]["volatile"]["uncorrected"]) == (False, None, None)
    assert observe.why(row, "ecc.volatile.uncorrected") == word
    assert word not in observe.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("mismatch", 18, "LIB_RM_VERSION_MISMATCH"), ("not_loaded", 9, "DRIVER_NOT_LOADED"), ("unknown", 999, "UNKNOWN")],
)
def test_a_library_that_cannot_be_initialized_says_why(seen: Seen, name: str, code: int, word: str) -> None:
    nvml = seen(standin.DESCRIPTIONS[name]())["nvml"]
    assert nvml["outcome"] == "finished"
    assert (nvml["error"]["code"], nvml["error"]["name"], nvml["gpus"]) == (code, word, [])
    assert nvml["error"]["message"]


def test_a_host_without_the_library_or_without_the_binding(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(standin.h100x8(), library=False)["nvml"]["error"]["name"] == "LIBRARY_NOT_FOUND"
    lab = Laboratory(tmp_path / "second", monkeypatch, standin.h100x8(), binding=False)
    assert observe.observe(lab.runner)["nvml"]["error"]["name"] == "BINDING_MISSING"


def test_a_host_without_gpus_has_an_empty_list_and_a_count(seen: Seen) -> None:
    nvml = seen(standin.DESCRIPTIONS["no_gpus"]())["nvml"]
    assert (nvml["count"], nvml["gpus"], nvml["error"]) == (0, [], None)


@pytest.mark.parametrize(("name", "stuck"), [("hanging", "nvmlInit"), ("hanging_gpu", "nvmlDeviceGetEccMode of GPU 3")])
def test_a_library_that_hangs_is_left_after_its_time_and_the_call_is_named(seen: Seen, name: str, stuck: str) -> None:
    started = time.monotonic()
    observation = seen(standin.DESCRIPTIONS[name](), smi=False, most=1)
    assert time.monotonic() - started < 5
    assert observation["nvml"]["outcome"] == "timeout"
    assert observation["nvml"]["stuck"] == stuck
    assert len(observation["nvml"]["gpus"]) == (3 if "GPU 3" in stuck else 0)


def test_a_library_that_crashes_does_not_take_us_with_it(seen: Seen) -> None:
    nvml = seen(standin.DESCRIPTIONS["crashing"](), smi=False)["nvml"]
    assert (nvml["outcome"], nvml["stuck"]) == ("crashed", "nvmlInit")


def test_mig_says_its_instances_and_that_rows_cannot_be_asked_for(seen: Seen) -> None:
    row = gpus(seen(standin.mig()))[0]
    assert row["mig"]["current"] is True
    assert [instance["uuid"][:12] for instance in row["mig"]["instances"]] == ["MIG-00000000", "MIG-00000001"]
    assert row["mig"]["instances"][0]["memory"] == 40448 * MIB
    assert row["row_remap"] is None
    assert observe.why(row, "row_remap") == "NOT_APPLICABLE_MIG"
    assert observe.why(row, "mig.instances") is None  # places that no instance takes are no gap
    assert observe.why(row, "accounting_mode") in observe.NOT_APPLICABLE


def test_a_card_for_consumers_has_neither_error_correction_nor_links(seen: Seen) -> None:
    row = gpus(seen(standin.DESCRIPTIONS["consumer"]()))[0]
    assert row["ecc"]["current"] is None
    for path in ("ecc.current", "ecc.volatile.uncorrected", "ecc.sram_threshold_exceeded", "row_remap", "nvlink"):
        assert observe.why(row, path) == "NOT_SUPPORTED", path
    assert (row["nvlink"], row["architecture"]) == ([], "ada")


def test_a_share_of_a_gpu_is_told_from_a_gpu(seen: Seen) -> None:
    assert gpus(seen(standin.vgpu()))[0]["virtualization"] == "vgpu"


def test_errors_throttling_and_bad_links_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.ecc())

    def third(description: standin.Description) -> dict[str, Any]:
        lab.driver.write(description)
        return gpus(observe.observe(lab.runner))[3]

    ecc = third(standin.ecc())["ecc"]
    assert ecc["volatile"] == {"corrected": 12, "uncorrected": 2}
    assert ecc["aggregate"] == {"corrected": 140, "uncorrected": 6}
    assert (ecc["sram_aggregate_uncorrected"], ecc["sram_threshold_exceeded"]) == (5, True)
    assert third(standin.throttled())["clocks_event_reasons"] == ["hw_slowdown", "hw_thermal", "hw_power_brake"]
    assert third(standin.h100x8(reasons="0x4000"))["clocks_event_reasons"] == ["unknown_0x4000"]
    row = third(standin.remap_pending())
    assert row["row_remap"] == {"corrected": 0, "uncorrected": 1, "pending": True, "failure": False}
    assert row["recovery_action"] == "reset"
    row = third(standin.narrow())
    assert (row["pcie"]["gen_max"], row["pcie"]["gen_max_gpu"], row["pcie"]["width_max"]) == (1, 5, 8)
    assert [link["link"] for link in row["nvlink"] if not link["active"]] == [7]
    row = third(standin.h100x8(**{"nvlink.5": "!999", "nvlink_errors.6": "1,2,3,4,0"}))
    assert (row["nvlink"][5]["active"], observe.why(row, "nvlink.5")) == (None, "UNKNOWN")
    assert row["nvlink"][6]["errors"] == {"crc_flit": 3, "crc_data": 4, "replay": 1, "recovery": 2}
    row = third(standin.h100x8(nvlink_newer="1", **{"field.208.2": "9", "field.219": "0"}))
    assert row["nvlink"][2]["errors"]["receive"] == 9
    assert third(standin.h100x8(fabric="2,0,0,2"))["fabric"]["state"] == "in_progress"
    row = third(standin.h100x8(retired_pages="3,1", retired_pending="1"))
    assert row["retired_pages"] == {"single_bit": 3, "double_bit": 1, "pending": True}


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({"field.230": "2"}, "reboot"),
        ({"field.230": "99"}, "unknown_99"),
        ({"field.230": "!2", "field.226": "1", "field.227": "0"}, "reset"),
        ({"field.230": "!2", "field.226": "0", "field.227": "0"}, "none"),
        ({"field.230": "!2", "field.226": "0", "field.227": "!3"}, "none"),
        ({"field.230": "!2", "field.226": "!3", "field.227": "1"}, "drain_and_reset"),
        ({"field.230": "!2", "field.226": "0", "field.227": "!999"}, None),
        ({"field.230": "!2"}, None),
        ({"field.230": "!999"}, None),
        ({"field.230": "!999", "field.226": "0", "field.227": "0"}, None),
    ],
)
def test_what_the_driver_wants_done_is_read_from_new_and_old_fields(
    seen: Seen, fields: dict[str, str], action: str | None
) -> None:
    row = gpus(seen(standin.h100x8(**fields), smi=False))[3]
    assert row["recovery_action"] == action
    expected = None if action else "UNKNOWN" if "!999" in fields.values() else "FUNCTION_NOT_FOUND"
    assert observe.why(row, "recovery_action") == expected


def test_memory_that_the_driver_keeps_for_itself_is_not_in_use(seen: Seen) -> None:
    observation = seen(standin.h100x8(memory_reserved="!13"))
    rows = gpus(observation)
    assert rows[0]["memory"] == {
        "total": 81559 * MIB, "used": 4 * MIB, "free": 80955 * MIB, "reserved": 600 * MIB,
    }  # fmt: skip
    assert rows[3]["memory"]["reserved"] is None  # a driver that cannot tell them apart, and says so
    assert rows[3]["why"]["memory"] == "RESERVED_INCLUDED"
    assert "memory" not in rows[0]["why"]


def test_processes_of_others_and_of_another_namespace_are_listed(seen: Seen) -> None:
    me = os.getpid()
    description = standin.h100x8(processes=f"{me}:{512 * MIB},4194303:?")
    rows = {row["pid"]: row for row in gpus(seen(description, smi=False))[3]["processes"]}
    ticks = int(Path(f"/proc/{me}/stat").read_text().rsplit(")", 1)[1].split()[19])
    assert (rows[me]["start"], rows[me]["used_memory"], rows[me]["kind"]) == (ticks, 512 * MIB, "compute")
    assert rows[me]["name"]
    # A process that only the host outside of a container sees: no start, so it is nobody's proof.
    assert (rows[4194303]["start"], rows[4194303]["used_memory"], rows[4194303]["name"]) == (None, None, None)


def test_a_list_of_processes_that_cannot_be_read_is_not_an_empty_list(seen: Seen) -> None:
    row = gpus(seen(standin.h100x8(processes="!4"), smi=False))[3]
    assert row["processes"] is None
    assert observe.why(row, "processes") == "NO_PERMISSION"


@pytest.mark.parametrize(
    "name",
    ['GPU "quoted"', "line\nbreak", "</script><script>", "\u202eright to left", "\x1b[31mred", "caf\udce9", "é" * 30],
)
def test_hostile_names_stay_one_line_of_text(seen: Seen, name: str) -> None:
    observation = seen(standin.h100x8(name=name))
    row = gpus(observation)[3]
    text = json.dumps(observation)
    assert json.loads(text) == observation
    assert row["name"]
    for character in "\n\x1b\u202e\udce9":
        assert character not in row["name"]
    assert (observe.why(row, "name") == "NOT_TEXT") == ("\udce9" in name)


def test_the_probe_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(), smi=False)
    observe.observe(lab.runner)
    assert sorted(os.listdir(lab.runner.run_directory)) == ["nvml.json", "nvml.log", "nvml.stuck"]


def test_a_result_that_is_cut_off_or_missing_is_a_parse_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(), smi=False)
    probe = lab.programs / "probes" / "nvml.py"
    for left in (None, '{"complete": tr', "[1]", "[" * 100000, '{"complete": 1, "gpus": []}', '{"gpus": []}', "\xff"):
        write = "" if left is None else f"open(out, 'wb').write({left.encode('latin-1')!r})"
        probe.write_text(f"import sys\nout = sys.argv[sys.argv.index('--out') + 1]\n{write}\n")
        nvml = observe.observe(lab.runner)["nvml"]
        assert (nvml["outcome"], (nvml["error"] or {}).get("name")) == ("finished", "PARSE"), left
