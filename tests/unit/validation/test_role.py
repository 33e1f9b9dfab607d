# SPDX-License-Identifier: Apache-2.0
"""The role's own lists agree with each other, and its module writes what it should."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pwd
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import settings as settings_module
import yaml
from validation_lab import PROGRAMS, ROLE

TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
PROGRAM_FILES = {
    str(path.relative_to(PROGRAMS)): path.read_text() for path in PROGRAMS.rglob("*") if path.suffix in (".py", ".json")
}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROLE / name).read_text())
    return content


def test_every_variable_is_known_and_reaches_the_validator() -> None:
    defaults, variables = read("defaults/main.yml"), read("vars/main.yml")
    assert sorted(variables["__validation_known_variables"]) == sorted([*defaults, "validation_verdict"])
    assert set(variables["__validation_config"]) == set(settings_module.DEFAULTS)
    passed_on = {f"validation_{name}" for name in settings_module.DEFAULTS if name != "host"}
    assert set(defaults) - passed_on == {"validation_results_dir"}


def test_defaults_of_role_and_validator_agree() -> None:
    for name, value in read("defaults/main.yml").items():
        key = name.removeprefix("validation_")
        if key in settings_module.DEFAULTS and key not in ("base_dir", "mnist_mirrors"):
            assert settings_module.DEFAULTS[key] == value, name


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
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("validation_programs", ROLE / "library" / "validation_programs.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs the module and returns its answer."""

    def run(check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        params = {"base_dir": str(tmp_path / "base"), "files": PROGRAM_FILES, "config": {"user": ""}, **changes}

        class Fake:
            def __init__(self, argument_spec: dict[str, Any], **_: Any) -> None:
                assert set(argument_spec) == set(params)
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


def below(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_programs_are_written_once(call: Any, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        assert call()["changed"] is True
    finally:
        os.umask(old)
    programs = tmp_path / "base" / "validation" / "programs"
    assert below(programs) == PROGRAM_FILES
    assert {path.stat().st_mode & 0o777 for path in programs.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in [programs, programs / "jobs", tmp_path / "base"]} == {0o755}
    again = call()
    assert (again["changed"], again["written"]) == (False, [])


def test_check_mode_writes_nothing(call: Any, tmp_path: Path) -> None:
    answer = call(check_mode=True)
    assert answer["changed"] is True
    assert "programs/validate.py" in answer["written"]
    assert not (tmp_path / "base").exists()


def test_only_what_differs_is_written_and_old_programs_go(call: Any, tmp_path: Path) -> None:
    call()
    programs = tmp_path / "base" / "validation" / "programs"
    (programs / "jobs" / "mnist_theano.py").write_text("old")
    (programs / "validate.py").write_bytes(b"\xff damaged")
    (programs / "gates.py").chmod(0o666)
    answer = call(config={"user": "", "job_epochs": 3})
    assert sorted(answer["written"]) == [
        "config.json", "programs/gates.py", "programs/jobs/mnist_theano.py", "programs/validate.py",
    ]  # fmt: skip
    assert below(programs) == PROGRAM_FILES
    assert (programs / "gates.py").stat().st_mode & 0o777 == 0o644
    assert json.loads((programs.parent / "config.json").read_text()) == {"user": "", "job_epochs": 3}


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
    contents = {f"{number}.gz": f"content {number}" for number in range(3)}
    table = {name: {"size": 9, "sha256": hashlib.sha256(text.encode()).hexdigest()} for name, text in contents.items()}
    programs = {"thresholds.json": json.dumps({"datasets": {"mnist": {"files": table}}})}
    assert call(files=programs)["mnist_missing"] == ["0.gz", "1.gz", "2.gz"]
    cache = tmp_path / "base" / "cache" / "mnist"
    cache.mkdir(parents=True)
    (cache / "0.gz").write_text("content 0")
    (cache / "1.gz").write_text("damaged 1")
    assert call(files=programs)["mnist_missing"] == ["1.gz", "2.gz"]
