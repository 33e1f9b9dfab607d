# SPDX-License-Identifier: Apache-2.0
"""./provision: its own part, before Ansible takes over."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from fake_checkout import Checkout


def test_it_hands_over_to_ansible_with_the_local_inventory(checkout: Checkout) -> None:
    run = checkout.start("--check", "-e", "a=b c")
    assert (
        f"ANSIBLE --inventory={checkout.path}/inventories/local {checkout.path}/site.yml --check -e a=b c" in run.stdout
    )
    assert f"ANSIBLE_CONFIG {checkout.path}/ansible.cfg" in run.stdout


def test_its_exit_status_is_ansibles(checkout: Checkout) -> None:
    assert checkout.start(FAKE_STATUS="4").returncode == 4


def test_a_second_start_is_quick_and_needs_no_package_index(checkout: Checkout) -> None:
    started = time.monotonic()
    run = checkout.start(PIP_FIND_LINKS="/nonexistent")
    assert run.returncode == 0
    assert time.monotonic() - started < 2
    assert run.stderr == ""


@pytest.mark.parametrize(
    "option",
    [["-i", "inventories/lab"], ["--inventory=inventories/lab"], ["-iinventories/lab"], ["-vi", "inventories/lab"]],
)
def test_a_given_inventory_replaces_the_local_one(checkout: Checkout, option: list[str]) -> None:
    run = checkout.start(*option)
    assert "inventories/lab" in run.stdout
    assert "inventories/local" not in run.stdout


def test_a_list_of_hosts_is_an_inventory(checkout: Checkout) -> None:
    assert "inventories/local" not in checkout.start("-i", "gpu01,gpu02").stdout


def test_an_inventory_that_is_not_there_is_refused(checkout: Checkout) -> None:
    run = checkout.start("-i", "inventories/lap")
    assert run.returncode == 3
    assert "there is no inventory inventories/lap" in run.stderr
    assert "ANSIBLE" not in run.stdout


def test_it_works_from_any_directory(checkout: Checkout, tmp_path: Path) -> None:
    run = checkout.start(cwd=tmp_path)
    assert run.returncode == 0
    assert f"{checkout.path}/site.yml" in run.stdout


def test_the_callers_python_does_not_reach_ansible(checkout: Checkout, tmp_path: Path) -> None:
    assert "PYTHONPATH None" in checkout.start(PYTHONPATH=str(tmp_path), PYTHONHOME="/nonexistent").stdout


def test_a_locale_that_the_machine_lacks_is_replaced(checkout: Checkout) -> None:
    assert "LC_ALL C.UTF-8" in checkout.start(LC_ALL="xx_XX.UTF-8").stdout


def test_a_home_that_is_not_there_is_replaced_for_ansible(checkout: Checkout) -> None:
    assert (
        f"ANSIBLE_HOME {checkout.path}/.ansible/home"
        in checkout.start(HOME="/nonexistent", ANSIBLE_REMOTE_TEMP="/tmp").stdout
    )


def test_help_is_its_own(checkout: Checkout) -> None:
    run = checkout.start("--help")
    assert run.returncode == 0
    assert run.stdout.startswith("Usage:")


# --- set-up ---------------------------------------------------------------------------------------


def test_the_environment_finds_the_library_from_any_directory(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.path / "lib" / "found_here").mkdir(parents=True)
    (checkout.path / "lib" / "found_here" / "__init__.py").touch()
    python = checkout.path / ".venv" / "bin" / "python"
    assert subprocess.run([python, "-c", "import found_here"], cwd=tmp_path, check=False).returncode == 0


def test_an_interrupted_set_up_is_done_again(checkout: Checkout) -> None:
    (checkout.path / ".venv" / ".stamp").unlink()
    (checkout.path / ".venv" / "bin" / "ansible-playbook").unlink()
    run = checkout.start()
    assert run.returncode == 0
    assert "setting up .venv" in run.stderr


def test_a_changed_lock_sets_up_again(checkout: Checkout) -> None:
    with (checkout.path / "requirements" / "run.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "setting up .venv" in checkout.start().stderr


def test_an_interpreter_that_is_gone_sets_up_again(checkout: Checkout) -> None:
    python = checkout.path / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    run = checkout.start()
    assert run.returncode == 0, run.stderr
    assert "setting up .venv" in run.stderr


def test_two_first_starts_at_once_do_not_collide(checkout: Checkout) -> None:
    checkout.without_environment()
    command = [checkout.path / "provision"]
    runs = [
        subprocess.Popen(command, env=checkout.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = "".join(run.communicate(timeout=120)[1] for run in runs)
    assert [run.returncode for run in runs] == [0, 0], errors
    assert errors.count("setting up .venv") == 1
    assert "another start is setting up this checkout" in errors


# --- what can be wrong ----------------------------------------------------------------------------


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """Assert that a start ended in words before Ansible, and return them."""
    assert run.returncode == 3, run.stderr
    assert "ANSIBLE" not in run.stdout
    assert "Traceback" not in run.stderr
    return run.stderr


def test_a_package_that_cannot_be_fetched_is_named(checkout: Checkout) -> None:
    checkout.without_environment()
    words = refused(checkout.start(PIP_FIND_LINKS="/nonexistent"))
    assert "could not get ansible-core==1.0 for the packages of requirements/run.lock" in words


def test_an_index_that_does_not_answer_is_explained(checkout: Checkout) -> None:
    checkout.without_environment()
    nobody = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": ""}
    words = refused(checkout.start(**nobody))
    assert "ansible-core==1.0" in words
    assert "the package index does not answer" in words


def test_a_file_that_is_not_the_locked_one_is_refused(checkout: Checkout) -> None:
    checkout.without_environment()
    lock = checkout.path / "requirements" / "run.lock"
    text = lock.read_text()
    lock.write_text("ansible-core==1.0 \\\n    --hash=sha256:" + 64 * "0" + "\n")
    try:
        words = refused(checkout.start())
    finally:
        lock.write_text(text)
    assert "differs from the locked one" in words
    assert not (checkout.path / ".venv" / ".stamp").exists()


def test_a_python_that_is_too_old_or_missing_is_refused(checkout: Checkout) -> None:
    checkout.without_environment()
    assert "GPULAB_PYTHON=/bin/false is not a Python 3.11" in refused(checkout.start(GPULAB_PYTHON="/bin/false"))


def test_a_machine_without_python_is_told_the_command(checkout: Checkout, tmp_path: Path) -> None:
    checkout.without_environment()
    for tool in ("bash", "dirname", "basename", "cat", "cksum", "id"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    (tmp_path / "dnf").symlink_to("/bin/true")
    words = refused(checkout.start(PATH=str(tmp_path), GPULAB_PYTHON=""))
    assert "needs Python 3.11 or newer" in words
    assert "dnf install -y python3.12" in words


def test_a_full_disk_is_said(checkout: Checkout, tmp_path: Path) -> None:
    checkout.without_environment()
    df = tmp_path / "df"
    df.write_text("#!/bin/sh\necho header\necho /dev/x 100 93 7 93% /\n")
    df.chmod(0o755)
    words = refused(checkout.start(PATH=f"{tmp_path}:{checkout.environment()['PATH']}"))
    assert "has 7 MB of free space" in words


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "differs from the locked one",
        ),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...",
            "certificate is not trusted",
        ),
        ("NewConnectionError: [Errno -3] Temporary failure in name resolution", "does not answer"),
        ("ReadTimeoutError: Read timed out.", "does not answer"),
        ("error: Galaxy does not satisfy requirements.yml: x 1 is not >=2", "x 1 is not >=2"),
        ("Something nobody has seen before", "Something nobody has seen before"),
    ],
)
def test_a_failed_step_is_explained(checkout: Checkout, tmp_path: Path, line: str, cause: str) -> None:
    (tmp_path / "log").write_text(f"Collecting x==1\n{line}\nand a last line\n")
    run = checkout.call("explain_failure", "the packages", before=f"log={tmp_path}/log")
    assert run.returncode == 3
    assert "could not get" in run.stderr
    assert cause in run.stderr
