# SPDX-License-Identifier: Apache-2.0
"""``python -m gpu_compat``: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from gpu_compat.__main__ import main
from gpu_compat.conflicts import IDS
from gpu_compat.tables import shipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LIB = Path(__file__).resolve().parents[3] / "lib"
TORCH = {"name": "torch", "frameworks": {"pytorch": ">=2.5"}}
HOST = {"os": "ubuntu2404", "arch": "x86_64", "kernel": "6.8.0-45-generic", "gpus": ["GTX 1080 Ti"], "python": "3.12"}
PLANNED = {"host": HOST, "request": {"environments": [TORCH]}}
CONFLICT = {
    "host": HOST,
    "request": {"environments": [{"name": "torch", "frameworks": {"pytorch": {"version": "newest", "cuda": "cu130"}}}]},
}


class Ended(NamedTuple):
    """How a run ended, and what it said."""

    status: int
    out: str
    err: str


class Command:
    """The command line in this process; a question is given as standard input."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *words: str, said: Any = None) -> Ended:
        text = said if isinstance(said, str) else json.dumps(said)
        self.monkeypatch.setattr("sys.stdin", io.StringIO(text))
        status = main(words)
        return Ended(status, *self.capsys.readouterr())

    def answer(self, said: Any, *words: str) -> dict[str, Any]:
        """Return the one object that ``--json`` prints."""
        found: dict[str, Any] = json.loads(self("plan", "--json", *words, "-", said=said).out)
        return found


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def run(*words: str, said: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, as a person does."""
    given_in = said.encode() if isinstance(said, str) else said
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-m", "gpu_compat", *words],
        input=given_in,
        capture_output=True,
        env={**environment, "PYTHONPATH": str(LIB), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


# --- plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump, lambda said: json.dumps(said, indent="\t")])
def test_a_question_is_yaml_or_json_in_a_file_or_on_standard_input(
    tmp_path: Path, command: Command, write: Any
) -> None:
    file = tmp_path / "host.yml"
    file.write_text(write(PLANNED))
    from_file, from_input = command("plan", str(file)), command("plan", "-", said=write(PLANNED))
    assert from_file == from_input
    assert (from_file.status, from_file.err) == (0, "")


def test_text_names_what_is_planned_and_why(command: Command) -> None:
    ended = command("plan", "-", said=PLANNED)
    driver = command.answer(PLANNED)["plan"]["driver"]["version"]
    first, *rest = ended.out.splitlines()
    assert first == f"planned (tables of {shipped().as_of})"
    assert any("driver" in line and driver in line and "proprietary" in line for line in rest)
    assert any("environment torch" in line and "(cu126)" in line for line in rest)
    assert "why" in rest
    assert any("is not driven by any branch after 580" in line for line in rest)


def test_text_names_the_conflict_and_what_would_make_it_possible(command: Command) -> None:
    ended = command("plan", "-", said=CONFLICT)
    assert (ended.status, ended.err) == (1, "")
    assert ended.out.startswith("conflict ")
    for part in ("gpu_arch_vs_torch_wheel", "host.gpus[0]", "source: ", "what would make it possible", "cuda: cu126"):
        assert part in ended.out


TOP = ["status", "data_as_of", "plan", "reasons", "conflicts", "alternatives", "warnings"]


@pytest.mark.parametrize(("said", "status"), [(PLANNED, 0), (CONFLICT, 1)])
def test_json_is_one_object_with_the_keys_of_an_answer(command: Command, said: Any, status: int) -> None:
    ended = command("plan", "--json", "-", said=said)
    assert (ended.status, ended.err) == (status, "")
    answer = json.loads(ended.out)
    assert list(answer) == TOP
    assert answer["status"] == ("planned", "conflict")[status]
    assert answer["data_as_of"] == shipped().as_of
    assert all(set(row) == {"about", "choice", "because", "source"} for row in answer["reasons"])
    assert all(isinstance(value, str) for row in answer["reasons"] for value in row.values())
    assert all(isinstance(text, str) for text in answer["warnings"])


def test_a_conflict_says_what_is_involved_why_and_what_else_there_is(command: Command) -> None:
    answer = command.answer(CONFLICT)
    assert answer["plan"] is None
    (conflict,) = answer["conflicts"]
    assert list(conflict) == ["id", "message", "involves", "because", "source"]
    assert conflict["id"] in IDS
    assert conflict["involves"] == ["host.gpus[0]", "request.environments[0].frameworks.pytorch"]
    assert conflict["because"]
    assert answer["alternatives"]
    for change in answer["alternatives"]:
        assert list(change) == ["change", "gives"]
        assert all(path.startswith("request.") for path in change["change"])
        assert isinstance(change["gives"], str)


def types(row: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in row.items()}


def test_every_key_of_a_plan_is_there_with_its_type(command: Command) -> None:
    plan = command.answer(PLANNED)["plan"]
    driver = {"version": str, "branch": str, "kernel_module": str, "source": str, "packages": list, "hold": list}
    assert driver.items() <= types(plan["driver"]).items()
    assert plan["driver"]["version"].startswith(f"{plan['driver']['branch']}.")
    assert plan["driver"]["kernel_module"] == "proprietary"
    (toolkit,), (cudnn,), (environment,) = plan["cuda_toolkits"], plan["cudnn"], plan["environments"]
    assert {"version": str, "packages": list, "default": bool}.items() <= types(toolkit).items()
    assert {"version": str, "cuda_major": int, "packages": list}.items() <= types(cudnn).items()
    wanted = {"name": str, "python": str, "cuda_major": int, "frameworks": dict, "requirements": list}
    assert (wanted | {"constraints": list}).items() <= types(environment).items()
    torch = environment["frameworks"]["pytorch"]
    wanted = {"version": str, "wheel": str, "cuda": str, "cudnn": str, "index": str, "sm": list}
    assert wanted.items() <= types(torch).items()
    assert "6.0" in torch["sm"] or "6.1" in torch["sm"]
    assert environment["requirements"] == [f"torch=={torch['version']}"]
    assert (environment["name"], environment["python"], environment["cuda_major"]) == ("torch", "3.12", 12)
    for key in ("fabric_manager", "cuda_compat_package", "secure_boot"):
        assert plan[key] is None


def test_what_only_some_hosts_need_is_there_where_they_do(command: Command) -> None:
    switched = {**HOST, "gpus": ["H100 SXM5 80GB"], "nvswitch": True, "secure_boot": True}
    plan = command.answer({"host": switched})["plan"]
    wanted = {"package": str, "version": str, "extra_packages": list}
    assert types(plan["fabric_manager"]) == wanted
    assert plan["fabric_manager"]["version"] == plan["driver"]["version"]
    assert plan["secure_boot"]["method"] in ("signed_modules", "machine_owner_key")
    kept = {"os": "ubuntu2204", "gpus": ["A100 SXM4 80GB"], "driver": "535.183.01", "kernel_module": "open"}
    environment = {"name": "torch", "frameworks": {"pytorch": {"version": "newest", "cuda": "cu130"}}}
    request = {"driver": "keep", "cuda_toolkits": ["13.0"], "environments": [environment]}
    plan = command.answer({"host": kept, "request": request})["plan"]
    assert plan["cuda_compat_package"] == "cuda-compat-13-0"


def test_a_host_without_gpus_gets_builds_for_the_processor(command: Command) -> None:
    plan = command.answer({"host": {**HOST, "gpus": []}})["plan"]
    assert (plan["driver"], plan["cuda_toolkits"], plan["cudnn"]) == (None, [], [])
    torch = plan["environments"][0]["frameworks"]["pytorch"]
    assert torch["wheel"] == "cpu"
    assert not {"cuda", "cudnn", "sm"} & set(torch)


@pytest.mark.parametrize("said", ["", "{}", "host: {}", "request: {}", "host:\nrequest:\n", "# nothing\n"])
def test_every_key_may_be_left_out(command: Command, said: str) -> None:
    answer = command.answer(said)
    (environment,) = answer["plan"]["environments"]
    assert list(environment["frameworks"]) == ["pytorch"]


def test_the_same_question_gives_the_same_answer(command: Command) -> None:
    assert command("plan", "--json", "-", said=PLANNED) == command("plan", "--json", "-", said=PLANNED)


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_and_nothing_else(command: Command) -> None:
    said = """
        host: {os: ubunut2404, gpus: [GTX 1080 Tii, 4], python: 3.10, arch: arm64, secure_boot: "no"}
        request: {driver: 580, environment: [], environments: [{name: A}, {name: b, frameworks: {torch: newest}}]}
        hots: 1
    """
    ended = command("plan", "--json", "-", said=said)
    assert (ended.status, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert all(line.startswith("gpu_compat: ") for line in lines)
    expected = {
        "hots": "did you mean 'host'?",
        "host.os": "did you mean 'ubuntu2404'?",
        "host.arch": "did you mean 'aarch64'?",
        "host.gpus[0]": "did you mean 'GeForce GTX 1080 Ti'?",
        "host.gpus[1]": "in quotes",
        "host.python": "in quotes",
        "host.secure_boot": "without quotes",
        "request.driver": "in quotes",
        "request.environment": "did you mean 'environments'?",
        "request.environments[0].name": "lower-case letters",
        "request.environments[0]": "'frameworks' is missing",
        "request.environments[1].frameworks.torch": "did you mean 'pytorch'?",
    }
    told = dict(line.removeprefix("gpu_compat: ").split(": ", 1) for line in lines)
    assert set(told) == set(expected)
    assert {path: message for path, message in told.items() if expected[path] not in message} == {}


@pytest.mark.parametrize("said", ["[]", "3", "plan me", "true", "- host: {}"])
def test_a_question_that_is_no_mapping_is_refused(command: Command, said: str) -> None:
    ended = command("plan", "-", said=said)
    assert (ended.status, ended.out) == (2, "")
    assert "must be a mapping with the keys host and request" in ended.err


@pytest.mark.parametrize(
    ("said", "line", "column"),
    [("host: {}\na: b: c\n", 2, 5), ("host:\n  gpus: [a\n", 3, 1), ("\n\n\t@", 3, 1), ('{"host": }\n}', 2, 1)],
)
def test_what_is_no_yaml_is_refused_with_line_and_column(
    tmp_path: Path, command: Command, said: str, line: int, column: int
) -> None:
    file = tmp_path / "host.yml"
    file.write_text(said)
    ended = command("plan", str(file))
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"gpu_compat: {file}:{line}:{column}: ")
    assert command("plan", "-", said=said).err.startswith(f"gpu_compat: standard input:{line}:{column}: ")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, command: Command) -> None:
    (tmp_path / "latin1.yml").write_bytes("host: {os: übuntu}".encode("latin-1"))
    for name, reason in (
        ("missing.yml", "No such file or directory"),
        ("", "Is a directory"),
        ("latin1.yml", "is not text in UTF-8"),
    ):
        path = tmp_path / name
        ended = command("plan", str(path))
        assert (ended.status, ended.out) == (2, "")
        assert f"gpu_compat: {path}: " in ended.err
        assert reason in ended.err


@pytest.mark.parametrize("words", [[], ["plan"], ["plam", "-"], ["plan", "-", "--jsn"], ["explain"], ["matrix", "x"]])
def test_words_that_are_no_command_end_with_2(command: Command, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*words)
    assert ended.value.code == 2


# --- explain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ("driver", ["driver"]),
        ("cuda_toolkits[0]", ["cuda_toolkits[0]", "cuda_toolkits[0].source"]),
        ("environments.torch.pytorch", ["environments.torch.pytorch"]),
        ("environments.torch", ["environments.torch.python", "environments.torch.pytorch"]),
    ],
)
def test_explain_says_why_and_from_which_source(command: Command, about: str, told: list[str]) -> None:
    ended = command("explain", "-", about, said=PLANNED)
    assert (ended.status, ended.err) == (0, "")
    assert [line.split(": ")[0] for line in ended.out.splitlines() if line[0] != " "] == told
    assert ended.out.count("    because ") == ended.out.count("    source: ") == len(told)


def test_explain_alone_says_everything(command: Command) -> None:
    ended = command("explain", "-", said=PLANNED)
    told = [line.split(": ")[0] for line in ended.out.splitlines() if line[0] != " "]
    assert told == [row["about"] for row in command.answer(PLANNED)["reasons"]]


@pytest.mark.parametrize("about", ["drivers", "environments.tf", "environments.torch.", "host"])
def test_explain_names_what_there_is_to_explain(command: Command, about: str) -> None:
    ended = command("explain", "-", about, said=PLANNED)
    assert (ended.status, ended.out) == (2, "")
    assert f"there is nothing about '{about}'; there is profile, driver, " in ended.err


def test_explain_of_a_conflict_says_the_conflict(command: Command) -> None:
    ended = command("explain", "-", "driver", said=CONFLICT)
    assert ended == command("plan", "-", said=CONFLICT)


@pytest.mark.parametrize(
    ("want", "told"),
    [
        ("driver=580", "580."),
        ("request.driver=>=570,<580", "575."),
        ("cudnn=none", "environment torch"),
        ("cuda_toolkits=[]", "environment torch"),
        ("cuda_toolkits=['12.6']", "cuda-toolkit-12-6"),
        ("environments[0].frameworks.pytorch===2.6.0", "pytorch 2.6.0"),
        ("environments[0].frameworks.pytorch={version: newest, cuda: cu118}", "(cu118)"),
        ("environments[0].python=3.11", "Python 3.11"),
        ("environments[1]={name: jax, frameworks: {jax: newest}}", "environment jax"),
        ("host.gpus[0]=K80", "470."),
        ("host.python=null", "Python 3."),
    ],
)
def test_wanting_something_possible_plans_it(command: Command, want: str, told: str) -> None:
    said = {"host": {**HOST, "python": ["3.10", "3.11", "3.12"]}, "request": {"environments": [TORCH]}}
    if "K80" in want:
        said["request"] = {"cuda_toolkits": [], "environments": [{"name": "torch", "frameworks": {"pytorch": "any"}}]}
    ended = command("explain", "-", "--want", want, said=said)
    assert (ended.status, ended.err) == (0, ""), ended.out
    assert told in ended.out


@pytest.mark.parametrize(
    ("want", "conflict"),
    [
        ("driver=595", "gpu_arch_vs_driver"),
        ("kernel_module=open", "module_flavor"),
        ("cuda_toolkits=['13.0']", "gpu_arch_vs_cuda_max"),
        ("environments[0].frameworks.pytorch=>=2.15", "gpu_arch_vs_torch_wheel"),
        ("host.gpus[1]=RTX 5090", "mixed_gpus_no_common_driver"),
        ("host.gpus[0]=MI300X", "unsupported_vendor"),
        ("host.gpus[0]=10de:ffff", "unknown_gpu"),
    ],
)
def test_wanting_something_impossible_says_what_it_takes(command: Command, want: str, conflict: str) -> None:
    ended = command("explain", "-", "--want", want, said=PLANNED)
    assert (ended.status, ended.err) == (1, "")
    assert f"conflict {conflict}: " in ended.out
    assert "between: host.gpus[0]" in ended.out


def test_several_wants_hold_together(command: Command) -> None:
    wants = ["--want", "host.gpus[0]=RTX 5090", "--want", "driver=570", "--want", "environments[0].python=3.12"]
    ended = command("explain", "-", *wants, said=PLANNED)
    assert ended.status == 0
    assert "driver             570." in ended.out


@pytest.mark.parametrize(
    ("want", "told"),
    [
        ("driver", "--want: 'driver' must be PATH=VALUE"),
        ("environments[7].python=3.12", "environments[7].python: there is no entry [7]"),
        ("environments.torch=3", "'torch' cannot be set in a list"),
        ("driver=", "request.driver: must be"),
        ("drivr=580", "request.drivr: unknown key; did you mean 'driver'?"),
        ("host.gpus[0]=GTX 1080 Tii", "host.gpus[0]: no GPU called"),
        ("kernel_module=opn", "request.kernel_module: 'opn' is not known"),
    ],
)
def test_a_want_that_cannot_be_read_is_a_mistake(command: Command, want: str, told: str) -> None:
    ended = command("explain", "-", "--want", want, said=PLANNED)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err


# --- matrix, conflicts, check ------------------------------------------------------------------------------------


def test_matrix_has_a_line_for_each_capability_newest_first(command: Command) -> None:
    ended = command("matrix")
    assert (ended.status, ended.err) == (0, "")
    head, rule, *rows = ended.out.splitlines()
    assert head.split()[:2] == ["Capability", "Architecture"]
    assert set(rule) == {"-", " "}
    shown = [tuple(map(int, row.split()[0].split("."))) for row in rows]
    assert shown == sorted(set(shown), reverse=True)
    assert {(12, 0), (7, 0), (3, 7)} <= set(shown)
    assert (8, 7) not in shown, "a Jetson is no GPU of these tables"


def test_matrix_of_one_gpu_is_what_is_planned_for_it(command: Command) -> None:
    ended = command("matrix", "--gpu", "GTX 1080 Ti", "--gpu", "10de:ffff", "--gpu", "MI300X")
    assert (ended.status, ended.err) == (0, "")
    _, _, gtx, unknown, other = ended.out.splitlines()
    plan = command.answer({"host": {"gpus": ["GTX 1080 Ti"]}})["plan"]
    for part in ("6.1", plan["driver"]["version"], "8.0 to 12.9", plan["cudnn"][0]["version"], "2.14.1 (cu126"):
        assert part in gtx
    assert "not in the tables" in unknown
    assert "AMD" in other


def test_matrix_of_a_gpu_that_is_not_known_is_a_mistake(command: Command) -> None:
    ended = command("matrix", "--gpu", "GTX 1080 Tii")
    assert (ended.status, ended.out) == (2, "")
    assert "--gpu: no GPU called 'GTX 1080 Tii'" in ended.err
    assert "did you mean 'GeForce GTX 1080 Ti'?" in ended.err


def test_matrix_as_markdown_is_a_page_with_the_same_rows(command: Command) -> None:
    text, page = command("matrix").out.splitlines(), command("matrix", "--markdown").out
    assert page.startswith("# ")
    assert page.endswith("|\n")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == len(text) - 1
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {rows[0].count("|")}
    assert [row.split("|")[1].strip() for row in rows] == [text[0].split()[0], *(row.split()[0] for row in text[2:])]


def test_conflicts_lists_every_id_with_its_meaning(command: Command) -> None:
    ended = command("conflicts")
    assert (ended.status, ended.err) == (0, "")
    assert dict(line.split(None, 1) for line in ended.out.splitlines()) == IDS


def test_check_says_that_the_tables_are_right(command: Command) -> None:
    ended = command("check")
    assert (ended.status, ended.err) == (0, "")
    assert "are right" in ended.out


# --- overlay -----------------------------------------------------------------------------------------------------

NEW_GPU = {
    "name": "GeForce RTX 7090",
    "pci": ["10de:ffff"],
    "architecture": "Ampere",
    "compute_capability": "8.6",
    "class": "geforce",
    "source": ["the lab"],
}


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    file = tmp_path / "overlay.yml"
    file.write_text(yaml.safe_dump({"gpus": {"products": [NEW_GPU]}}))
    return file


def test_an_overlay_makes_a_new_product_plannable(command: Command, overlay: Path) -> None:
    said = {"host": {"os": "ubuntu2404", "gpus": ["10de:ffff"]}}
    without, with_it = command.answer(said), command.answer(said, "--overlay", str(overlay))
    assert [row["id"] for row in without["conflicts"]] == ["unknown_gpu"]
    assert with_it["status"] == "planned"
    by_name = {"host": {"os": "ubuntu2404", "gpus": ["RTX 7090"]}}
    assert command.answer(by_name, "--overlay", str(overlay))["plan"] == with_it["plan"]
    assert "8.6" in command("matrix", "--overlay", str(overlay), "--gpu", "RTX 7090").out.splitlines()[2]
    assert command("explain", "--overlay", str(overlay), "-", "driver", said=said).status == 0
    assert command("check", "--overlay", str(overlay)).status == 0
    assert command.answer(said) == without, "an overlay leaves nothing behind"


@pytest.mark.parametrize("words", [["plan", "-"], ["explain", "-"], ["matrix"], ["check"]])
def test_an_overlay_with_mistakes_is_refused_with_all_of_them(
    tmp_path: Path, command: Command, words: list[str]
) -> None:
    bad = {**NEW_GPU, "pci": ["10de:fff"], "compute_capability": 8.6}
    file = tmp_path / "overlay.yml"
    file.write_text(yaml.safe_dump({"gpus": {"products": [bad]}, "gpu": {}}))
    ended = command(*words, "--overlay", str(file), said={})
    assert ended.status == 2
    told = ended.out + ended.err
    assert len(told.splitlines()) == 3
    for path in ("gpus.products[0].pci[0]", "gpus.products[0].compute_capability", "gpu: unknown key"):
        assert path in told


@pytest.mark.parametrize("content", [None, "- a\n", "a: [\n", "just words\n"])
def test_an_overlay_that_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, command: Command, content: str | None
) -> None:
    file = tmp_path / "overlay.yml"
    if content is not None:
        file.write_text(content)
    ended = command("plan", "--overlay", str(file), "-", said={})
    assert (ended.status, ended.out) == (2, "")
    assert str(file) in ended.err


# --- as a process ------------------------------------------------------------------------------------------------


def test_exit_status_and_streams_of_a_process() -> None:
    planned, conflict, mistaken = (
        run("plan", "-", said=json.dumps(PLANNED)),
        run("plan", "--json", "-", said=json.dumps(CONFLICT)),
        run("plan", "-", said="host: {os: x}"),
    )
    assert (planned.returncode, planned.stderr) == (0, b"")
    assert (conflict.returncode, conflict.stderr) == (1, b"")
    assert json.loads(conflict.stdout)["status"] == "conflict"
    assert (mistaken.returncode, mistaken.stdout) == (2, b"")
    assert mistaken.stderr.startswith(b"gpu_compat: host.os: ")


def test_standard_input_that_is_not_text_ends_with_2() -> None:
    ended = run("plan", "-", said=b"host: \xff\xfe\x80")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"gpu_compat: standard input: ")
    assert b"Traceback" not in ended.stderr


def test_help_shows_a_question_that_can_be_planned(command: Command) -> None:
    ended = run("plan", "--help")
    assert ended.returncode == 0
    example = ended.stdout.decode().partition("every key may be left out:\n")[2]
    assert command("plan", "-", said=example).status == 0


# --- anything ----------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-9, 9999), st.floats(), _TEXT, st.dates())
_LIKELY = st.sampled_from(
    ["host", "request", "gpus", "environments", "frameworks", "pytorch", "L4", "3.12", "newest", "auto", "keep", "580"]
)
_VALUE = st.recursive(
    st.one_of(_SCALAR, _LIKELY),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(_SCALAR, _LIKELY), inner)),
    max_leaves=12,
)
_QUESTION = st.fixed_dictionaries({}, optional={"host": _VALUE, "request": _VALUE})
_WELL_NESTED = st.fixed_dictionaries(
    {},
    optional={
        "host": st.dictionaries(st.sampled_from(["os", "arch", "kernel", "gpus", "python", "driver"]), _VALUE),
        "request": st.fixed_dictionaries(
            {"environments": st.lists(st.fixed_dictionaries({"name": _VALUE, "frameworks": _VALUE}), max_size=2)},
            optional={"driver": _VALUE, "cuda_toolkits": _VALUE, "cudnn": _VALUE},
        ),
    },
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.one_of(
        st.one_of(_QUESTION, _WELL_NESTED, _VALUE).map(lambda said: yaml.safe_dump(said).encode()),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode),
        st.text(st.sampled_from("{}[]:-,&*?|>%@\"' \n\tahost"), max_size=60).map(str.encode),
        st.binary(max_size=60),
    )
)
def test_no_input_file_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, command: Command, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yml"
    file.write_bytes(content)
    ended = command("plan", "--json", str(file))
    assert ended.status in (0, 1, 2)
    assert bool(ended.out) == (ended.status < 2)
    assert bool(ended.err) == (ended.status == 2)
