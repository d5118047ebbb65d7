// Files: whole reads, memory maps, and writes that are either complete or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace rorqual {

// The bytes of a file. Error (runtime) names the path and the reason.
std::string read_file(const std::filesystem::path& path);

// Writes through a temporary file beside `path`, syncs it, and renames it on commit(). Without commit, nothing is left.
// A full disk or a failing write is an Error that names the path.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, int64_t bytes);
  void write(std::string_view text) { write(text.data(), static_cast<int64_t>(text.size())); }
  // Writes at an offset without moving the position of write(): for headers known last.
  void write_at(int64_t offset, const void* data, int64_t bytes);
  int64_t position() const { return position_; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  int64_t position_ = 0;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// Makes a rename or a new entry in `directory` survive a power cut.
void sync_directory(const std::filesystem::path& directory);

// A read-only map of a whole file. Empty files map to an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  // Gives back the memory behind a part of the map that has been read: it comes from the file again if it is read again. So
  // that walking through a file needs memory for what is being read, not for the file.
  void forget(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// 64-bit XXH3 of bytes: content hashes and checksums of every format of ours.
uint64_t hash_bytes(const void* data, int64_t bytes, uint64_t seed = 0);

}  // namespace rorqual
