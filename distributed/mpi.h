#pragma once

#include <chrono>
#include <memory>

#include "tapecache/distributed/communicator.h"

/// Of the plug-in tapecache-mpi, which programs link to beside the library.
namespace tapecache::distributed {

/// Whether this process was started by mpirun, mpiexec or, with others, by srun, as their environment variables say.
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
/// that is killed is for mpirun to notice, which ends the others too. What a call that failed was to send stays in
/// memory, since MPI may still read it. A child made by fork has no communicator.
///
/// MPI's own start and end cannot be given up. Where they are this library's and take longer than `limit`, since a
/// process does not begin or does not exit, it says so on standard error and ends this process: with status 1 at the
/// start, and at the end with the status that it exits with.
///
/// Throws CommunicationError where MPI cannot be started or a rank does not come, after which no other is to be had;
/// ValueError while another one lives, for a limit below 0 or above a year, and where MPI finds fewer processes than
/// the launcher says that it started, as by the launcher of another MPI.
std::unique_ptr<Communicator> mpi_world(std::chrono::milliseconds limit = std::chrono::minutes(10));

}  // namespace tapecache::distributed
