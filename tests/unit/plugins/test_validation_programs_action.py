# SPDX-License-Identifier: Apache-2.0
"""Which programs travel to a host: all that belong there, each once, and none that are there already."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_runs import recap, run_playbook
from project_tree import ROOT

ROLE = ROOT / "roles" / "validation"
SOURCE = ROLE / "files" / "gpulab_validation"
PACKAGE = "facts_modules/ansible/module_utils"
TABLE = json.dumps({"datasets": {"mnist": {"files": {"a.gz": {"sha256": "0" * 64, "size": 1}}}}})


@pytest.fixture(scope="module")
def action() -> ModuleType:
    path = ROOT / "action_plugins/validation_programs.py"
    spec = importlib.util.spec_from_file_location("gpulab_validation_programs_action", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Plugin:
    """The plugin with a host that answers as a test says."""

    def __init__(self, action: ModuleType, source: Path, answers: list[dict[str, Any]], profile: str, check: bool):
        self.calls: list[dict[str, Any]] = []
        self.answers = answers
        self.plugin = object.__new__(action.ActionModule)
        arguments = {"base_dir": "/base", "source": str(source), "config": {"profile": profile}}
        self.plugin._task = SimpleNamespace(args=arguments, check_mode=check)
        self.plugin._execute_module = self.answer

    def answer(self, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.calls.append(json.loads(json.dumps(module_args)))
        return self.answers[len(self.calls) - 1]


@pytest.fixture
def run(action: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    (tmp_path / "jobs" / "__pycache__").mkdir(parents=True)
    (tmp_path / "thresholds.json").write_text(TABLE)
    (tmp_path / "validate.py").write_text("print('é')\n")
    (tmp_path / "jobs" / "job.py").write_text("")
    (tmp_path / "jobs" / "__pycache__" / "job.pyc").write_bytes(b"\xff")
    (tmp_path / "jobs" / "notes.txt").write_text("for nobody")
    monkeypatch.setattr(action.ActionBase, "run", lambda *_: {})

    def play(*answers: dict[str, Any], profile: str = "cpu", check: bool = False) -> tuple[dict[str, Any], Plugin]:
        plugin = Plugin(action, tmp_path, list(answers), profile, check)
        return plugin.plugin.run(None, {}), plugin

    return play


def test_a_host_that_has_everything_is_asked_once(run: Any) -> None:
    result, plugin = run({"changed": False, "wanted": []})
    assert result == {"changed": False, "wanted": []}
    [call] = plugin.calls
    assert call["contents"] == {}
    assert call["mnist"] == {"a.gz": "0" * 64}
    assert call["digests"]["validate.py"] == hashlib.sha256("print('é')\n".encode()).hexdigest()
    assert "source" not in call
    own = {name for name in call["digests"] if not name.startswith(("facts_modules/", "vendor/"))}
    assert own == {"thresholds.json", "validate.py", "jobs/job.py"}


def test_only_what_the_host_lacks_is_sent(run: Any) -> None:
    result, plugin = run({"wanted": ["validate.py"], "changed": True}, {"wanted": [], "changed": True})
    assert [call["contents"] for call in plugin.calls] == [{}, {"validate.py": "print('é')\n"}]
    assert plugin.calls[0]["digests"] == plugin.calls[1]["digests"]
    assert result == {"wanted": [], "changed": True}


def test_check_mode_and_failures_end_after_the_first_call(run: Any) -> None:
    assert len(run({"wanted": ["validate.py"], "changed": True}, check=True)[1].calls) == 1
    for answer in ({"failed": True, "msg": "no"}, {"unreachable": True}, {"failed": True, "wanted": ["validate.py"]}):
        result, plugin = run(answer)
        assert (result, len(plugin.calls)) == (answer, 1)


def test_without_nvidias_module_a_gpu_host_is_refused_and_others_go_on(
    run: Any, action: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action, "nvml_module", lambda: None)
    _, plugin = run({"wanted": []})
    assert "vendor/pynvml.py" not in plugin.calls[0]["digests"]
    with pytest.raises(AnsibleActionFail, match="pip install nvidia-ml-py"):
        run({"wanted": []}, profile="gpu")
    monkeypatch.setattr(action, "nvml_module", lambda: "# nvml\n")
    _, plugin = run({"wanted": []}, profile="gpu")
    assert "vendor/pynvml.py" in plugin.calls[0]["digests"]


def test_nvidias_module_is_one_file_and_no_package_of_the_same_name(
    action: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package" / "pynvml"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "pynvml.py").write_text("NVML = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none")])
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert action.nvml_module() is None
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    assert action.nvml_module() is None
    monkeypatch.setattr(sys, "path", [str(plain)])
    assert action.nvml_module() == "NVML = 1\n"


def test_an_empty_source_is_refused(action: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="no validation programs"):
        action.role_files(tmp_path)


def test_everything_that_the_facts_need_travels_and_nothing_else_of_ours(action: ModuleType) -> None:
    names = {Path(name).stem for name in action.facts_modules(ROOT / "module_utils")} - {"__init__"}
    assert {"host_all", "host_files", "environment_store"} <= names
    assert not names & {"cuda_store", "redist_source", "openpgp_keys"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from ansible.module_utils import (\n    a,\n    b as c,\n)", ["a", "b"]),
        ("from ansible.module_utils.a import x\nimport ansible.module_utils.b.c", ["a", "b"]),
        ("def f():\n    from ansible.module_utils.a import x\n    from ansible.module_utils import a", ["a"]),
        ("import os\nfrom ansible import module_utils\nfrom . import x\nfrom ansible.module_utils_else import y", []),
    ],
)
def test_imports_are_found_wherever_they_stand(action: ModuleType, text: str, names: list[str]) -> None:
    assert action.imported(text) == names


def test_a_module_that_is_not_this_projects_is_refused(action: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "host_all.py").write_text("from ansible.module_utils.basic import AnsibleModule\n")
    with pytest.raises(AnsibleActionFail, match=r"basic\.py"):
        action.facts_modules(tmp_path)


def test_the_facts_are_gathered_beside_an_ansible_that_is_installed(action: ModuleType, tmp_path: Path) -> None:
    """An installed package would be found instead of ours if ours had no __init__.py."""
    for name, text in action.facts_modules(ROOT / "module_utils").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    program = "import sys; sys.path.append(sys.argv.pop()); sys.path.insert(0, sys.argv.pop())\n"
    program += "from ansible.module_utils.host_all import Host\nimport ansible; print(ansible.__file__)"
    installed = Path(next(iter(importlib.util.find_spec("ansible").submodule_search_locations))).parent  # type: ignore[union-attr,arg-type]
    command = [sys.executable, "-I", "-B", "-c", program, str(tmp_path / "facts_modules"), str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / "facts_modules/ansible/__init__.py"), done.stderr


def test_the_real_programs_are_put_on_a_host_and_then_stay(tmp_path: Path) -> None:
    book = tmp_path / "play.yml"
    task = {
        "base_dir": str(tmp_path / "base"),
        "source": str(SOURCE),
        "config": {"profile": "cpu", "base_dir": str(tmp_path / "base"), "user": ""},
    }
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"validation_programs": task}]}]))
    words = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", "-vvv", str(book)]
    # pip's own place for the control node's packages is the one of the tests, too.
    paths = {"ANSIBLE_LIBRARY": os.pathsep.join([str(ROLE / "library"), str(ROOT / "library")])}
    counts = []
    for options in (["--check"], [], [], ["--check"]):
        result = run_playbook(*words, *options, timeout=120, environment=paths)
        assert result.status == 0, result.output[-3000:]
        counts.append((recap(result.output, "localhost")["changed"], result.output.count("Using module file")))
        assert "SPDX" not in result.output  # no program is repeated on the screen
    assert counts == [(1, 1), (1, 2), (0, 1), (0, 1)]
    programs = tmp_path / "base" / "validation" / "programs"
    assert (programs / "check.py").read_text() == (SOURCE / "check.py").read_text()
    assert (programs / "nhc" / "gpulab.nhc").exists()
    assert (programs / PACKAGE / "host_all.py").read_text() == (ROOT / "module_utils/host_all.py").read_text()
    assert not list(programs.rglob("__pycache__"))
