#include "base/error.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

TEST(Error, KindGivesTheExitCode) {
  try {
    fail("{} of {}", 1, 2);
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "1 of 2");
    EXPECT_EQ(error.exit_code(), 1);
  }
  try {
    fail_usage("{}", "{}");
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "{}") << "an argument is text, not a format";
    EXPECT_EQ(error.exit_code(), 2);
  }
  EXPECT_THROW(fail("x"), Error);
  EXPECT_THROW(fail_usage("x"), Error);
}

TEST(CheckDeathTest, SaysWhereAndWhy) {
  const int n = 3;
  CHECK(n == 3);
  EXPECT_DEATH(CHECK(n == 4), "error_test.cc:[0-9]+: CHECK\\(n == 4\\) failed");
  EXPECT_DEATH(CHECK(n == 4, "n is {}", n), "CHECK\\(n == 4\\) failed: n is 3");
}

}  // namespace
}  // namespace rorqual
