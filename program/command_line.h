#pragma once

namespace tapecache::program {

/// Parses the command line and runs the command that it names. Gives the exit code.
int run_command_line(int argc, char** argv);

}  // namespace tapecache::program
