# SPDX-License-Identifier: Apache-2.0
"""The MNIST jobs in the real frameworks on the processor: they train, they refuse without a GPU, and they prove nothing
about a GPU where there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_lab import TABLE, make_data, run, run_text

import gpu_proof  # isort: skip

#: Framework and, for Keras, its backend.
KINDS = [
    ("pytorch", ""), ("tensorflow", ""), ("jax", ""),
    ("keras", "tensorflow"), ("keras", "torch"), ("keras", "jax"),
]  # fmt: skip
SHORT = ["--epochs", 2]

Pythons = Callable[[str], Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def start(
    python: Path, kind: tuple[str, str], directory: Path, data: Path, *arguments: Any, **more: str
) -> tuple[Any, Any]:
    framework, backend = kind
    if backend:
        more["KERAS_BACKEND"] = backend
    arguments = ("--data", data, *arguments)
    return run(python, f"mnist_{framework}.py", directory, *arguments, **more)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_job_on_the_processor_trains_and_finds_no_proof_of_a_gpu(
    kind: tuple[str, str], framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    """With --proof the extra steps and the profiler really run, and what they find is no signal."""
    outcome, result = start(framework_python(kind[0]), kind, tmp_path, data, "--device", "cpu", "--proof", *SHORT)
    assert outcome.code == 0, outcome.tail
    assert result["accuracy"] > 0.9
    proof = result["proof"]
    assert proof["pid"] == result["pid"]
    assert proof["pid_start"] > 0
    assert proof["steps"] == 8
    assert (proof["kernels"]["available"], proof["kernels"]["why"]) == (True, "")
    assert (proof["kernels"]["count"], proof["kernels"]["names"]) == (0, [])
    assert proof["device_time"]["available"] is False
    assert proof["device_time"]["why"]
    rows = gpu_proof.signals("e/f", result, None, ["GPU-x"])
    assert [row["name"] for row in rows if row["ok"]] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("profile-")] == []


def test_the_proof_changes_no_result(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    python = framework_python("pytorch")
    results = [
        start(python, ("pytorch", ""), tmp_path, data, "--device", "cpu", *SHORT, *more)[1]
        for more in ([], ["--proof"])
    ]
    for key in ("accuracy", "loss_curve", "result_devices", "model_bytes"):
        assert results[0][key] == results[1][key]
    assert set(results[0]["proof"]) == {"pid", "pid_start"}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_job_that_shall_use_a_gpu_and_sees_none_refuses(
    kind: tuple[str, str], framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    python = framework_python(kind[0])
    outcome, result = start(python, kind, tmp_path, data, "--device", "gpu", *SHORT, JAX_PLATFORMS="cuda")
    assert result["error"]["reason_code"] == "NO_GPU", outcome.tail
    check = gpu_proof.judge_control("e/f", outcome, result, "", TABLE, "log")
    assert check["status"] == "PASS", check["message"]


FALLBACKS = {
    "pytorch": """
import mnist_pytorch
def find_device(torch, wanted):
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
mnist_pytorch.find_device = find_device
""",
    "tensorflow": """
import mnist_tensorflow
mnist_tensorflow.find_device = lambda tf, wanted: "/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"
""",
    "jax": """
import os, mnist_jax
def find_device(jax, wanted):
    jax.config.update("jax_platforms", "")
    return jax.devices()[0]
mnist_jax.find_device = find_device
""",
}


@pytest.mark.parametrize("framework", FALLBACKS)
def test_a_job_that_quietly_takes_the_processor_is_caught_by_the_control(
    framework: str, framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    """The usual line of tutorials, "the GPU if there is one, else the processor", put into the real job."""
    python = framework_python(framework)
    patch = FALLBACKS[framework] + f"\nimport runpy\nmodule = mnist_{framework}\n" + RUN_PATCHED
    outcome, result = start(
        python, (framework, ""), tmp_path, data, "--device", "gpu", *SHORT, JAX_PLATFORMS="cuda", patch=patch
    )
    check = gpu_proof.judge_control("e/f", outcome, result, "", TABLE, "log")
    assert (check["status"], check["reason_code"]) == ("FAIL", "NOT_REFUSED"), outcome.tail
    check, proof = gpu_proof.judge("e/f", result, {"processes": []}, ["GPU-x"], TABLE)
    assert (check["status"], proof["reached"]) == ("UNKNOWN", False)


#: The program is the patched module itself: as the main program it would be loaded anew, without the patch.
RUN_PATCHED = """
import atexit, sys
if len(sys.orig_argv) > 3 and "mnist_" in " ".join(sys.orig_argv):
    sys.argv = [word for word in sys.orig_argv if word not in ("-s", "-B")][1:]
    import job
    name = module.__name__.replace("mnist_", "")
    sys.stdout.flush()
    import os
    os._exit(job.run(name, module.train))
"""


@pytest.mark.parametrize("framework", ["tensorflow", "jax"])
def test_a_real_profile_is_understood(framework: str, framework_python: Pythons, tmp_path: Path) -> None:
    """The planes of the processor have names; those of GPUs are in the same places of the same message."""
    steps = {
        "tensorflow": "import tensorflow as f; x = f.ones((64, 64)); f.profiler.experimental.start(d); "
        "float(f.reduce_sum(f.tanh(x @ x))); f.profiler.experimental.stop()",
        "jax": "import jax as f, jax.numpy as n; x = n.ones((64, 64)); f.profiler.start_trace(d); "
        "float(n.tanh(x @ x).sum()); f.profiler.stop_trace()",
    }[framework]
    text = f"""
import glob, json, proof
d = {str(tmp_path)!r}
{steps}
path, = glob.glob(d + "/**/*.xplane.pb", recursive=True)
answer = {{}}
for plane in map(proof.message, proof.message(proof.read(path))[1]):
    entries = [proof.message(entry) for entry in plane.get(4, [])]
    known = {{entry[1][0]: proof.text_of(proof.message(entry[2][0]), 2) for entry in entries if 1 in entry}}
    lines = [proof.message(line) for line in plane.get(3, [])]
    used = [proof.message(event).get(1, [0])[0] for line in lines for event in line.get(4, [])]
    answer[proof.text_of(plane, 2)] = [len(used), sum(number in known for number in used), sorted(known.values())]
print(json.dumps(answer))
"""
    planes = json.loads(run_text(framework_python(framework), tmp_path, text).splitlines()[-1])
    events, named, names = planes["/host:CPU"]
    assert events > 0
    assert named == events
    assert all(isinstance(name, str) for name in names)


def test_a_job_tells_which_process_it_was(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    """The driver knows processes by number and start; the job's own words must fit what /proc says."""
    _, result = start(framework_python("pytorch"), ("pytorch", ""), tmp_path, data, "--device", "cpu", "--epochs", 1)
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - result["proof"]["pid_start"] / ticks
    assert 0 < age < 240
