#pragma once

#include <charconv>
#include <cstdlib>
#include <cstring>

#pragma GCC visibility push(hidden)

namespace tapecache::distributed::detail {

/// How many processes a launcher started together with this one, and the environment variable that says so; 1 where
/// none did.
struct Launched {
  const char* variable = "";
  int processes = 1;
};

/// By mpirun of Open MPI, by mpiexec of MPICH and others that speak PMI, and by srun, which starts programs that know
/// no MPI as well; not by SLURM_NTASKS, which a shell within an allocation has too.
inline Launched launched() {
  const auto processes = [](const char* name) {
    const char* const value = std::getenv(name);
    int count = 0;
    if (value != nullptr) std::from_chars(value, value + std::strlen(value), count);
    return Launched{name, count};
  };
  for (const Launched& launched :
       {processes("OMPI_COMM_WORLD_SIZE"), processes("PMI_SIZE"), processes("SLURM_STEP_NUM_TASKS")}) {
    if (launched.processes > 0) return launched;
  }
  return {};
}

}  // namespace tapecache::distributed::detail

#pragma GCC visibility pop
