#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace rorqual {
namespace {

std::string reason() {
  return std::strerror(errno);
}

int open_for_reading(const std::filesystem::path& path, int64_t* size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot open {}: {}", path.string(), reason());
  struct stat info {};
  if (::fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
    const std::string why = S_ISDIR(info.st_mode) ? "it is a folder" : reason();
    ::close(fd);
    fail("cannot read {}: {}", path.string(), why);
  }
  *size = info.st_size;
  return fd;
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  int64_t size = 0;
  const int fd = open_for_reading(path, &size);
  std::string text(static_cast<size_t>(size), '\0');
  size_t done = 0;
  for (;;) {
    if (done == text.size()) text.resize(text.size() + 4096);  // grows for files whose size is not known before (/proc)
    const ssize_t n = ::read(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const std::string why = reason();
      ::close(fd);
      fail("cannot read {}: {}", path.string(), why);
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  ::close(fd);
  text.resize(done);
  return text;
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  std::string name = path_.string() + ".partial.XXXXXX";
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) fail("cannot write {}: {}", path_.string(), reason());
  temporary_ = name;
  ::fchmod(fd_, 0644);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write_at(int64_t offset, const void* data, int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, p, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot write {}: {}; free some space or choose another folder", path_.string(), reason());
    p += n;
    offset += n;
    bytes -= n;
  }
}

void AtomicFile::write(const void* data, int64_t bytes) {
  write_at(position_, data, bytes);
  position_ += bytes;
}

void AtomicFile::commit() {
  CHECK(fd_ >= 0, "commit called twice on {}", path_.string());
  if (::fsync(fd_) != 0) fail("cannot write {}: {}", path_.string(), reason());
  ::close(std::exchange(fd_, -1));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const std::string why = reason();
    ::unlink(temporary_.c_str());
    fail("cannot write {}: {}", path_.string(), why);
  }
  sync_directory(path_.parent_path());
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path d = directory.empty() ? "." : directory;
  const int fd = ::open(d.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("cannot open folder {}: {}", d.string(), reason());
  ::fsync(fd);  // some file systems refuse to sync a folder; the rename has happened all the same
  ::close(fd);
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  int64_t size = 0;
  const int fd = open_for_reading(path, &size);
  size_ = static_cast<size_t>(size);
  if (size_ > 0) {
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      const std::string why = reason();
      ::close(fd);
      fail("cannot map {}: {}", path.string(), why);
    }
    data_ = static_cast<const std::byte*>(map);
  }
  ::close(fd);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::forget(std::span<const std::byte> part) const {
  if (part.empty()) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(part.data()) + part.size();
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // refused: the memory stays, nothing is wrong
}

uint64_t hash_bytes(const void* data, int64_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, static_cast<size_t>(bytes), seed);
}

}  // namespace rorqual
