#include "base/interrupt.h"

#include <csignal>

namespace rorqual {
namespace {

volatile std::sig_atomic_t flag = 0;
struct sigaction old_int, old_term;

void on_signal(int number) {
  if (flag && number == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
  flag = 1;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  flag = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &old_int);
  sigaction(SIGTERM, &action, &old_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
}

bool InterruptGuard::interrupted() {
  return flag != 0;
}

}  // namespace rorqual
