// Feature maps of which some positions are computed again: the kernels of incremental inference.
//
// A map is (rows, columns, channels) in float32, channels last; a position is a pixel of it with all its channels. What
// is computed for a position doesn't depend on which others are: each output is one chain in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

// What follows a layer, element by element. `parameter` is the slope of kLeakyRelu, and the upper limit of kClamp (the
// lower one is 0).
enum class SparseActivation : std::uint8_t {
  kNone,
  kRelu,
  kClamp,
  kLeakyRelu,
  kSigmoid,
  kTanh,
  kSilu,
  kGelu,
  kGeluTanh,
  kHardSigmoid,
  kHardSwish
};
constexpr int kActivations = 11;

enum class Combine : std::uint8_t { kAdd, kSub, kMul, kDiv, kMax, kMin };
constexpr int kCombines = 6;

// Some positions of a convolution times one panel of 32 outputs.
struct ConvTask {
  const float* const* rows;    // (count,) where each position's window begins in the input
  std::size_t count;           // at most conv_rows
  const std::ptrdiff_t* taps;  // (tap_count,) elements from there to each run of inputs
  std::size_t tap_count;
  std::size_t depth;   // of each run
  const float* panel;  // [tap][depth][32]
  const float* start;  // (32,) what sums begin with; nullptr: with what is in y
  float* y;            // (count, 32), `stride` elements from row to row
  std::size_t stride;
};

struct SparseKernels {
  std::size_t conv_rows;
  void (*conv)(const ConvTask& task);
  // y (channels) = start + the sum over taps of row[tap] * weights (taps, channels).
  void (*depthwise)(const float* row, const std::ptrdiff_t* taps, std::size_t tap_count, const float* weights,
                    const float* start, std::size_t channels, float* y);
  // y (channels): the largest over the places, or their sum times a factor.
  void (*largest)(const float* const* places, std::size_t count, std::size_t channels, float* y);
  void (*mean)(const float* const* places, std::size_t count, float factor, std::size_t channels, float* y);
  // y = the sum over places of weights[place] * place.
  void (*blend)(const float* const* places, const float* weights, std::size_t count, std::size_t channels, float* y);
  void (*affine)(const float* x, const float* scale, const float* shift, std::size_t channels, float* y);
  void (*combine)(Combine kind, const float* a, const float* b, std::size_t channels, float* y);
  void (*activate)(SparseActivation kind, float parameter, std::size_t count, float* y);
  // Whether `fresh` differs from `held` (channels): with a threshold by as much or more in an element (what isn't a
  // number differs), with 0 in a bit. Held takes it over then, and stays as it is else.
  bool (*settle)(const float* fresh, float threshold, std::size_t channels, float* held);
};

}  // namespace cutset
