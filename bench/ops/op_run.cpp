#include "op_run.h"

#include <algorithm>
#include <span>

#include "tapecache/autograd/tape.h"

namespace ops_bench {

using namespace tapecache;
using namespace tapecache::testing;

namespace {

double bytes_of(const std::vector<Tensor>& tensors) {
  double total = 0;
  for (const Tensor& t : tensors) total += static_cast<double>(t.bytes());
  return total;
}

Work forward_work(const OpRow& row, const std::vector<Tensor>& inputs, const Tensor& output) {
  const double bytes = static_cast<double>(output.bytes());
  return {row.flops, row.reads_all ? bytes_of(inputs) + bytes : 2 * bytes};
}

Work total_work(const OpRow& row, const std::vector<Tensor>& inputs, const Tensor& output) {
  const Work forward = forward_work(row, inputs, output);
  const double read = static_cast<double>(output.bytes()) + (row.reads_all ? bytes_of(inputs) : 0);
  return {3 * forward.flops, forward.bytes + read + bytes_of(inputs)};
}

}  // namespace

double Work::least_seconds(const Ceilings& ceilings) const {
  return std::max(flops / ceilings.flops_per_second(), copy_seconds(ceilings));
}

std::string run_name(const OpRow& row, bool backward) {
  return row.name + (backward ? "/forward+backward" : "/forward");
}

OpRun make_run(const OpRow& row, bool backward) {
  const std::vector<Tensor> inputs = make_inputs(row.large, DType::kFloat32);
  const std::vector<Variable> variables(inputs.begin(), inputs.end());
  const Tensor output = row.op(variables).value();
  if (!backward) {
    return {run_name(row, backward), forward_work(row, inputs, output), [=, op = row.op] { op(variables); }};
  }
  const Tensor cotangent = random_tensor(output.shape(), output.dtype(), 3);
  const auto run = [=, op = row.op] {
    Tape tape;
    std::vector<Variable> leaves;
    for (const Tensor& t : inputs) leaves.push_back(is_floating(t.dtype()) ? tape.leaf(t) : Variable(t));
    const Recording recording(tape);
    const Variable result = op(leaves);
    tape.backward(std::span(&result, 1), std::span(&cotangent, 1));
  };
  return {run_name(row, backward), total_work(row, inputs, output), run};
}

std::vector<OpRow> measured_rows() {
  std::vector<OpRow> rows;
  for (const OpRow& row : op_rows()) {
    if (!row.large.empty()) rows.push_back(row);
  }
  return rows;
}

}  // namespace ops_bench
