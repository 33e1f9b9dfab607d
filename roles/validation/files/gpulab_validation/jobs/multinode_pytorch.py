# SPDX-License-Identifier: Apache-2.0
"""The data-parallel job in PyTorch over several hosts: one of these programs runs on each, and torchrun joins them.

Before anything else a host makes sure that it reaches the first one, because torchrun waits a long time for that and
says little when it gives up.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import sys
import time

import data_parallel
import data_parallel_pytorch
import job
import mnist_pytorch


def arguments():
    """Return the program's arguments, from the command line."""
    parser = argparse.ArgumentParser(description="Train a small network on several hosts at once.")
    parser.add_argument("--data", required=True, help="directory with the four IDX files; the same on every host")
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"], help="nothing else is used")
    parser.add_argument("--nodes", type=int, required=True, help="how many hosts there are")
    parser.add_argument("--node-rank", type=int, required=True, help="which of them this is; 0 is the one to meet at")
    parser.add_argument("--address", required=True, help="of the host to meet at")
    parser.add_argument("--port", type=int, default=29500)
    parser.add_argument("--wait", type=int, default=120, help="seconds to wait for the first host")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-per-device", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--timeout", type=int, default=120, help="seconds that replicas wait for each other")
    parser.add_argument("--result", required=True, help="JSON file to write")
    return parser.parse_args()


def main():
    options = arguments()
    try:
        train(options)
    except Exception as error:
        answer = {"framework": "pytorch", "python": platform.python_version()}
        answer["error"] = data_parallel.error_of("pytorch", error)
        job.write_result(options.result, answer)
        print(f"host {options.node_rank}: {answer['error']['message']}", file=sys.stderr)
        return 1
    if options.node_rank:
        job.write_result(options.result, {"framework": "pytorch", "node_rank": options.node_rank})
    return 0


def train(options):
    import torch

    mnist_pytorch.find_device(torch, options.device)
    if options.node_rank:
        reach(options.address, options.port, options.wait)
    else:
        be_free(options.port)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launcher = ["--nnodes", options.nodes, "--node-rank", options.node_rank, "--master-addr", options.address]
    launcher += ["--master-port", options.port, "--rdzv-conf", f"timeout={options.wait}", "--max-restarts", 0]
    launcher += ["--nproc-per-node", "gpu" if options.device == "gpu" else 1]
    program = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "data_parallel_pytorch.py")]
    for name in ("data", "device", "steps", "batch_per_device", "seed", "timeout", "result"):
        program += ["--" + name.replace("_", "-"), getattr(options, name)]
    try:
        run.main([str(word) for word in [*launcher, *program]])
    except ChildFailedError as error:
        first = error.get_first_failure()[1]
        raise data_parallel_pytorch.failure(options.result, first.global_rank, first.exitcode) from error
    except Exception as error:
        if type(error).__name__ not in ("DistStoreError", "DistNetworkError", "TimeoutError"):
            raise
        words = (
            f"not all {options.nodes} hosts met at {options.address}, port {options.port}, in {options.wait} seconds"
        )
        raise job.JobError("NOT_MET", f"{words}: {job.first_line(error)}") from error


def reach(address, port, seconds):
    """Wait until the first host listens.

    :raises JobError: when it does not within the time
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise job.JobError(
                    "NOT_REACHED",
                    f"{socket.gethostname()} does not reach {address}, port {port}, within {seconds} seconds "
                    f"({error.strerror or error}): it must be the first host's, and no firewall may lie between",
                ) from error
        time.sleep(1)


def be_free(port):
    """Make sure that the port can be listened on.

    :raises JobError: when it cannot
    """
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
    except OSError as error:
        raise job.JobError(
            "PORT_IN_USE",
            f"port {port} of {socket.gethostname()} cannot be listened on ({error.strerror}); choose another one with "
            "validation_multinode_port",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
