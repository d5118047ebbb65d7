// hopper/runtime.h and the tensor maps on CUDA.
#include "hopper/runtime.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <utility>

#include "base/error.h"
#include "hopper/tensor_map.h"

namespace rorqual::hopper {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail("{}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

std::string find_device(DeviceInfo& info) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return fmt::format("CUDA finds no device: {}", cudaGetErrorString(error));
  if (count == 0) return "CUDA finds no device";
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "properties of device 0");
  if (properties.major != 9 || properties.minor != 0)
    return fmt::format("device 0, {}, has compute capability {}.{}; these kernels need 9.0 (Hopper)", properties.name,
                       properties.major, properties.minor);
  info = {properties.name, properties.multiProcessorCount, properties.l2CacheSize,
          static_cast<int64_t>(properties.totalGlobalMem)};
  return {};
}

struct Found {
  DeviceInfo info;
  std::string why_not;
  Found() : why_not(find_device(info)) {}
};
const Found& found() {
  static const Found once;
  return once;
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    if (entry == nullptr || result != cudaDriverEntryPointSuccess)
      fail("the driver has no cuTensorMapEncodeTiled; it is too old");
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return function;
}

}  // namespace

void launch_failed(const char* kernel, const char* reason) {
  fail("{}: cannot be launched: {}", kernel, reason);
}

bool is_emulated() {
  return false;
}
const std::string& why_no_device() {
  return found().why_not;
}
const DeviceInfo& device_info() {
  if (!found().why_not.empty()) fail("{}", found().why_not);
  return found().info;
}

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, bytes > 0 ? bytes : 1); error != cudaSuccess)
    fail("{} bytes of device memory cannot be had: {}", bytes, cudaGetErrorString(error));
  data_.reset(data);
  fill(0xff);
}
DeviceBuffer::DeviceBuffer(const void* host, size_t bytes) : DeviceBuffer(bytes) {
  copy_from(host, bytes);
}
void DeviceBuffer::Release::operator()(void* p) const {
  cudaFree(p);
}
void DeviceBuffer::copy_from(const void* host, size_t bytes, size_t offset) const {
  CHECK(offset + bytes <= bytes_, "{} bytes at {} of {}", bytes, offset, bytes_);
  check(cudaMemcpy(as<std::byte>() + offset, host, bytes, cudaMemcpyHostToDevice), "a copy to the device");
}
void DeviceBuffer::copy_to(void* host, size_t bytes, size_t offset) const {
  CHECK(offset + bytes <= bytes_, "{} bytes at {} of {}", bytes, offset, bytes_);
  check(cudaMemcpy(host, as<std::byte>() + offset, bytes, cudaMemcpyDeviceToHost), "a copy from the device");
}
void DeviceBuffer::fill(uint8_t value) const {
  check(cudaMemset(data(), value, bytes_), "filling device memory");
}

void restart_schedule() {}

void synchronise() {
  check(cudaDeviceSynchronize(), "a kernel failed");
}

void copy_on_device(void* to, const void* from, size_t bytes, DeviceStream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)), "a copy");
}

namespace {

// The stream that launches are recorded on.
struct Recorder {
  cudaStream_t stream = nullptr;
  Recorder() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "recording");
  }
  ~Recorder() {
    cudaGraph_t left = nullptr;  // by an exception
    if (recording && cudaStreamEndCapture(stream, &left) == cudaSuccess && left != nullptr) cudaGraphDestroy(left);
    cudaStreamDestroy(stream);
  }
  cudaGraph_t end() {
    cudaGraph_t graph = nullptr;
    recording = false;
    check(cudaStreamEndCapture(stream, &graph), "recording launches");
    return graph;
  }

 private:
  bool recording = true;
};

}  // namespace

Graph::Graph(const std::function<void(DeviceStream)>& record) {
  Recorder recorder;
  record(recorder.stream);
  cudaGraph_t graph = recorder.end();
  const cudaError_t error = cudaGraphInstantiate(reinterpret_cast<cudaGraphExec_t*>(&recorded_), graph, 0);
  cudaGraphDestroy(graph);
  check(error, "a graph of launches");
}
Graph::~Graph() {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded_));
}
void Graph::launch(DeviceStream stream) const {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded_), static_cast<cudaStream_t>(stream)), "a graph of launches");
}

Timer::Timer() {
  check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&start_)), "an event");
  check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(&stop_)), "an event");
}
Timer::~Timer() {
  cudaEventDestroy(static_cast<cudaEvent_t>(start_));
  cudaEventDestroy(static_cast<cudaEvent_t>(stop_));
}
void Timer::start(DeviceStream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(start_), static_cast<cudaStream_t>(stream)), "an event");
}
void Timer::stop(DeviceStream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(stop_), static_cast<cudaStream_t>(stream)), "an event");
}
double Timer::elapsed_ms() {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(stop_)), "a kernel failed");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(start_), static_cast<cudaEvent_t>(stop_)),
        "the time between events");
  return static_cast<double>(ms);
}

TensorMap make_tensor_map(const TensorMapShape& s) {
  check_tensor_map(s);
  constexpr cuuint32_t kRank = 3;
  const int64_t matrix_bytes = s.depth > 1 ? s.matrix_bytes : s.row_bytes * s.rows;
  const cuuint64_t sizes[kRank] = {static_cast<cuuint64_t>(s.columns), static_cast<cuuint64_t>(s.rows),
                                   static_cast<cuuint64_t>(s.depth)};
  const cuuint64_t strides[kRank - 1] = {static_cast<cuuint64_t>(s.row_bytes), static_cast<cuuint64_t>(matrix_bytes)};
  const cuuint32_t box[kRank] = {static_cast<cuuint32_t>(s.box_columns), static_cast<cuuint32_t>(s.box_rows), 1};
  const cuuint32_t steps[kRank] = {1, 1, 1};
  const CUtensorMapDataType type = s.element == Element::kU8     ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : s.element == Element::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                                 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  alignas(64) CUtensorMap encoded;
  const CUresult result =
      encode_tiled()(&encoded, type, kRank, const_cast<void*>(s.data), sizes, strides, box, steps,
                     CU_TENSOR_MAP_INTERLEAVE_NONE, s.swizzle ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail("cuTensorMapEncodeTiled refuses {} matrices of {}×{} every {} and {} bytes, boxes of {}×{}: error {}", s.depth, s.rows,
         s.columns, s.row_bytes, matrix_bytes, s.box_rows, s.box_columns, static_cast<int>(result));
  TensorMap map;
  static_assert(sizeof map == sizeof encoded);
  std::memcpy(&map, &encoded, sizeof map);
  return map;
}

}  // namespace rorqual::hopper
