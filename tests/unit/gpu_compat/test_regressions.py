# SPDX-License-Identifier: Apache-2.0
"""Faults that were found in review and mended, each held fast by what it answered wrongly then."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gpu_compat import CompatError, host_from_facts, plan
from gpu_compat.__main__ import main
from gpu_compat.render import answer_text
from gpu_compat.tables import shipped
from resolvelib import BaseReporter
from situations import TODAY, ask

LIB = Path(__file__).resolve().parents[3] / "lib"
UBUNTU: dict[str, Any] = {"os": "ubuntu2404", "kernel": "6.8.0-45-generic"}
TORCH: dict[str, Any] = {"name": "torch", "frameworks": {"pytorch": "newest"}}


def planned(host: dict[str, Any], request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a whole answer that holds a plan."""
    answer = ask(host, request)
    assert answer["status"] == "planned", answer["conflicts"]
    assert answer_text(answer)
    return answer


def conflicts(host: dict[str, Any], request: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    answer = ask(host, request)
    assert (answer["status"], answer["plan"]) == ("conflict", None)
    assert answer_text(answer)
    return list(answer["conflicts"])


# --- the search --------------------------------------------------------------------------------------------------

#: What a search may take, ten times of what it takes. Without striking out what cannot be, the hardest needs 70 000.
MOST_ROUNDS = 3000


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rounds of the resolver, and stop a search that explodes."""
    counted = [0]

    def starting_round(_: object, index: int) -> None:
        counted[0] += 1
        assert counted[0] <= MOST_ROUNDS, "the search explodes"

    monkeypatch.setattr(BaseReporter, "starting_round", starting_round)
    return counted


def joint(tensorflow: Any, pytorch: Any) -> dict[str, Any]:
    return {"environments": [{"name": "both", "frameworks": {"tensorflow": tensorflow, "pytorch": pytorch}}]}


@pytest.mark.parametrize(
    ("gpus", "tensorflow", "pytorch"),
    [
        (["GTX 1080 Ti", "H100 SXM5", "V100"], ">=2.10", ">=2.0"),
        (["RTX 3090", "A100", "V100"], "any", "any"),
        (["A100", "L4"], ">=2.4,!=2.19.0", ">=1.13,<2.15"),
    ],
)
def test_two_frameworks_with_wide_ranges_are_planned_without_going_far(
    rounds: list[int], gpus: list[str], tensorflow: str, pytorch: str
) -> None:
    host = {"os": "ubuntu2404", "gpus": gpus, "python": ["3.10", "3.11", "3.12"]}
    (environment,) = planned(host, joint(tensorflow, pytorch))["plan"]["environments"]
    assert set(environment["frameworks"]) == {"tensorflow", "pytorch"}
    assert len({row["cuda"].split(".")[0] for row in environment["frameworks"].values()}) == 1
    assert 0 < rounds[0] <= 50


@pytest.mark.parametrize(
    ("gpus", "pytorch", "ids"),
    [
        (
            ["GTX 1080 Ti", "H100 SXM5", "V100"],
            {"version": "any", "cuda": "13"},
            ["gpu_arch_vs_torch_wheel", "gpu_arch_vs_torch_wheel", "environment_pins"],
        ),
        (["A100", "RTX 3090"], {"version": "any", "cuda": "13"}, ["environment_pins"]),
        (["A100", "RTX 5090"], "any", ["gpu_arch_vs_tensorflow_wheel"]),
    ],
)
def test_two_frameworks_that_never_fit_are_refused_without_going_far(
    rounds: list[int], gpus: list[str], pytorch: Any, ids: list[str]
) -> None:
    host = {"os": "ubuntu2404", "gpus": gpus, "python": ["3.10", "3.11", "3.12"]}
    assert [row["id"] for row in conflicts(host, joint("any", pytorch))] == ids
    assert rounds[0] > 0


# --- hosts without GPUs, hosts without a driver ------------------------------------------------------------------


@pytest.mark.parametrize("host", [{}, UBUNTU, {**UBUNTU, "gpus": []}, {**UBUNTU, "driver": "580.126.09"}])
@pytest.mark.parametrize("request_", [{}, {"driver": "none"}, {"driver": "keep"}, {"driver_source": "none"}])
def test_a_host_without_gpus_is_planned_whatever_is_to_happen_to_a_driver(
    host: dict[str, Any], request_: dict[str, Any]
) -> None:
    answer = planned(host, request_)
    assert (answer["plan"]["profile"], answer["plan"]["driver"]) == ("cpu", None)
    assert answer["plan"]["environments"][0]["frameworks"]["pytorch"]["wheel"] == "cpu"
    assert "driver" not in [row["about"] for row in answer["reasons"]]


@pytest.mark.parametrize("key", ["driver", "driver_source"])
def test_no_driver_on_a_host_with_gpus_is_a_host_without_their_use(key: str) -> None:
    answer = planned({**UBUNTU, "gpus": ["L4"]}, {key: "none"})
    assert (answer["plan"]["profile"], answer["plan"]["driver"], answer["plan"]["cuda_toolkits"]) == ("cpu", None, [])
    assert any(text.startswith(f"{key}: none, although") for text in answer["warnings"])
    (found,) = conflicts({**UBUNTU, "gpus": ["L4"]}, {key: "none", "profile": "gpu"})
    assert (found["id"], found["involves"]) == ("no_driver", [f"request.{key}", "request.profile"])


def test_to_keep_a_driver_that_is_not_there_is_to_choose_one() -> None:
    host = {**UBUNTU, "gpus": ["L4"], "driver": None}
    kept, auto = planned(host, {"driver": "keep"}), planned(host)
    assert kept["plan"] == auto["plan"]
    assert kept["warnings"] == [
        "driver: keep, but none is installed, so there is nothing to keep: it is planned as auto"
    ]
    (found,) = conflicts(host, {"driver_source": "preinstalled"})
    assert (found["id"], found["involves"]) == ("no_driver", ["host.driver", "request.driver_source"])


def test_facts_of_a_gpu_host_without_a_driver_are_read(facts: dict[str, Any]) -> None:
    found = {**facts, "gpus": [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": "0x2204"}]}
    for wish, profile in (("none", "cpu"), ("keep", "gpu")):
        answer = plan({"driver": wish, "environments": [TORCH]}, host_from_facts(found), today=TODAY)
        assert (answer["status"], answer["plan"]["profile"]) == ("planned", profile)


# --- optional environments ---------------------------------------------------------------------------------------

NEVER = {"name": "never", "optional": True, "frameworks": {"pytorch": ">=9"}}
NOR_THIS = {"name": "nor-this", "optional": True, "python": "3.14", "frameworks": {"tensorflow": "newest"}}
#: Each has a host to itself; together they want two toolkits where one is planned.
CUDA_11_0 = {"name": "cuda-11-0", "frameworks": {"tensorflow": "==2.4.0"}}
CUDA_11_2 = {"name": "cuda-11-2", "frameworks": {"tensorflow": "==2.10.1"}}


@pytest.mark.parametrize("host", [{"gpus": []}, {**UBUNTU, "gpus": ["RTX 3090"]}, {**UBUNTU, "gpus": ["V100", "L4"]}])
@pytest.mark.parametrize("environments", [[NEVER], [NEVER, TORCH], [TORCH, NOR_THIS], [NEVER, TORCH, NOR_THIS]])
def test_optional_environments_that_cannot_be_are_left_out_and_named_with_the_reason(
    host: dict[str, Any], environments: list[dict[str, Any]]
) -> None:
    answer = planned(host, {"environments": environments})
    left_out = [row["name"] for row in environments if row.get("optional")]
    missing = {row["name"]: row["reason"] for row in answer["plan"]["unavailable_environments"]}
    assert list(missing) == left_out
    assert all(missing.values())
    assert [row["name"] for row in answer["plan"]["environments"]] == ["torch"] * (TORCH in environments)
    assert all(f"  without {name}" in answer_text(answer) for name in left_out)
    assert bool(answer["plan"]["driver"]) == bool(host["gpus"]), "the rest of the host is planned"


def test_an_environment_that_must_be_is_not_left_out_with_the_optional_ones() -> None:
    needed = {**NOR_THIS, "optional": False}
    (found,) = conflicts({**UBUNTU, "gpus": ["L4"]}, {"environments": [NEVER, needed, TORCH]})
    assert found["id"] == "python_vs_framework"
    assert all("environments[1]" in member for member in found["involves"])


def test_environments_that_must_be_and_want_two_toolkits_of_one_host_are_a_conflict() -> None:
    for environment in (CUDA_11_0, CUDA_11_2):
        assert planned({"gpus": ["A100"]}, {"environments": [environment]})
    found = conflicts({"gpus": ["A100"]}, {"environments": [CUDA_11_0, CUDA_11_2]})
    assert [row["id"] for row in found] == ["toolkit_vs_framework"]


def test_what_is_left_without_an_optional_environment_may_be_a_conflict_of_its_own() -> None:
    found = conflicts({"gpus": ["A100"]}, {"environments": [NEVER, CUDA_11_0, CUDA_11_2]})
    assert "toolkit_vs_framework" in [row["id"] for row in found]


def test_an_optional_environment_gives_way_to_one_that_must_be() -> None:
    answer = planned({"gpus": ["A100"]}, {"environments": [{**CUDA_11_0, "optional": True}, CUDA_11_2]})
    assert [row["name"] for row in answer["plan"]["environments"]] == ["cuda-11-2"]
    assert [row["name"] for row in answer["plan"]["unavailable_environments"]] == ["cuda-11-0"]


# --- input that is no question -----------------------------------------------------------------------------------


def surroundings(**more: str) -> dict[str, str]:
    """Return the variables for a process of its own: the library, and nothing of the caller's Python."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return plain | {"PYTHONPATH": str(LIB), "PYTHONDONTWRITEBYTECODE": "1"} | more


def run(*words: str, said: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    whole = {"stdout": subprocess.PIPE, "env": surroundings(), **options}
    command = [sys.executable, "-m", "gpu_compat", *words]
    return subprocess.run(command, input=said, stderr=subprocess.PIPE, check=False, **whole)


def run_line(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell that begins with the words behind the command's name."""
    command = f"{sys.executable} -m gpu_compat {line}"
    return subprocess.run(["sh", "-c", command], input=b"{}", capture_output=True, env=surroundings(), check=False)


class Asked:
    """The command line in this process: exit status, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, said: str | bytes, words: Sequence[str] = ("plan", "-")) -> tuple[int, str, str]:
        content = said if isinstance(said, bytes) else said.encode()
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        status = main(words)
        out, err = self.capsys.readouterr()
        assert bool(out) == (status < 2)
        assert bool(err) == (status == 2)
        assert all(line.startswith("gpu_compat: ") for line in err.splitlines())
        return status, out, err


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(capsys, monkeypatch)


HUGE = str(10**400)
TOO_LONG = "9" * 5000  # more digits than Python turns into a number
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        pytest.param(b"[" * 100_000, b"1:21: is nested too deeply", id="brackets"),
        pytest.param(b"host: {secure_boot: !!bool maybe}", b"the tag 'tag:yaml.org,2002:bool'", id="tag"),
        pytest.param(b"request: {driver: '~=580'}", b"request.driver: '~=580' is not", id="specifier"),
        pytest.param(f"host: {{driver: {TOO_LONG}}}".encode(), b"cannot be read as YAML", id="number"),
        pytest.param(b"host: \0", b"unacceptable character", id="NUL"),
    ],
)
def test_garbage_ends_a_process_with_2_and_a_message(said: bytes, told: bytes) -> None:
    ended = run("plan", "-", said=said)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert told in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("said", "told"),
    [
        # nesting
        pytest.param("{" * 100_000, "1:21: is nested too deeply", id="braces"),
        pytest.param("- " * 50_000, "is nested too deeply", id="dashes"),
        pytest.param('{"host":' * 100_000, "is nested too deeply", id="JSON"),
        # tags
        ("!!bool x", "standard input:1:1: the tag 'tag:yaml.org,2002:bool' is not plain YAML; remove it"),
        ("host: {secure_boot: !!bool yes}", "standard input:1:21: the tag"),
        ("host: !!int x", "the tag 'tag:yaml.org,2002:int'"),
        ("host: {gpus: [!!float x]}", "the tag 'tag:yaml.org,2002:float'"),
        ("host: !!timestamp x", "the tag 'tag:yaml.org,2002:timestamp'"),
        ("host: !!binary '%'", "the tag 'tag:yaml.org,2002:binary'"),
        ("!!set {a}", "the tag 'tag:yaml.org,2002:set'"),
        ("host: !!python/object/apply:os.getcwd []", "is not plain YAML; remove it"),
        ("host: !mine x", "the tag '!mine' is not plain YAML"),
        ("host: =", "standard input:1:7: "),
        ("host: 2026-02-31", "cannot be read as YAML"),
        # versions
        ("host: {driver: '~=580'}", "host.driver: '~=580' is not a driver version such as"),
        ("request: {driver: ~=580}", "request.driver: '~=580' is not"),
        ("request: {driver: '=='}", "request.driver: '==' is not"),
        ("request: {driver: '>=580.*'}", "request.driver: '>=580.*' is not"),
        ("request: {environments: [{name: a, frameworks: {pytorch: '~=2'}}]}", "frameworks.pytorch: '~=2' is neither"),
        # numbers
        pytest.param(f"host: {{driver: {HUGE}}}", "host.driver: 1000", id="huge driver"),
        pytest.param(f"host: {{driver: '{HUGE}'}}", "host.driver: '1000", id="huge quoted driver"),
        pytest.param(f"host: {{kernel: '{HUGE}.1'}}", "host.kernel: '1000", id="huge kernel"),
        pytest.param(f"host: {{glibc: '{TOO_LONG}.1'}}", "host.glibc: '9999", id="too long glibc"),
        pytest.param(f"host: {{gpus: [{HUGE}]}}", "host.gpus[0]: 1000", id="huge GPU"),
        pytest.param(f"host: {{python: '3.{HUGE}'}}", "host.python: '3.1000", id="huge Python"),
        pytest.param(f"host: {{os: ubuntu{TOO_LONG}}}", "host.os: 'ubuntu9999", id="too long system"),
        pytest.param(f"request: {{driver: '{HUGE}'}}", "request.driver: '1000", id="huge branch"),
        pytest.param(f"request: {{driver: '>={HUGE}'}}", "request.driver: '>=1000", id="huge specifier"),
        pytest.param(f"request: {{cuda_toolkits: ['{HUGE}']}}", "request.cuda_toolkits[0]: '1000", id="huge toolkit"),
        pytest.param(f"request: {{cudnn: '{HUGE}'}}", "request.cudnn: '1000", id="huge cuDNN"),
        pytest.param(
            f"request: {{environments: [{{name: a, frameworks: {{pytorch: '>={HUGE}'}}}}]}}",
            "request.environments[0].frameworks.pytorch: '>=1000",
            id="huge release",
        ),
        pytest.param(f"{HUGE}: 1", "unknown key; known: host, request", id="huge key"),
        ("host: {python: .inf}", "host.python: inf is a number"),
        ("host: {kernel: .nan}", "host.kernel: nan is a number"),
        # bytes
        ("\0", "cannot be read as YAML (unacceptable character #x0000"),
        ('host: {os: "ubuntu\\02404"}', "host.os: "),
        (b"\xff\xfeh\0o\0s\0t\0:\0 \0{\0}\0", "standard input: is not text in UTF-8"),
        ("\x07", "unacceptable character #x0007"),
        # shapes
        ("[]", "must be a mapping with the keys host and request, but is a list"),
        ("- host: {}", "must be a mapping with the keys host and request, but is a list"),
        ("---\nhost: {}\n---\nhost: {}", "standard input:3:1: "),
        ("? [a]\n: b", "standard input:1:3: "),
        ("null: 1", "unknown key; known: host, request"),
        # keys that stand twice
        ("host: {}\nhost: {}", "standard input:2:1: the key 'host' stands twice"),
        ("host: {gpus: [L4], gpus: []}", "standard input:1:20: the key 'gpus' stands twice"),
        ('{"host": {}, "host": {}}', "the key 'host' stands twice"),
        ("'host': {}\n\"host\": {}", "the key 'host' stands twice"),
        ("request: {environments: [{name: a, name: b, frameworks: {jax: any}}]}", "the key 'name' stands twice"),
        # aliases
        pytest.param(BOMB, "i: unknown key; known: host, request", id="bomb"),
        pytest.param(f"{BOMB}host: {{gpus: *i}}", "host.gpus[8]: must be a product", id="bomb of GPUs"),
        pytest.param(
            f"{BOMB}request: {{cuda_toolkits: *i}}", "request.cuda_toolkits[8]: must be", id="bomb of toolkits"
        ),
        ("host: &a {gpus: *a}", "host.gpus: must be a list, but is a mapping"),
        ("host: {gpus: &a [*a]}", "host.gpus[0]: must be a product"),
        ("host: *a", "standard input:1:7: "),
    ],
)
def test_garbage_is_refused_and_what_is_wrong_with_it_is_named(asked: Asked, said: str | bytes, told: str) -> None:
    status, _, err = asked(said)
    assert status == 2
    assert told in err
    assert len(err) < 12_000


@pytest.mark.parametrize("said", ["", " \n", "# nothing", "---\n", "null", "\ufeff", "\ufeffhost: {gpus: []}"])
def test_nothing_at_all_and_a_byte_order_mark_are_no_mistake(asked: Asked, said: str) -> None:
    status, out, _ = asked(said)
    assert status == 0
    assert "profile            cpu" in out


def test_a_byte_order_mark_hides_no_key(asked: Asked) -> None:
    assert asked("\ufeffhost: {os: ubuntu2404, gpus: [L4]}") == asked("host: {os: ubuntu2404, gpus: [L4]}")


@pytest.mark.parametrize("kernel", ["99999.99999", "0.0", "6.8.0" + "x" * 90])
def test_a_kernel_of_any_number_is_planned(asked: Asked, kernel: str) -> None:
    assert asked(f"host: {{os: ubuntu2404, gpus: [L4], kernel: '{kernel}'}}")[0] in (0, 1)


@pytest.mark.parametrize(
    "want",
    [
        pytest.param("driver=~=580", id="specifier"),
        pytest.param("driver=²", id="digit"),
        pytest.param("environments[²].python=3.12", id="digit as a place"),
        pytest.param("environments[99].python=3.12", id="place"),
        pytest.param("host={[a]: 2}", id="key"),
        pytest.param("driver=" + "[" * 5_000, id="brackets"),
        pytest.param(f"environments[{TOO_LONG}].python=3.12", id="too long a place"),
    ],
)
def test_a_wish_on_the_command_line_is_read_as_strictly(asked: Asked, want: str) -> None:
    status, _, err = asked("host: {gpus: [L4]}", ("explain", "-", "--want", want))
    assert status == 2
    assert err.count("\n") == 1


# --- the reader goes away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "-", "--json"],
        ["plan", "-"],
        ["matrix"],
        ["--help"],
    ],
)
def test_nobody_reads_what_is_printed_and_nothing_is_said_of_it(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = run(*words, said=b"host: {os: ubuntu2404, gpus: [L4]}", stdout=writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_head_takes_one_byte_of_an_answer() -> None:
    ended = run_line("plan - --json | head -c 1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"{", b"")


def test_a_full_disk_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run("plan", "-", said=b"{}", stdout=full)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (2, 1)
    assert b"cannot be written: No space left" in ended.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_no_traceback(closed: str) -> None:
    ended = run_line(f"plan - {closed}")
    assert b"Traceback" not in ended.stderr


def test_a_letter_that_the_terminal_lacks_is_no_traceback() -> None:
    said = "host: {os: {distribution: Ubüntu, version: '1'}, gpus: [L4]}".encode()
    ended = run("plan", "-", said=said, env=surroundings(PYTHONIOENCODING="ascii"))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"Ub?ntu" in ended.stdout


# --- systems that the tables do not know -------------------------------------------------------------------------

STRANGE = [("Void", "1"), ("Ubuntu", "24.10"), ("Debian", "10"), ("Arch Linux", "2026")]


@pytest.mark.parametrize(("distribution", "version"), STRANGE)
def test_a_system_that_is_not_known_gets_the_runfile_and_no_guess(distribution: str, version: str) -> None:
    host = {"os": {"distribution": distribution, "version": version}, "gpus": ["RTX 3090"]}
    answer = planned(host)
    driver = answer["plan"]["driver"]
    assert (driver["source"], driver["packages"], driver["module_stream"]) == ("runfile", [], None)
    (toolkit,), (cudnn,) = answer["plan"]["cuda_toolkits"], answer["plan"]["cudnn"]
    assert (toolkit["source"], toolkit["packages"], toolkit["repository"]) == ("redist", [], None)
    assert (cudnn["source"], cudnn["packages"], cudnn["repository"]) == ("redist", [], None)
    unknown = f"do not know {distribution} {version}, so no repository is known for it"
    assert any(row["about"] == "driver" and unknown in row["because"] for row in answer["reasons"])


@pytest.mark.parametrize(("distribution", "version"), STRANGE)
@pytest.mark.parametrize(
    ("wish", "conflict", "member"),
    [
        ({"driver_source": "nvidia_repo"}, "os_vs_driver", "request.driver_source"),
        ({"driver_source": "distro"}, "os_vs_driver", "request.driver_source"),
        ({"cuda_toolkits": ["12.8"], "cuda_source": "nvidia_repo"}, "os_vs_cuda", "request.cuda_toolkits[0]"),
        (
            {"cuda_toolkits": ["12.8"], "cuda_source": "nvidia_repo", "driver_source": "runfile"},
            "os_vs_cuda",
            "request.cuda_toolkits[0]",
        ),
    ],
)
def test_a_repository_of_a_system_that_is_not_known_is_a_conflict(
    distribution: str, version: str, wish: dict[str, Any], conflict: str, member: str
) -> None:
    host = {"os": {"distribution": distribution, "version": version}, "gpus": ["RTX 3090"]}
    (found,) = conflicts(host, wish)
    assert (found["id"], found["involves"]) == (conflict, ["host.os", member])
    assert f"do not know {distribution} {version}" in found["message"]


def test_secure_boot_on_a_system_that_is_not_known_leaves_no_driver() -> None:
    host = {"os": {"distribution": "Void", "version": "1"}, "gpus": ["L4"], "secure_boot": True}
    (found,) = conflicts(host)
    assert (found["id"], found["involves"]) == ("secure_boot", ["host.os", "host.secure_boot"])


def test_a_system_that_a_host_reports_and_nobody_knows_is_not_guessed_either(gpu_host: dict[str, Any]) -> None:
    strange = {**gpu_host, "os": {"id": "void", "version": "1", "name": "Void 1"}, "driver": {}}
    answer = plan({"environments": [TORCH]}, host_from_facts(strange), today=TODAY)
    assert (answer["status"], answer["plan"]["driver"]["source"]) == ("planned", "runfile")


# --- forward compatibility ---------------------------------------------------------------------------------------

OLD_DRIVER = {"gpus": ["A100 SXM4 80GB"], "driver": "535.183.01", "kernel_module": "open"}
CUDA_13: dict[str, Any] = {
    "driver": "keep",
    "cuda_toolkits": [],
    "environments": [{"name": "t", "frameworks": {"pytorch": {"version": "newest", "cuda": "cu130"}}}],
}


@pytest.mark.parametrize(
    ("system", "arch"),
    [
        ("ubuntu2204", "x86_64"),
        ("ubuntu2404", "x86_64"),
        ("ubuntu2404", "aarch64"),
        ("debian12", "x86_64"),
        ("debian13", "x86_64"),
        ("rhel9", "x86_64"),
        ("rhel9", "aarch64"),
    ],
)
def test_the_compatibility_package_is_planned_where_there_is_one(system: str, arch: str) -> None:
    answer = planned({**OLD_DRIVER, "os": system, "arch": arch}, CUDA_13)
    assert answer["plan"]["cuda_compat_package"] == "cuda-compat-13-0"
    assert any("cuda-compat-13-0 lets driver 535.183.01 run CUDA 13.0" in text for text in answer["warnings"])


@pytest.mark.parametrize(
    ("system", "arch"),
    [
        ("debian12", "aarch64"),
        ("debian13", "aarch64"),
        ("fedora42", "aarch64"),
        ("ubuntu2004", "x86_64"),
        ("ubuntu2004", "aarch64"),
        ("debian11", "x86_64"),
        ("fedora44", "x86_64"),
    ],
)
def test_the_compatibility_package_is_not_planned_where_there_is_none(system: str, arch: str) -> None:
    (found,) = conflicts({**OLD_DRIVER, "os": system, "arch": arch}, CUDA_13)
    assert found["id"] == "driver_vs_cuda"
    assert {"host.os", "host.arch", "host.driver"} <= set(found["involves"])
    assert f"NVIDIA's repository for {system} on {arch} has no such cuda-compat package" in found["message"]
    answer = planned({**OLD_DRIVER, "os": system, "arch": arch}, {"driver": "keep", "cuda_toolkits": []})
    assert answer["plan"]["cuda_compat_package"] is None


def test_the_compatibility_package_is_not_planned_on_a_system_that_is_not_known() -> None:
    (found,) = conflicts({**OLD_DRIVER, "os": {"distribution": "Void", "version": "1"}}, CUDA_13)
    assert "host.os" in found["involves"]


@pytest.mark.parametrize("gpu", ["RTX 3090", "GTX 1080 Ti"])
def test_the_compatibility_package_is_for_data_center_products(gpu: str) -> None:
    found = conflicts({**OLD_DRIVER, "os": "ubuntu2404", "gpus": [gpu], "kernel_module": None}, CUDA_13)
    assert "host.gpus[0]" in found[0]["involves"]


# --- a kernel module of unknown flavour --------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", ["RTX 3090", "RTX 5090", "GTX 1080 Ti"])
@pytest.mark.parametrize("request_", [{"driver": "keep"}, {"driver_source": "preinstalled"}])
def test_an_installed_driver_of_unknown_flavour_stays_and_it_is_said(gpu: str, request_: dict[str, Any]) -> None:
    answer = planned({**UBUNTU, "gpus": [gpu], "driver": "580.126.09", "kernel_module": None}, request_)
    driver = answer["plan"]["driver"]
    assert (driver["version"], driver["kernel_module"], driver["source"]) == ("580.126.09", None, "preinstalled")
    assert driver["packages"] == []
    unknown = "driver 580.126.09 is installed, and the flavour of its kernel module is not known"
    assert answer["warnings"].count(unknown) == 1


def test_an_installed_driver_of_known_flavour_has_it_and_no_such_statement() -> None:
    answer = planned({**UBUNTU, "gpus": ["L4"], "driver": "580.126.09", "kernel_module": "open"}, {"driver": "keep"})
    assert answer["plan"]["driver"]["kernel_module"] == "open"
    assert not any("flavour" in text for text in answer["warnings"])


def test_a_driver_of_unknown_flavour_may_be_replaced() -> None:
    driver = planned({**UBUNTU, "gpus": ["GTX 1080 Ti"], "driver": "580.126.09", "kernel_module": None})["plan"][
        "driver"
    ]
    assert (driver["version"], driver["kernel_module"], driver["source"]) == (
        "580.126.09",
        "proprietary",
        "nvidia_repo",
    )


@pytest.mark.parametrize(
    ("host", "wish", "conflict"),
    [
        ({"gpus": ["GTX 1080 Ti"], "driver": "580.126.09"}, {"kernel_module": "open"}, "module_flavor"),
        ({"gpus": ["L4"], "driver": "470.256.02"}, {}, "gpu_arch_vs_driver"),
        ({"gpus": ["L4"], "driver": "999.1"}, {}, "unknown_release"),
    ],
)
def test_an_unknown_flavour_is_not_taken_for_any(host: dict[str, Any], wish: dict[str, Any], conflict: str) -> None:
    found = conflicts({**UBUNTU, **host, "kernel_module": None}, {"driver": "keep", **wish})
    assert [row["id"] for row in found] == [conflict]


def test_facts_of_a_driver_without_its_flavour_are_planned(gpu_host: dict[str, Any]) -> None:
    silent = {**gpu_host, "driver": {"loaded_version": "580.126.09", "module": None, "reason": None}}
    answer = plan({"driver": "keep", "environments": [TORCH]}, host_from_facts(silent), today=TODAY)
    assert answer["plan"]["driver"]["kernel_module"] is None


# --- Ubuntu's kernels, Secure Boot -------------------------------------------------------------------------------


@pytest.mark.parametrize("secure_boot", [False, True])
@pytest.mark.parametrize(
    ("system", "kernel", "flavour"),
    [
        ("ubuntu2404", None, "generic"),
        ("ubuntu2404", "6.8.0-45-generic", "generic"),
        ("ubuntu2404", "6.11.0-17-generic", "generic-hwe-24.04"),
        ("ubuntu2404", "6.14.0-33-generic", "generic-hwe-24.04"),
        ("ubuntu2404", "6.8.0-1021-aws", "aws"),
        ("ubuntu2404", "6.8.0-45-lowlatency", "lowlatency"),
        ("ubuntu2204", "5.15.0-100-generic", "generic"),
        ("ubuntu2204", "6.8.0-45-generic", "generic-hwe-22.04"),
    ],
)
def test_modules_that_ubuntu_signs_are_those_of_the_running_kernel(
    secure_boot: bool, system: str, kernel: str | None, flavour: str
) -> None:
    host = {"os": system, "kernel": kernel, "gpus": ["L4"], "secure_boot": secure_boot}
    plan_ = planned(host, {"driver_source": "auto" if secure_boot else "distro"})["plan"]
    driver = plan_["driver"]
    assert (driver["source"], driver["signed"]) == ("distro", True)
    assert [name for name in driver["packages"] if name.startswith("linux-modules-nvidia-")] == [
        f"linux-modules-nvidia-{driver['branch']}-server-open-{flavour}"
    ]
    if secure_boot:
        assert plan_["secure_boot"]["method"] == "signed_modules"
        assert plan_["secure_boot"]["console_confirmation"] is False
    else:
        assert plan_["secure_boot"] is None


@pytest.mark.parametrize(
    ("system", "kernel", "source"),
    [
        ("ubuntu2404", "6.8.0-45-generic", "nvidia_repo"),
        ("ubuntu2404", "6.18.0-1-generic", "auto"),
        ("ubuntu2404", "6.8.0-1-rt", "auto"),
        ("debian12", None, "auto"),
        ("rhel9", None, "auto"),
    ],
)
def test_a_module_that_nobody_has_signed_needs_a_key_and_somebody_at_the_console(
    system: str, kernel: str | None, source: str
) -> None:
    answer = planned({"os": system, "kernel": kernel, "gpus": ["L4"], "secure_boot": True}, {"driver_source": source})
    assert answer["plan"]["driver"]["signed"] is False
    needed = answer["plan"]["secure_boot"]
    assert (needed["method"], needed["console_confirmation"]) == ("machine_owner_key", True)
    assert needed["because"]
    assert needed["source"]
    assert "a person confirms once at the console" in answer_text(answer)


def test_a_runfile_under_secure_boot_is_a_conflict() -> None:
    (found,) = conflicts({**UBUNTU, "gpus": ["L4"], "secure_boot": True}, {"driver_source": "runfile"})
    assert (found["id"], found["involves"]) == ("secure_boot", ["host.secure_boot", "request.driver_source"])


@pytest.mark.parametrize("kernel", ["6.8.0-1-rt", "6.18.0-1-generic"])
def test_a_kernel_for_which_ubuntu_has_no_modules_does_not_get_those_of_another(kernel: str) -> None:
    answer = ask({"os": "ubuntu2404", "kernel": kernel, "gpus": ["L4"]}, {"driver_source": "distro"})
    packages = answer["plan"]["driver"]["packages"] if answer["plan"] else []
    assert not any(name.startswith("linux-modules-nvidia-") for name in packages)


# --- wishes without effect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "request_"),
    [
        ({}, {}),
        ({**UBUNTU, "gpus": []}, {}),
        ({**UBUNTU, "gpus": ["L4"]}, {"profile": "cpu"}),
        ({**UBUNTU, "gpus": ["L4"]}, {"driver_source": "none"}),
    ],
)
@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"driver": "580"}, ["driver: 580 has no effect without a GPU"]),
        ({"driver": ">=570,<590"}, ["driver: >=570,<590 has no effect without a GPU"]),
        ({"cudnn": "9.10.2.21"}, ["cudnn: 9.10.2.21 has no effect without a CUDA toolkit beside it"]),
        ({"cuda_source": "redist"}, ["cuda_source: redist has no effect without a CUDA toolkit beside it"]),
        ({"cuda_toolkits": ["12.8", "auto", "13.0"]}, []),
        (
            {"driver": "580", "cudnn": "9.10.2.21", "cuda_toolkits": ["12.8"]},
            ["driver: 580 has no effect without a GPU"],
        ),
        ({"driver": "auto", "cudnn": "none", "cuda_toolkits": ["auto"]}, []),
        ({"cudnn": "auto", "cuda_toolkits": []}, []),
    ],
)
def test_a_wish_that_cannot_be_met_without_a_gpu_is_told_to_have_no_effect(
    host: dict[str, Any], request_: dict[str, Any], wish: dict[str, Any], told: list[str]
) -> None:
    warnings = planned(host, {**request_, **wish})["warnings"]
    assert [text for text in warnings if "has no effect" in text] == told


def test_a_cudnn_without_a_toolkit_is_told_to_have_no_effect() -> None:
    answer = planned({**UBUNTU, "gpus": ["L4"]}, {"cuda_toolkits": [], "cudnn": "9.10.2.21"})
    assert answer["plan"]["cudnn"] == []
    assert "cudnn: 9.10.2.21 has no effect without a CUDA toolkit beside it" in answer["warnings"]
    used = planned({**UBUNTU, "gpus": ["L4"]}, {"cuda_toolkits": ["12.8"], "cudnn": "9.10.2.21"})
    assert [row["version"] for row in used["plan"]["cudnn"]] == ["9.10.2.21"]
    assert not any("has no effect" in text for text in used["warnings"])


# --- digits that are none ----------------------------------------------------------------------------------------

#: ``isdigit()`` holds for the first three and ``int()`` trips over them; the others are numbers that are no digits.
ODD = ["²", "፩", "①", "½", "Ⅷ"]


def test_the_odd_digits_are_of_the_categories_that_tripped_it() -> None:
    assert {unicodedata.category(letter) for letter in ODD} == {"No", "Nl"}
    assert [letter.isdigit() for letter in ODD] == [True, True, True, False, False]


@pytest.mark.parametrize("letter", ODD)
@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("host: {driver: '580.?'}", "host.driver"),
        ("host: {driver: '?80.1.1'}", "host.driver"),
        ("host: {kernel: '6.?'}", "host.kernel"),
        ("host: {kernel: '?.8'}", "host.kernel"),
        ("host: {glibc: '2.?'}", "host.glibc"),
        ("host: {python: '3.?'}", "host.python"),
        ("host: {python: ['3.12', '3.1?']}", "host.python[1]"),
        ("host: {python: '?.1'}", "host.python"),
        ("host: {os: 'ubuntu?404'}", "host.os"),
        ("host: {os: 'debian1?'}", "host.os"),
        ("host: {os: {distribution: Ubuntu, version: '?4.04'}}", "host.os.version"),
        ("host: {gpus: ['10de:220?']}", "host.gpus[0]"),
        ("host: {gpus: ['RTX 309?']}", "host.gpus[0]"),
        ("host: {gpus: [{compute_capability: '8.?'}]}", "host.gpus[0].compute_capability"),
        ("host: {gpus: [{compute_capability: '?.6'}]}", "host.gpus[0].compute_capability"),
        ("request: {driver: '?'}", "request.driver"),
        ("request: {driver: '58?'}", "request.driver"),
        ("request: {driver: '?80.1'}", "request.driver"),
        ("request: {driver: '580.?'}", "request.driver"),
        ("request: {driver: '>=58?'}", "request.driver"),
        ("request: {cuda_toolkits: ['12.?']}", "request.cuda_toolkits[0]"),
        ("request: {cuda_toolkits: ['?']}", "request.cuda_toolkits[0]"),
        ("request: {cudnn: '9.?'}", "request.cudnn"),
        ("request: {environments: [{name: 'a?', frameworks: {jax: any}}]}", "request.environments[0].name"),
        (
            "request: {environments: [{name: a, python: '3.1?', frameworks: {jax: any}}]}",
            "request.environments[0].python",
        ),
        ("request: {environments: [{name: a, frameworks: {jax: '?'}}]}", "request.environments[0].frameworks.jax"),
        ("request: {environments: [{name: a, frameworks: {jax: '0.?'}}]}", "request.environments[0].frameworks.jax"),
        ("request: {environments: [{name: a, frameworks: {jax: '>=0.?'}}]}", "request.environments[0].frameworks.jax"),
        (
            "request: {environments: [{name: a, frameworks: {pytorch: {cuda: 'cu1?8'}}}]}",
            "request.environments[0].frameworks.pytorch.cuda",
        ),
    ],
)
def test_an_odd_digit_in_a_version_is_a_mistake_with_its_path(asked: Asked, said: str, path: str, letter: str) -> None:
    status, _, err = asked(said.replace("?", letter))
    assert status == 2
    assert {line.removeprefix("gpu_compat: ").split(": ")[0] for line in err.splitlines()} == {path}
    assert letter in err


@pytest.mark.parametrize("letter", [*ODD, "٣"])
def test_an_odd_digit_further_on_makes_a_system_that_is_not_known_or_counts_for_nothing(
    asked: Asked, letter: str
) -> None:
    status, out, _ = asked(f"host: {{gpus: [L4], os: {{distribution: Ubuntu, version: '24.0{letter}'}}}}")
    assert status == 0
    assert f"do not know Ubuntu 24.0{letter}" in " ".join(out.split())
    assert asked(f"host: {{gpus: [L4], os: ubuntu2404, kernel: '6.8.0-{letter}'}}")[0] == 0


@pytest.mark.parametrize("letter", [*ODD, "٣"])
def test_odd_digits_in_the_facts_of_a_host_are_no_fault(gpu_host: dict[str, Any], letter: str) -> None:
    found = {
        **gpu_host,
        "os": {"id": letter, "version": f"24.0{letter}", "name": letter},
        "kernel": f"6.8.0-{letter}",
    }
    answer = plan({"driver": "keep", "environments": [TORCH]}, host_from_facts(found), today=TODAY)
    assert (answer["status"], answer["plan"]["driver"]["version"]) == ("planned", "580.126.09")


def test_an_odd_digit_in_an_overlay_is_a_mistake(tmp_path: Path, asked: Asked) -> None:
    row = "{branch: '²', latest: '5²', status: lts, cuda: '²', open: true, proprietary: true, source: [me]}"
    file = tmp_path / "overlay.yml"
    file.write_text(f"drivers: {{branches: [{row}]}}", encoding="utf-8")
    status, _, err = asked("{}", ("plan", "-", "--overlay", str(file)))
    assert status == 2
    assert {f"drivers.branches[0].{key}" for key in ("branch", "latest", "cuda")} <= set(err.replace(": ", " ").split())


def test_the_tables_that_these_tests_rest_on_are_the_shipped_ones() -> None:
    rows = {row["id"]: row for row in shipped().rows("systems.systems")}
    assert (rows["ubuntu2404"]["kernel"], rows["ubuntu2404"]["kernel_hwe"]) == ("6.8", "6.17")
    assert [row["package"] for row in shipped().rows("cuda.forward_compatibility")] == ["cuda-compat-13-0"]


# --- what a newcomer stumbled over -------------------------------------------------------------------------------


def test_an_installed_driver_of_a_branch_with_new_features_stays() -> None:
    answer = planned({**UBUNTU, "gpus": ["RTX 4090"], "driver": "620.70.06", "kernel_module": "open"})
    assert answer["plan"]["driver"]["version"] == "620.70.06"
    assert not any("replaced" in text for text in answer["warnings"])


@pytest.mark.parametrize("installed", ["550.54.14", "470.256.02", "999.1"])
def test_that_an_installed_driver_is_to_be_replaced_is_said(installed: str) -> None:
    answer = planned({**UBUNTU, "gpus": ["RTX 4090"], "driver": installed})
    assert answer["plan"]["driver"]["version"] != installed
    assert (
        f"driver {installed} is installed and would be replaced; driver: keep asks for it to stay" in answer["warnings"]
    )


def test_the_module_stream_is_told() -> None:
    text = answer_text(planned({"os": "rhel9", "gpus": ["V100"]}))
    assert "module stream nvidia-driver:580-dkms" in " ".join(text.split())


@pytest.mark.parametrize("cuda", ["cu116", "cu117"])
def test_the_cudnn_of_old_wheels_is_judged_too(cuda: str) -> None:
    wish = {"environments": [{"name": "t", "frameworks": {"pytorch": {"version": "==1.13.1", "cuda": cuda}}}]}
    assert [row["id"] for row in conflicts({**UBUNTU, "gpus": ["RTX 4090"]}, wish)] == ["gpu_arch_vs_cudnn"]
    planned({**UBUNTU, "gpus": ["RTX 3090"]}, wish)


def test_an_environment_that_cannot_be_may_be_made_optional() -> None:
    wish = {"environments": [TORCH, {"name": "tf", "frameworks": {"tensorflow": "newest"}}]}
    host = {**UBUNTU, "gpus": ["RTX 5090"]}
    changes = [row["change"] for row in ask(host, wish)["alternatives"]]
    assert {"request.environments[1].optional": True} in changes
    wish["environments"][1]["optional"] = True
    assert [row["name"] for row in planned(host, wish)["plan"]["unavailable_environments"]] == ["tf"]
    alone = ask(host, {"environments": wish["environments"][1:]})
    assert alone["status"] == "planned" or not any("optional" in str(row["change"]) for row in alone["alternatives"])


def test_why_auto_finds_no_toolkit_is_said() -> None:
    answer = planned({"os": "ubuntu2204", "gpus": ["K80"]}, {"cuda_source": "nvidia_repo"})
    assert any("one named in cuda_toolkits may be newer" in text for text in answer["warnings"])
    assert planned({"os": "ubuntu2204", "gpus": ["K80"]}, {"cuda_toolkits": ["11.8"]})["plan"]["cuda_toolkits"]


def test_gpus_that_are_not_given_are_said_to_be_missing() -> None:
    assert any("host.gpus is not given" in text for text in planned({"os": "ubuntu2404"})["warnings"])
    assert not any("host.gpus" in text for text in planned({"os": "ubuntu2404", "gpus": []})["warnings"])


def test_boards_and_parts_of_gpus_are_named_as_such() -> None:
    assert "Jetson" in conflicts({"gpus": ["Jetson AGX Orin"]}, {})[0]["message"]
    with pytest.raises(CompatError, match="is a part of a GPU"):
        ask({"gpus": ["MIG 1g.10gb"]})


def test_an_overlay_file_may_be_written_as_in_an_inventory(asked: Asked, tmp_path: Path) -> None:
    card = {"name": "Our Card", "pci": ["10de:ffff"], "architecture": "Ada", "compute_capability": "8.9"}
    rows = {"gpus": {"products": [{**card, "class": "workstation", "source": ["lab"]}]}}
    (tmp_path / "own.yml").write_text(json.dumps({"gpulab_compat_overlay": rows}))
    status, out, _ = asked("host: {gpus: [Our Card]}", ("plan", "-", "--overlay", str(tmp_path / "own.yml")))
    assert status == 0
    assert "Our Card" in out


@pytest.mark.parametrize(
    ("pythons", "wish", "chosen"),
    [
        (["3.9", "3.12"], "newest", "3.12"),
        (["3.12", "3.13"], "newest", "3.12"),
        (["3.9", "3.12"], "==2.0.1", "3.9"),
        (["3.9"], "newest", "3.9"),
    ],
)
def test_an_old_python_of_the_system_holds_nothing_back(pythons: list[str], wish: str, chosen: str) -> None:
    host = {"os": "rocky9", "gpus": ["A100 PCIe 40GB"], "python": pythons}
    answer = planned(host, {"environments": [{"name": "t", "frameworks": {"pytorch": wish}}]})
    assert answer["plan"]["environments"][0]["python"] == chosen


def test_pins_that_clash_are_named_beside_what_another_machine_lacks() -> None:
    both = {"name": "both", "frameworks": {"pytorch": "newest", "tensorflow": ">=2.21"}}
    host = {"gpus": ["A100 PCIe 40GB"], "arch": "aarch64"}
    found = conflicts(host, {"environments": [both]})
    assert {row["id"] for row in found} == {"arch_vs_wheel", "environment_pins"}
    assert [row["id"] for row in conflicts({"gpus": host["gpus"]}, {"environments": [both]})] == ["environment_pins"]
