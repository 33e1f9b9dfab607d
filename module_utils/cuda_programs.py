# SPDX-License-Identifier: Apache-2.0
"""Small programs that prove a toolkit, cuDNN, and what an environment loads."""

from __future__ import annotations

#: Whole numbers, so that the result is exact on every device. Prints one line for each device.
DEVICE = r"""
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>

__global__ void saxpy(int n, int a, const int *x, int *y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

#define TRY(call)                                                                                  \
  do {                                                                                             \
    cudaError_t error = (call);                                                                    \
    if (error != cudaSuccess) {                                                                    \
      printf("device %d error %d %s\n", device, (int)error, cudaGetErrorString(error));            \
      return 1;                                                                                    \
    }                                                                                              \
  } while (0)

static int try_device(int device, int count, char **architectures) {
  int major = 0, minor = 0, wanted = count == 0;
  TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  char name[32];
  snprintf(name, sizeof name, "%d.%d", major, minor);
  for (int i = 0; i < count; i++) wanted |= strcmp(name, architectures[i]) == 0;
  if (!wanted) {
    printf("device %d skipped %s\n", device, name);
    return 0;
  }
  const int n = 100003;
  int *host = (int *)malloc(n * sizeof(int)), *x = NULL, *y = NULL;
  for (int i = 0; i < n; i++) host[i] = i;
  TRY(cudaSetDevice(device));
  TRY(cudaMalloc(&x, n * sizeof(int)));
  TRY(cudaMalloc(&y, n * sizeof(int)));
  TRY(cudaMemcpy(x, host, n * sizeof(int), cudaMemcpyHostToDevice));
  TRY(cudaMemcpy(y, host, n * sizeof(int), cudaMemcpyHostToDevice));
  saxpy<<<(n + 255) / 256, 256>>>(n, 3, x, y);
  TRY(cudaGetLastError());
  TRY(cudaDeviceSynchronize());
  TRY(cudaMemcpy(host, y, n * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; i++)
    if (host[i] != 4 * i) {
      printf("device %d wrong %d %d\n", device, i, host[i]);
      return 1;
    }
  printf("device %d right %s\n", device, name);
  return 0;
}

int main(int argc, char **argv) {
  int device = -1, count = 0, bad = 0;
  TRY(cudaGetDeviceCount(&count));
  for (device = 0; device < count; device++) bad |= try_device(device, argc - 1, argv + 1);
  return bad;
}
"""

CUDNN = r"""
#include <cudnn.h>
#include <stdio.h>

int main(void) {
  printf("library %lu header %d.%d.%d\n", (unsigned long)cudnnGetVersion(), CUDNN_MAJOR, CUDNN_MINOR, CUDNN_PATCHLEVEL);
  return 0;
}
"""

#: For the child processes in Python: what is mapped into the process, and one line for us among whatever is printed.
_COMMON = r"""
import json, sys
def mapped(part):
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        words = (line.split(None, 5) for line in stream)
        paths = {row[5].strip() for row in words if len(row) == 6}
    return sorted(path for path in paths if part in path.rpartition("/")[2])
def answer(**values):
    print("\nGPULAB " + json.dumps(values, default=str), flush=True)
"""

CUDART = (
    _COMMON
    + r"""
import ctypes
version = ctypes.c_int(0)
status = ctypes.CDLL(sys.argv[1]).cudaRuntimeGetVersion(ctypes.byref(version))
answer(version=version.value, status=status, mapped=mapped("libcudart.so"))
"""
)

LIBCUDA = (
    _COMMON
    + r"""
import ctypes
try:
    ctypes.CDLL("libcuda.so.1")
except OSError as error:
    answer(mapped=[], error=str(error))
else:
    answer(mapped=mapped("libcuda.so"))
"""
)

#: cuDNN loads its parts when they are first needed; these functions need them, and no GPU.
CUDNN_LOADS = (
    _COMMON
    + r"""
import ctypes
library = ctypes.CDLL(sys.argv[1])
def call(name):
    function = getattr(library, name, None)
    if function is None:
        return None
    function.restype, function.argtypes = ctypes.c_size_t, []
    return function()
parts = ["Graph", "Ops", "Cnn", "Adv"] + [a + b for a in ("Ops", "Cnn", "Adv") for b in ("Infer", "Train")]
statuses = {part: call("cudnn%sVersionCheck" % part) for part in parts}
answer(
    version=call("cudnnGetVersion"),
    cudart=call("cudnnGetCudartVersion"),
    parts={part: status & 0xFFFFFFFF for part, status in statuses.items() if status is not None},
    mapped=mapped("libcudnn"),
)
"""
)

#: Without a GPU, TensorFlow and JAX load no cuDNN at all.
ENVIRONMENT = (
    _COMMON
    + r"""
name, run = sys.argv[1], sys.argv[2] == "run"
build = {}
if name == "pytorch":
    import torch
    torch.backends.cudnn.version()
elif name == "tensorflow":
    import tensorflow
    build = dict(tensorflow.sysconfig.get_build_info())
    if run:
        tensorflow.config.list_physical_devices("GPU")
elif name == "jax":
    import jax
    if run:
        jax.devices()
answer(mapped=mapped("libcudnn"), build=build)
"""
)
