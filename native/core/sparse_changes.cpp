// What changed of what is held, and which positions of a layer that reaches.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/sparse.h"
#include "kernels/table.h"

namespace cutset {

namespace {

// Whether two rows differ somewhere by the threshold or more, in any bit for 0; what is no number does.
bool any_apart(const float* a, const float* b, std::size_t count, float threshold) {
  if (threshold == 0.0f) return std::memcmp(a, b, count * sizeof(float)) != 0;
  int apart = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const float off = a[i] - b[i];
    apart |= static_cast<int>(!(off < threshold)) | static_cast<int>(!(-off < threshold));
  }
  return apart != 0;
}

}  // namespace

std::vector<std::int64_t> sparse_reached(const std::vector<const std::uint8_t*>& masks, SparseSize from,
                                         const SparseWindow& w, SparseSize made) {
  const auto side = [](std::size_t x) { return static_cast<std::ptrdiff_t>(x); };
  std::vector<std::int64_t> found;
  std::vector<std::uint8_t> line(from.columns), marks(made.columns);
  for (std::size_t row = 0; row < made.rows; ++row) {
    bool any = false;  // what any row of the window has in each column
    for (std::size_t t = 0; t < w.rows; ++t) {
      const std::ptrdiff_t at = side(row * w.row_stride + t * w.row_dilation) - side(w.top);
      if (at < 0 || at >= side(from.rows)) continue;
      for (const std::uint8_t* mask : masks) {
        const std::uint8_t* marked = mask + at * side(from.columns);
        if (!std::memchr(marked, 1, from.columns)) continue;
        if (!any) std::fill(line.begin(), line.end(), std::uint8_t{0});
        any = true;
        for (std::size_t c = 0; c < from.columns; ++c) line[c] |= marked[c];
      }
    }
    if (!any) continue;
    std::fill(marks.begin(), marks.end(), std::uint8_t{0});
    const std::ptrdiff_t stride = side(w.column_stride);
    for (std::size_t t = 0; t < w.columns; ++t) {
      const std::ptrdiff_t offset = side(t * w.column_dilation) - side(w.left);
      const std::ptrdiff_t first = offset < 0 ? (-offset + stride - 1) / stride : 0;
      const std::ptrdiff_t room = side(from.columns) - 1 - offset;
      const std::ptrdiff_t end = room < 0 ? 0 : std::min(side(made.columns), room / stride + 1);
      for (std::ptrdiff_t c = first; c < end; ++c) {
        marks[static_cast<std::size_t>(c)] |= line[static_cast<std::size_t>(c * stride + offset)];
      }
    }
    for (std::size_t c = 0; c < made.columns; ++c) {
      if (marks[c]) found.push_back(static_cast<std::int64_t>(row * made.columns + c));
    }
  }
  return found;
}

template <class Element>
std::size_t sparse_take(ThreadPool& pool, const Element* fresh, const std::uint8_t* among, float threshold,
                        SparseMap& held, std::uint8_t* changed) {
  const SparseKernels& kernels = cutset::kernels().sparse;
  const std::size_t columns = held.columns(), channels = held.channels(), plane = held.rows() * columns;
  std::atomic<std::size_t> replaced{0};
  pool.run(held.rows(), [&](std::size_t row) noexcept {
    constexpr std::size_t kStep = 32;  // positions whose channels are gathered together
    static thread_local Workspace room;
    float* y = static_cast<float*>(room.take(kStep * channels * sizeof(float)));
    std::size_t found = 0;
    for (std::size_t first = 0; first < columns; first += kStep) {
      const std::size_t count = std::min(kStep, columns - first), at = row * columns + first;
      if (among && std::all_of(among + at, among + at + count, [](std::uint8_t any) { return any == 0; })) continue;
      for (std::size_t c = 0; c < channels; ++c) {
        const Element* from = fresh + c * plane + at;
        for (std::size_t i = 0; i < count; ++i) y[i * channels + c] = static_cast<float>(from[i]);
      }
      const float* beside = held.at(static_cast<std::ptrdiff_t>(row), static_cast<std::ptrdiff_t>(first));
      if (!any_apart(y, beside, count * channels, threshold)) continue;  // most of a picture that stands still
      for (std::size_t i = 0; i < count; ++i) {
        float* place = held.at(static_cast<std::ptrdiff_t>(row), static_cast<std::ptrdiff_t>(first + i));
        if (kernels.settle(y + i * channels, threshold, channels, place)) {
          changed[at + i] = 1;
          ++found;
        }
      }
    }
    replaced += found;
  });
  return replaced;
}

template std::size_t sparse_take(ThreadPool&, const float*, const std::uint8_t*, float, SparseMap&, std::uint8_t*);
template std::size_t sparse_take(ThreadPool&, const std::uint8_t*, const std::uint8_t*, float, SparseMap&,
                                 std::uint8_t*);

}  // namespace cutset
