# SPDX-License-Identifier: Apache-2.0
"""NVML and nvidia-smi asked at the same time, and the watch beside a job. The driver is a pretended one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import observe
import pytest
from nvml import observations, standin
from nvml.laboratory import Laboratory

MIB = standin.MIB


def test_both_are_asked_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = {**standin.h100x8(), "init_seconds": "2"}
    lab = Laboratory(tmp_path, monkeypatch, description, smi={"seconds": 2})
    started = time.monotonic()
    observation = observe.observe(lab.runner)
    assert time.monotonic() - started < 3.8
    assert min(observation["nvml"]["seconds"], observation["smi"]["seconds"]) >= 2
    assert [gpu["uuid"] for gpu in observation["nvml"]["gpus"]] == [gpu["uuid"] for gpu in observation["smi"]["gpus"]]


def test_both_hang_and_cost_one_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.DESCRIPTIONS["hanging"](), most=1)
    started = time.monotonic()
    observation = observe.observe(lab.runner)
    assert time.monotonic() - started < 1 + 2
    assert (observation["nvml"]["outcome"], observation["smi"]["outcome"]) == ("timeout", "timeout")


def test_a_real_driver_is_not_simulated_and_a_stand_in_of_either_kind_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library without the stand-in's symbol is all that this machine can offer as a real one."""
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(), smi=False)
    assert observe.observe(lab.runner)["simulated"] is True
    library = lab.driver.directory / standin.LIBRARY
    library.write_bytes(library.read_bytes().replace(b"gpulabStandIn", b"gpulabNoSuchX"))
    assert observe.observe(lab.runner)["simulated"] is False
    lab.driver.smi()
    assert observe.observe(lab.runner)["simulated"] is True
    lab.driver.smi(output=standin.xml(standin.h100x8()).replace(b"gpulab_stand_in", b"something"))
    assert observe.observe(lab.runner)["simulated"] is False


def test_why_looks_at_the_whole_before_it_gives_up() -> None:
    gpu = observations.gpu(why={"ecc": "NOT_SUPPORTED", "ecc.volatile.corrected": "UNKNOWN"})
    assert observe.why(gpu, "ecc.volatile.corrected") == "UNKNOWN"
    assert observe.why(gpu, "ecc.volatile.uncorrected") == "NOT_SUPPORTED"
    assert observe.why(gpu, "eccentric") is None
    assert observe.why(observations.lost_gpu(), "anything") == "GPU_IS_LOST"
    assert observe.why({}, "ecc") is None


def test_an_observation_is_json_and_the_same_when_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.mixed())
    first, second = observe.observe(lab.runner), observe.observe(lab.runner)
    for observation in (first, second):
        for part in ("nvml", "smi"):
            del observation[part]["seconds"]
    assert json.loads(json.dumps(first)) == second


# -- the watch ---------------------------------------------------------------------------------------------------------


def test_the_watch_sees_a_process_that_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(**{"nvlink_errors.4": "5,0,0,0,0"}))
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        start = int(Path(f"/proc/{job.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        with observe.Watch(lab.runner) as watch:
            busy: dict[str, Any] = {"reasons": "0x44", "pcie_width": "8", "temperature": "88", "power_mw": "650000"}
            for memory in (300, 512, 200):
                process = f"{job.pid}:{memory * MIB},4194303:?"
                lab.driver.write(standin.h100x8(processes=process, utilization="97,10", **busy))
                time.sleep(0.8)
            job.kill()
            job.wait()
            time.sleep(0.7)  # the driver lists it a little longer than the kernel
            lab.driver.write(standin.h100x8(**{"nvlink_errors.4": "7,0,1,0,0"}))
            time.sleep(0.6)
    finally:
        job.kill()
        job.wait()
    result = watch.result()
    assert (result["problem"], result["simulated"]) == ("", True)
    assert result["samples"] >= 5
    rows = {row["pid"]: row for row in result["processes"]}
    assert len(rows) == len(result["processes"]) == 2
    assert rows[job.pid] == {
        "uuid": standin.uuid(3), "pid": job.pid, "start": start, "used_memory_max": 512 * MIB,
    }  # fmt: skip
    assert rows[4194303] == {
        "uuid": standin.uuid(3), "pid": 4194303, "start": None, "used_memory_max": None,
    }  # fmt: skip
    gpu = result["gpus"][3]
    assert gpu["reasons"] == ["hw_thermal", "idle", "sw_power_cap"]
    assert (gpu["temperature_max"], gpu["power_w_max"], gpu["utilization_max"]) == (88, 650.0, 97)
    assert (gpu["width_max_seen"], gpu["gen_max_seen"], gpu["width_max"]) == (16, 5, 16)
    assert gpu["nvlink_errors_delta"] == 3
    assert result["gpus"][0]["nvlink_errors_delta"] == 0
    assert set(observations.watched(standin.uuid(0))["gpus"][0]) == set(gpu)


def test_accounts_of_earlier_processes_are_nobodys_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.getpid()
    old = {"accounting_mode": "1", "accounting": "77,88,99", "accounting.77": "50,1000,20,111,0"}
    old |= {"accounting.88": "!999", "accounting.99": "10,10,10,50,0"}
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(**old))
    with observe.Watch(lab.runner) as watch:
        # The number 77 comes again, as numbers of processes do; the one that computed before began at another time.
        new = {"accounting": f"77,99,{me}", "accounting.77": "60,5000,30,222,0", f"accounting.{me}": "97,9000,40,333,1"}
        lab.driver.write(standin.h100x8(**{**old, **new, "processes": f"{me}:1"}))
        time.sleep(0.7)
        lab.driver.write(standin.h100x8(**{**old, **new, "accounting": f"77,88,99,{me}", "accounting.88": "1,1,1,1,0"}))
        time.sleep(0.7)
    rows = {row["pid"]: row for row in watch.result()["accounting"]}
    assert (rows[77]["started_us"], rows[77]["max_memory"], rows[77]["start"]) == (222, 5000, None)
    assert (rows[me]["max_memory"], rows[me]["time_ms"], rows[me]["gpu_utilization"]) == (9000, 40, 97)
    assert rows[me]["running"] is True
    assert 99 not in rows
    assert rows[me]["start"] == int(Path(f"/proc/{me}/stat").read_text().rsplit(")", 1)[1].split()[19])


def test_the_watch_lists_the_processes_of_instances_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = standin.mig()
    description["gpus"][0]["mig.1.processes"] = "4194303:1000"
    lab = Laboratory(tmp_path, monkeypatch, description)
    with observe.Watch(lab.runner) as watch:
        pass
    assert [row["uuid"][:12] for row in watch.result()["processes"]] == ["MIG-00000001"]


def test_a_watch_on_a_driver_that_hangs_delays_a_job_a_little_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe.Watch, "FIRST", 0.5)
    monkeypatch.setattr(observe.Watch, "LAST", 0.5)
    lab = Laboratory(tmp_path, monkeypatch, standin.DESCRIPTIONS["hanging"]())
    started = time.monotonic()
    with observe.Watch(lab.runner, timeout=3) as watch:
        pass
    assert time.monotonic() - started < 3
    result = watch.result()
    assert "hangs" in result["problem"]
    assert (result["samples"], result["gpus"], result["processes"]) == (0, [], [])
    for thread in threading.enumerate():  # the probe ends with its time limit: leave nothing behind
        if thread is not threading.main_thread():
            thread.join(10)


def test_a_watch_whose_driver_starts_to_hang_keeps_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe.Watch, "LAST", 0.5)
    lab = Laboratory(tmp_path, monkeypatch, standin.busy())
    with observe.Watch(lab.runner, timeout=4) as watch:
        lab.driver.write(standin.h100x8(processes="hang"))
        time.sleep(1)
    result = watch.result()
    assert "hangs" in result["problem"]
    assert {row["pid"] for row in result["processes"]} == {1, 4194303}
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(10)


@pytest.mark.parametrize(("name", "words"), [("mismatch", "version mismatch"), ("crashing", "ended early")])
def test_a_watch_that_cannot_work_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.DESCRIPTIONS[name]())
    with observe.Watch(lab.runner) as watch:
        pass
    result = watch.result()
    assert words in result["problem"]
    assert result["processes"] == []


def test_a_watch_that_stops_by_its_own_time_limit_is_no_whole_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8())
    with observe.Watch(lab.runner, timeout=1) as watch:
        time.sleep(1.6)
    assert "ended early (timeout)" in watch.result()["problem"]


def test_nothing_is_watched_in_the_profile_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(), profile="cpu")
    with observe.Watch(lab.runner) as watch:
        pass
    assert "profile is cpu" in watch.result()["problem"]
    assert os.listdir(lab.runner.run_directory) == []


def test_an_exception_in_the_block_ends_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8())
    with pytest.raises(RuntimeError), observe.Watch(lab.runner) as watch:
        raise RuntimeError
    assert watch.result()["problem"] == ""
    assert not watch._thread.is_alive()
