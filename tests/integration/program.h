// Runs the built program as a user does.
#pragma once

#include <string>

namespace rorqual {

struct ProgramResult {
  int code = 0;  // 128 + signal where a signal ended it
  std::string out, err;
};

// `arguments` as typed in a shell, behind the program's name; `environment` as in "OMP_NUM_THREADS=2".
ProgramResult run_rorqual(const std::string& arguments, const std::string& environment = "");

}  // namespace rorqual
