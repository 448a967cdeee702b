#pragma once

namespace tapecache::program {

/// While there is one, SIGINT, SIGTERM and SIGUSR1, which launchers hand on, do not end the program but are remembered,
/// so that it ends where it has saved what it did. The second signal ends it as always.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  /// The signal that came; 0 for none.
  int signal() const;
};

}  // namespace tapecache::program
