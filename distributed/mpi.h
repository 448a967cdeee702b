#pragma once

#include <chrono>
#include <memory>

#include "tapecache/distributed/communicator.h"

/// Of the plug-in tapecache-mpi, which programs link to beside the library.
namespace tapecache::distributed {

/// Whether this process was started by mpirun, mpiexec or srun, as their environment variables say.
bool mpi_launched();

/// All processes that mpirun, mpiexec or srun started together. Collective. Starts MPI where the program has not, and
/// ends it then when the program exits; a program that starts MPI itself asks for MPI_THREAD_SERIALIZED at least, and
/// ends it after the communicator. With MPI_THREAD_MULTIPLE it may call MPI beside, else not while a call of the
/// communicator runs.
///
/// A thread of the communicator makes all its calls, and answers others while the program computes: who waits in vain
/// learns which rank is late and what it called last. Tensors are in the host's memory.
///
/// Its end: the destructor waits for the others', for `limit` at most. Where an exception leaves its scope, it calls
/// `fail`. After a failure, this rank's or another's, the program may do what it has left to do, but no later than
/// `limit` after it, and when the program exits, MPI_Abort ends all processes with its exit status, or 1. A process
/// that is killed is for mpirun to notice, which ends the others too. A child made by fork has no communicator.
///
/// Throws CommunicationError where MPI cannot be started or a rank does not come; ValueError while another one lives.
std::unique_ptr<Communicator> mpi_world(std::chrono::milliseconds limit = std::chrono::minutes(10));

}  // namespace tapecache::distributed
