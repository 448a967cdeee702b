#include "interrupt.h"

#include <csignal>
#include <initializer_list>

namespace tapecache::program {

namespace {

volatile std::sig_atomic_t received = 0;

void set_handler(void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(signal, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  received = 0;
  set_handler([](int signal) { received = signal; }, static_cast<int>(SA_RESETHAND) | SA_RESTART);
}

InterruptGuard::~InterruptGuard() { set_handler(SIG_DFL, 0); }

int InterruptGuard::signal() const { return received; }

}  // namespace tapecache::program
