# SPDX-License-Identifier: Apache-2.0
"""What a validated host tells others: the nightly timer, the one line for a scheduler, the metrics for Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import CHECKOUT, install_checkout, install_venv_package
from reading import LABEL, assert_passed, changed, verdict
from testbed import Machine, Result

PROGRAMS = "/opt/gpulab/validation/programs"
VERDICT = "/opt/gpulab/validation/verdict.json"
METRICS = "/var/lib/prometheus/node-exporter"
UNITS = "/etc/systemd/system/gpulab-validation.*"
PAGE = "http://127.0.0.1:9111/metrics"
EXPORTER = f"""
prometheus-node-exporter --collector.disable-defaults --collector.textfile \
  --collector.textfile.directory={METRICS} --web.listen-address=127.0.0.1:9111 >/tmp/exporter.log 2>&1 &
for _ in $(seq 50); do
  python3 -c 'import urllib.request as u; print(u.urlopen("{PAGE}").read().decode())' 2>/dev/null && break
  sleep 0.2
done
kill $!
"""
NHC = f"""
function die() {{ echo "$2"; exit "$1"; }}
. {PROGRAMS}/nhc/gpulab.nhc
check_gpulab
"""


def provision(machine: Machine, **variables: Any) -> Result:
    """Run ./provision for one small environment, with these variables of the role."""
    stack = {"profile": "auto", "environments": [{"name": "jax", "frameworks": {"jax": "newest"}}]}
    return machine.run(f"./provision -e '{json.dumps({'gpu_stack': stack, **variables})}'", directory=CHECKOUT)


ON = {"validation_timer": True, "validation_textfile_dir": METRICS}


@pytest.fixture(scope="module")
def host(new_machine: Callable[..., Machine]) -> Machine:
    machine = new_machine("watched")
    install_venv_package(machine)
    done = machine.run("apt-get -qq install -y --no-install-recommends prometheus-node-exporter")
    assert done.status == 0, done.output
    install_checkout(machine)
    return machine


@pytest.fixture(scope="module")
def first_run(host: Machine) -> Result:
    return provision(host, **ON)


def changed_tasks(result: Result) -> list[str]:
    """Return the tasks that changed something, by name; checked against Ansible's own count."""
    found, task = [], ""
    for line in result.output.splitlines():
        task = line.strip(" *") if line.startswith("TASK [") else task
        found += [task] if line.startswith("changed: ") else []
    assert bool(found) == bool(changed(result)), result.output[-3000:]
    return found


def check(machine: Machine, *options: str) -> Result:
    return machine.run(" ".join(["python3 -B", f"{PROGRAMS}/check.py", *options]))


def test_the_host_passes_and_its_timer_waits_for_the_night(host: Machine, first_run: Result) -> None:
    assert_passed(first_run)
    assert host.run("systemctl is-enabled gpulab-validation.timer").output.strip() == "enabled"
    assert host.run("systemctl is-active gpulab-validation.timer").output.strip() == "active"
    assert host.run(f"systemd-analyze verify {UNITS}").output == ""


def test_a_second_run_changes_nothing(host: Machine, first_run: Result) -> None:
    again = provision(host, **ON)
    assert_passed(again)
    assert changed_tasks(again) == []


def test_the_check_says_ok_in_one_line_and_at_once(host: Machine, first_run: Result) -> None:
    done = check(host)
    assert (done.status, done.output.startswith(f"OK gpulab: {LABEL}")) == (0, True), done.output
    assert done.output.count("\n") == 1
    timed = host.run(f"bash -c 'TIMEFORMAT=%R; time python3 -B {PROGRAMS}/check.py >/dev/null'")
    assert float(timed.output) < 0.5, timed.output
    assert check(host, "--require-gpu").output.startswith("ERROR gpulab: ")


def test_a_user_without_rights_can_ask_too(host: Machine, first_run: Result) -> None:
    done = host.run(f"python3 -B {PROGRAMS}/check.py", user="nobody")
    assert (done.status, done.output[:11]) == (0, "OK gpulab: "), done.output


def test_node_health_check_calls_it(host: Machine, first_run: Result) -> None:
    assert host.run(NHC) == Result(0, "", pytest.approx(0, abs=60))  # type: ignore[arg-type]
    host.run(f"mv {VERDICT} {VERDICT}.away")
    failed = host.run(NHC)
    host.run(f"mv {VERDICT}.away {VERDICT}")
    assert failed.status == 1
    assert failed.output.startswith("check_gpulab:  this host was never validated")


def test_a_live_check_looks_again_and_keeps_the_proof(host: Machine, first_run: Result) -> None:
    before = verdict(host, VERDICT)
    host.run("sleep 1.1")
    done = check(host, "--live")
    assert done.status == 0, done.output
    after = verdict(host, VERDICT)
    assert after["checked"] > before["checked"]
    assert (after["finished"], after["run_id"]) == (before["finished"], before["run_id"])
    assert after["results"] == before["results"]


def test_prometheus_reads_the_metrics(host: Machine, first_run: Result) -> None:
    page = host.run(EXPORTER).output
    assert re.search(r"^node_textfile_scrape_error 0$", page, re.MULTILINE), page[-2000:]
    status = verdict(host, VERDICT)["verdict"]["status"]
    states = dict(re.findall(r'^gpulab_validation_status\{status="(\w+)"\} (\d)$', page, re.MULTILINE))
    assert states == {word: str(int(word == status)) for word in ("PASS", "WARN", "UNKNOWN", "FAIL", "SKIP")}
    assert re.search(r"^gpulab_validation_gpu_validated 0$", page, re.MULTILINE)
    assert re.search(r'^gpulab_validation_accuracy\{.*framework="jax".*\} 0\.9', page, re.MULTILINE), page


def test_the_timer_starts_the_check_by_itself(host: Machine, first_run: Result) -> None:
    moment = host.run("date --date='+75 seconds' '+%Y-%m-%d %H:%M:%S'").output.strip()
    before = verdict(host, VERDICT)["checked"]
    again = provision(host, **ON, validation_timer_on_calendar=moment, validation_timer_delay=0)
    assert_passed(again)
    assert changed(again) > 0
    log = "journalctl --no-pager --output=cat --unit gpulab-validation.service"
    host.wait_until(lambda: "OK gpulab: " in host.run(log).output, timeout=180)
    host.wait_until(lambda: host.run("systemctl is-active gpulab-validation.service").output.strip() == "inactive")
    assert host.run("systemctl show --property=Result --value gpulab-validation.service").output.strip() == "success"
    assert verdict(host, VERDICT)["checked"] >= moment.replace(" ", "T") + "Z" > before


def test_a_time_that_systemd_does_not_understand_is_refused(host: Machine, first_run: Result) -> None:
    refused = provision(host, **ON, validation_timer_on_calendar="every full moon")
    assert refused.status != 0
    assert "validation_timer_on_calendar is every full moon" in " ".join(refused.output.split())
    assert "full moon" not in host.run(f"cat {UNITS}").output


def test_what_is_switched_off_goes(host: Machine, first_run: Result) -> None:
    done = provision(host)
    assert_passed(done)
    assert changed(done) > 0
    assert host.run(f"ls {UNITS} /etc/systemd/system/timers.target.wants/gpulab-validation.timer").status != 0
    assert host.run("systemctl is-active gpulab-validation.timer").output.strip() == "inactive"
    assert host.run(f"ls {METRICS}/gpulab.prom").status != 0
    again = provision(host)
    assert_passed(again)
    assert changed_tasks(again) == []
