# SPDX-License-Identifier: Apache-2.0
"""The data-parallel job in PyTorch: DistributedDataParallel, one process for each device, NCCL on GPUs, else Gloo.

Started by hand or by the validator it starts its own processes on this host. Started by torchrun, which says so in the
environment, it is one of them, and they may be on several hosts.
"""

from __future__ import annotations

import datetime
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import data_parallel
import job
import mnist_pytorch

#: Seconds for the other processes to end once one has failed.
GRACE = 10


def start_processes(options):
    """Start one process for each device, wait for all of them, and return the result that the first one wrote.

    :raises JobError: what the first process that failed said
    """
    with tempfile.TemporaryDirectory(prefix="data-parallel-") as directory:
        result = os.path.join(directory, "result.json")
        command = [sys.executable, "-s", "-B", os.path.abspath(__file__), *sys.argv[1:], "--result", result]
        variables = dict(
            os.environ, WORLD_SIZE=str(options.devices), DATA_PARALLEL_STORE=os.path.join(directory, "store")
        )
        # They are all on this host, whatever its name resolves to.
        variables.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
        processes = [
            subprocess.Popen(command, env=dict(variables, RANK=str(rank), LOCAL_RANK=str(rank)))
            for rank in range(options.devices)
        ]
        try:
            first_failure = wait_for(processes)
        finally:
            for process in processes:
                process.kill()
        if first_failure is not None:
            raise failure(result, *first_failure)
        with open(result, encoding="utf-8") as stream:
            return json.load(stream)


def wait_for(processes):
    """Wait until all have ended, or GRACE seconds after one has failed; return its rank and exit status, or None."""
    failed, deadline = None, None
    while any(process.poll() is None for process in processes) and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.05)
        codes = [process.poll() for process in processes]
        if failed is None and any(codes):
            failed = next((rank, code) for rank, code in enumerate(codes) if code)
            deadline = time.monotonic() + GRACE
    codes = [process.poll() for process in processes]
    return failed or next(((rank, code) for rank, code in enumerate(codes) if code), None)


def failure(result, rank, code):
    """Return the error of the process that failed first, in its own words where it left any."""
    paths = sorted(glob.glob(glob.escape(result) + ".rank*"), key=os.path.getmtime)
    if paths:
        with open(paths[0], encoding="utf-8") as stream:
            error = json.load(stream)
        return job.JobError(error["reason_code"], error["message"])
    how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
    return job.JobError("CRASHED", f"process {rank} of the data-parallel job {how}")


def be_one_of_them(options):
    """Be one process of several; the first one writes the result. Return the exit status."""
    rank = int(os.environ["RANK"])
    started = time.monotonic()
    try:
        result = train(options, rank, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    except Exception as error:
        said = data_parallel.error_of("pytorch", error)
        print(f"process {rank} on {socket.gethostname()}: {said['message']}", file=sys.stderr, flush=True)
        if options.result:
            job.write_result(f"{options.result}.rank{rank}", said)
        sys.stderr.flush()
        os._exit(1)  # not through the library's own end, which would wait for processes that wait for us
    if rank == 0 and options.result:
        job.write_result(options.result, dict(result, framework="pytorch", seconds=time.monotonic() - started))
    return 0


def train(options, rank, world_size, local_rank):
    import torch
    from torch import distributed

    device = mnist_pytorch.find_device(torch, options.device)
    if device.type == "cuda":
        if not local_rank < torch.cuda.device_count():
            raise data_parallel.too_few(torch.cuda.device_count(), options, "PyTorch")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # 32 bits all through

    store = os.environ.get("DATA_PARALLEL_STORE")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=options.timeout),
    )
    batches = data_parallel.Batches(options, world_size)
    first = job.initial_weights(options)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def new_network():
        network = torch.nn.Sequential(
            torch.nn.Linear(job.IMAGE_PIXELS, job.HIDDEN_UNITS),
            torch.nn.Tanh(),
            torch.nn.Linear(job.HIDDEN_UNITS, job.CLASSES),
        ).to(device)
        with torch.no_grad():
            for weight, array in zip(network.parameters(), first):
                weight.copy_(torch.tensor(array.T))
        return network

    def backward(network, images, labels):
        network.zero_grad()
        answers = network(torch.tensor(images, device=device))
        loss = cross_entropy(answers, torch.tensor(labels, device=device))
        loss.backward()
        return loss.detach()

    def arrays(tensors):
        return [tensor.detach().cpu().numpy().T for tensor in tensors]

    network = new_network()
    one_device = device if device.type == "cuda" else None
    parallel = torch.nn.parallel.DistributedDataParallel(network, device_ids=[one_device] if one_device else None)
    backward(parallel, *batches.part(0, rank))
    gradients = [weight.grad.clone() for weight in network.parameters()]
    alone = new_network()
    backward(alone, *batches.whole(0))
    _, reference = data_parallel.reference_gradients(first, *batches.whole(0))
    mine = {
        "device": str(gradients[0].device) if device.type == "cuda" else f"cpu:{local_rank}",
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else job.cpu_name(),
        # The processes of one host are a group of torchrun's; names of hosts need not differ.
        "host": f"{os.environ.get('GROUP_RANK', '0')}:{socket.gethostname()}",
        "gradients": data_parallel.differences(arrays(gradients), reference),
        "single_device": data_parallel.differences(
            arrays(gradients), arrays([weight.grad for weight in alone.parameters()])
        ),
    }

    losses = []
    for step in range(options.steps):
        loss = backward(parallel, *batches.part(step, rank))
        with torch.no_grad():
            for weight in network.parameters():
                weight -= data_parallel.LEARNING_RATE * weight.grad
        losses.append(loss)
    losses = torch.stack(losses)
    distributed.all_reduce(losses)
    losses = (losses / world_size).tolist()

    mine["weights"] = arrays(network.parameters())
    everybody = [None] * world_size
    distributed.all_gather_object(everybody, mine)
    backend = str(distributed.get_backend())
    distributed.barrier()
    distributed.destroy_process_group()
    hosts = sorted({row["host"] for row in everybody}, key=lambda host: int(host.partition(":")[0]))
    return {
        "version": torch.__version__,
        "device_name": mine["name"],
        "devices": sorted(f"{row['host']}/{row['device']}" if hosts[1:] else row["device"] for row in everybody),
        "hosts": hosts,
        "replicas": world_size,
        "backend": backend,
        "gradients": data_parallel.worst([row["gradients"] for row in everybody]),
        "single_device": data_parallel.worst([row["single_device"] for row in everybody]),
        "replicas_spread": data_parallel.spread([row["weights"] for row in everybody]),
        "loss_curve": data_parallel.blocks(losses),
        "accuracy": data_parallel.accuracy(mine["weights"], batches),
    }


if __name__ == "__main__":
    if "RANK" in os.environ:
        sys.exit(be_one_of_them(data_parallel.arguments()))
    sys.exit(data_parallel.run("pytorch", start_processes))
