#include "base/threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <set>
#include <stdexcept>

#include "base/error.h"

namespace rorqual {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 3, 64, 1000}) {
      std::vector<int> runs(static_cast<size_t>(tasks), 0);  // a task writes its own element alone: no atomics
      pool.run(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(tasks), 1)) << threads << " threads";
    }
  }
}

// Runs follow each other closely and at all distances: while workers spin, and after they fell asleep.
TEST(ThreadPool, ManyRunsInARow) {
  ThreadPool pool(3);
  std::vector<int64_t> sum(4, 0);
  constexpr int64_t kRuns = 5000;
  for (int64_t run = 0; run < kRuns; ++run) {
    pool.run(4, [&](int64_t i) { sum[static_cast<size_t>(i)] += run; });
    if (run % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (const int64_t s : sum) EXPECT_EQ(s, kRuns * (kRuns - 1) / 2);
}

TEST(ThreadPool, UsesSeveralThreads) {
  ThreadPool pool(2);
  std::atomic<int> waiting{0};
  // Two tasks that wait for each other end only if two threads run them.
  pool.run(2, [&](int64_t) {
    ++waiting;
    while (waiting < 2) std::this_thread::yield();
  });
  EXPECT_EQ(waiting, 2);
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> others{0};
    try {
      pool.run(10, [&](int64_t i) {
        if (i == 4) fail("task {} failed", i);
        ++others;
      });
      FAIL() << "no exception";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "task 4 failed");
    }
    EXPECT_EQ(others, 9) << "the other tasks run all the same";
    int64_t sum = 0;
    std::mutex mutex;
    pool.run(10, [&](int64_t i) {
      std::lock_guard lock(mutex);
      sum += i;
    });
    EXPECT_EQ(sum, 45) << "the pool is usable after an exception";
  }
}

TEST(ThreadPoolDeathTest, RefusesNesting) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(2);
        pool.run(2, [&](int64_t) { pool.run(2, [](int64_t) {}); });
      },
      "not reentrant");
}

TEST(Stream, RunsEveryTaskOnAnyPool) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    const Stream stream(pool);
    EXPECT_EQ(stream.threads(), threads);
    for (const int64_t tasks : {-1, 0, 1, 7}) {
      std::atomic<int64_t> runs{0};
      stream.parallel(tasks, [&](int64_t) { ++runs; });
      EXPECT_EQ(runs, std::max<int64_t>(tasks, 0));
    }
  }
}

TEST(ThreadScratch, IsAlignedPrivateAndKept) {
  ThreadPool pool(4);
  std::vector<void*> found(4);
  std::atomic<int> waiting{0};
  pool.run(4, [&](int64_t i) {
    void* data = thread_scratch(1, 1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    std::memset(data, static_cast<int>(i), 1000);
    EXPECT_EQ(thread_scratch(1, 10), data) << "a smaller request keeps the buffer";
    EXPECT_NE(thread_scratch(2, 10), data);
    found[static_cast<size_t>(i)] = data;
    ++waiting;
    while (waiting < 4) std::this_thread::yield();  // one task a thread
    EXPECT_EQ(static_cast<unsigned char*>(data)[999], i);
  });
  EXPECT_EQ(std::set<void*>(found.begin(), found.end()).size(), 4u);
}

TEST(ThreadScratchDeathTest, HasFourSlots) {
  EXPECT_DEATH(thread_scratch(4, 1), "CHECK");
}

class ThreadCount : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* now = std::getenv("OMP_NUM_THREADS")) before_ = now, had_ = true;
  }
  void TearDown() override {
    if (had_)
      setenv("OMP_NUM_THREADS", before_.c_str(), 1);
    else
      unsetenv("OMP_NUM_THREADS");
  }
  std::string before_;
  bool had_ = false;
};

TEST_F(ThreadCount, ReadsTheEnvironment) {
  setenv("OMP_NUM_THREADS", "3", 1);
  EXPECT_EQ(default_thread_count(), 3);
  setenv("OMP_NUM_THREADS", "", 1);
  const int cpus = default_thread_count();
  EXPECT_GE(cpus, 1);
  unsetenv("OMP_NUM_THREADS");
  EXPECT_EQ(default_thread_count(), cpus);
}

TEST_F(ThreadCount, RefusesNonsense) {
  for (const char* text : {"0", "-1", "1025", "two", "2x", "99999999999999999999"}) {
    setenv("OMP_NUM_THREADS", text, 1);
    try {
      default_thread_count();
      ADD_FAILURE() << "took " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(std::string("OMP_NUM_THREADS is '") + text + "'"));
    }
  }
}

}  // namespace
}  // namespace rorqual
