// SPDX-License-Identifier: Apache-2.0
// Lists the CUDA devices of this host as programs see them. Exit status: 0 there are some, 1 there are none, 2 the runtime says why not.
#include <cstdio>
#include <cuda_runtime.h>

int main() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::printf("CUDA runtime %d.%d, driver serves up to %d.%d\n", runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    std::printf("no CUDA device\n");
    return 1;
  }
  if (error != cudaSuccess) {
    std::printf("no CUDA device: %s (%s)\n", cudaGetErrorString(error), cudaGetErrorName(error));
    return 2;
  }
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp seen;
    if (cudaGetDeviceProperties(&seen, device) != cudaSuccess) continue;
    std::printf("%d: %s, compute capability %d.%d, %.1f GiB, %d multiprocessors, PCI %04x:%02x:%02x\n", device, seen.name, seen.major,
                seen.minor, seen.totalGlobalMem / 1073741824.0, seen.multiProcessorCount, seen.pciDomainID, seen.pciBusID,
                seen.pciDeviceID);
  }
  return 0;
}
