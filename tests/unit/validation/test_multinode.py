# SPDX-License-Identifier: Apache-2.0
"""A host's part in a training over several hosts, as far as no framework is needed; see also tests/frameworks."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lock
import multinode
import pytest
from processes import Outcome
from test_data_parallel import GOOD
from test_jobs import load

TABLE = json.loads((Path(multinode.__file__).parent / "thresholds.json").read_text())


def take_part(directory: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, dict[str, Any]]:
    settings = {"base_dir": str(directory), "user": "", **changes}
    (directory / "config.json").write_text(json.dumps(settings))
    arguments = ["--config", str(directory / "config.json"), "--nodes", "2", "--node-rank", "0", "--address", "one"]
    code = multinode.main(arguments)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def test_wrong_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = take_part(tmp_path, capsys, colour="blue")
    assert (code, answer["error"]["reason_code"]) == (3, "SETTINGS")
    assert "colour" in answer["error"]["message"]


def test_a_running_validation_keeps_it_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "validation").mkdir()
    with lock.held(str(tmp_path / "validation")):
        code, answer = take_part(tmp_path, capsys)
    assert (code, answer["error"]["reason_code"]) == (4, "REFUSED")


def test_a_host_without_pytorch_cannot_take_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environments = [{"name": "tf", "python": "/x/python", "frameworks": {"tensorflow": "2"}}]
    code, answer = take_part(tmp_path, capsys, environments=environments)
    assert (code, answer["error"]["reason_code"]) == (2, "FRAMEWORK_MISSING")


def test_an_environment_that_is_gone_is_unknown_and_leaves_no_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environments = [{"name": "torch", "python": "/missing/python", "frameworks": {"pytorch": "2"}}]
    code, answer = take_part(tmp_path, capsys, environments=environments)
    assert code == 2
    assert "/missing/python" in answer["error"]["message"]
    assert not os.path.exists(tmp_path / "validation" / "scratch")


def judge(**changes: Any) -> dict[str, str]:
    result = {**GOOD, "devices": ["0:one/cuda:0", "1:two/cuda:0"], "hosts": ["0:one", "1:two"], **changes}
    outcome = Outcome("finished", 0, 9.0, "")
    rows = multinode.judge("gpu", SimpleNamespace(nodes=2), outcome, result, TABLE, "log")
    return {row["id"]: row["status"] for row in rows}


def test_two_hosts_that_train_rightly_pass() -> None:
    assert judge() == {"dp.gradients": "PASS", "dp.train": "PASS", "dp.hosts": "PASS"}


@pytest.mark.parametrize("hosts", [["0:one"], [], None, "one", ["0:one", "1:two", "2:three"]], ids=str)
def test_another_number_of_hosts_fails(hosts: Any) -> None:
    assert judge(hosts=hosts)["dp.hosts"] == "FAIL"


@pytest.mark.parametrize("replicas", [None, 0, 3, "2"], ids=str)
def test_another_number_of_replicas_fails(replicas: Any) -> None:
    assert judge(replicas=replicas)["dp.gradients"] == "FAIL"


def test_gpus_that_do_not_talk_by_nccl_fail() -> None:
    assert judge(backend="gloo")["dp.gradients"] == "FAIL"


def test_a_port_in_use_and_a_host_out_of_reach_are_sentences() -> None:
    program = load("multinode_pytorch")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        # Bound and not listening: nobody else may, and nobody is answered.
        with pytest.raises(Exception, match=f"port {port} of .* cannot be listened on"):
            program.be_free(port)
        with pytest.raises(Exception, match=f"does not reach 127.0.0.1, port {port}, within 0 seconds"):
            program.reach("127.0.0.1", port, 0)
        listener.listen()
        program.reach("127.0.0.1", port, 5)
