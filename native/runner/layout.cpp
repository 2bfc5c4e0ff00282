// Which tensors a model must hold, in float and in integer checkpoints.
#include <string>
#include <utility>

#include "kernels/linear.h"
#include "runner/error.h"
#include "runner/tensor.h"

namespace cutset::runner {

namespace {

// Moves the tensors that are asked for out of all that there are; what stays is unexpected.
class Picker {
 public:
  Picker(Tensors tensors, const std::string& where) : rest_(std::move(tensors)), where_(where) {}

  void floats(const std::string& name, const Shape& shape) {
    const Dtype dtype = take(name, shape);
    if (!is_float(dtype)) fail(picked_[name].where, " has dtype ", runner::name(dtype), "; a float was expected");
  }

  void exactly(const std::string& name, const Shape& shape, Dtype wanted) {
    const Dtype dtype = take(name, shape);
    if (dtype != wanted) {
      fail(picked_[name].where, " has dtype ", runner::name(dtype), "; ", runner::name(wanted), " was expected");
    }
  }

  Tensors finish() {
    if (!rest_.empty()) fail(rest_.begin()->second.where, " is unexpected; the configuration has no place for it");
    return std::move(picked_);
  }

 private:
  Dtype take(const std::string& name, const Shape& shape) {
    auto node = rest_.extract(name);
    if (!node) fail(where_, ": tensor ", name, " is missing; the configuration asks for it");
    const Tensor& tensor = node.mapped();
    if (tensor.shape != shape) {
      fail(tensor.where, " has shape ", text(tensor.shape), "; the configuration asks for ", text(shape));
    }
    const Dtype dtype = tensor.dtype;
    picked_.insert(std::move(node));
    return dtype;
  }

  Tensors rest_, picked_;
  const std::string& where_;
};

}  // namespace

std::string scale_name(const std::string& matrix) { return matrix + "_scale"; }
std::string channel_scale_name(const std::string& matrix) { return matrix + "_channel_scale"; }

Tensors checked_tensors(const ModelSpec& spec, Tensors tensors, const std::string& where) {
  Picker pick(std::move(tensors), where);
  each_parameter(spec, [&](const Parameter& parameter) {
    each_tensor(spec, parameter, [&](const TensorName& stored, const Shape& shape) {
      const std::string& name = stored.checkpoint;
      if (!spec.is_integer()) return pick.floats(name, shape);
      if (!parameter.site) return pick.exactly(name, shape, Dtype::kF32);
      const Shape panels = {round_up(shape[0], kPanel) / kPanel, round_up(shape[1], kDepthStep) / 4, kPanel, 4};
      pick.exactly(name, spec.is_packed() ? panels : shape, Dtype::kI8);
      pick.exactly(scale_name(name), {shape[0]}, Dtype::kF32);
      // Of no use here: an adapter would have to be fitted to them.
      if (spec.weights == WeightFormat::kInt8Scaled) pick.exactly(channel_scale_name(name), {shape[1]}, Dtype::kF32);
    });
  });
  return pick.finish();
}

}  // namespace cutset::runner
