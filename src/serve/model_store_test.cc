#include "serve/model_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;

class ModelStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = fs::path(::testing::TempDir()) / "rorqual_store_XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(ModelStoreTest, NamesAreHarmless) {
  for (const char* good : {"a", "tiny", "DeepSeek-V3.1_base", "0"}) EXPECT_TRUE(is_model_name(good)) << good;
  for (const std::string& bad : {std::string(), std::string(".."), std::string("-x"), std::string("a/b"), std::string("a b"),
                                 std::string("a\"b"), std::string("a\n"), std::string("ü"), std::string(101, 'a')})
    EXPECT_FALSE(is_model_name(bad)) << bad;
  EXPECT_EQ(model_name_of("/x/runs/my run"), "my-run");
  EXPECT_EQ(model_name_of("/x/.hidden"), "model.hidden");
}

TEST_F(ModelStoreTest, KnowsWhatLiesInItsFolderAndNothingElse) {
  const ModelStore none(folder_ / "missing");
  EXPECT_TRUE(none.names().empty());
  EXPECT_FALSE(none.has("a"));
  const ModelStore store(folder_);
  fs::create_directory(folder_ / "real");
  fs::create_directory_symlink("/nonexistent", folder_ / "dangling");
  fs::create_directory(folder_ / ".cache");
  EXPECT_THAT(store.names(), ::testing::ElementsAre("dangling", "real"));
  EXPECT_TRUE(store.has("dangling") && store.has("real"));
  EXPECT_FALSE(store.has("../" + folder_.filename().string() + "/real"));
  EXPECT_THROW(store.path_of("nobody"), Error);
  EXPECT_THROW(store.remove("real"), Error) << "a directory of somebody's";
  store.remove("dangling");
  EXPECT_THAT(store.names(), ::testing::ElementsAre("real"));
}

TEST_F(ModelStoreTest, WhatCannotBeReadIsSaidWithoutItsPath) {
  const ModelStore store(folder_);
  EXPECT_THROW(store.add(folder_ / "missing", "a"), Error);
  fs::create_directory(folder_ / "empty");
  EXPECT_THROW(store.add(folder_ / "empty", "a"), Error);
  EXPECT_FALSE(store.has("a")) << "nothing is left behind";
  const ModelFacts facts = model_facts("empty", folder_ / "empty");
  EXPECT_FALSE(facts.error.empty());
  EXPECT_EQ(facts.error.find(folder_.string()), std::string::npos);
  EXPECT_EQ(facts.memory_bytes, 0);
}

TEST_F(ModelStoreTest, AWordIsADirectoryOrAName) {
  const ModelStore store(folder_);
  fs::create_directory(folder_ / "real");
  EXPECT_EQ(find_model("real", store).path, folder_ / "real");
  EXPECT_EQ(find_model((folder_ / "real").string(), store).name, "real");
  EXPECT_THROW(find_model("nobody", store), Error);
}

}  // namespace
}  // namespace rorqual
