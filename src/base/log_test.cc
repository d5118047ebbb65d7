#include "base/log.h"

#include <gtest/gtest.h>

namespace rorqual {
namespace {

template <class Body>
std::string standard_error_of(Body body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, LinesAreWrittenAsTheyAre) {
  EXPECT_EQ(standard_error_of([] { info("{} {{}}", 1); }), "1 {}\n");
  EXPECT_EQ(standard_error_of([] { log_line("100% {x}"); }), "100% {x}\n");
  EXPECT_EQ(standard_error_of([] { warn("odd"); }), "warning: odd\n");
}

// A captured stream is no terminal: plain lines, without escape codes, at most one an interval.
TEST(ProgressLine, IsPlainOffTheTerminal) {
  const std::string text = standard_error_of([] {
    ProgressLine line(1000.0);
    line.update("step 1");
    line.update("step 2");
    line.update("step 3", true);
    info("between");
  });
  EXPECT_EQ(text, "step 1\nstep 3\nbetween\n");
  const std::string every = standard_error_of([] {
    ProgressLine line(0.0);
    for (const char* step : {"a", "b"}) line.update(step);
  });
  EXPECT_EQ(every, "a\nb\n");
}

}  // namespace
}  // namespace rorqual
