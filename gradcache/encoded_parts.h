#pragma once

#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/parameter.h"
#include "tapecache/gradcache/encoded.h"

#pragma GCC visibility push(hidden)

/// What an encoder gave for several parts of a batch. Private to gradcache.
namespace tapecache::gradcache::detail {

/// Throws ShapeError unless the auxiliary losses are those of the first part, by number, names and weights. `tower` and
/// `part` are for the message.
void check_auxiliary(const std::string& tower, const std::string& part, std::span<const AuxiliaryLoss> losses,
                     std::span<const AuxiliaryLoss> first);

/// The parts as one, recorded on the active tape. Throws ShapeError where their outputs or auxiliary losses differ.
Encoded join_parts(const std::string& tower, std::vector<Encoded> parts);

/// The unfrozen parameter that this is, which no operation need have read, if it is one.
std::vector<Parameter> parameter_itself(const Variable& value);
/// The same of everything that an encoder gave.
std::vector<Parameter> parameters_themselves(const Encoded& encoded);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
