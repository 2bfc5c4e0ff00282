#include <unistd.h>

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "runner/error.h"
#include "runner/model.h"

namespace cutset::runner {

namespace {

// In floating point: sizes that are each allowed can multiply to more than 64 bits hold.
double product(const Shape& shape) {
  double all = 1;
  for (const std::size_t size : shape) all *= static_cast<double>(size);
  return all;
}

std::string gigabytes(double bytes) {
  std::ostringstream out;
  out << std::setprecision(3) << bytes / (1 << 30) << " GiB";
  return out.str();
}

double weight_bytes(const ModelSpec& spec, const Tensors& tensors, Precision precision) {
  const bool floats = precision == Precision::kFloat32;
  const auto width = [&](const Parameter& parameter) {
    if (parameter.site && !floats) return 1.0;
    if (!floats || !parameter.columns) return 4.0;
    std::vector<const Tensor*> found;
    for (const TensorName& name : stored(spec, parameter.role, parameter.layer, parameter.expert)) {
      found.push_back(&tensors.at(name.checkpoint));
    }
    return static_cast<double>(float_bytes(float_type(found)));
  };
  double bytes = 0;
  each_parameter(spec, [&](const Parameter& parameter) {
    const double size = product({parameter.all_rows(), std::max<std::size_t>(parameter.columns, 1)});
    bytes += size * width(parameter);
  });
  if (spec.tied()) {
    bytes += product({spec.core.vocab, spec.core.hidden}) *
             width({"embedding", -1, -1, {spec.core.vocab}, spec.core.hidden, Site::kLmHead});
  }
  return bytes;
}

}  // namespace

void check_memory(const ModelSpec& spec, const Tensors& tensors, Precision precision, std::size_t batch,
                  std::size_t tokens) {
  const double rows = product({batch, tokens});
  const double cache = rows * product({2 * 4, spec.core.layers, spec.core.heads.kv_size()});
  const double logits = rows * product({4, spec.core.vocab});
  const double widest = static_cast<double>(std::max(
      {spec.core.heads.qkv_size(), 2 * spec.core.intermediate, 2 * spec.core.expert_intermediate, spec.core.hidden}));
  const double needed = weight_bytes(spec, tensors, precision) + cache + logits + rows * widest * 4;
  const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  if (needed > there) {
    fail("this takes ", gigabytes(needed), " of memory; the machine has ", gigabytes(there),
         ": use a smaller model, or inputs with fewer tokens");
  }
}

}  // namespace cutset::runner
