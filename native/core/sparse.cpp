#include "core/sparse.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "kernels/linear.h"
#include "kernels/table.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace cutset {

namespace {

constexpr std::size_t kBlock = 96;        // positions of a task: a piece of weights is read once for so many
constexpr std::size_t kPieceDepth = 192;  // rows of a panel that stay in the nearest cache

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

// Numbers next to 0 count as 0 in what a thread computes meanwhile: processors take a hundred times as long for such.
class FlushTiny {
 public:
  FlushTiny() : before_(state()) { set(before_ | kFlush); }
  ~FlushTiny() { set(before_); }
  FlushTiny(const FlushTiny&) = delete;
  FlushTiny& operator=(const FlushTiny&) = delete;

 private:
#if defined(__SSE__)
  using State = unsigned;
  static constexpr State kFlush = 0x8040;  // results, and what is read
  static State state() { return _mm_getcsr(); }
  static void set(State to) { _mm_setcsr(to); }
#elif defined(__aarch64__)
  using State = std::uint64_t;
  static constexpr State kFlush = State{1} << 24;
  static State state() {
    State now;
    asm volatile("mrs %0, fpcr" : "=r"(now));
    return now;
  }
  static void set(State to) { asm volatile("msr fpcr, %0" : : "r"(to)); }
#else
  using State = unsigned;
  static constexpr State kFlush = 0;
  static State state() { return 0; }
  static void set(State) {}
#endif
  State before_;
};

// Some tasks for each thread, none larger than `most` and none smaller than `least`.
std::size_t block_of(const ThreadPool& pool, std::size_t count, std::size_t least, std::size_t most) {
  const std::size_t wanted = count / (2 * static_cast<std::size_t>(pool.threads())) + 1;
  return std::clamp(round_up(wanted, least), least, std::max(most / least, std::size_t{1}) * least);
}

// compute(positions, count, y, stride) for blocks of positions, then what follows the layer, and what is held.
template <class Compute>
std::size_t update_blocks(ThreadPool& pool, const SparseUpdate& to, std::size_t channels, std::size_t block,
                          std::size_t stride, const Compute& compute) {
  require(to.first_channel + channels <= to.out.channels(), "the map that is written has too few channels");
  std::atomic<std::size_t> replaced{0};
  const SparseKernels& kernels = cutset::kernels().sparse;
  pool.run((to.count + block - 1) / block, [&](std::size_t task) noexcept {
    static thread_local Workspace room;
    const FlushTiny flush;
    float* y = static_cast<float*>(room.take(block * stride * sizeof(float)));
    const std::size_t first = task * block, count = std::min(block, to.count - first);
    const std::int64_t* positions = to.positions + first;
    compute(positions, count, y, stride);
    std::size_t found = 0;
    const auto columns = static_cast<std::int64_t>(to.out.columns());
    for (std::size_t i = 0; i < count; ++i) {
      float* row = y + i * stride;
      kernels.activate(to.activation, to.parameter, channels, row);
      float* held = to.out.at(positions[i] / columns, positions[i] % columns) + to.first_channel;
      if (kernels.settle(row, to.threshold, channels, held)) {
        to.changed[positions[i]] = 1;
        ++found;
      }
    }
    replaced += found;
  });
  return replaced;
}

// The same, position by position: compute(row, column, y).
template <class Compute>
std::size_t update_each(ThreadPool& pool, const SparseUpdate& to, std::size_t channels, const Compute& compute) {
  const auto columns = static_cast<std::int64_t>(to.out.columns());
  const std::size_t stride = round_up(channels, 16);
  return update_blocks(pool, to, channels, block_of(pool, to.count, 8, 4 * kBlock), stride,
                       [&](const std::int64_t* positions, std::size_t count, float* y, std::size_t step) {
                         for (std::size_t i = 0; i < count; ++i) {
                           compute(positions[i] / columns, positions[i] % columns, y + i * step);
                         }
                       });
}

bool same_size(const SparseMap& a, const SparseMap& b) { return a.rows() == b.rows() && a.columns() == b.columns(); }

// Whether every window of an output of so many rows lies within the map and its border.
bool reaches(std::size_t outputs, std::size_t size, std::size_t border, std::size_t window, std::size_t stride,
             std::size_t before, std::size_t dilation) {
  return before <= border && (outputs - 1) * stride + (window - 1) * dilation + 1 <= size + border + before;
}

}  // namespace

SparseMap::SparseMap(std::size_t rows, std::size_t columns, std::size_t channels, std::size_t border)
    : rows_(rows), columns_(columns), channels_(channels), border_(border) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  require(rows && columns && channels, "a map must not be empty");
  require(rows <= kMost && columns <= kMost && channels <= kMost && border <= kMost, "a map is too large");
  const std::size_t places = checked_product(rows + 2 * border, columns + 2 * border);
  memory_ = Buffer(checked_product(checked_product(places, channels), sizeof(float)));
  std::memset(memory_.as<char>(), 0, memory_.bytes());
}

SparseConv::SparseConv(const float* weight, const float* bias, std::size_t outputs, std::size_t channels,
                       std::size_t groups, const SparseWindow& window)
    : outputs_(outputs), channels_(channels), groups_(groups), window_(window) {
  require(outputs && channels && window.rows && window.columns, "a convolution must not be empty");
  require(window.row_stride && window.column_stride && window.row_dilation && window.column_dilation,
          "strides and dilations must be 1 or above");
  require(groups && outputs % groups == 0 && channels % groups == 0, "channels and outputs must divide into groups");
  const std::size_t taps = window.rows * window.columns, own = channels / groups, each = outputs / groups;
  depthwise_ = own == 1 && each == 1 && groups > 1;
  const bool joined = groups == 1 && window.column_dilation == 1;  // a row of the window lies side by side
  runs_ = joined ? window.rows : taps;
  depth_ = joined ? window.columns * channels : own;
  const std::size_t whole = taps * own;  // weights of an output
  if (depthwise_) {
    weights_ = Buffer(checked_product(checked_product(taps, channels), sizeof(float)));
    start_ = Buffer(checked_product(channels, sizeof(float)));
    for (std::size_t c = 0; c < channels; ++c) {
      start_.as<float>()[c] = bias ? bias[c] : 0.0f;
      for (std::size_t t = 0; t < taps; ++t) weights_.as<float>()[t * channels + c] = weight[c * taps + t];
    }
    return;
  }
  const std::size_t panels = round_up(each, kPanel) / kPanel;
  weights_ = Buffer(checked_product(checked_product(groups * panels * kPanel, whole), sizeof(float)));
  start_ = Buffer(checked_product(groups * panels * kPanel, sizeof(float)));
  float *packed = weights_.as<float>(), *start = start_.as<float>();
  for (std::size_t g = 0; g < groups; ++g) {
    for (std::size_t p = 0; p < panels; ++p, packed += whole * kPanel, start += kPanel) {
      for (std::size_t c = 0; c < kPanel; ++c) {
        const bool real = p * kPanel + c < each;
        const std::size_t output = g * each + p * kPanel + c;
        start[c] = real && bias ? bias[output] : 0.0f;
        for (std::size_t k = 0; k < whole; ++k) packed[k * kPanel + c] = real ? weight[output * whole + k] : 0.0f;
      }
    }
  }
}

std::size_t SparseConv::update(ThreadPool& pool, const SparseMap& x, const SparseUpdate& to) const {
  const SparseWindow& w = window_;
  require(&x != &to.out, "a layer can't write to the map that it reads");
  require(x.channels() == channels_, "the map that is read has another number of channels");
  require(reaches(to.out.rows(), x.rows(), x.border(), w.rows, w.row_stride, w.top, w.row_dilation) &&
              reaches(to.out.columns(), x.columns(), x.border(), w.columns, w.column_stride, w.left, w.column_dilation),
          "windows reach beyond the border of the map that is read");
  const SparseKernels& kernels = cutset::kernels().sparse;
  const std::ptrdiff_t down = x.pitch() * static_cast<std::ptrdiff_t>(w.row_dilation);
  const auto right = static_cast<std::ptrdiff_t>(w.column_dilation * channels_);
  const auto columns = static_cast<std::int64_t>(to.out.columns());
  const auto begin = [&](std::int64_t position) {
    return x.at(static_cast<std::ptrdiff_t>(position / columns * static_cast<std::int64_t>(w.row_stride)) -
                    static_cast<std::ptrdiff_t>(w.top),
                static_cast<std::ptrdiff_t>(position % columns * static_cast<std::int64_t>(w.column_stride)) -
                    static_cast<std::ptrdiff_t>(w.left));
  };
  std::vector<std::ptrdiff_t> taps;
  const std::size_t across = runs_ / w.rows;
  for (std::size_t r = 0; r < runs_; ++r) {
    taps.push_back(static_cast<std::ptrdiff_t>(r / across) * down + static_cast<std::ptrdiff_t>(r % across) * right);
  }
  if (depthwise_) {
    return update_blocks(pool, to, channels_, block_of(pool, to.count, 8, kBlock), round_up(channels_, 16),
                         [&](const std::int64_t* positions, std::size_t count, float* y, std::size_t stride) {
                           for (std::size_t i = 0; i < count; ++i) {
                             kernels.depthwise(begin(positions[i]), taps.data(), taps.size(), weights_.as<float>(),
                                               start_.as<float>(), channels_, y + i * stride);
                           }
                         });
  }
  // The sums' order in pieces: some runs whole, or a part of one.
  struct Piece {
    std::size_t first, count, depth, row;  // of `places`; rows of a panel before it
  };
  std::vector<Piece> pieces;
  std::vector<std::ptrdiff_t> places;
  const std::size_t whole = runs_ * depth_, together = std::max<std::size_t>(1, kPieceDepth / depth_);
  for (std::size_t r = 0; r < runs_;) {
    if (depth_ > kPieceDepth) {
      const std::size_t parts = (depth_ + kPieceDepth - 1) / kPieceDepth;
      for (std::size_t part = 0; part < parts; ++part) {
        const std::size_t from = depth_ * part / parts, end = depth_ * (part + 1) / parts;
        pieces.push_back({places.size(), 1, end - from, r * depth_ + from});
        places.push_back(taps[r] + static_cast<std::ptrdiff_t>(from));
      }
      ++r;
      continue;
    }
    const std::size_t count = std::min(together, runs_ - r);
    pieces.push_back({places.size(), count, depth_, r * depth_});
    places.insert(places.end(), taps.begin() + static_cast<std::ptrdiff_t>(r),
                  taps.begin() + static_cast<std::ptrdiff_t>(r + count));
    r += count;
  }
  const std::size_t each = outputs_ / groups_, own = channels_ / groups_;
  const std::size_t panels = round_up(each, kPanel) / kPanel;
  const std::size_t block = block_of(pool, to.count, kernels.conv_rows, kBlock);
  // Panels are written whole: what a group's last one writes too much, the next group's writes again, in this order.
  const std::size_t stride = round_up(outputs_, kPanel) + kPanel;
  return update_blocks(
      pool, to, outputs_, block, stride,
      [&](const std::int64_t* positions, std::size_t count, float* y, std::size_t step) {
        const float* rows[kBlock];
        const std::size_t tiles = (count + kernels.conv_rows - 1) / kernels.conv_rows;
        for (std::size_t g = 0; g < groups_; ++g) {
          for (std::size_t i = 0; i < count; ++i) rows[i] = begin(positions[i]) + g * own;
          for (std::size_t p = 0; p < panels; ++p) {
            const std::size_t panel = g * panels + p;
            const float* weights = weights_.as<float>() + panel * whole * kPanel;
            float* out = y + g * each + p * kPanel;
            for (const Piece& piece : pieces) {
              for (std::size_t t = 0; t < tiles; ++t) {
                const std::size_t first = count * t / tiles, end = count * (t + 1) / tiles;
                kernels.conv({rows + first, end - first, places.data() + piece.first, piece.count, piece.depth,
                              weights + piece.row * kPanel, piece.row ? nullptr : start_.as<float>() + panel * kPanel,
                              out + first * step, step});
              }
            }
          }
        }
      });
}

std::size_t sparse_pool(ThreadPool& pool, const SparseMap& x, const SparseWindow& w, bool mean, std::size_t divisor,
                        const SparseUpdate& to) {
  require(w.rows && w.columns && w.row_stride && w.column_stride && w.row_dilation && w.column_dilation,
          "a window and its strides must be 1 or above");
  constexpr std::size_t kMostWindow = 4096;
  require(w.rows <= kMostWindow && w.columns <= kMostWindow, "a pool's window is too large");
  const SparseKernels& kernels = cutset::kernels().sparse;
  const auto first = [](std::int64_t at, std::size_t stride, std::size_t before) {
    return static_cast<std::ptrdiff_t>(at) * static_cast<std::ptrdiff_t>(stride) - static_cast<std::ptrdiff_t>(before);
  };
  const auto inside = [](std::ptrdiff_t at, std::size_t size) {
    return at >= 0 && at < static_cast<std::ptrdiff_t>(size);
  };
  // Each window must have an input inside of the map.
  const auto meets = [&](std::size_t outputs, std::size_t size, std::size_t window, std::size_t stride,
                         std::size_t before, std::size_t dilation) {
    for (std::size_t at = 0; at < outputs; ++at) {
      bool any = false;
      for (std::size_t t = 0; t < window && !any; ++t) {
        any = inside(first(static_cast<std::int64_t>(at), stride, before) + static_cast<std::ptrdiff_t>(t * dilation),
                     size);
      }
      if (!any) return false;
    }
    return true;
  };
  require(meets(to.out.rows(), x.rows(), w.rows, w.row_stride, w.top, w.row_dilation) &&
              meets(to.out.columns(), x.columns(), w.columns, w.column_stride, w.left, w.column_dilation),
          "a pool's window lies beyond the map");
  return update_each(pool, to, x.channels(), [&](std::int64_t row, std::int64_t column, float* y) {
    static thread_local std::vector<const float*> places;
    places.clear();
    for (std::size_t r = 0; r < w.rows; ++r) {
      const std::ptrdiff_t at = first(row, w.row_stride, w.top) + static_cast<std::ptrdiff_t>(r * w.row_dilation);
      if (!inside(at, x.rows())) continue;
      for (std::size_t c = 0; c < w.columns; ++c) {
        const std::ptrdiff_t across =
            first(column, w.column_stride, w.left) + static_cast<std::ptrdiff_t>(c * w.column_dilation);
        if (inside(across, x.columns())) places.push_back(x.at(at, across));
      }
    }
    if (mean) {
      const auto count = static_cast<float>(divisor ? divisor : places.size());
      kernels.mean(places.data(), places.size(), 1.0f / count, x.channels(), y);
    } else {
      kernels.largest(places.data(), places.size(), x.channels(), y);
    }
  });
}

std::size_t sparse_affine(ThreadPool& pool, const SparseMap& x, const float* scale, const float* shift,
                          const SparseUpdate& to) {
  require(&x != &to.out && same_size(x, to.out), "the maps must be of one size");
  const SparseKernels& kernels = cutset::kernels().sparse;
  return update_each(pool, to, x.channels(), [&](std::int64_t row, std::int64_t column, float* y) {
    kernels.affine(x.at(row, column), scale, shift, x.channels(), y);
  });
}

std::size_t sparse_copy(ThreadPool& pool, const SparseMap& x, std::size_t first, std::size_t channels,
                        const SparseUpdate& to) {
  require(&x != &to.out && same_size(x, to.out), "the maps must be of one size");
  require(channels && channels <= x.channels() && first <= x.channels() - channels, "the map has no such channels");
  return update_each(pool, to, channels, [&](std::int64_t row, std::int64_t column, float* y) {
    std::memcpy(y, x.at(row, column) + first, channels * sizeof(float));
  });
}

std::size_t sparse_combine(ThreadPool& pool, Combine kind, const SparseMap& a, const SparseMap& b,
                           const SparseUpdate& to) {
  require(
      &a != &to.out && &b != &to.out && same_size(a, to.out) && same_size(b, to.out) && a.channels() == b.channels(),
      "the maps must be of one size");
  const SparseKernels& kernels = cutset::kernels().sparse;
  return update_each(pool, to, a.channels(), [&](std::int64_t row, std::int64_t column, float* y) {
    kernels.combine(kind, a.at(row, column), b.at(row, column), a.channels(), y);
  });
}

std::size_t sparse_resize(ThreadPool& pool, const SparseMap& x, const std::int64_t* row_places, const float* row_shares,
                          const std::int64_t* column_places, const float* column_shares, const SparseUpdate& to) {
  const std::size_t rows = to.out.rows(), columns = to.out.columns();
  const auto within = [](const std::int64_t* places, std::size_t count, std::size_t size) {
    return std::all_of(places, places + count,
                       [&](std::int64_t p) { return p >= 0 && p < static_cast<std::int64_t>(size); });
  };
  require(within(row_places, 2 * rows, x.rows()) && within(column_places, 2 * columns, x.columns()),
          "a place lies beyond the map that is read");
  const SparseKernels& kernels = cutset::kernels().sparse;
  return update_each(pool, to, x.channels(), [&](std::int64_t r, std::int64_t c, float* y) {
    const float down = row_shares[r], right = column_shares[c];
    const float* places[4];
    float weights[4];
    std::size_t count = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t j = 0; j < 2; ++j) {
        const float weight = (i ? down : 1.0f - down) * (j ? right : 1.0f - right);
        if (weight == 0.0f) continue;
        weights[count] = weight;
        places[count++] = x.at(row_places[r + static_cast<std::int64_t>(i * rows)],
                               column_places[c + static_cast<std::int64_t>(j * columns)]);
      }
    }
    if (count == 1 && weights[0] == 1.0f) {
      std::memcpy(y, places[0], x.channels() * sizeof(float));
    } else {
      kernels.blend(places, weights, count, x.channels(), y);
    }
  });
}

std::size_t sparse_spread(ThreadPool& pool, const SparseMap& x, std::size_t down, std::size_t across, bool apart,
                          const SparseUpdate& to) {
  const std::size_t most = x.channels();
  require(down && across && down <= most && across <= most && most % (down * across) == 0,
          "the channels must divide into the places of a block");
  require(&x != &to.out && to.out.rows() % down == 0 && to.out.columns() % across == 0 &&
              to.out.rows() / down == x.rows() && to.out.columns() / across == x.columns(),
          "the map that is written must have a block for each position");
  const std::size_t places = down * across, channels = most / places;
  const auto rows = static_cast<std::int64_t>(down), columns = static_cast<std::int64_t>(across);
  return update_each(pool, to, channels, [&](std::int64_t row, std::int64_t column, float* y) {
    const float* from = x.at(row / rows, column / columns);
    const auto place = static_cast<std::size_t>(row % rows * columns + column % columns);
    if (!apart) {
      std::memcpy(y, from + place * channels, channels * sizeof(float));
      return;
    }
    for (std::size_t c = 0; c < channels; ++c) y[c] = from[c * places + place];
  });
}

}  // namespace cutset
