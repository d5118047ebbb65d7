#include "tests/integration/program.h"

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace rorqual {

ProgramResult run_rorqual(const std::string& arguments, const std::string& environment) {
  std::string folder = std::filesystem::temp_directory_path() / "rorqual_program_XXXXXX";
  CHECK(mkdtemp(folder.data()) != nullptr);
  const std::string command =
      environment + " \"" RORQUAL_PROGRAM "\" " + arguments + " >" + folder + "/out 2>" + folder + "/err";
  const int status = std::system(command.c_str());
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(folder + "/out");
  result.err = read_file(folder + "/err");
  std::filesystem::remove_all(folder);
  return result;
}

}  // namespace rorqual
