// Launching device code from a .cu file: launch(kernel, shape, stream, arguments…).
#pragma once

#include "hopper/types.h"

namespace rorqual::hopper {

// A CUDA stream (cudaStream_t), null for the default one. The emulator has one queue and runs a launch at once.
using DeviceStream = void*;

struct LaunchShape {
  uint32_t blocks = 1;        // grid, x
  uint32_t blocks_y = 1;      // grid, y
  uint32_t threads = 128;     // per block, a multiple of 32
  uint32_t shared_bytes = 0;  // dynamic
  uint32_t cluster = 1;       // blocks per cluster along x; divides `blocks`
};

// Throws an Error that names the kernel.
[[noreturn]] void launch_failed(const char* kernel, const char* reason);

}  // namespace rorqual::hopper

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace rorqual::hopper {

template <class... Parameters, class... Arguments>
void launch_named(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, DeviceStream stream,
                  const Arguments&... arguments) {
  if (shape.blocks == 0 || shape.blocks_y == 0) return;
  const auto check = [&](cudaError_t error) {
    if (error != cudaSuccess) launch_failed(name, cudaGetErrorString(error));
  };
  if (shape.shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks, shape.blocks_y);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {shape.cluster, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

}  // namespace rorqual::hopper
#else
#include "hopper/emulator/launch.h"
#endif

#define HOPPER_LAUNCH(kernel, ...) ::rorqual::hopper::launch_named(#kernel, kernel, __VA_ARGS__)
