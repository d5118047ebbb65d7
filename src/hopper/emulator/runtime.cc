// hopper/runtime.h under the emulator: device memory is the process's own.
#include "hopper/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) static_cast<void>(0)
#endif

namespace rorqual::hopper {

bool is_emulated() {
  return true;
}
const std::string& why_no_device() {
  static const std::string none;
  return none;
}
const DeviceInfo& device_info() {
  static const DeviceInfo info{"emulated Hopper", 4, 1 << 20, int64_t{1} << 30};
  return info;
}

namespace {

// Around a buffer lies what a kernel must not touch: what is behind is looked at when the buffer is released, and
// AddressSanitizer sees reads too.
constexpr size_t kGuard = 256;
constexpr int kGuardByte = 0xa5;
struct Header {
  size_t bytes;
};

}  // namespace

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  auto* block = static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 3 * kGuard) / 256 * 256 + 256));
  if (block == nullptr) fail("{} bytes of device memory cannot be had", bytes);
  *reinterpret_cast<Header*>(block) = {bytes};
  data_.reset(block + kGuard);
  std::memset(data(), 0xff, bytes);
  std::memset(block + kGuard + bytes, kGuardByte, kGuard);
  ASAN_POISON_MEMORY_REGION(block, kGuard);
  ASAN_POISON_MEMORY_REGION(block + kGuard + bytes, kGuard);
}
DeviceBuffer::DeviceBuffer(const void* host, size_t bytes) : DeviceBuffer(bytes) {
  copy_from(host, bytes);
}
void DeviceBuffer::Release::operator()(void* p) const {
  auto* block = static_cast<std::byte*>(p) - kGuard;
  ASAN_UNPOISON_MEMORY_REGION(block, kGuard);
  const size_t bytes = reinterpret_cast<const Header*>(block)->bytes;
  ASAN_UNPOISON_MEMORY_REGION(block + kGuard + bytes, kGuard);
  for (size_t i = 0; i < kGuard; ++i)
    CHECK(block[kGuard + bytes + i] == std::byte{kGuardByte}, "a kernel wrote {} bytes beyond a buffer of {}", i + 1, bytes);
  std::free(block);
}
void DeviceBuffer::copy_from(const void* host, size_t bytes, size_t offset) const {
  CHECK(offset + bytes <= bytes_, "{} bytes at {} of {}", bytes, offset, bytes_);
  if (bytes > 0) std::memcpy(as<std::byte>() + offset, host, bytes);
}
void DeviceBuffer::copy_to(void* host, size_t bytes, size_t offset) const {
  CHECK(offset + bytes <= bytes_, "{} bytes at {} of {}", bytes, offset, bytes_);
  if (bytes > 0) std::memcpy(host, as<std::byte>() + offset, bytes);
}
void DeviceBuffer::fill(uint8_t value) const {
  std::memset(data(), value, bytes_);
}

void synchronise() {}

void copy_on_device(void* to, const void* from, size_t bytes, DeviceStream) {
  std::memcpy(to, from, bytes);
}

Graph::Graph(const std::function<void(DeviceStream)>& record) : recorded_(new std::function<void(DeviceStream)>(record)) {}
Graph::~Graph() {
  delete static_cast<std::function<void(DeviceStream)>*>(recorded_);
}
void Graph::launch(DeviceStream stream) const {
  (*static_cast<std::function<void(DeviceStream)>*>(recorded_))(stream);
}

Timer::Timer() : start_(new int64_t), stop_(new int64_t) {}
Timer::~Timer() {
  delete static_cast<int64_t*>(start_);
  delete static_cast<int64_t*>(stop_);
}
namespace {
void mark(void* point) {
  *static_cast<int64_t*>(point) = std::chrono::steady_clock::now().time_since_epoch().count();
}
}  // namespace
void Timer::start(DeviceStream) {
  mark(start_);
}
void Timer::stop(DeviceStream) {
  mark(stop_);
}
double Timer::elapsed_ms() {
  return static_cast<double>(*static_cast<int64_t*>(stop_) - *static_cast<int64_t*>(start_)) * 1e-6;
}

}  // namespace rorqual::hopper
