// Incremental inference: layers of feature maps, computed at some positions alone, against a map that is held.
//
// A layer writes to the map that holds its last output. A position of it is replaced where what was computed differs
// from what is held by the layer's threshold or more in a channel; so nothing that is held is ever further from what
// its inputs give than that, and errors don't add up from item to item. A position's bits depend on its window alone,
// not on the other positions, the threads, or how the work is cut into tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/pool.h"
#include "kernels/sparse.h"

namespace cutset {

// (rows, columns, channels) with a border of zeros on all sides, which windows of padded layers read. Begins as zeros.
class SparseMap {
 public:
  SparseMap(std::size_t rows, std::size_t columns, std::size_t channels, std::size_t border);

  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }
  std::size_t channels() const { return channels_; }
  std::size_t border() const { return border_; }
  std::size_t bytes() const { return memory_.bytes(); }
  std::ptrdiff_t pitch() const { return static_cast<std::ptrdiff_t>((columns_ + 2 * border_) * channels_); }
  float* at(std::ptrdiff_t row, std::ptrdiff_t column) { return memory_.as<float>() + offset(row, column); }
  const float* at(std::ptrdiff_t row, std::ptrdiff_t column) const { return memory_.as<float>() + offset(row, column); }

 private:
  std::ptrdiff_t offset(std::ptrdiff_t row, std::ptrdiff_t column) const {
    const auto border = static_cast<std::ptrdiff_t>(border_);
    return (row + border) * pitch() + (column + border) * static_cast<std::ptrdiff_t>(channels_);
  }

  std::size_t rows_, columns_, channels_, border_;
  Buffer memory_;
};

// What a layer reads for an output: rows x columns inputs.
struct SparseWindow {
  std::size_t rows, columns, row_stride, column_stride, top, left, row_dilation, column_dilation;
};

// Where a layer writes, and what of it.
struct SparseUpdate {
  SparseMap& out;
  std::size_t first_channel;      // of `out`: the layer's channels may be a part of it
  const std::int64_t* positions;  // row * columns + column of `out`, in order, each once
  std::size_t count;
  float threshold;  // 0: a position is replaced where a bit differs
  SparseActivation activation;
  float parameter;
  std::uint8_t* changed;  // (rows, columns) of `out`: 1 is written where a position was replaced
};

// A convolution with its weights packed. Each sum begins with the bias and runs over the window in the order of rows,
// columns, channels.
class SparseConv {
 public:
  // weight: (outputs, rows, columns, channels / groups), bias: (outputs,) or nullptr. std::invalid_argument for shapes
  // that are empty or don't divide.
  SparseConv(const float* weight, const float* bias, std::size_t outputs, std::size_t channels, std::size_t groups,
             const SparseWindow& window);

  std::size_t channels() const { return channels_; }
  std::size_t outputs() const { return outputs_; }
  const SparseWindow& window() const { return window_; }
  std::size_t bytes() const { return weights_.bytes() + start_.bytes(); }

  // How many positions were replaced. std::invalid_argument where the maps don't fit.
  std::size_t update(ThreadPool& pool, const SparseMap& x, const SparseUpdate& to) const;

 private:
  std::size_t outputs_, channels_, groups_;
  SparseWindow window_;
  bool depthwise_;
  std::size_t runs_, depth_;  // of inputs that lie side by side in a window, and how many each has
  Buffer weights_;            // [group][panel][run][depth][32]; depthwise: [tap][channel]
  Buffer start_;              // [group][panel][32]; depthwise: [channel]
};

// All of these: how many positions were replaced; std::invalid_argument where the maps don't fit.

// The largest or the mean of each window's inputs inside of the map; with `divisor` the mean's is that.
std::size_t sparse_pool(ThreadPool& pool, const SparseMap& x, const SparseWindow& window, bool mean,
                        std::size_t divisor, const SparseUpdate& to);
// x * scale + shift, both (channels,).
std::size_t sparse_affine(ThreadPool& pool, const SparseMap& x, const float* scale, const float* shift,
                          const SparseUpdate& to);
// `channels` of x from `first` on, as they are.
std::size_t sparse_copy(ThreadPool& pool, const SparseMap& x, std::size_t first, std::size_t channels,
                        const SparseUpdate& to);
// Of each channel of two maps.
std::size_t sparse_combine(ThreadPool& pool, Combine kind, const SparseMap& a, const SparseMap& b,
                           const SparseUpdate& to);
// Output (r, c): of the rows row_places[r] and row_places[r + rows of out], the second one's share row_shares[r], and
// columns alike. Shares of 0 copy.
std::size_t sparse_resize(ThreadPool& pool, const SparseMap& x, const std::int64_t* row_places, const float* row_shares,
                          const std::int64_t* column_places, const float* column_shares, const SparseUpdate& to);
// Channels of x go to places: each position becomes `down` x `across` of them, which have a part of its channels each.
// The channels of a place lie side by side, or (`apart`) one channel's of all places do.
std::size_t sparse_spread(ThreadPool& pool, const SparseMap& x, std::size_t down, std::size_t across, bool apart,
                          const SparseUpdate& to);
// The positions of an output (rows, columns), rising, whose windows meet a mark of 1 in one of the masks (from.rows x
// from.columns) of what is read.
struct SparseSize {
  std::size_t rows, columns;
};
std::vector<std::int64_t> sparse_reached(const std::vector<const std::uint8_t*>& masks, SparseSize from,
                                         const SparseWindow& window, SparseSize made);
// Brings `held` up to what came, (channels, rows, columns) of floats or bytes; `among` (rows, columns), where it isn't
// null, is 0 where nothing is new.
template <class Element>
std::size_t sparse_take(ThreadPool& pool, const Element* fresh, const std::uint8_t* among, float threshold,
                        SparseMap& held, std::uint8_t* changed);

}  // namespace cutset
