#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tapecache/ops/tokens.h"
#include "tapecache/tapecache.h"

// Runs ops on the cases that compare_with_torch.py draws. Pairs of lines of the standard input name two files: one of
// cases to read, one of results to write, both in the safetensors format. The text `cases` of the first holds a list of
//
//     {"op": …, "inputs": [true or false, …], "wanted": [true or false, …], "options": {…}, "autocast": …}
//
// where case i has the tensors "i.in.k" for the inputs that are there, and "i.dy" for the gradient of its output.
// Results are "i.y" and "i.grad.k" for what is wanted; the text `errors` holds the messages by the numbers of cases
// that failed.

namespace {

using namespace tapecache;
using nlohmann::json;

struct Arguments {
  std::vector<Variable> inputs;  // undefined where left out
  json options;

  const Variable& operator[](std::size_t i) const { return inputs.at(i); }
  const Tensor& tensor(std::size_t i) const {
    static const Tensor none;
    return inputs.at(i).defined() ? inputs.at(i).value() : none;
  }
  std::span<const Variable> from(std::size_t i) const { return std::span(inputs).subspan(i); }
  template <class T>
  T option(const char* name) const {
    return options.at(name).get<T>();
  }
  int axis() const { return option<int>("axis"); }
};

using Op = std::function<Variable(const Arguments&)>;

/// Where the case has them.
losses::Tiles tiles(const Arguments& x) {
  if (!x.options.contains("tile_rows")) return std::nullopt;
  return ops::TileOptions{.rows = x.option<std::int64_t>("tile_rows"),
                          .columns = x.option<std::int64_t>("tile_columns")};
}

/// Ids of targets and of queries, of which each may be left out, as inputs from the first on.
ops::EqualTargets equal_targets(const Arguments& x, std::size_t first) {
  return {.target_ids = x.tensor(first), .query_ids = x.tensor(first + 1)};
}

ops::ResultType result_type(const Arguments& x) {
  return x.option<bool>("operand") ? ops::ResultType::kOperand : ops::ResultType::kComputed;
}

const std::map<std::string, Op>& all_ops() {
  using A = const Arguments&;
  static const std::map<std::string, Op> all{
      {"add", [](A x) { return ops::add(x[0], x[1]); }},
      {"subtract", [](A x) { return ops::subtract(x[0], x[1]); }},
      {"multiply", [](A x) { return ops::multiply(x[0], x[1]); }},
      {"divide", [](A x) { return ops::divide(x[0], x[1]); }},
      {"scale", [](A x) { return ops::scale(x[0], x.option<double>("factor")); }},
      {"negate", [](A x) { return ops::negate(x[0]); }},
      {"exp", [](A x) { return ops::exp(x[0]); }},
      {"log", [](A x) { return ops::log(x[0]); }},
      {"sqrt", [](A x) { return ops::sqrt(x[0]); }},
      {"rsqrt", [](A x) { return ops::rsqrt(x[0]); }},
      {"pow", [](A x) { return ops::pow(x[0], x.option<double>("exponent")); }},
      {"activate", [](A x) { return ops::activate(static_cast<ops::Activation>(x.option<int>("activation")), x[0]); }},
      {"tanh", [](A x) { return ops::tanh(x[0]); }},
      {"erf", [](A x) { return ops::erf(x[0]); }},
      {"sigmoid", [](A x) { return ops::sigmoid(x[0]); }},
      {"relu", [](A x) { return ops::relu(x[0]); }},
      {"gelu", [](A x) { return ops::gelu(x[0]); }},
      {"gelu_tanh", [](A x) { return ops::gelu_tanh(x[0]); }},
      {"quick_gelu", [](A x) { return ops::quick_gelu(x[0]); }},
      {"silu", [](A x) { return ops::silu(x[0]); }},
      {"softplus", [](A x) { return ops::softplus(x[0]); }},
      {"clamp", [](A x) { return ops::clamp(x[0], x.option<double>("low"), x.option<double>("high")); }},
      {"sum", [](A x) { return ops::sum(x[0], x.axis()); }},
      {"mean", [](A x) { return ops::mean(x[0], x.axis()); }},
      {"max", [](A x) { return ops::max(x[0], x.axis()); }},
      {"logsumexp", [](A x) { return ops::logsumexp(x[0], x.axis()); }},
      {"norm", [](A x) { return ops::norm(x[0], x.axis()); }},
      {"distance", [](A x) { return ops::distance(x[0], x[1], x.axis()); }},
      {"sum_all", [](A x) { return ops::sum(x[0]); }},
      {"mean_all", [](A x) { return ops::mean(x[0]); }},
      {"softmax", [](A x) { return ops::softmax(x[0]); }},
      {"log_softmax", [](A x) { return ops::log_softmax(x[0]); }},
      {"masked_softmax", [](A x) { return ops::masked_softmax(x[0], x.tensor(1)); }},
      {"cross_entropy",
       [](A x) {
         return ops::cross_entropy(x[0], x.tensor(1), static_cast<ops::Reduction>(x.option<int>("reduction")));
       }},
      {"layer_norm", [](A x) { return ops::layer_norm(x[0], x[1], x[2], x.option<double>("epsilon"), x[3]); }},
      {"rms_norm", [](A x) { return ops::rms_norm(x[0], x[1], x.option<double>("epsilon")); }},
      {"l2_normalize", [](A x) { return ops::l2_normalize(x[0], x.option<double>("epsilon")); }},
      {"batch_norm", [](A x) { return ops::batch_norm(x[0], x[1], x[2], x.option<double>("epsilon")).y; }},
      {"frozen_batch_norm",
       [](A x) { return ops::batch_norm(x[0], x[1], x[2], x.tensor(3), x.tensor(4), x.option<double>("epsilon")); }},
      {"matmul",
       [](A x) {
         return ops::matmul(
             x[0], x[1], {.transpose_a = x.option<bool>("transpose_a"), .transpose_b = x.option<bool>("transpose_b")});
       }},
      {"linear", [](A x) { return ops::linear(x[0], x[1], x[2], x[3], result_type(x)); }},
      {"activated_linear",
       [](A x) {
         return ops::activated_linear(x[0], static_cast<ops::Activation>(x.option<int>("activation")), x[1], x[2],
                                      x[3]);
       }},
      {"multi_linear", [](A x) { return ops::multi_linear(x[0], x.from(1).first(2), x.from(3), result_type(x)); }},
      {"normalized_linear",
       [](A x) {
         const ops::Norm norm{x[1], x[2], x.option<double>("epsilon")};
         return ops::normalized_linear(x[0], norm, x.from(3).first(1), x.from(4), ops::KeepNorm::kNo, result_type(x)).y;
       }},
      {"attention",
       [](A x) {
         ops::AttentionOptions options{
             .causal = x.option<bool>("causal"), .valid = x.tensor(1), .result = result_type(x)};
         options.kv_heads = x.option<std::int64_t>("kv_heads");
         if (const auto window = x.option<std::int64_t>("window"); window >= 0) options.window = window;
         return ops::attention(x[0], x.option<std::int64_t>("heads"), options);
       }},
      {"biased_attention",
       [](A x) { return ops::attention(x[0], x.option<std::int64_t>("heads"), {.valid = x.tensor(2), .bias = x[1]}); }},
      {"rope_table",
       [](A x) {
         return Variable(ops::rope_table(x.option<std::vector<double>>("frequencies"),
                                         x.option<std::int64_t>("positions"), x[0].dtype()));
       }},
      {"rope",
       [](A x) {
         const Tensor angles =
             ops::rope_table(x.option<std::vector<double>>("frequencies"), x[0].size(1), x[0].dtype());
         return ops::rope(x[0], x.option<std::int64_t>("heads"), angles);
       }},
      {"gated", [](A x) { return ops::gated(static_cast<ops::Activation>(x.option<int>("activation")), x[0]); }},
      {"embedding", [](A x) { return ops::embedding(x[0], x.tensor(1)); }},
      {"gather_rows", [](A x) { return ops::gather_rows(x[0], x.tensor(1)); }},
      {"reshape", [](A x) { return ops::reshape(x[0], {-1}); }},
      {"concat", [](A x) { return ops::concat(x.from(0), x.axis()); }},
      {"slice",
       [](A x) { return ops::slice(x[0], x.axis(), x.option<std::int64_t>("begin"), x.option<std::int64_t>("end")); }},
      {"transpose", [](A x) { return ops::transpose(x[0], x.option<int>("axis_a"), x.option<int>("axis_b")); }},
      {"mean_pool", [](A x) { return ops::mean_pool(x[0], x.tensor(1)); }},
      {"max_pool", [](A x) { return ops::max_pool(x[0], x.tensor(1)); }},
      {"cls_pool", [](A x) { return ops::cls_pool(x[0], x.tensor(1)); }},
      {"last_token_pool", [](A x) { return ops::last_token_pool(x[0], x.tensor(1)); }},
      {"select_token", [](A x) { return ops::select_token(x[0], x.tensor(1)); }},
      {"first_token",
       [](A x) { return Variable(ops::first_token(x.tensor(0), x.option<std::int64_t>("id"), x.tensor(1))); }},
      {"token_positions",
       [](A x) { return Variable(ops::token_positions(x.tensor(0), x.option<std::int64_t>("first"))); }},
      {"patch_embedding", [](A x) { return ops::patch_embedding(x[0], x[1], x[2]); }},
      {"info_nce",
       [](A x) {
         return losses::info_nce(x[0], x[1],
                                 {.scale = x[2],
                                  .label_smoothing = x.options.value("label_smoothing", 0.0),
                                  .hardness = x.options.value("hardness", 0.0),
                                  .equal_targets = equal_targets(x, 3),
                                  .tiles = tiles(x)});
       }},
      {"clip_loss",
       [](A x) {
         return losses::clip_loss(x[0], x[1],
                                  {.scale = losses::Scale::from_log(x[2]),
                                   .label_smoothing = x.options.value("label_smoothing", 0.0),
                                   .hardness = x.options.value("hardness", 0.0),
                                   .equal_targets = equal_targets(x, 3),
                                   .tiles = tiles(x)});
       }},
      {"siglip_loss",
       [](A x) {
         return losses::siglip_loss(x[0], x[1],
                                    {.scale = losses::Scale::from_log(x[2]),
                                     .bias = x[3],
                                     .equal_targets = equal_targets(x, 4),
                                     .tiles = tiles(x)});
       }},
      {"nt_xent",
       [](A x) { return losses::nt_xent(x[0], x[1], {.scale = x[2], .equal_targets = equal_targets(x, 3)}); }},
      {"sup_con", [](A x) { return losses::sup_con(x[0], x.tensor(2), {.scale = x[1]}); }},
      {"maxsim_loss",
       [](A x) {
         return losses::maxsim_loss(x[0], x.tensor(3), x[1], x.tensor(4),
                                    {.scale = x[2], .equal_targets = equal_targets(x, 5), .tiles = tiles(x)});
       }},
      {"maxsim_scores", [](A x) { return losses::maxsim_scores(x[0], x.tensor(2), x[1], x.tensor(3)); }},
      {"gist_loss",
       [](A x) {
         return losses::gist_loss(x[0], x[1], x.tensor(5), x.tensor(6),
                                  {.scale = x[2],
                                   .margin = x.option<double>("margin"),
                                   .relative = x.option<bool>("relative"),
                                   .equal_targets = equal_targets(x, 3)});
       }},
      {"matryoshka",
       [](A x) {
         const auto of_prefix = [&](std::span<const Variable> r) {
           return losses::info_nce(r[0], r[1], {.scale = x[2]});
         };
         return losses::matryoshka(of_prefix, x.from(0).first(2),
                                   {.widths = x.option<std::vector<std::int64_t>>("widths"),
                                    .weights = x.option<std::vector<double>>("weights"),
                                    .normalize = x.option<bool>("normalize")});
       }},
  };
  return all;
}

const std::map<std::string, DType>& types() {
  static const std::map<std::string, DType> by_name{
      {"float32", DType::kFloat32}, {"bfloat16", DType::kBFloat16}, {"float16", DType::kFloat16}};
  return by_name;
}

void run_case(const json& what, const std::string& prefix, const std::map<std::string, Tensor>& given,
              std::map<std::string, Tensor>& results) {
  Tape tape;
  Arguments arguments{{}, what.at("options")};
  for (std::size_t i = 0; i < what.at("inputs").size(); ++i) {
    Variable input;
    if (what["inputs"][i]) {
      const Tensor& value = given.at(prefix + ".in." + std::to_string(i));
      input = what["wanted"][i] ? tape.leaf(value) : Variable(value);
    }
    arguments.inputs.push_back(input);
  }
  Variable y;
  {
    const Autocast precision(types().at(what.at("autocast").get<std::string>()));
    const Recording recording(tape);
    y = all_ops().at(what.at("op").get<std::string>())(arguments);
  }
  // Of 16 bits as it is compared.
  const bool is_narrow = y.dtype() == DType::kBFloat16 || y.dtype() == DType::kFloat16;
  results[prefix + ".y"] = is_narrow ? y.value().to(DType::kFloat32) : y.value();
  if (!tape.holds(y)) return;
  const Tensor dy = given.at(prefix + ".dy").to(y.dtype());
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (std::size_t i = 0; i < arguments.inputs.size(); ++i) {
    if (!what["wanted"][i]) continue;
    const Tensor gradient = tape.gradient(arguments.inputs[i]);
    if (gradient.defined()) results[prefix + ".grad." + std::to_string(i)] = gradient;
  }
}

void run_file(const std::string& from, const std::string& to) {
  const SafetensorsFile file = read_safetensors(from);
  const json cases = json::parse(file.metadata.at("cases"));
  SafetensorsFile results;
  json errors = json::object();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const std::string prefix = std::to_string(i);
    try {
      run_case(cases[i], prefix, file.tensors, results.tensors);
    } catch (const std::exception& e) {
      errors[prefix] = e.what();
    }
  }
  results.metadata["errors"] = errors.dump();
  write_safetensors(to, results);
}

}  // namespace

int main() {
  try {
    for (std::string from, to; std::getline(std::cin, from) && std::getline(std::cin, to);) {
      run_file(from, to);
      std::cout << "done" << std::endl;
    }
  } catch (const std::exception& e) {
    std::cerr << "run_cases: " << e.what() << '\n';
    return 1;
  }
  return 0;
}
