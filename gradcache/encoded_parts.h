#pragma once

#include <span>
#include <string>
#include <vector>

#include "tapecache/autograd/variable.h"
#include "tapecache/gradcache/splittable.h"

#pragma GCC visibility push(hidden)

/// What an encoder gave for a part of a batch. Private to gradcache.
namespace tapecache::gradcache::detail {

/// Throws ShapeError unless the auxiliary losses are those of the first part, by number, names and weights. `tower` and
/// `part` are for the message.
void check_auxiliary(const std::string& tower, const std::string& part, std::span<const AuxiliaryLoss> losses,
                     std::span<const AuxiliaryLoss> first);

/// The unfrozen parameter that this is, which no operation need have read, if it is one.
std::vector<Parameter> parameter_itself(const Variable& value);
/// The same of everything that an encoder gave.
std::vector<Parameter> parameters_themselves(const Encoded& encoded);

}  // namespace tapecache::gradcache::detail

#pragma GCC visibility pop
