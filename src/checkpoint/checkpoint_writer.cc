#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/state.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

// Names that list_checkpoints does not see; what bears them is removed by the next writer.
constexpr const char* kPartial = ".partial-";
constexpr const char* kRemoved = ".removed-";
constexpr int64_t kAlign = 64;

int64_t aligned(int64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

void copy_rows(const Tensor& from, std::byte* to) {
  const int64_t row_bytes = from.cols * size_of(from.dtype);
  if (from.contiguous()) {
    if (from.bytes() > 0) std::memcpy(to, from.data, static_cast<size_t>(from.bytes()));
    return;
  }
  for (int64_t r = 0; r < from.rows; ++r) std::memcpy(to + r * row_bytes, from.raw_row(r), static_cast<size_t>(row_bytes));
}

// Renamed first: a checkpoint that is half deleted never bears its name.
void remove_checkpoint(const fs::path& path) {
  const fs::path hidden = path.parent_path() / (kRemoved + path.filename().string());
  std::error_code error;
  fs::remove_all(hidden, error);
  fs::rename(path, hidden, error);
  if (!error) fs::remove_all(hidden, error);
  if (error) warn("cannot remove the old checkpoint {}: {}", path.string(), error.message());
}

// `partial` becomes `final_path` in one step, also where that exists (a run taken up before it has come there again).
void publish(const fs::path& partial, const fs::path& final_path) {
  std::error_code error;
  if (fs::exists(final_path, error)) {
    if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) == 0) {
      fs::remove_all(partial, error);
      return;
    }
    remove_checkpoint(final_path);  // a file system that cannot exchange
  }
  if (::rename(partial.c_str(), final_path.c_str()) != 0)
    fail("cannot write checkpoint {}: {}", final_path.string(), std::strerror(errno));
}

Checkpoint::File write_tensors(const fs::path& folder, const char* name, const std::vector<NamedTensor>& tensors) {
  std::vector<SafetensorsWriter::Declaration> declarations;
  declarations.reserve(tensors.size());
  for (const NamedTensor& t : tensors) declarations.push_back({t.name, t.values.dtype, t.shape});
  SafetensorsWriter writer(folder / name, declarations, {});
  for (const NamedTensor& t : tensors) writer.write(t.values);
  writer.commit();
  const MappedFile map(folder / name);
  const auto bytes = static_cast<int64_t>(map.bytes().size());
  return {name, bytes, hash_bytes(map.bytes().data(), bytes)};
}

}  // namespace

struct CheckpointWriter::Job {
  CheckpointContents contents;  // its tensors lie in the snapshot
};

CheckpointWriter::CheckpointWriter(const fs::path& run_directory, int64_t checkpoints_kept, MemoryUse* use)
    : folder_(run_directory / "checkpoints"), kept_(checkpoints_kept), arena_(use) {
  if (kept_ < 1) fail_usage("train.checkpoints_kept = {} must be at least 1", kept_);
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) fail("cannot make folder {}: {}", folder_.string(), error.message());
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kPartial) || name.starts_with(kRemoved)) leftovers.push_back(it->path());
  }
  for (const fs::path& path : leftovers) {
    fs::remove_all(path, error);
    if (error) warn("cannot remove the unfinished checkpoint {}: {}", path.string(), error.message());
  }
}

CheckpointWriter::~CheckpointWriter() {
  try {
    wait();
  } catch (const std::exception& error) {
    warn("the last checkpoint was not written: {}", error.what());
  }
}

void CheckpointWriter::wait() {
  if (thread_.joinable()) thread_.join();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void CheckpointWriter::snapshot(const CheckpointContents& contents, const Stream* stream) {
  job_ = std::make_unique<Job>(Job{contents});
  std::vector<Tensor*> tensors;
  int64_t total = 0;
  for (auto* list : {&job_->contents.model, &job_->contents.ema, &job_->contents.moments})
    for (NamedTensor& t : *list) {
      tensors.push_back(&t.values);
      total += aligned(t.values.bytes());
    }
  arena_.release({});
  auto* next = static_cast<std::byte*>(total > 0 ? arena_.bytes(MemoryClass::kSnapshot, total) : nullptr);
  std::vector<std::byte*> places;
  for (const Tensor* t : tensors) {
    places.push_back(next);
    next += aligned(t->bytes());
  }
  const auto copy = [&](int64_t i) {
    Tensor& t = *tensors[static_cast<size_t>(i)];
    copy_rows(t, places[static_cast<size_t>(i)]);
    t = Tensor(places[static_cast<size_t>(i)], t.dtype, t.rows, t.cols);
  };
  const auto n = static_cast<int64_t>(tensors.size());
  if (stream) {
    stream->parallel(n, copy);
  } else {
    for (int64_t i = 0; i < n; ++i) copy(i);
  }
}

void CheckpointWriter::save(const CheckpointContents& contents, const Stream* stream) {
  wait();
  CHECK(contents.step >= 0 && !contents.model.empty(), "a checkpoint of step {} with {} tensors", contents.step,
        contents.model.size());
  snapshot(contents, stream);
  thread_ = std::thread([this] {
    try {
      write(*job_);
    } catch (...) {
      error_ = std::current_exception();
    }
  });
}

void CheckpointWriter::write(const Job& job) const {
  const CheckpointContents& c = job.contents;
  const std::string name = checkpoint_name(c.step);
  const fs::path partial = folder_ / (kPartial + name);
  std::error_code error;
  fs::remove_all(partial, error);
  if (!fs::create_directory(partial, error))
    fail("cannot make folder {}: {}", partial.string(), error ? error.message() : "it exists");
  try {
    std::vector<Checkpoint::File> files = {write_tensors(partial, kModelFile, c.model)};
    if (!c.ema.empty()) files.push_back(write_tensors(partial, kEmaFile, c.ema));
    if (!c.moments.empty()) files.push_back(write_tensors(partial, kMomentsFile, c.moments));
    write_file_atomically(partial / kStateFile, encode_state(c, files));
    sync_directory(partial);
    publish(partial, folder_ / name);
  } catch (...) {
    fs::remove_all(partial, error);
    throw;
  }
  sync_directory(folder_);
  prune(c.step);
}

void CheckpointWriter::prune(int64_t newest_step) const {
  std::vector<CheckpointPlace> places = list_checkpoints(folder_.parent_path());
  for (const CheckpointPlace& p : places)
    if (p.step > newest_step) remove_checkpoint(p.path);
  std::erase_if(places, [&](const CheckpointPlace& p) { return p.step > newest_step; });
  const auto count = static_cast<int64_t>(places.size());
  for (int64_t i = 0; i + kept_ < count; ++i) remove_checkpoint(places[static_cast<size_t>(i)].path);
}

}  // namespace rorqual
