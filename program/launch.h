#pragma once

#include <string>
#include <vector>

namespace tapecache::program {

/// Starts so many processes of a command on this machine by the launcher of the MPI that the program was built with,
/// and gives the exit code. SIGINT and SIGTERM are handed on as SIGUSR1, after which they end their run with a
/// checkpoint; a second one ends them at once. Throws ValueError where the program was built without MPI, FileError
/// where the launcher is not found.
int launch(int processes, const std::vector<std::string>& command);

/// The file of this program.
std::string own_path();

}  // namespace tapecache::program
