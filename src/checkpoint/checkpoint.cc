#include "checkpoint/checkpoint.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/state.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdvice =
    "copy it again if there is another copy; `rorqual train --resume` goes back to the checkpoint before it";

void verify(const Checkpoint& checkpoint, const Checkpoint::File& file, bool every_byte) {
  const fs::path path = checkpoint.path / file.name;
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) fail("{} is missing or cannot be read ({}); {}", path.string(), error.message(), kAdvice);
  if (static_cast<int64_t>(bytes) != file.bytes)
    fail("{} is damaged: it has {} bytes, {} were written; {}", path.string(), bytes, file.bytes, kAdvice);
  if (!every_byte) return;
  const MappedFile map(path);
  const uint64_t checksum = hash_bytes(map.bytes().data(), static_cast<int64_t>(map.bytes().size()));
  if (checksum != file.checksum)
    fail("{} is damaged: its checksum is {:016x}, {:016x} was written; {}", path.string(), checksum, file.checksum, kAdvice);
}

[[noreturn]] void fail_without_checkpoints(const fs::path& run_directory) {
  fail("{}: this run has no checkpoint yet (checkpoints/step-… is missing)", run_directory.string());
}

}  // namespace

bool Checkpoint::has(const std::string& file) const {
  return std::any_of(files.begin(), files.end(), [&](const File& f) { return f.name == file; });
}

const SafetensorsFile& Checkpoint::open(const std::string& file) const {
  if (!has(file)) fail("{}: this checkpoint has no {}", path.string(), file);
  std::unique_ptr<SafetensorsFile>& map = (*maps_)[file];
  if (!map) map = std::make_unique<SafetensorsFile>(path / file);
  return *map;
}

std::vector<CheckpointPlace> list_checkpoints(const fs::path& run_directory) {
  std::vector<CheckpointPlace> places;
  std::error_code error;
  for (fs::directory_iterator it(run_directory / "checkpoints", error), end; !error && it != end; it.increment(error)) {
    const int64_t step = checkpoint_step(it->path().filename().string());
    if (step >= 0) places.push_back({it->path(), step});
  }
  std::sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return places;
}

Checkpoint open_checkpoint(const fs::path& path, bool verify_all) {
  Checkpoint checkpoint = decode_state(read_file(path / kStateFile), path);
  if (!checkpoint.has(kModelFile)) fail("{}: it names no {}", (path / kStateFile).string(), kModelFile);
  for (const Checkpoint::File& file : checkpoint.files) verify(checkpoint, file, verify_all);
  return checkpoint;
}

Checkpoint newest_for_resume(const fs::path& run_directory) {
  const std::vector<CheckpointPlace> places = list_checkpoints(run_directory);
  if (places.empty()) fail_without_checkpoints(run_directory);
  for (auto it = places.rbegin(); it != places.rend(); ++it) {
    try {
      return open_checkpoint(it->path);
    } catch (const Error& error) {
      warn("checkpoint {} is skipped: {}", it->path.filename().string(), error.what());
    }
  }
  fail("{}: none of its {} checkpoints is whole; begin anew in another folder", run_directory.string(), places.size());
}

Checkpoint newest(const fs::path& run_directory) {
  for (;;) {
    const std::vector<CheckpointPlace> places = list_checkpoints(run_directory);
    if (places.empty()) fail_without_checkpoints(run_directory);
    try {
      return open_checkpoint(places.back().path);
    } catch (const Error&) {
      // A run in progress may have written a newer one, and removed this one, in the meantime.
      const std::vector<CheckpointPlace> now = list_checkpoints(run_directory);
      if (now.empty() || now.back().step <= places.back().step) throw;
    }
  }
}

}  // namespace rorqual
