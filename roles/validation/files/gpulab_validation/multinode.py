#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Be one of several hosts that train together: run the job here, bounded, and judge the result on the first host.

    python3 -B multinode.py --config config.json --nodes 2 --node-rank 0 --address gpu01

Standard library only, Python 3.8 or newer. Every host is given the same digits, drawn on it. One JSON line goes to
standard output: node_rank, state, seconds, error (or null), checks and result (of the first host), log.

Exit status: 0 it worked, 1 FAIL, 2 UNKNOWN, 3 wrong settings, 4 refused (another validation is running).
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import data_parallel
import files
import gates
import lock
import mnist_data
import runner as runner_module
import settings as settings_module
import validate
import verdict as verdict_module

PROGRAMS = os.path.dirname(os.path.abspath(__file__))
#: Seconds for drawing the digits.
DRAW_TIMEOUT = 600


class Failed(Exception):
    """This host cannot take part."""

    def __init__(self, status, reason_code, message):
        super().__init__(message)
        self.status, self.reason_code = status, reason_code


def parse(arguments):
    parser = argparse.ArgumentParser(prog="multinode.py", description="Train on several hosts together.")
    parser.add_argument("--config", required=True, help="JSON file with the validator's settings")
    parser.add_argument("--nodes", type=int, required=True, help="how many hosts there are")
    parser.add_argument("--node-rank", type=int, required=True, help="which of them this is, from 0")
    parser.add_argument("--address", required=True, help="of the first host")
    parser.add_argument("--port", type=int, default=29500)
    parser.add_argument("--interface", default="", help="network interface between the hosts")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for the training")
    return parser.parse_args(arguments)


def main(arguments=None):
    os.umask(0o022)
    options = parse(arguments)
    answer = {"node_rank": options.node_rank, "state": None, "seconds": None, "error": None, "checks": []}
    answer.update(result=None, log=None)
    try:
        settings = settings_module.read(options.config)
        directory = os.path.join(settings["base_dir"], "validation")
        os.makedirs(directory, mode=0o755, exist_ok=True)
        with lock.held(directory):
            take_part(settings, directory, options, answer)
        code = exit_code(answer["checks"])
    except settings_module.SettingsError as error:
        answer["error"], code = {"reason_code": "SETTINGS", "message": str(error)}, 3
    except lock.Refused as error:
        answer["error"], code = {"reason_code": "REFUSED", "message": str(error)}, 4
    except Failed as error:
        answer["error"] = {"reason_code": error.reason_code, "message": gates.text(error, 600)}
        code = verdict_module.EXIT_CODES[error.status]
    except OSError as error:
        answer["error"], code = {"reason_code": "DIRECTORY", "message": gates.text(error, 600)}, 2
    print(files.to_json(answer), flush=True)
    return code


def exit_code(checks):
    """Return the exit status for some checks; hosts other than the first have none."""
    return verdict_module.EXIT_CODES[verdict_module.worst_status(checks)] if checks else 0


def take_part(settings, directory, options, answer):
    """Run the job on this host and fill in the answer.

    :raises Failed: when this host could not do its part
    """
    with open(os.path.join(PROGRAMS, "thresholds.json"), encoding="utf-8") as stream:
        table = json.load(stream)
    environment = next((row for row in settings["environments"] if "pytorch" in row["frameworks"]), None)
    if environment is None:
        raise Failed("UNKNOWN", "FRAMEWORK_MISSING", "no environment of this host has PyTorch")
    user = validate.find_user(settings["user"])
    runner = runner_module.Runner(settings, table, PROGRAMS, directory, files.new_run_id(), user)
    runner.prepare()
    try:
        data = find_digits(settings, table, runner, environment)
        outcome, result, problem = run(settings, table, runner, environment, data, options)
    finally:
        runner.clean()
    log = os.path.join(runner.run_directory, "multinode.log")
    answer.update(state=outcome.state, seconds=round(outcome.seconds, 1), log=log)
    failure = data_parallel.failure_of(outcome, result, problem, table)
    if outcome.state in ("timeout", "abandoned"):
        words = "the training on %d hosts did not end here within %d seconds; see %s on this host"
        failure = ("FAIL", "TIMEOUT", words % (options.nodes, options.timeout, log), "none")
    if failure:
        raise Failed(*failure[:3])
    if options.node_rank == 0:
        answer["result"] = result
        answer["checks"] = judge(settings["profile"], options, outcome, result, table, log)


def find_digits(settings, table, runner, environment):
    """Return the directory of the drawn digits; they are the same bits on every host, as nothing else surely is."""

    def draw():
        directory = runner.directory_for_jobs()
        arguments = ["--out", directory]
        outcome = runner.start(environment, "generate_digits.py", arguments, "generate_digits.log", DRAW_TIMEOUT)
        if outcome.state == "finished" and outcome.code == 0:
            return directory, ""
        return None, "the digits cannot be drawn: %s" % gates.last_line(outcome.tail)

    try:
        return mnist_data.Finder(dict(settings, mnist_source="generated"), table["datasets"], draw).find().directory
    except mnist_data.DataError as error:
        raise Failed("UNKNOWN", error.reason_code, str(error)) from error


def run(settings, table, runner, environment, data, options):
    """Run the job; return its outcome, its result and what is wrong with that."""
    limits = table["job"]["data_parallel"]
    arguments = ["--data", data, "--device", settings["profile"], "--nodes", options.nodes]
    arguments += ["--node-rank", options.node_rank, "--address", options.address, "--port", options.port]
    # What waits inside gives up before it is stopped from outside, so that it can say what happened.
    arguments += ["--wait", max(1, options.timeout // 3), "--timeout", max(1, options.timeout // 3)]
    arguments += ["--steps", limits["steps"]["value"], "--batch-per-device", limits["batch_per_device"]["value"]]
    arguments += ["--seed", settings["job_seed"], "--result", runner.result_path("multinode.json")]
    variables = {"NCCL_DEBUG": "WARN"}
    if options.interface:
        variables.update(GLOO_SOCKET_IFNAME=options.interface, NCCL_SOCKET_IFNAME=options.interface)
    outcome = runner.start(
        environment, "multinode_pytorch.py", arguments, "multinode.log", options.timeout, variables=variables
    )
    return (outcome, *runner.result("multinode.json"))


def judge(profile, options, outcome, result, table, log):
    """Judge the result of the first host; return the checks."""
    replicas, hosts = result.get("replicas"), result.get("hosts")
    target = "%d hosts/pytorch" % options.nodes
    # How many GPUs a host has is its own; torchrun counts them. Fewer than one on each is too few in any case.
    wanted = replicas if gates.is_number(replicas) and replicas >= options.nodes else options.nodes
    checks = data_parallel.judge(target, "pytorch", profile, wanted, outcome, result, "", table, log)
    if not isinstance(hosts, list) or len(hosts) != options.nodes:
        words = "%d hosts were to train together, %s did"
        message = words % (options.nodes, ", ".join(data_parallel.texts(hosts)) or "none")
        checks.append(gates.check("dp.hosts", target, "FAIL", message, "TOO_FEW_HOSTS"))
    else:
        names = ", ".join(data_parallel.texts(hosts))
        checks.append(gates.check("dp.hosts", target, "PASS", "%s replicas on %s" % (gates.text(replicas), names)))
    return checks


if __name__ == "__main__":
    sys.exit(main())
