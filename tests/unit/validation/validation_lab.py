# SPDX-License-Identifier: Apache-2.0
"""A laboratory for the validator: tiny data sets, interpreters that only pretend to train, a base directory.

No framework is needed. What the pretended interpreters answer is invented, but for the arithmetic: that is NumPy's, and
the comparison is the real one. The facts are those of a made-up host. The tests that use all this prove the validator's
decisions, nothing about a machine.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROLE = Path(__file__).resolve().parents[3] / "roles" / "validation"
PROGRAMS = ROLE / "files" / "gpulab_validation"
sys.path.insert(0, str(PROGRAMS))
sys.dont_write_bytecode = True  # the role ships that directory

from observations import bare  # noqa: E402

FAKE_INTERPRETER = """#!{python}
import json, os, signal, subprocess, sys, time
from math import inf, nan
arguments = sys.argv[1:]
if "-c" in arguments:  # asked what is installed
    print("packages as on the first day")
    sys.exit()
def option(name):
    return arguments[arguments.index(name) + 1]
program = os.path.basename(next(word for word in arguments if word.endswith(".py")))
def answer(result):
    with open(option("--result"), "w") as stream:
        json.dump(result, stream)
if program.startswith("numerics_"):
    os.mkdir(option("--out"))
    answer({numerics!r})
    sys.exit()
if program == "compare_numerics.py":
    places = [word for word in arguments[arguments.index(option("--result")) + 1:]]
    answer(dict({comparison!r}, devices={{os.path.basename(place): {entry!r} for place in places}}))
    sys.exit()
if program.startswith("performance_"):
    figures = [dict(metric=name, unit=unit, runs=[value] * 3, method="invented", mode=None, size=1)
               for name, unit, value in (("matmul_fp32", "TFLOP/s", 0.1), ("memory_bandwidth", "GB/s", 20.0))]
    answer(dict(figures=figures, not_measured={{}}, device_name="a pretended processor"))
    sys.exit()
# The control: a GPU is asked for, and there is none to see.
if "--device" in arguments and option("--device") == "gpu" and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    answer(dict(error=dict(reason_code="NO_GPU", message="this framework finds no usable GPU")))
    sys.exit(1)
if program == "generate_digits.py":
    for name, text in {digits!r}.items():
        with open(os.path.join(option("--out"), name), "w") as stream:
            stream.write(text)
    sys.exit()
result = dict(
    framework=program[len("mnist_"):-len(".py")], version="1.0", python="3.11.2", accuracy=0.97, loss_curve=[0.4, 0.1],
    epochs=int(option("--epochs")), batch_size=int(option("--batch-size")), notes=[], device="cpu:0",
    device_name="a pretended processor", result_devices=["cpu:0"], model_bytes=101800, allocator_peak_bytes=None)
{body}
with open(option("--result"), "w") as stream:
    json.dump(result, stream)
"""


MEMORY_BYTES = 1 << 20
MNIST = {
    f"{name}-ubyte.gz": f"not really {name}, but long enough to be cut off. " * 40
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
}
DIGITS = {name.removesuffix(".gz"): text.replace("not really", "drawn") for name, text in MNIST.items()}


def entry(text: str) -> dict[str, Any]:
    return {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


#: Stands in for the modules that gather facts, which would speak of the machine that the tests run on.
FACTS_MODULE = """
import json
class Host:
    def __init__(self, parameters):
        self.parameters = parameters
    def facts(self):
        with open({path!r}) as stream:
            return json.load(stream)
"""


@functools.lru_cache(maxsize=1)
def arithmetic() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what a numerics program and the comparison say where NumPy computes: result, comparison, its entry."""
    from numerics_lab import SMALL, StandIn, load_jobs, run_standin

    jobs = load_jobs()
    jobs.shared.SHAPES["cpu"] = SMALL
    with tempfile.TemporaryDirectory() as directory:
        place, result, compared = (Path(directory) / name for name in ("tensors", "result.json", "compared.json"))
        standin = StandIn(jobs.shared, place="cpu", capability=None)
        precisions = [name for name in jobs.shared.PRECISIONS if name != "tf32"]
        run_standin(jobs.shared, standin, place, result, device="cpu", precisions=precisions, memory_bytes=MEMORY_BYTES)
        kept, sys.argv = sys.argv, ["compare_numerics.py", "--result", str(compared), str(place)]
        try:
            assert jobs.compare.main() == 0
        finally:
            sys.argv = kept
        comparison = json.loads(compared.read_text())
        return json.loads(result.read_text()), comparison, comparison["devices"]["tensors"]


class Lab:
    """Everything one validation needs, below one directory."""

    mnist, digits = MNIST, DIGITS

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variables: dict[str, str] | None = None  # of the validator; None for those of the tests
        self.base = directory / "base"
        self.programs = directory / "programs"
        shutil.copytree(PROGRAMS, self.programs, ignore=shutil.ignore_patterns("__pycache__"))
        self.table = json.loads((PROGRAMS / "thresholds.json").read_text())
        for name, contents in (("mnist", self.mnist), ("generated", self.digits)):
            self.table["datasets"][name]["files"] = {key: entry(text) for key, text in contents.items()}
        self.table["numerics"]["memory"]["cpu_bytes"] = MEMORY_BYTES
        (self.programs / "thresholds.json").write_text(json.dumps(self.table))
        system = {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)", "family": "debian"}
        self.facts = {**bare().facts, "os": system, "simulated": False}
        self.write_facts()
        self.given = directory / "given"
        self.given.mkdir()
        for name, text in self.mnist.items():
            (self.given / name).write_text(text)

    def write_facts(self, **changes: Any) -> None:
        """Make the facts of the host other ones."""
        self.facts.update(changes)
        modules = self.programs / "facts_modules" / "ansible" / "module_utils"
        modules.mkdir(parents=True, exist_ok=True)
        for place in (modules, modules.parent):
            (place / "__init__.py").touch()
        path = self.directory / "facts.json"  # not among the programs: those are part of what a proof rests on
        (modules / "host_all.py").write_text(FACTS_MODULE.format(path=str(path)))
        path.write_text(json.dumps(self.facts))

    def interpreter(self, name: str = "torch", body: str = "") -> str:
        """Make an interpreter that runs ``body`` where a job would train, and return its path."""
        path = self.directory / "envs" / name / "bin" / "python"
        path.parent.mkdir(parents=True, exist_ok=True)
        numerics, comparison, entry = arithmetic()
        text = FAKE_INTERPRETER.format(
            python=sys.executable, body=body, digits=self.digits, numerics=numerics, comparison=comparison, entry=entry
        )
        if not path.exists() or path.read_text() != text:  # its time counts as a change
            path.write_text(text)
            path.chmod(0o755)
        return str(path)

    def environment(self, name: str = "torch", body: str = "", **changes: Any) -> dict[str, Any]:
        row = {
            "name": name,
            "python": self.interpreter(name, body),
            "origin": "existing",
            "frameworks": {"pytorch": "1.0"},
        }
        return {**row, **changes}

    def settings(self, **changes: Any) -> dict[str, Any]:
        settings = {
            "base_dir": str(self.base),
            "user": "",
            "environments": changes.pop("environments", None) or [self.environment()],
            "mnist_host_dir": str(self.given),
            "job_timeout": 60,
        }
        return {**settings, **changes}

    def command(self, *options: str, **changes: Any) -> list[str]:
        """Return the command line of a validation with these settings."""
        config = self.directory / "config.json"
        config.write_text(json.dumps(self.settings(**changes)))
        return [sys.executable, "-B", str(self.programs / "validate.py"), "--config", str(config), *options]

    def validate(self, *options: str, **changes: Any) -> tuple[int, dict[str, Any]]:
        """Validate; return the exit status and what was printed."""
        command = self.command(*options, **changes)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=self.variables)
        assert "Traceback" not in done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    def verdict(self) -> dict[str, Any]:
        """Return the verdict file."""
        document: dict[str, Any] = json.loads((self.base / "validation" / "verdict.json").read_text())
        return document


def status_of(document: dict[str, Any], identity: str) -> dict[str, str]:
    """Return ``{target: status}`` of the checks with one id."""
    return {row["target"]: row["status"] for row in document["checks"] if row["id"] == identity}


class Mirror:
    """A web server on the loopback that answers what a test tells it to. ``answers``: path -> function or bytes."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                answer = mirror.answers.get(self.path)
                if callable(answer):
                    answer(self)
                elif answer is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/mnist/"

    def serve(self, contents: dict[str, str]) -> None:
        self.answers.update({f"/mnist/{name}": text.encode() for name, text in contents.items()})
