# SPDX-License-Identifier: Apache-2.0
"""Tier 3 with a stand-in for the framework: what the gates refuse, on which device, and what they say about it."""

from __future__ import annotations

import copy
import json
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numerics
import numpy as np
import pytest
import validation_lab
from numerics_lab import INJECTIONS, PRODUCTS, SMALL, Detection, StandIn, at, flip, load_jobs, run_standin
from processes import Outcome

TABLE = json.loads((validation_lab.PROGRAMS / "thresholds.json").read_text())
SECTION = TABLE["numerics"]
SECTION["memory"]["cpu_bytes"] = 1 << 20  # it is the decisions that are tested, not this machine's memory
FINISHED = Outcome("finished", 0, 3.2, "")
Device = namedtuple("Device", "index uuid bdf name product memory")
JOBS = load_jobs()
REAL_SHAPES = dict(JOBS.shared.SHAPES)

Maker = Callable[[], Any]


@pytest.fixture(autouse=True)
def _small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JOBS.shared.SHAPES, "gpu", SMALL)
    monkeypatch.setitem(JOBS.shared.SHAPES, "cpu", SMALL)
    JOBS.compare.MEASURED.clear()


class Runner:
    """Runs stand-ins in this process, and the real comparison. What a program should do is told by its device."""

    def __init__(self, directory: Path, standins: list[Any]) -> None:
        self.directory, self.standins, self.run_directory = directory, standins, str(directory / "logs")
        self.started: list[tuple[str, list[str], dict[str, Any]]] = []
        self.comparison: Outcome | None = None

    def start(self, _: Any, program: str, arguments: list[str], log: str, timeout: int, **more: Any) -> Outcome:
        self.started.append((program, arguments, more))
        given = dict(zip(arguments[::2], arguments[1::2], strict=False))
        if program == "compare_numerics.py":
            return self.comparison or self.compare(arguments)
        device = more["devices"][0].index if more["devices"] else 0
        standin = self.standins[device % len(self.standins)]
        if isinstance(standin, Outcome):
            return standin
        code = run_standin(
            JOBS.shared, standin() if callable(standin) else standin, Path(given["--out"]), Path(given["--result"]),
            device=given["--device"], precisions=given["--precisions"].split(","), repeats=int(given["--repeats"]),
            memory_bytes=int(given["--memory-bytes"]),
        )  # fmt: skip
        return Outcome("finished", code, 1.5, "")

    @staticmethod
    def compare(arguments: list[str]) -> Outcome:
        kept, sys.argv = sys.argv, ["compare_numerics.py", *arguments]
        try:
            return Outcome("finished", JOBS.compare.main(), 0.5, "")
        finally:
            sys.argv = kept

    def together(self, calls: list[Any]) -> list[Any]:
        return [call() for call in calls]

    def result_path(self, name: str) -> str:
        return str(self.directory / name)

    def result(self, name: str) -> tuple[Any, str]:
        path = self.directory / name
        return (json.loads(path.read_text()), "") if path.exists() else (None, "")

    def progress(self, _: str) -> None:
        pass


def devices(*products: str) -> list[Any]:
    return [
        Device(n, f"GPU-{n}", f"0000:{n:02x}:00.0", f"NVIDIA {product}", product, 4 << 20)
        for n, product in enumerate(products)
    ]


def context(directory: Path, standins: list[Any], gpus: list[Any] | None = None, **more: Any) -> SimpleNamespace:
    """A run in the profile gpu, or cpu where no GPUs are given."""
    environments = more.pop("environments", [{"name": "lab", "frameworks": {"pytorch": "2.13.0"}}])
    c = SimpleNamespace(
        profile="cpu" if gpus is None else "gpu", devices=gpus or [], table=TABLE, environments=environments,
        observation=None, expected={}, runner=Runner(directory, standins),
    )  # fmt: skip
    for name, value in more.items():
        setattr(c, name, value)
    return c


def on_cpu(spoil: Any = None, **more: Any) -> Maker:
    return lambda: StandIn(JOBS.shared, **({"spoil": spoil} if spoil else {}), place="cpu", capability=None, **more)


def on_gpu(spoil: Any = None, **more: Any) -> Maker:
    return lambda: StandIn(JOBS.shared, **({"spoil": spoil} if spoil else {}), **more)


def judged(c: SimpleNamespace) -> dict[tuple[str, str], dict[str, Any]]:
    checks, _ = numerics.run(c)
    rows = {(row["id"], row["target"].partition("@")[2]): row for row in checks}
    assert len(rows) == len(checks)
    assert {(name, target.partition("@")[2]) for name, target in numerics.required(c)} <= set(rows)
    return rows


def statuses(rows: dict[tuple[str, str], dict[str, Any]]) -> dict[str, str]:
    return {identity.removeprefix("num.fwd_bwd."): row["status"] for (identity, _), row in rows.items()}


# --- healthy ------------------------------------------------------------------------------------------------------


def test_a_device_that_computes_right_passes_in_every_precision(tmp_path: Path) -> None:
    rows = judged(context(tmp_path, [on_gpu()], devices("H100 SXM5")))
    expected = dict.fromkeys(("fp32", "tf32", "bf16", "fp16", "num.repeat", "mem.pattern"), "PASS")
    assert statuses(rows) == {**expected, "num.cross_gpu": "SKIP"}
    for precision in numerics.PRECISIONS:
        row = rows["num.fwd_bwd." + precision, "GPU-0"]
        assert row["measured"]["mode"] == precision
        assert row["measured"]["device"] == "cuda:0"
        assert row["measured"]["rel_f"] <= row["threshold"]["rel_f"]
        assert row["tier"] == 3
        assert row["threshold_source"].startswith("thresholds.json: ")


def test_the_processor_passes_and_has_no_tf32(tmp_path: Path) -> None:
    c = context(tmp_path, [on_cpu()])
    rows = judged(c)
    assert statuses(rows)["tf32"] == "SKIP"
    assert not rows["num.fwd_bwd.tf32", "cpu"]["required"]
    assert {row["status"] for row in rows.values()} == {"PASS", "SKIP"}
    assert ("num.fwd_bwd.tf32", "lab/pytorch@cpu") not in numerics.required(c)
    assert c.runner.started[0][2]["devices"] is None
    assert "fp32,bf16,fp16" in c.runner.started[0][1]


def test_the_section_lists_every_shape_and_precision(tmp_path: Path) -> None:
    _, section = numerics.run(context(tmp_path, [on_gpu()], devices("H100 SXM5")))
    assert len(section["rows"]) == 8
    row = section["rows"][0]
    assert (row["environment"], row["framework"], row["target"]) == ("lab", "pytorch", "lab/pytorch@GPU-0")
    assert row["shape"] == list(SMALL[0])
    assert set(row["tensors"]) == set(numerics.TENSORS)
    assert 0 < row["worst"]["rel_f"] < 1e-5
    assert section["memory"][0]["target"] == "lab/pytorch@GPU-0"
    assert json.dumps(section, allow_nan=False)


def test_tensors_are_removed_once_they_are_compared(tmp_path: Path) -> None:
    numerics.run(context(tmp_path, [on_cpu()]))
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npy"]


# --- wrong results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INJECTIONS)
def test_wrong_results_fail_and_the_stage_is_named(tmp_path: Path, name: str) -> None:
    spoil, stage = INJECTIONS[name]
    rows = judged(context(tmp_path, [on_gpu(spoil)], devices("H100 SXM5")))
    row = rows["num.fwd_bwd.fp32", "GPU-0"]
    # A product that is wrong everywhere by as much as TF32 cannot be told from TF32.
    mode = name == "a wrong but consistent product"
    assert (row["status"], row["action"]) == ("FAIL", "none" if mode else "isolate")
    assert f": {stage} " in row["message"]
    assert rows["num.repeat", "GPU-0"]["status"] == "PASS"  # wrong in the same way each time


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "name",
    [
        "noise of 5 % on every product", "a tile of zeros", "half of the outputs zero", "a burst as wide as a warp",
        "a transposed operand", "NaN", "infinity", "all zero", "two columns swapped", "gradients of the wrong sign",
        "negated columns of the gradient", "a bias that learns nothing", "NaN in the last gradient",
        "a tile of zeros in dX",
    ],
)  # fmt: skip
def test_coarse_faults_fail_in_the_short_formats_too(tmp_path: Path, name: str, precision: str) -> None:
    run_standin(
        JOBS.shared, on_gpu(INJECTIONS[name][0])(), tmp_path, tmp_path / "r", precisions=[precision], memory_bytes=0
    )
    runs = JOBS.compare.compare_device(str(tmp_path))["runs"]
    assert numerics.judge_precision(precision, runs, SECTION)["status"] == "FAIL"


def test_tf32_that_was_switched_off_and_is_on_fails(tmp_path: Path) -> None:
    rows = judged(context(tmp_path, [on_gpu(precision_run="tf32")], devices("H100 SXM5")))
    row = rows["num.fwd_bwd.fp32", "GPU-0"]
    assert (row["status"], row["reason_code"], row["measured"]["mode"]) == ("FAIL", "MODE", "tf32")
    assert "tf32, which is on though it was switched off" in row["message"]
    assert row["action"] == "none"  # a setting, not the GPU


def test_tf32_that_was_asked_for_and_not_used_is_told(tmp_path: Path) -> None:
    rows = judged(context(tmp_path, [on_gpu(precision_run="fp32")], devices("H100 SXM5")))
    row = rows["num.fwd_bwd.tf32", "GPU-0"]
    assert (row["status"], row["reason_code"], row["measured"]["mode"]) == ("WARN", "MODE", "fp32")
    assert rows["num.fwd_bwd.bf16", "GPU-0"]["reason_code"] == "SHAPE"  # float32 instead of bfloat16


@pytest.mark.parametrize(("median", "reason_code"), [(500.0, "MODE"), (0.5, "WRONG_RESULT"), (None, "WRONG_RESULT")])
def test_a_few_wrong_elements_are_not_taken_for_tf32(median: Any, reason_code: str) -> None:
    wrong = {"rel_f": 1e-4, "elementwise_u": 1000.0, "median_u": median, "not_finite": 0}
    tensors = {name: dict(wrong) if name in PRODUCTS else {**wrong, "elementwise_u": 1.0} for name in numerics.TENSORS}
    status, code, _, mode = numerics.judge_run({"shape": [1], "tensors": tensors}, "fp32", SECTION)
    assert (status, code, mode) == ("FAIL", reason_code, "tf32")


def test_16_bit_results_that_are_too_exact_are_refused() -> None:
    tensors = {name: {"rel_f": 1e-7, "elementwise_u": 0.1, "not_finite": 0} for name in numerics.TENSORS}
    runs = [{"precision": "bf16", "shape": [size], "tensors": tensors} for size in (1, 2)]
    assert numerics.judge_precision("bf16", runs, SECTION)["reason_code"] == "MODE"


def test_a_precision_that_cannot_be_computed_fails_alone(tmp_path: Path) -> None:
    class Old(StandIn):
        def compute(self, given: Any, precision: str, scale: float) -> Any:
            if precision == "fp16":
                raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'\nmore")
            return super().compute(given, precision, scale)

    rows = judged(context(tmp_path, [lambda: Old(JOBS.shared)], devices("H100 SXM5")))
    assert statuses(rows)["fp16"] == "FAIL"
    assert "not implemented for 'Half'" in rows["num.fwd_bwd.fp16", "GPU-0"]["message"]
    assert statuses(rows)["fp32"] == "PASS"


def test_results_that_change_from_time_to_time_fail(tmp_path: Path) -> None:
    class Restless(StandIn):
        def fetch(self, tensor: Any) -> Any:
            array, stored_as, place = super().fetch(tensor)
            if array.shape == (SMALL[0][1], SMALL[0][2]) and stored_as == "float32" and self.calls % 2 == 0:
                array = flip(array, 3, 3, 1)  # far below every gate
            return array, stored_as, place

    rows = judged(context(tmp_path, [lambda: Restless(JOBS.shared)], devices("H100 SXM5")))
    assert statuses(rows)["fp32"] == "PASS"
    row = rows["num.repeat", "GPU-0"]
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "NOT_REPEATABLE", "isolate")
    assert "dW of fp32" in row["message"]


# --- several GPUs -------------------------------------------------------------------------------------------------

low_bit = at("z")(lambda array: flip(array, 1, 1, 1))


def test_one_gpu_of_three_with_other_bits_is_found(tmp_path: Path) -> None:
    c = context(tmp_path, [on_gpu(), on_gpu(low_bit), on_gpu()], devices(*["H100 SXM5"] * 3))
    assert [pair[0] for pair in numerics.required(c)].count("num.cross_gpu") == 3
    rows = judged(c)
    assert [rows["num.cross_gpu", f"GPU-{n}"]["status"] for n in range(3)] == ["PASS", "FAIL", "PASS"]
    assert rows["num.cross_gpu", "GPU-1"]["action"] == "isolate"
    assert rows["num.fwd_bwd.fp32", "GPU-1"]["status"] == "PASS"  # too small for every other gate


def test_two_gpus_that_disagree_both_fail(tmp_path: Path) -> None:
    rows = judged(context(tmp_path, [on_gpu(), on_gpu(low_bit)], devices(*["H100 SXM5"] * 2)))
    assert [rows["num.cross_gpu", f"GPU-{n}"]["reason_code"] for n in range(2)] == ["GPUS_DISAGREE"] * 2


def test_gpus_of_different_products_are_not_compared(tmp_path: Path) -> None:
    c = context(tmp_path, [on_gpu(), on_gpu(low_bit)], devices("H100 SXM5", "A100 SXM4"))
    rows = judged(c)
    assert [row["status"] for (identity, _), row in rows.items() if identity == "num.cross_gpu"] == ["SKIP"]
    assert not [pair for pair in numerics.required(c) if pair[0] == "num.cross_gpu"]


def test_a_gpu_whose_neighbour_gave_nothing_is_not_called_equal(tmp_path: Path) -> None:
    dead = Outcome("finished", -11, 1.0, "")
    rows = judged(context(tmp_path, [on_gpu(), dead], devices(*["H100 SXM5"] * 2)))
    assert {rows["num.cross_gpu", f"GPU-{n}"]["status"] for n in range(2)} == {"UNKNOWN"}
    assert rows["num.fwd_bwd.fp32", "GPU-0"]["status"] == "PASS"
    assert rows["num.fwd_bwd.fp32", "GPU-1"]["reason_code"] == "CRASHED"


def test_only_the_broken_gpu_is_isolated(tmp_path: Path) -> None:
    spoil = INJECTIONS["a tile of zeros"][0]
    rows = judged(context(tmp_path, [on_gpu(), on_gpu(spoil)], devices(*["H100 SXM5"] * 2)))
    assert [rows["num.fwd_bwd.fp32", f"GPU-{n}"]["action"] for n in range(2)] == ["none", "isolate"]


def test_what_all_gpus_do_wrong_alike_is_blamed_on_the_software(tmp_path: Path) -> None:
    spoil = INJECTIONS["a tile of zeros"][0]
    rows = judged(context(tmp_path, [on_gpu(spoil)], devices(*["H100 SXM5"] * 4)))
    for n in range(4):
        row = rows["num.fwd_bwd.fp32", f"GPU-{n}"]
        assert (row["status"], row["action"]) == ("FAIL", "none")
        assert "the same on all 4 GPUs" in row["message"]


def test_gpus_compute_one_process_each_and_see_themselves_alone(tmp_path: Path) -> None:
    c = context(tmp_path, [on_gpu()], devices(*["H100 SXM5"] * 3))
    numerics.run(c)
    programs = [(program, more["devices"]) for program, _, more in c.runner.started]
    assert [len(devices) for program, devices in programs if program == "numerics_pytorch.py"] == [1, 1, 1]
    assert len({devices[0].uuid for program, devices in programs if program == "numerics_pytorch.py"}) == 3
    assert programs[-1] == ("compare_numerics.py", [])


# --- devices and capabilities -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"place": "cpu"}, "gpu was asked for, the tensors lie on cpu"),
        ({"place": "GPU:?"}, "the tensors lie on GPU:?"),
        ({"uuid": "GPU-77"}, "GPU-0 was asked for, the framework computed on GPU-77"),
        ({"uuid": "77"}, "the framework computed on 77"),
    ],
    ids=str,
)
def test_results_from_another_device_fail(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    rows = judged(context(tmp_path, [on_gpu(**more)], devices("H100 SXM5")))
    for identity in ("num.fwd_bwd.fp32", "num.repeat", "mem.pattern"):
        assert (rows[identity, "GPU-0"]["status"], rows[identity, "GPU-0"]["reason_code"]) == ("FAIL", "WRONG_DEVICE")
        assert words in rows[identity, "GPU-0"]["message"]


def test_the_right_uuid_is_accepted_with_and_without_its_prefix(tmp_path: Path) -> None:
    for uuid in ("0", "GPU-0"):
        assert statuses(judged(context(tmp_path, [on_gpu(uuid=uuid)], devices("H100 SXM5"))))["fp32"] == "PASS"


@pytest.mark.parametrize(
    "where",
    [
        {"observation": {"nvml": {"gpus": [{"uuid": "GPU-0", "bdf": None, "compute_capability": "7.5"}]}}},
        {"observation": {"nvml": None, "smi": {"gpus": [{"bdf": "0000:00:00.0", "compute_capability": "7.5"}]}}},
        {"expected": {"gpus": [{"bus": "0000:00:00.0", "compute_capability": "7.5"}]}},
        {},  # nobody but the framework knows
    ],
    ids=["nvml", "nvidia-smi", "plan", "framework"],
)
def test_a_turing_gpu_has_neither_tf32_nor_bf16(tmp_path: Path, where: dict[str, Any]) -> None:
    rows = judged(context(tmp_path, [on_gpu(capability="7.5")], devices("T4"), **where))
    assert (statuses(rows)["tf32"], statuses(rows)["bf16"]) == ("SKIP", "SKIP")
    assert (statuses(rows)["fp32"], statuses(rows)["fp16"], statuses(rows)["num.repeat"]) == ("PASS",) * 3


@pytest.mark.parametrize("words", [None, "", "9", "ERR!", "9.0\n", 9.0, "99999.1", [9, 0]])
def test_odd_compute_capabilities_are_unknown(words: Any) -> None:
    assert numerics.parse_capability(words) is None or words == "9.0\n"


def test_without_a_gpu_nothing_is_proven(tmp_path: Path) -> None:
    c = context(tmp_path, [], [])
    rows = judged(c)
    assert {row["status"] for row in rows.values()} == {"UNKNOWN"}
    assert {row["reason_code"] for row in rows.values()} == {"NO_GPU"}
    assert len(numerics.required(c)) == 6


def test_keras_is_judged_through_what_it_runs_on() -> None:
    def names(frameworks: list[str], backend: str | None = None) -> list[str]:
        row = {"name": "a", "frameworks": dict.fromkeys(frameworks, ""), "keras_backend": backend}
        return [target.framework for target in numerics.targets([row])]

    assert names(["tensorflow", "keras"]) == ["tensorflow"]
    assert names(["keras"]) == ["tensorflow"]
    assert names(["keras"], "jax") == ["jax"]
    assert names(["keras"], "torch") == ["pytorch"]
    assert names(["keras", "pytorch"]) == ["pytorch"]
    assert names(["keras", "pytorch"], "jax") == ["pytorch", "jax"]


def test_memory_is_tested_once_per_device(tmp_path: Path) -> None:
    environments = [
        {"name": "a", "frameworks": {"tensorflow": "", "jax": ""}},
        {"name": "b", "frameworks": {"jax": ""}},
    ]
    c = context(tmp_path, [on_gpu()], devices("T4", "T4"), environments=environments)
    checks, section = numerics.run(c)
    assert [row["target"] for row in checks if row["id"] == "mem.pattern"] == ["a/jax@GPU-0", "a/jax@GPU-1"]
    assert [row["target"] for row in section["memory"]] == ["a/jax@GPU-0", "a/jax@GPU-1"]


def test_names_that_are_no_file_names_do_no_harm(tmp_path: Path) -> None:
    environments = [{"name": "..\n\u202e é", "frameworks": {"jax": ""}}]
    c = context(tmp_path, [on_cpu()], environments=environments)
    assert {row["status"] for row in numerics.run(c)[0]} == {"PASS", "SKIP"}
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*"))


# --- programs that end badly --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "reason_code", "action"),
    [
        (Outcome("timeout", None, 300, ""), "FAIL", "TIMEOUT", "none"),
        (Outcome("abandoned", None, 320, ""), "FAIL", "TIMEOUT", "reboot"),
        (Outcome("not_started", None, 0, "/no/python cannot be started"), "FAIL", "TOOL_MISSING", "none"),
        (Outcome("finished", -11, 1, ""), "FAIL", "CRASHED", "none"),
        (Outcome("finished", -4, 1, ""), "FAIL", "CRASHED", "none"),
        (Outcome("finished", 1, 1, "Traceback\nKeyError: 3"), "UNKNOWN", "NO_RESULT", "none"),
        (Outcome("finished", 0, 1, ""), "UNKNOWN", "PARSE", "none"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_programs_that_leave_nothing(
    tmp_path: Path, outcome: Outcome, status: str, reason_code: str, action: str
) -> None:
    rows = judged(context(tmp_path, [outcome], devices("H100 SXM5")))
    for identity in ("num.fwd_bwd.fp32", "num.fwd_bwd.bf16", "num.repeat", "mem.pattern"):
        row = rows[identity, "GPU-0"]
        assert (row["status"], row["reason_code"], row["action"]) == (status, reason_code, action)


def test_what_the_program_says_about_itself_is_passed_on(tmp_path: Path) -> None:
    def no_gpu() -> Any:
        raise JOBS.shared.job.JobError("NO_GPU", "PyTorch finds no usable GPU\nat all\u202e")

    c = context(tmp_path, [on_gpu()], devices("H100 SXM5"))
    c.runner.start = lambda *_, **__: Outcome("finished", 1, 1.0, "")
    c.runner.result = lambda name: ({"error": {"reason_code": "NO_GPU", "message": "no usable GPU\nat all\u202e"}}, "")
    row = judged(c)["num.fwd_bwd.fp32", "GPU-0"]
    assert (row["status"], row["reason_code"], row["message"]) == ("FAIL", "NO_GPU", "no usable GPU at all")


@pytest.mark.parametrize(
    "outcome", [Outcome("timeout", None, 300, ""), Outcome("finished", 1, 0.1, "no numpy"), FINISHED], ids=str
)
def test_a_comparison_that_gives_no_result_is_unknown(tmp_path: Path, outcome: Outcome) -> None:
    c = context(tmp_path, [on_gpu()], devices("H100 SXM5"))
    c.runner.comparison = outcome
    assert {row["status"] for (name, _), row in judged(c).items() if name != "num.cross_gpu"} == {"UNKNOWN"}


def written(directory: Path) -> Path:
    """What a healthy program writes."""
    run_standin(
        JOBS.shared, on_gpu()(), directory, directory / "result.json", precisions=["fp32"], memory_bytes=1 << 16
    )
    return directory


def damage_missing(directory: Path) -> None:
    next(directory.glob("*-dW.npy")).unlink()


def damage_truncated(directory: Path) -> None:
    path = next(directory.glob("*-dW.npy"))
    path.write_bytes(path.read_bytes()[:1000])


def damage_empty(directory: Path) -> None:
    next(directory.glob("*-z.npy")).write_bytes(b"")


class Dangerous:
    """Whoever unpickles it does what it says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.directory / "unpickled",)


def damage_pickle(directory: Path) -> None:
    np.save(next(directory.glob("*-z.npy")), np.array([Dangerous(directory)], dtype=object), allow_pickle=True)


def damage_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text("{")


def damage_no_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def damage_samples(directory: Path) -> None:
    np.save(directory / "memory.npy", np.zeros(3))


def damage_shape(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["runs"][0]["shape"] = [1, 2, 10**9]
    (directory / "manifest.json").write_text(json.dumps(manifest))


def damage_runs(directory: Path) -> None:
    (directory / "manifest.json").write_text(json.dumps({"runs": [None]}))


DAMAGES = [
    damage_missing, damage_truncated, damage_empty, damage_pickle, damage_manifest, damage_no_manifest, damage_samples,
    damage_shape, damage_runs,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_files_are_told_and_never_pass(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(written(tmp_path))
    assert JOBS.compare.compare_device(str(tmp_path))["error"]["reason_code"] == "PARSE"
    assert not (tmp_path / "unpickled").exists()


def test_tensors_of_another_shape_or_format_fail(tmp_path: Path) -> None:
    path = written(tmp_path) / JOBS.shared.file_name(SMALL[0], "fp32", "dW")
    np.save(path, np.load(path).T)
    runs = JOBS.compare.compare_device(str(tmp_path))["runs"]
    judged_one = numerics.judge_precision("fp32", runs, SECTION)
    assert (judged_one["status"], judged_one["reason_code"]) == ("FAIL", "SHAPE")
    assert "dW is [40, 256] float32 instead of [256, 40] float32" in judged_one["message"]


# --- hostile or odd measurements ----------------------------------------------------------------------------------


def entry_of(tmp_path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = JOBS.compare.compare_device(str(written(tmp_path)))
    return json.loads(json.dumps(entry))  # type: ignore[no-any-return]


def judge_entry(entry: dict[str, Any], table: dict[str, Any] = SECTION) -> dict[str, dict[str, Any]]:
    device = devices("H100 SXM5")[0]
    place = numerics.Place(numerics.Target({"name": "lab"}, "pytorch", "lab/pytorch"), device, "lab/pytorch@0", (9, 0))
    answer = numerics.Answer(FINISHED, {}, entry, "", 1 << 16, "log")
    checks, rows = numerics.judge_place(place, answer, "gpu", table, True)
    json.dumps([checks, rows])
    return {row["id"]: row for row in checks}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0", True, [], {}, 10**400], ids=str)
@pytest.mark.parametrize("key", ["rel_f", "elementwise_u", "not_finite"])
def test_measurements_that_are_no_numbers_fail(tmp_path: Path, key: str, value: Any) -> None:
    entry = entry_of(tmp_path)
    entry["runs"][0]["tensors"]["dX"][key] = value
    assert judge_entry(entry)["num.fwd_bwd.fp32"]["status"] == "FAIL"


@pytest.mark.parametrize("value", [None, [], "x", 3, {}, [None], [3], {"z": None}], ids=str)
@pytest.mark.parametrize("key", ["runs", "controls", "memory", "result_devices"])
def test_odd_parts_of_a_comparison_never_pass(tmp_path: Path, key: str, value: Any) -> None:
    entry = entry_of(tmp_path)
    assert judge_entry(entry)["num.fwd_bwd.fp32"]["status"] == "PASS"
    entry[key] = value
    rows = judge_entry(entry)
    affected = {"memory": ["mem.pattern"], "controls": ["num.fwd_bwd.fp32"]}
    for identity in affected.get(key, ["num.fwd_bwd.fp32", "num.repeat"]):
        assert rows[identity]["status"] in ("FAIL", "UNKNOWN")


@pytest.mark.parametrize("key", ["precision", "shape", "tensors", "digests", "unequal", "repeats"])
@pytest.mark.parametrize("value", [None, "x", 3, [], {}], ids=str)
def test_odd_parts_of_a_run_are_survived(tmp_path: Path, key: str, value: Any) -> None:
    entry = entry_of(tmp_path)
    entry["runs"][0][key] = value
    rows = judge_entry(entry)
    assert {row["status"] for row in rows.values()} - {"PASS", "SKIP"} or key in ("digests", "shape", "unequal")


def test_one_shape_alone_is_not_enough(tmp_path: Path) -> None:
    entry = entry_of(tmp_path)
    entry["runs"][1] = copy.deepcopy(entry["runs"][0])
    assert judge_entry(entry)["num.fwd_bwd.fp32"]["status"] == "UNKNOWN"


def test_gates_that_refuse_nothing_are_found_out(tmp_path: Path) -> None:
    table = copy.deepcopy(SECTION)
    table["rel_f"]["fp32"] = table["elementwise_u"]["fp32"]["products"] = 1e9
    table["fingerprint"]["fp32"] = [0, 1e9]
    row = judge_entry(entry_of(tmp_path), table)["num.fwd_bwd.fp32"]
    assert (row["status"], row["reason_code"]) == ("FAIL", "SELF_TEST")


# --- memory -------------------------------------------------------------------------------------------------------


def stuck(words: Any, _: int) -> Any:
    """One bit of one word is always zero."""
    words[words.size // 3] &= ~np.int64(1 << 40)
    return words


def aliased(words: Any, _: int) -> Any:
    """Two halves of a chunk are the same memory."""
    words[: words.size // 2] = words[words.size // 2 :][: words.size // 2]
    return words


@pytest.mark.parametrize(
    ("more", "status", "reason_code"),
    [
        ({"words": stuck}, "FAIL", "MEMORY"),
        ({"words": aliased}, "FAIL", "MEMORY"),
        ({"words": lambda words, _: words * 0}, "FAIL", "MEMORY"),
        ({"counts": False}, "FAIL", "SELF_TEST"),
        ({"counts": False, "words": aliased}, "FAIL", "MEMORY"),  # the samples see it
        ({"room": 1 << 10}, "UNKNOWN", "MEMORY_TAKEN"),
        ({"room": (2 << 20) + (1 << 19)}, "UNKNOWN", "MEMORY_TAKEN"),
    ],
)
def test_memory_that_does_not_hold_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], status: str, reason_code: str
) -> None:
    monkeypatch.setitem(JOBS.shared.CHUNK_WORDS, "gpu", 1 << 15)
    rows = judged(context(tmp_path, [on_gpu(**more)], devices("H100 SXM5")))
    row = rows["mem.pattern", "GPU-0"]
    assert (row["status"], row["reason_code"]) == (status, reason_code)
    assert statuses(rows)["fp32"] == "PASS"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "PASS"),
        ({"passes": [{"inverted": False, "words_wrong": 0}]}, "UNKNOWN"),
        ({"passes": [{"inverted": False, "words_wrong": 0}] * 2}, "UNKNOWN"),
        ({"passes": [{"inverted": False, "words_wrong": 0}, {"inverted": True, "words_wrong": None}]}, "UNKNOWN"),
        ({"samples": 0}, "UNKNOWN"),
        ({"samples_wrong": float("nan")}, "UNKNOWN"),
        ({"bytes": float("nan")}, "UNKNOWN"),
        ({"bytes": 900}, "PASS"),
        ({"bytes": 899}, "UNKNOWN"),
        ({"control_words_wrong": 2}, "FAIL"),
        ({"error": "x"}, "FAIL"),
    ],
    ids=str,
)
def test_a_memory_test_must_be_complete(changes: dict[str, Any], status: str) -> None:
    passes = [{"inverted": False, "words_wrong": 0}, {"inverted": True, "words_wrong": 0}]
    good = {"bytes": 1000, "passes": passes, "control_words_wrong": 1, "samples": 5, "samples_wrong": 0}
    assert numerics.judge_memory({**good, **changes}, 1000, "gpu", SECTION)["status"] == status


def test_the_share_of_free_memory_comes_from_the_driver(tmp_path: Path) -> None:
    c = context(tmp_path, [], devices("T4"))
    place = numerics.places(c)[0]
    assert numerics.memory_to_test(place, c, SECTION) == int((4 << 20) * 0.8)
    c.observation = {"nvml": {"gpus": [{"uuid": "GPU-0", "memory": {"free": 1000}}]}}
    assert numerics.memory_to_test(place, c, SECTION) == 800
    c.observation = {"nvml": {"gpus": [{"uuid": "GPU-0", "memory": None}]}}
    assert numerics.memory_to_test(place, c, SECTION) == int((4 << 20) * 0.8)
    place = place._replace(device=place.device._replace(memory=None))
    assert numerics.memory_to_test(place, c, SECTION) == 0
    assert numerics.judge_memory({"passes": []}, 0, "gpu", SECTION)["status"] != "PASS"


def test_every_address_has_a_word_of_its_own() -> None:
    shared = JOBS.shared
    words = shared.pattern(0, 1 << 16)
    assert len(np.unique(words)) == words.size
    with np.errstate(over="ignore"):
        for inverted in (False, True):
            moved = shared.pattern(0, 64, inverted) + np.int64(shared.salt(10**9, inverted))
            assert (moved == shared.pattern(10**9, 64, inverted)).all()
    assert (shared.pattern(5, 9) == ~shared.pattern(5, 9, True)).all()


# --- the table and the gates' own test ----------------------------------------------------------------------------


def test_the_self_test_holds_and_fails_when_a_gate_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(numerics.self_test(TABLE).values()) == {True}
    monkeypatch.setattr(numerics, "faults", lambda *_: [])
    answers = numerics.self_test(TABLE)
    refusals = ("wrong_element_rejected", "wrong_tensor_rejected", "nan_tensor_rejected", "missing_tensor_rejected")
    assert not any(answers[name] for name in refusals)


def test_table_and_programs_speak_of_the_same() -> None:
    shared = JOBS.shared
    for name in ("PRECISIONS", "TENSORS", "PRODUCTS"):
        assert getattr(shared, name) == getattr(numerics, name)
    assert numerics.PRODUCTS == PRODUCTS
    assert {len(shapes) for shapes in REAL_SHAPES.values()} == {SECTION["shapes"]}
    assert len(JOBS.compare.SPOILERS) == SECTION["controls"]
    for precision in numerics.PRECISIONS:
        assert SECTION["fingerprint"][precision][1] <= SECTION["rel_f"][precision]
        assert set(SECTION["elementwise_u"][precision]) == {"products", "others"}
    assert all(isinstance(SECTION[key], str) for key in SECTION if key.endswith("source"))


# --- how much is seen ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detection() -> Detection:
    return Detection(JOBS, (128, 784, 128), numerics.gate("fp32", "z", SECTION))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bit", "whole", "element"),
    [(8, (0, 0.02), (0.1, 1)), (12, (0, 0.1), (0.88, 1)), (16, (0.6, 1), (0.98, 1)), (20, (0.95, 1), (0.99, 1)),
     (23, (0.98, 1), (0.99, 1)), (30, (0.98, 1), (0.99, 1))],
)  # fmt: skip
def test_shares_of_single_bits_that_are_seen(
    detection: Detection, bit: int, whole: tuple[float, float], element: tuple[float, float]
) -> None:
    seen = detection.one_bit(bit, 200)
    assert whole[0] <= seen[0] <= whole[1]
    assert element[0] <= seen[1] <= element[1]


def test_bursts_lost_terms_and_tiles_are_always_seen(detection: Detection) -> None:
    assert detection.healthy() == (False, False)
    assert detection.warp(12, 50)[1] >= 0.99  # the whole sees next to nothing of these
    assert detection.warp(23, 50)[1] == 1
    assert detection.dropped_slice(100)[1] >= 0.99
    assert detection.zero_tile(20) == (1, 1)
    assert detection.bit_of_weight(20, 50)[1] >= 0.95
