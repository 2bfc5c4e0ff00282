// A model in memory: the decoder's parameters, and the packed weights of its products.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/decoder.h"
#include "core/grouped.h"
#include "core/linears.h"
#include "runner/tensor.h"

namespace cutset::runner {

// In what the products are computed; see docs/architecture.md.
enum class Precision { kFloat32, kInt8, kExact };

class Model {
 public:
  // Reads the tensors one at a time; they may go afterwards. Error for weights that aren't finite, or whose products
  // the precision can't hold.
  Model(ModelSpec spec, const Tensors& tensors, Precision precision, ThreadPool& pool);

  const ModelSpec& spec() const { return spec_; }
  const Decoder& decoder() const { return *decoder_; }
  Linears& linears() { return *linears_; }

 private:
  // The tensors of a parameter one after another in memory of their own.
  const float* kept(const char* role, int layer = -1);
  // The same of a matrix: in float32 products it keeps the precision that it came in.
  FloatView kept_matrix(const char* role, int layer = -1);
  LayerParameters layer_parameters(std::size_t layer);
  void pack_floats(const Parameter& parameter);
  void pack_integers(const Parameter& parameter);
  void pack_groups(const Parameter& parameter);
  void check_channels(const Tensor& channels);
  void stored_integers(const Parameter& parameter, float* scales);
  FloatView stacked(const Parameter& parameter);
  FloatType type_of(const std::vector<const Tensor*>& tensors) const;
  std::vector<const Tensor*> tensors_of(const char* role, int layer, int expert = -1) const;

  ModelSpec spec_;
  Precision precision_;
  const Tensors& tensors_;
  ThreadPool& pool_;
  Workspace stack_, codes_, scales_;  // of the site at hand
  std::vector<Buffer> kept_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<LocalLinears> linears_;
  std::vector<std::unique_ptr<PackedF32>> floats_;
  std::vector<std::unique_ptr<PackedI8>> integers_;
  std::vector<std::unique_ptr<PackedGrouped>> groups_;
};

// Throws an Error where this machine has less memory than a pass over (batch, tokens) takes.
void check_memory(const ModelSpec& spec, const Tensors& tensors, Precision precision, std::size_t batch,
                  std::size_t tokens);

}  // namespace cutset::runner
