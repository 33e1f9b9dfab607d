# SPDX-License-Identifier: Apache-2.0
"""The role's own lists agree with each other, and its module writes what it should."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pwd
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import lock
import pytest
import settings as settings_module
import textfile
import yaml
from validation_lab import PROGRAMS, ROLE

TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
PROGRAM_FILES = {
    "validate.py": "print('validate')\n",
    "gates.py": "print('gates')\n",
    "jobs/mnist_pytorch.py": "print('é')\n",
    "vendor/pynvml.py": "",
}
#: Variables that only the role's tasks read.
ROLE_ONLY = {"validation_results_dir", "validation_timer", "validation_timer_on_calendar", "validation_timer_delay"}
ROLE_ONLY |= {f"validation_multinode_{name}" for name in ("address", "port", "interface", "timeout")}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROLE / name).read_text())
    return content


def test_every_variable_is_known_and_reaches_the_validator() -> None:
    defaults, variables = read("defaults/main.yml"), read("vars/main.yml")
    assert sorted(variables["__validation_known_variables"]) == sorted([*defaults, "validation_verdict"])
    assert set(variables["__validation_config"]) == set(settings_module.DEFAULTS)
    passed_on = {f"validation_{name}" for name in settings_module.DEFAULTS if name != "host"}
    assert set(defaults) - passed_on == ROLE_ONLY
    assert passed_on <= set(defaults)


def test_defaults_of_role_and_validator_agree() -> None:
    for name, value in read("defaults/main.yml").items():
        key = name.removeprefix("validation_")
        if key in settings_module.DEFAULTS and key not in ("base_dir", "mnist_mirrors"):
            assert settings_module.DEFAULTS[key] == value, name


def test_what_is_expected_of_a_host_has_the_same_keys_for_role_and_validator() -> None:
    options = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(options["validation_expected"]["options"]) == set(settings_module.EXPECTED)
    assert set(options["validation_diagnostics"]["choices"]) == set(settings_module.DIAGNOSTICS)
    for name, choices in settings_module.CHOICES.items():
        assert set(options[f"validation_{name}"]["choices"]) == set(choices), name


def test_the_table_is_whole() -> None:
    for name, dataset in TABLE["datasets"].items():
        assert 0.9 <= dataset["accuracy_min"] < 1, name
        assert dataset["accuracy_source"]
        assert dataset["files_source"]
        assert len(dataset["files"]) == 4
        for entry in dataset["files"].values():
            assert isinstance(entry["size"], int)
            assert set(entry["sha256"]) <= set("0123456789abcdef")
            assert len(entry["sha256"]) == 64


class Exit(Exception):
    """What a module answers."""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("validation_programs", ROLE / "library" / "validation_programs.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "UNITS", str(tmp_path / "units"))
    monkeypatch.setattr(loaded, "SYSTEMD", str(tmp_path / "no systemd"))
    return loaded


def digests(contents: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}


@pytest.fixture
def ask(module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs the module once and returns its answer."""

    def run(check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        params = {"base_dir": str(tmp_path / "base"), "config": {"user": ""}, "digests": digests(PROGRAM_FILES)}
        params = {**params, "contents": {}, "mnist": {}, "units": {}, **changes}

        class Fake:
            def __init__(self, argument_spec: dict[str, Any], no_log: bool, **_: Any) -> None:
                assert set(argument_spec) == set(params)
                assert no_log  # programs do not belong in the system's log
                self.params, self.check_mode = params, check_mode

            def exit_json(self, **answer: Any) -> None:
                raise Exit(answer)

            def fail_json(self, **answer: Any) -> None:
                raise Exit({"failed": True, **answer})

        monkeypatch.setattr(module, "AnsibleModule", Fake)
        with pytest.raises(Exit) as stop:
            module.main()
        answer: dict[str, Any] = stop.value.args[0]
        return answer

    return run


@pytest.fixture
def call(ask: Any) -> Any:
    """Return a function that does what the action plugin does: ask, and hand over what is wanted."""

    def both(contents: dict[str, str] = PROGRAM_FILES, **changes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = ask(digests=digests(contents), **changes)
        if answer.get("wanted") and not changes.get("check_mode"):
            wanted = {name: contents[name] for name in answer["wanted"]}
            answer = ask(digests=digests(contents), contents=wanted, **changes)
            assert answer.get("failed") or answer["wanted"] == []
        return answer

    return both


def below(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_programs_are_written_once(call: Any, ask: Any, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        assert call()["changed"] is True
    finally:
        os.umask(old)
    programs = tmp_path / "base" / "validation" / "programs"
    assert below(programs) == PROGRAM_FILES
    assert {path.stat().st_mode & 0o777 for path in programs.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in [programs, programs / "jobs", tmp_path / "base"]} == {0o755}
    again = ask()
    assert (again["changed"], again["written"], again["wanted"]) == (False, [], [])


def test_nothing_is_written_before_the_content_is_there(ask: Any, tmp_path: Path) -> None:
    answer = ask()
    assert answer["wanted"] == sorted(PROGRAM_FILES)
    assert answer["changed"] is True
    assert not (tmp_path / "base").exists()
    half = ask(contents={"validate.py": PROGRAM_FILES["validate.py"]})
    assert half["wanted"] == sorted(set(PROGRAM_FILES) - {"validate.py"})
    assert not (tmp_path / "base").exists()


def test_check_mode_writes_nothing(ask: Any, tmp_path: Path) -> None:
    for contents in ({}, PROGRAM_FILES):
        answer = ask(check_mode=True, contents=contents, config={"user": "", "textfile_dir": str(tmp_path / "metrics")})
        assert answer["changed"] is True
        assert "programs/validate.py" in answer["written"]
        assert [path.name for path in tmp_path.iterdir()] == []


def test_only_what_differs_is_asked_for_and_old_programs_go(call: Any, ask: Any, tmp_path: Path) -> None:
    call()
    programs = tmp_path / "base" / "validation" / "programs"
    (programs / "jobs" / "mnist_theano.py").write_text("old")
    (programs / "validate.py").write_bytes(b"\xff damaged")
    (programs / "gates.py").chmod(0o666)
    untouched = (programs / "jobs" / "mnist_pytorch.py").stat().st_mtime_ns
    assert ask()["wanted"] == ["gates.py", "validate.py"]
    answer = call(config={"user": "", "job_epochs": 3})
    assert sorted(answer["written"]) == [
        "config.json", "programs/gates.py", "programs/jobs/mnist_theano.py", "programs/validate.py",
    ]  # fmt: skip
    assert below(programs) == PROGRAM_FILES
    assert (programs / "gates.py").stat().st_mode & 0o777 == 0o644
    assert (programs / "jobs" / "mnist_pytorch.py").stat().st_mtime_ns == untouched
    assert json.loads((programs.parent / "config.json").read_text()) == {"user": "", "job_epochs": 3}


def test_other_settings_need_no_second_call(call: Any, ask: Any, tmp_path: Path) -> None:
    call()
    answer = ask(config={"user": "", "profile": "gpu"})
    assert (answer["written"], answer["wanted"]) == (["config.json"], [])
    assert json.loads((tmp_path / "base" / "validation" / "config.json").read_text())["profile"] == "gpu"


def test_programs_do_not_change_under_a_validation_that_runs(
    call: Any, ask: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call()
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.5)
    with lock.held(str(tmp_path / "base" / "validation")):
        assert ask()["changed"] is False  # nothing to write: nothing to wait for
        refused = ask(config={"user": "", "seed": 8})
    assert refused["failed"] is True
    assert f"pid {os.getpid()} since" in refused["msg"]
    assert json.loads((tmp_path / "base" / "validation" / "config.json").read_text()) == {"user": ""}
    assert ask(config={"user": "", "seed": 8})["changed"] is True


def test_a_directory_that_cannot_be_written(call: Any, tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file where the directory should be")
    answer = call()
    assert answer["failed"] is True
    assert str(tmp_path / "base") in answer["msg"]


def test_the_user_is_missing_only_where_one_can_be_made(
    call: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, nobody = pwd.getpwuid(os.geteuid()).pw_name, "no-such-user-here"
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    assert [call(config={"user": name})["user_missing"] for name in ("", me, nobody)] == [False, False, True]
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    assert call(config={"user": nobody})["user_missing"] is False


def test_what_the_cache_lacks(call: Any, tmp_path: Path) -> None:
    table = {f"{number}.gz": hashlib.sha256(f"content {number}".encode()).hexdigest() for number in range(3)}
    assert call(mnist=table)["mnist_missing"] == ["0.gz", "1.gz", "2.gz"]
    cache = tmp_path / "base" / "cache" / "mnist"
    cache.mkdir(parents=True)
    (cache / "0.gz").write_text("content 0")
    (cache / "1.gz").write_text("damaged 1")
    assert call(mnist=table)["mnist_missing"] == ["1.gz", "2.gz"]


def test_metrics_have_a_directory_and_old_ones_do_not_stay(call: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert str(first) in call(config={"user": "", "textfile_dir": str(first)})["written"]
    assert first.stat().st_mode & 0o777 == 0o755
    (first / textfile.NAME).write_text("gpulab_validation_status 1\n")
    (first / "other.prom").write_text("of somebody else\n")
    assert call(config={"user": "", "textfile_dir": str(first)})["changed"] is False
    call(config={"user": "", "textfile_dir": str(second)})
    assert sorted(path.name for path in first.iterdir()) == ["other.prom"]
    assert second.is_dir()
    (second / textfile.NAME).write_text("gpulab_validation_status 1\n")
    assert str(second / textfile.NAME) in call(config={"user": ""})["written"]
    assert list(second.iterdir()) == []


def test_metrics_that_have_no_place_are_told(call: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = call(config={"user": "", "textfile_dir": str(tmp_path / "file" / "metrics")})
    assert answer["failed"] is True
    assert answer["msg"].startswith("the directory of the metrics cannot be set up in ")


UNITS = {"gpulab-validation.service": "[Service]\n", "gpulab-validation.timer": "[Timer]\n"}


@pytest.fixture
def systemd(module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bool]:
    """A host that systemd runs, and what it answers about the timer."""
    says = {"is-enabled": True, "is-active": True}
    (tmp_path / "systemd").mkdir()
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(module, "SYSTEMD", str(tmp_path / "systemd"))
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "timer_says", lambda question: says[question])
    return says


def test_the_timer_is_set_up_kept_and_removed(call: Any, systemd: dict[str, bool], tmp_path: Path) -> None:
    nothing = {"possible": True, "write": [], "remove": [], "start": False}
    assert call()["timer"] == nothing
    systemd["is-enabled"] = systemd["is-active"] = False
    assert call(units=UNITS)["timer"] == {**nothing, "write": sorted(UNITS), "start": True}
    for name, text in UNITS.items():
        (tmp_path / "units" / name).write_text(text)
    assert call(units=UNITS)["timer"] == {**nothing, "start": True}
    systemd["is-enabled"] = True
    assert call(units=UNITS)["timer"] == {**nothing, "start": True}
    systemd["is-active"] = True
    assert call(units=UNITS)["timer"] == nothing
    (tmp_path / "units" / "gpulab-validation.timer").write_bytes(b"\xff")
    assert call(units=UNITS)["timer"] == {**nothing, "write": ["gpulab-validation.timer"]}
    assert call()["timer"] == {**nothing, "remove": sorted(UNITS)}


def test_without_root_or_systemd_there_is_no_timer(
    call: Any, module: ModuleType, systemd: dict[str, bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "units" / "gpulab-validation.timer").write_text("of root\n")
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    assert call()["timer"] == {"possible": False, "write": [], "remove": [], "start": False}
    assert call(units=UNITS)["timer"]["possible"] is False
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "SYSTEMD", str(tmp_path / "none"))
    assert call(units=UNITS)["timer"]["possible"] is False


def test_a_systemctl_that_is_missing_or_hangs_says_no(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("systemctl", 1)

    monkeypatch.setattr(module.subprocess, "run", hangs)
    assert module.timer_says("is-active") is False
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert module.timer_says("is-active") is False


def test_the_names_that_two_files_write_are_the_same(module: ModuleType) -> None:
    assert module.METRICS == textfile.NAME
    templates = {path.name.removesuffix(".j2") for path in (ROLE / "templates").iterdir()}
    assert templates == set(read("vars/main.yml")["__validation_timer_units"]) == {module.SERVICE, module.TIMER}
