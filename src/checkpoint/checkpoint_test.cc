#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>

#include "checkpoint/checkpoint_test_support.h"
#include "checkpoint/state.h"

namespace rorqual {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

void expect_holds(const Checkpoint& checkpoint, const SmallModel& expected) {
  SmallModel loaded(99, std::string(expected.weights.precision().name), expected.config);
  restore(checkpoint.model(), named_tensors(loaded.weights));
  restore(checkpoint.ema(), loaded.ema());
  restore(checkpoint.moments(), loaded.moments());
  expect_equal(named_tensors(loaded.weights), named_tensors(expected.weights));
  expect_equal(loaded.ema(), expected.ema());
  expect_equal(loaded.moments(), expected.moments());
}

TEST(Checkpoint, RoundTripKeepsEveryBit) {
  for (const char* precision : {"bf16", "fp32", "fp64"}) {
    const TemporaryFolder folder;
    const SmallModel model(1, precision);
    CheckpointWriter writer(folder.path(), 2);
    CheckpointContents contents = model.contents(7);
    contents.trainer["tiny"] = 0.1 + 1e-17;
    writer.save(contents);
    writer.wait();
    const Checkpoint c = newest(folder.path());
    EXPECT_EQ(c.step, 7);
    EXPECT_EQ(c.tokens, 7000);
    EXPECT_EQ(c.sequences, 70);
    EXPECT_EQ(c.config, model.config);
    EXPECT_EQ(c.precision, precision);
    EXPECT_EQ(c.recipe, contents.recipe);
    EXPECT_EQ(c.trainer, contents.trainer);
    EXPECT_EQ(c.tokenizer, folder / "tokenizer");
    EXPECT_EQ(c.path.filename(), "step-00000007");
    expect_holds(c, model);
  }
}

TEST(Checkpoint, ConfigsWithoutAWordInHuggingFaceKeysSurvive) {
  const TemporaryFolder folder;
  SmallModel model(1);
  CheckpointContents contents = model.contents(0);
  contents.config.rope_scaling = {8, 32, 31, 2, 0.7, 0.8};
  contents.config.initializer_range = 1.0 / 3;
  CheckpointWriter writer(folder.path(), 1);
  writer.save(contents);
  writer.wait();
  EXPECT_EQ(newest(folder.path()).config, contents.config);
}

TEST(Checkpoint, SaveTakesASnapshotAndCountsIt) {
  const TemporaryFolder folder;
  MemoryUse use;
  const SmallModel before(1);
  SmallModel model(1);
  ThreadPool pool(2);
  const Stream stream(pool);
  CheckpointWriter writer(folder.path(), 2, &use);
  writer.save(model.contents(1), &stream);
  const int64_t held = use.now[static_cast<size_t>(MemoryClass::kSnapshot)];
  const CheckpointContents contents = model.contents(1);
  int64_t bytes = 0;
  for (const auto* list : {&contents.model, &contents.ema, &contents.moments})
    for (const NamedTensor& t : *list) bytes += t.values.bytes();
  EXPECT_GE(held, bytes);
  model.refill(500);  // while the first is being written
  writer.save(model.contents(2));
  EXPECT_EQ(use.peak[static_cast<size_t>(MemoryClass::kSnapshot)], held) << "the buffers are used again";
  writer.wait();
  expect_holds(open_checkpoint(list_checkpoints(folder.path())[0].path), before);
  expect_holds(newest(folder.path()), model);
}

TEST(Checkpoint, KeepsTheLastAndRemovesLaterOnes) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  {
    CheckpointWriter writer(folder.path(), 2);
    for (const int64_t step : {0, 10, 20, 30}) writer.save(model.contents(step));
  }
  EXPECT_THAT(names_in(folder / "checkpoints"), ElementsAre("step-00000020", "step-00000030"));
  // A run that was taken up at 20 has passed 30's place: 30 belongs to another past.
  CheckpointWriter writer(folder.path(), 2);
  writer.save(model.contents(25));
  writer.wait();
  EXPECT_THAT(names_in(folder / "checkpoints"), ElementsAre("step-00000020", "step-00000025"));
}

TEST(Checkpoint, ReplacesOneOfTheSameStep) {
  const TemporaryFolder folder;
  const SmallModel first(1), second(200);
  CheckpointWriter writer(folder.path(), 2);
  writer.save(first.contents(5));
  writer.save(second.contents(5));
  writer.wait();
  EXPECT_THAT(names_in(folder / "checkpoints"), ElementsAre("step-00000005"));
  expect_holds(newest(folder.path()), second);
}

TEST(Checkpoint, LeftoversOfAKilledProcessAreRemoved) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  make_run(folder.path(), model);
  fs::create_directories(folder / "checkpoints/.partial-step-00000200/x");
  fs::create_directories(folder / "checkpoints/.removed-step-00000050");
  const CheckpointWriter writer(folder.path(), 2);
  EXPECT_THAT(names_in(folder / "checkpoints"), ElementsAre("step-00000100"));
}

TEST(Checkpoint, WithoutAverageOrMomentsTheyAreAbsent) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  CheckpointContents contents = model.contents(3);
  contents.ema.clear();
  contents.moments.clear();
  CheckpointWriter writer(folder.path(), 1);
  writer.save(contents);
  writer.wait();
  const Checkpoint c = newest(folder.path());
  EXPECT_FALSE(c.has_ema());
  EXPECT_FALSE(c.has_moments());
  EXPECT_THAT(error_of([&] { c.ema(); }), HasSubstr("has no ema.safetensors"));
}

TEST(Checkpoint, NoCheckpointIsSaid) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder.path()).empty());
  EXPECT_THAT(error_of([&] { newest(folder.path()); }), HasSubstr("no checkpoint yet"));
  EXPECT_THAT(error_of([&] { newest_for_resume(folder.path()); }), HasSubstr("no checkpoint yet"));
  EXPECT_THAT(error_of([&] { CheckpointWriter(folder.path(), 0); }), HasSubstr("at least 1"));
}

// Names that are nearly those of checkpoints are none.
TEST(Checkpoint, ListsCheckpointsAlone) {
  const TemporaryFolder folder;
  for (const char* name : {"step-00000003", "step-123456789", "step-3", "step-000000003", "step--0000003", "step-0000000x",
                           ".partial-step-00000004", "stop-00000001"})
    fs::create_directories(folder / "checkpoints" / name);
  std::vector<int64_t> steps;
  for (const CheckpointPlace& p : list_checkpoints(folder.path())) steps.push_back(p.step);
  EXPECT_THAT(steps, ElementsAre(3, 123456789));
}

// Every damage to `file` is seen and named; --resume goes back, other readers do not.
void expect_seen(const fs::path& run, const fs::path& file, const std::string& damaged, const std::string& what) {
  const std::string whole = read_file(file);
  overwrite(file, damaged);
  const std::string message = error_of([&] { newest(run); });
  EXPECT_THAT(message, AllOf(HasSubstr(file.string()), HasSubstr("--resume"))) << what;
  EXPECT_EQ(newest_for_resume(run).step, 100) << what;
  overwrite(file, whole);
}

TEST(Checkpoint, DamageInAnyFileIsNamed) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  CheckpointWriter writer(folder.path(), 2);
  writer.save(model.contents(100));
  writer.save(model.contents(200));
  writer.wait();
  const fs::path newest_path = folder / "checkpoints/step-00000200";
  for (const char* name : {kStateFile, kModelFile, kEmaFile, kMomentsFile}) {
    const fs::path file = newest_path / name;
    const std::string whole = read_file(file);
    const size_t size = whole.size();
    testing::internal::CaptureStderr();
    for (const size_t kept : {size_t{0}, size_t{7}, size / 2, size - 1})
      expect_seen(folder.path(), file, whole.substr(0, kept), fmt::format("{} cut to {}", name, kept));
    expect_seen(folder.path(), file, whole + "\n", fmt::format("{} with a byte more", name));
    for (uint64_t i = 0; i < 12; ++i) {
      const RandomKey key{3, RandomPurpose::kTest, i, 0};
      const size_t at = i == 0 ? 0 : i == 1 ? size - 1 : random_below(key, 0, size);
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random_below(key, 1, 8)));
      expect_seen(folder.path(), file, damaged, fmt::format("{} with a flipped bit in byte {}", name, at));
    }
    fs::remove(file);
    EXPECT_THAT(error_of([&] { newest(folder.path()); }), HasSubstr(file.string()));
    EXPECT_EQ(newest_for_resume(folder.path()).step, 100);
    overwrite(file, whole);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), AllOf(HasSubstr("step-00000200"), HasSubstr(file.string())));
    EXPECT_EQ(newest(folder.path()).step, 200) << "whole again";
  }
  for (const CheckpointPlace& p : list_checkpoints(folder.path())) overwrite(p.path / kModelFile, "x");
  EXPECT_THAT(error_of([&] { newest_for_resume(folder.path()); }), HasSubstr("none of its 2 checkpoints is whole"));
}

TEST(Checkpoint, EveryBitOfTheStateIsCovered) {
  const SmallModel model(1);
  const std::string whole = encode_state(model.contents(4), {{kModelFile, 12, 34}});
  EXPECT_EQ(decode_state(whole, "c").step, 4);
  for (size_t at = 0; at < whole.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      EXPECT_THROW(decode_state(damaged, "c"), Error) << at << " " << bit;
    }
  for (size_t kept = 0; kept < whole.size(); ++kept) EXPECT_THROW(decode_state(whole.substr(0, kept), "c"), Error) << kept;
}

// Seals that fit, over states that make no sense.
TEST(Checkpoint, StatesOfOtherProgramsAreRefused) {
  const auto sealed = [](std::string body) {
    return body +
           fmt::format(",\n  \"checksum\": \"{:016x}\"\n}}\n", hash_bytes(body.data(), static_cast<int64_t>(body.size())));
  };
  const std::string head = "{\"format\": \"rorqual checkpoint\"";
  EXPECT_THAT(error_of([&] { decode_state(sealed("{\"format\": \"x\""), "c"); }), HasSubstr("not the state of a checkpoint"));
  EXPECT_THAT(error_of([&] { decode_state(sealed(head + ", \"version\": 2"), "c"); }), HasSubstr("version 2"));
  EXPECT_THAT(error_of([&] { decode_state(sealed(head + ", \"version\": 1"), "c"); }), HasSubstr("missing"));
  EXPECT_THAT(error_of([&] { decode_state(sealed("{["), "c"); }), HasSubstr("not the state"));
  const SmallModel model(1);
  const std::string other = encode_state(model.contents(4), {{"../../../secret", 12, 34}});
  EXPECT_THAT(error_of([&] { decode_state(other, "c"); }), HasSubstr("unknown file"));
}

TEST(Checkpoint, RestoreNamesWhatDiffers) {
  const TemporaryFolder folder;
  const SmallModel model(1);
  make_run(folder.path(), model);
  const Checkpoint c = newest(folder.path());
  SmallModel target(2);
  const SmallModel untouched(2);
  std::vector<NamedTensor> targets = named_tensors(target.weights);
  const std::string last = targets.back().name;
  targets.pop_back();
  EXPECT_THAT(error_of([&] { restore(c.model(), targets); }),
              AllOf(HasSubstr("no place for " + last), HasSubstr("model.safe")));
  targets = named_tensors(target.weights);
  targets.push_back({"more.weight", {16}, target.weights.master(1)});
  EXPECT_THAT(error_of([&] { restore(c.model(), targets); }), HasSubstr("lacks more.weight"));
  targets = named_tensors(target.weights);
  std::swap(targets[0].shape[0], targets[0].shape[1]);
  EXPECT_THAT(error_of([&] { restore(c.model(), targets); }), AllOf(HasSubstr(targets[0].name), HasSubstr("shape [280, 16]")));
  targets = named_tensors(target.weights);
  targets[0].values.dtype = DType::kI32;
  EXPECT_THAT(error_of([&] { restore(c.model(), targets); }), AllOf(HasSubstr(targets[0].name), HasSubstr("dtype F32")));
  expect_equal(named_tensors(target.weights), named_tensors(untouched.weights));
}

// A limit on the size of files stands for a full disk: the write fails after so many bytes.
TEST(Checkpoint, FullDiskLeavesOlderCheckpointsWhole) {
  const TemporaryFolder folder;
  const SmallModel model(1), other(50);
  CheckpointWriter writer(folder.path(), 3);
  writer.save(model.contents(1));
  writer.wait();
  const auto model_bytes = fs::file_size(folder / "checkpoints/step-00000001/model.safetensors");
  ASSERT_GT(model_bytes, 10000u);
  const auto usual = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  for (const uint64_t limit : {uint64_t{0}, uint64_t{100}, uint64_t{5000}, uint64_t{model_bytes - 1}}) {
    rlimit little = before;
    little.rlim_cur = limit;
    std::string message;
    ::setrlimit(RLIMIT_FSIZE, &little);
    try {
      writer.save(other.contents(2));
      writer.wait();
    } catch (const Error& error) {
      message = error.what();
    }
    ::setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_THAT(message, AllOf(HasSubstr("cannot write"), HasSubstr("step-00000002"))) << limit;
    EXPECT_THAT(names_in(folder / "checkpoints"), ElementsAre("step-00000001")) << limit;
    expect_holds(newest(folder.path()), model);
  }
  std::signal(SIGXFSZ, usual);
  writer.wait();  // the error was told once
  writer.save(other.contents(2));
  writer.wait();
  expect_holds(newest(folder.path()), other);
}

// Saves steps first, first + 1, … and tells each that is finished, until it is killed.
[[noreturn]] void save_for_ever(const fs::path& run, int64_t first, int pipe) {
  SmallModel model(1);
  CheckpointWriter writer(run, 2);
  for (int64_t step = first;; ++step) {
    model.refill(static_cast<uint64_t>(step));
    writer.save(model.contents(step));
    if (step % 2 == 0) continue;  // two in flight, one after the other
    writer.wait();
    if (::write(pipe, &step, sizeof step) != sizeof step) _exit(1);
  }
}

TEST(Checkpoint, KillAtAnyMomentLosesNothing) {
  const TemporaryFolder folder;
  int64_t step = 0;
  int interrupted = 0;
  for (uint64_t round = 0; round < 24; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_for_ever(folder.path(), step + 1, ends[1]);
    ::close(ends[1]);
    int64_t told = 0;
    ASSERT_EQ(::read(ends[0], &told, sizeof told), static_cast<ssize_t>(sizeof told));
    ::usleep(static_cast<useconds_t>(random_below({1, RandomPurpose::kTest, round, 0}, 0, 30000)));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    for (int64_t next = 0; ::read(ends[0], &next, sizeof next) == static_cast<ssize_t>(sizeof next);) told = next;
    ::close(ends[0]);
    for (const std::string& name : names_in(folder / "checkpoints")) interrupted += name.starts_with(".");
    const std::vector<CheckpointPlace> places = list_checkpoints(folder.path());
    ASSERT_FALSE(places.empty());
    ASSERT_GE(places.back().step, told) << "a checkpoint that was finished is gone";
    SmallModel expected(1);
    for (const CheckpointPlace& p : places) {
      expected.refill(static_cast<uint64_t>(p.step));
      expect_holds(open_checkpoint(p.path), expected);
    }
    step = places.back().step;
  }
  EXPECT_GT(interrupted, 0) << "no kill met a write: the test has lost its point";
}

}  // namespace
}  // namespace rorqual
