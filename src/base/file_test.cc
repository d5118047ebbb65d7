#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <functional>

#include "base/error.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "rorqual_file_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
    return names;
  }
  void expect_error(const std::function<void()>& body, const std::string& path, const std::string& reason) {
    try {
      body();
      ADD_FAILURE() << "no error for " << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kRuntime);
      EXPECT_THAT(error.what(), HasSubstr(path));
      EXPECT_THAT(error.what(), HasSubstr(reason));
    }
  }
  fs::path folder_;
};

TEST_F(FileTest, ReadsWhatWasWritten) {
  for (const size_t size : {0u, 1u, 4095u, 4096u, 4097u, 1000000u}) {
    std::string text(size, '\0');
    for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31);
    const fs::path path = folder_ / "x";
    write_file_atomically(path, text);
    EXPECT_EQ(read_file(path), text);
    const MappedFile map(path);
    EXPECT_EQ(map.text(), text);
    EXPECT_EQ(map.bytes().size(), size);
  }
  EXPECT_THAT(entries(), ::testing::ElementsAre("x"));
}

TEST_F(FileTest, ReadsFilesOfUnknownSize) {
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr("Pid:"));
}

TEST_F(FileTest, ErrorsNameThePathAndTheReason) {
  const std::string missing = (folder_ / "no such file").string();
  expect_error([&] { read_file(missing); }, missing, "No such file or directory");
  expect_error([&] { MappedFile map(missing); }, missing, "No such file or directory");
  expect_error([&] { read_file(folder_); }, folder_.string(), "it is a folder");
  expect_error([&] { MappedFile map(folder_); }, folder_.string(), "it is a folder");
  const std::string nowhere = (folder_ / "no folder" / "x").string();
  expect_error([&] { AtomicFile file(nowhere); }, nowhere, "No such file or directory");
  expect_error([&] { write_file_atomically(folder_, "x"); }, folder_.string(), "directory");
  expect_error([&] { sync_directory(folder_ / "gone"); }, "gone", "No such file or directory");
  EXPECT_TRUE(entries().empty());
}

TEST_F(FileTest, AppearsWholeOnCommitAlone) {
  const fs::path path = folder_ / "x";
  write_file_atomically(path, "old");
  {
    AtomicFile file(path);
    file.write("head....");
    file.write(std::string(100000, 'b'));
    EXPECT_EQ(file.position(), 100008);
    file.write_at(0, "HEAD", 4);
    EXPECT_EQ(file.position(), 100008) << "write_at leaves the position";
    EXPECT_EQ(read_file(path), "old");
    file.commit();
    EXPECT_EQ(read_file(path), "HEAD...." + std::string(100000, 'b'));
  }
  EXPECT_THAT(entries(), ::testing::ElementsAre("x"));
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u);
}

TEST_F(FileTest, NothingIsLeftWithoutCommit) {
  write_file_atomically(folder_ / "x", "old");
  { AtomicFile(folder_ / "x").write("new"); }
  try {
    AtomicFile file(folder_ / "y");
    file.write("new");
    throw std::runtime_error("on the way");
  } catch (const std::runtime_error&) {
  }
  EXPECT_THAT(entries(), ::testing::ElementsAre("x"));
  EXPECT_EQ(read_file(folder_ / "x"), "old");
}

TEST_F(FileTest, TwoWritersDoNotMix) {
  AtomicFile a(folder_ / "x"), b(folder_ / "x");
  a.write("aaaa");
  b.write("bb");
  b.commit();
  a.commit();
  EXPECT_EQ(read_file(folder_ / "x"), "aaaa");
  EXPECT_THAT(entries(), ::testing::ElementsAre("x"));
}

// No room: a limit on the size of files stands in for a full disk, since it fails at the same system call.
TEST_F(FileTest, NoRoomIsAnErrorAndLeavesNothing) {
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 10000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const fs::path path = folder_ / "x";
  expect_error([&] { write_file_atomically(path, std::string(20000, 'x')); }, path.string(), "free some space");
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(entries().empty());
}

TEST_F(FileTest, MapsMove) {
  write_file_atomically(folder_ / "x", "text");
  MappedFile a(folder_ / "x");
  MappedFile b(std::move(a));
  EXPECT_EQ(b.text(), "text");
  MappedFile c;
  c = std::move(b);
  EXPECT_EQ(c.text(), "text");
  c = MappedFile();
  EXPECT_EQ(c.text(), "");
}

TEST(Hash, IsXxh3) {
  EXPECT_EQ(hash_bytes("", 0), 0x2d06800538d394c2ULL);  // XXH3's own test vector
  EXPECT_NE(hash_bytes("a", 1), hash_bytes("b", 1));
  EXPECT_NE(hash_bytes("a", 1), hash_bytes("a", 1, 1));
}

}  // namespace
}  // namespace rorqual
