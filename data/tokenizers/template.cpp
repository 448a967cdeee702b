#include "tapecache/data/tokenizers/template.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace tapecache::data::tokenizers {

namespace {

using Kind = Template::Kind;
using Part = Template::Part;

constexpr std::int64_t kMaxTypes = std::int64_t{1} << 31;

/// ["[SEP]", 102]
Part special_of(const Field& field, std::int32_t type) {
  if (field.size() != 2) throw field.refused(fmt::format("{} elements, expected a token and its id", field.size()));
  field[0].string();
  return {Kind::kSpecial, type, {field[1].id()}};
}

Template bert(const Field& field) {
  field.check_keys({"type", "sep", "cls"});
  const Part cls = special_of(field.at("cls"), 0), sep = special_of(field.at("sep"), 0);
  const Part last = special_of(field.at("sep"), 1);
  return {{cls, {Kind::kFirst, 0}, sep}, {cls, {Kind::kFirst, 0}, sep, {Kind::kSecond, 1}, last}};
}

Template roberta(const Field& field) {
  field.check_keys({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
  const Part cls = special_of(field.at("cls"), 0), sep = special_of(field.at("sep"), 0);
  return {{cls, {Kind::kFirst, 0}, sep}, {cls, {Kind::kFirst, 0}, sep, sep, {Kind::kSecond, 0}, sep}};
}

std::vector<Part> parts_of(const Field& field, const Field& special_tokens, bool is_pair) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < field.size(); ++i) {
    const Field piece = field[i];
    piece.check_keys({"Sequence", "SpecialToken"});
    if (const auto sequence = piece.find("Sequence")) {
      sequence->check_keys({"id", "type_id"});
      const std::string& id = sequence->at("id").string();
      if (id != "A" && !(is_pair && id == "B")) {
        throw sequence->at("id").refused(fmt::format("'{}', expected {}", id, is_pair ? "A or B" : "A"));
      }
      const Kind kind = id == "A" ? Kind::kFirst : Kind::kSecond;
      if (std::ranges::find(parts, kind, &Part::kind) != parts.end()) throw sequence->refused("is there twice");
      const auto type = static_cast<std::int32_t>(sequence->at("type_id").integer(kMaxTypes));
      parts.push_back({kind, type});
      continue;
    }
    const Field token = piece.at("SpecialToken");
    token.check_keys({"id", "type_id"});
    Part part{Kind::kSpecial, static_cast<std::int32_t>(token.at("type_id").integer(kMaxTypes))};
    const std::string& name = token.at("id").string();
    if (!special_tokens.has(name)) {
      throw token.at("id").refused(fmt::format("'{}' is not one of the 'special_tokens'", name));
    }
    const Field ids = special_tokens.at(name).at("ids");
    for (std::size_t j = 0; j < ids.size(); ++j) part.ids.push_back(ids[j].id());
    parts.push_back(std::move(part));
  }
  return parts;
}

Template from_templates(const Field& field) {
  field.check_keys({"type", "single", "pair", "special_tokens", "end_once"});
  const Field special_tokens = field.at("special_tokens");
  return {parts_of(field.at("single"), special_tokens, false), parts_of(field.at("pair"), special_tokens, true),
          field.boolean_or("end_once", false)};
}

bool adds_tokens(const Field& field) { return field.at("type").string() != "ByteLevel"; }

/// Of several, one that adds tokens.
Template sequence(const Field& field) {
  field.check_keys({"type", "processors"});
  const Field parts = field.at("processors");
  Template result;
  bool found = false;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Template part = read_template(parts[i]);
    if (!adds_tokens(parts[i])) continue;
    if (found) throw parts[i].refused("a second post-processor that adds tokens is not supported");
    found = true;
    result = part;
  }
  return result;
}

}  // namespace

std::size_t special_tokens_of(const std::vector<Template::Part>& parts) {
  std::size_t count = 0;
  for (const Part& part : parts) count += part.ids.size();
  return count;
}

Template read_template(const Field& field) {
  const std::string& type = field.at("type").string();
  if (type == "TemplateProcessing") return from_templates(field);
  if (type == "BertProcessing") return bert(field);
  if (type == "RobertaProcessing") return roberta(field);
  if (type == "Sequence") return sequence(field);
  if (type == "ByteLevel") {  // which is about offsets
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return {};
  }
  throw field.at("type").refused(fmt::format("post-processor '{}' is not supported", type));
}

}  // namespace tapecache::data::tokenizers
