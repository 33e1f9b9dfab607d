# SPDX-License-Identifier: Apache-2.0
"""The MNIST job in PyTorch: an ordinary training loop, on one explicit device."""

from __future__ import annotations

import sys

import job
import proof


def find_device(torch, wanted):
    """Return the device to compute on; PyTorch never falls back by itself once it is named everywhere."""
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise job.JobError(
            "NO_GPU", f"this PyTorch ({torch.__version__}) is built without CUDA, so it cannot use a GPU"
        )
    if not torch.cuda.is_available():
        raise job.JobError(
            "NO_GPU",
            f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU: no driver is loaded, "
            "the driver is too old for this CUDA version, or no GPU is visible to this user",
        )
    return torch.device("cuda:0")


def train(options, data):
    import torch

    device = find_device(torch, options.device)
    on_gpu = device.type == "cuda"
    torch.manual_seed(options.seed)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Products this small are not worth sharing: on a busy host the threads would mostly wait for one another.
        torch.set_num_threads(1)

    train_images = torch.tensor(data.train_images, device=device)
    train_labels = torch.tensor(data.train_labels, device=device).long()
    test_images = torch.tensor(data.test_images, device=device)
    test_labels = torch.tensor(data.test_labels, device=device).long()

    network = torch.nn.Sequential(
        torch.nn.Linear(job.IMAGE_PIXELS, job.HIDDEN_UNITS),
        torch.nn.ReLU(),
        torch.nn.Linear(job.HIDDEN_UNITS, job.CLASSES),
    ).to(device)
    cross_entropy = torch.nn.CrossEntropyLoss()  # applies the softmax itself
    adam = torch.optim.Adam(network.parameters(), job.LEARNING_RATE, (job.BETA_1, job.BETA_2), job.EPSILON)
    # Half precision is float16 on a GPU (all of them have it) and bfloat16 on a processor.
    half = torch.float16 if on_gpu else torch.bfloat16
    scale = job.LOSS_SCALE if options.mixed_precision and on_gpu else 1.0

    def forward(images):
        with torch.autocast(device.type, dtype=half, enabled=options.mixed_precision):
            return network(images.float() / 255)

    def train_steps(order):
        """Train one step for each row of ``order``; return the sum of the losses."""
        total = torch.zeros((), device=device)
        for rows in torch.tensor(order, device=device):
            loss = cross_entropy(forward(train_images[rows]).float(), train_labels[rows])
            adam.zero_grad()
            (loss * scale).backward()
            for weight in network.parameters() if scale != 1.0 else ():
                weight.grad /= scale
            adam.step()
            total += loss.detach()
        return total.item()

    loss_curve = []
    for epoch, order in enumerate(job.epoch_orders(len(train_images), options)):
        loss_curve.append(train_steps(order) / len(order))
        job.say(epoch, loss_curve[-1])

    with torch.no_grad():
        logits = forward(test_images)
        correct = logits.argmax(dim=1) == test_labels
        accuracy = correct.double().mean().item()  # reading it waits for the GPU, so late errors surface here
    model_bytes = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    answer = {
        "version": torch.__version__,
        "accuracy": accuracy,
        "loss_curve": loss_curve,
        "device": str(logits.device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else job.cpu_name(),
        "result_devices": sorted({str(tensor.device) for tensor in [logits, correct, *network.parameters()]}),
        "allocator_peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "model_bytes": model_bytes,
    }
    if options.proof:
        answer["proof"] = proof.of_torch(torch, lambda: train_steps(order[: proof.STEPS]))
    return answer


if __name__ == "__main__":
    sys.exit(job.run("pytorch", train))
