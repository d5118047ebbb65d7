#include "data/corpus_input.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace rorqual {
namespace {

constexpr size_t kInputBytes = size_t{1} << 17;

class PlainInput final : public CorpusInput {
 public:
  explicit PlainInput(const std::filesystem::path& path) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) {
      fail("cannot open {}: {}; make it readable or take it out of the data", path.string(), std::strerror(errno));
    }
  }
  ~PlainInput() override { ::close(fd_); }
  PlainInput(const PlainInput&) = delete;
  PlainInput& operator=(const PlainInput&) = delete;

  size_t read(char* out, size_t size) override {
    for (;;) {
      const ssize_t n = ::read(fd_, out, size);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EINTR) {
        fail("cannot read {}: {}; make it readable or take it out of the data", path_.string(), std::strerror(errno));
      }
    }
  }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

[[noreturn]] void fail_damaged(const std::filesystem::path& path, const char* what, const std::string& why) {
  fail("{} is damaged: {} ({}); get the file again or take it out of the data", path.string(), why, what);
}

// A window of compressed bytes over a plain file.
class CompressedInput : public CorpusInput {
 public:
  explicit CompressedInput(const std::filesystem::path& path) : path_(path), plain_(path), buffer_(kInputBytes) {}

 protected:
  // Makes sure that there is input, unless the file is at its end.
  bool fill() {
    if (begin_ < end_) return true;
    begin_ = 0;
    end_ = plain_.read(buffer_.data(), buffer_.size());
    return end_ > 0;
  }

  std::filesystem::path path_;
  PlainInput plain_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
};

class GzipInput final : public CompressedInput {
 public:
  explicit GzipInput(const std::filesystem::path& path) : CompressedInput(path) {
    CHECK(inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK, "zlib {}", zlibVersion());
  }
  ~GzipInput() override { inflateEnd(&stream_); }
  GzipInput(const GzipInput&) = delete;
  GzipInput& operator=(const GzipInput&) = delete;

  size_t read(char* out, size_t size) override {
    while (size > 0 && !done_) {
      if (!inside_ && !start_member()) break;
      if (!fill()) fail_damaged(path_, "gzip", "it ends in the middle of its data");
      size = std::min(size, size_t{1} << 30);
      stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data() + begin_);
      stream_.avail_in = static_cast<uInt>(end_ - begin_);
      stream_.next_out = reinterpret_cast<Bytef*>(out);
      stream_.avail_out = static_cast<uInt>(size);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      begin_ = end_ - stream_.avail_in;
      const size_t made = size - stream_.avail_out;
      if (status == Z_STREAM_END) {
        inside_ = false;
      } else if (status != Z_OK && !(status == Z_BUF_ERROR && made == 0 && begin_ == end_)) {
        fail_damaged(path_, "gzip", stream_.msg != nullptr ? stream_.msg : "its bytes make no sense");
      }
      if (made > 0) return made;
    }
    return 0;
  }

 private:
  // At the start of the file or behind a member: another member, or the end, where zeros may stand as padding.
  bool start_member() {
    bool padding = false;
    while (fill()) {
      if (first_ || buffer_[begin_] != 0) {
        if (padding) fail_damaged(path_, "gzip", "something follows the zeros behind its data");
        if (!first_ && static_cast<unsigned char>(buffer_[begin_]) != 0x1f) {
          fail_damaged(path_, "gzip", "something that is not gzip follows its data");
        }
        CHECK(inflateReset(&stream_) == Z_OK);
        first_ = false;
        inside_ = true;
        return true;
      }
      padding = true;
      ++begin_;
    }
    if (first_) fail_damaged(path_, "gzip", "it is empty");
    done_ = true;
    return false;
  }

  z_stream stream_{};
  bool first_ = true, inside_ = false, done_ = false;
};

class ZstandardInput final : public CompressedInput {
 public:
  explicit ZstandardInput(const std::filesystem::path& path) : CompressedInput(path), stream_(ZSTD_createDStream()) {
    CHECK(stream_ != nullptr);
    // Files of `zstd --long=31` are welcome; the window is allocated only where a frame asks for it.
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, 31);
  }

  size_t read(char* out, size_t size) override {
    while (size > 0) {
      // A frame's last output can be pending inside the library when its input is used up, so the end of the file is an
      // error only if nothing more comes out.
      const bool more = fill();
      if (!more && !inside_) {
        if (first_) fail_damaged(path_, "zstd", "it is empty");
        return 0;
      }
      ZSTD_inBuffer input{buffer_.data() + begin_, end_ - begin_, 0};
      ZSTD_outBuffer output{out, size, 0};
      const size_t status = ZSTD_decompressStream(stream_.get(), &output, &input);
      if (ZSTD_isError(status)) fail_damaged(path_, "zstd", ZSTD_getErrorName(status));
      first_ = false;
      begin_ += input.pos;
      inside_ = status != 0;
      if (output.pos > 0) return output.pos;
      if (!more && inside_) fail_damaged(path_, "zstd", "it ends in the middle of its data");
    }
    return 0;
  }

 private:
  struct Free {
    void operator()(ZSTD_DStream* s) const { ZSTD_freeDStream(s); }
  };
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  bool first_ = true, inside_ = false;
};

}  // namespace

std::unique_ptr<CorpusInput> open_corpus_input(const CorpusFile& file) {
  switch (file.compression) {
    case Compression::kGzip:
      return std::make_unique<GzipInput>(file.path);
    case Compression::kZstandard:
      return std::make_unique<ZstandardInput>(file.path);
    case Compression::kNone:
      break;
  }
  return std::make_unique<PlainInput>(file.path);
}

std::string read_corpus_file(const CorpusFile& file) {
  const auto input = open_corpus_input(file);
  std::string text;
  // One byte more than a plain file's size, so that its end is seen without growing.
  size_t capacity = static_cast<size_t>(file.bytes) * (file.compression == Compression::kNone ? 1 : 4) + 1;
  size_t done = 0;
  for (;;) {
    text.resize(capacity);
    const size_t n = input->read(text.data() + done, capacity - done);
    if (n == 0) break;
    done += n;
    if (done == capacity) capacity += capacity / 2 + kInputBytes;
  }
  text.resize(done);
  return text;
}

}  // namespace rorqual
