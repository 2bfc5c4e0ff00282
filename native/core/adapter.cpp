#include "core/adapter.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "kernels/glue.h"
#include "kernels/linear.h"

namespace cutset {

namespace {

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The smallest form that has all of some numbers. (-0 is none of a byte's.)
ThinKind smallest_kind(const float* values, std::size_t count) {
  std::uint32_t low = 0;
  bool bytes = true;
  for (std::size_t i = 0; i < count; ++i) {
    const float value = values[i];
    low |= bits_of(value) & 0xFFFF;
    bytes = bytes && value >= -127.0f && value <= 127.0f &&
            bits_of(static_cast<float>(static_cast<int>(value))) == bits_of(value);
  }
  return bytes ? ThinKind::kByte : low == 0 ? ThinKind::kBfloat : ThinKind::kFloat;
}

}  // namespace

ThinMatrix::ThinMatrix(const float* weight, std::size_t outputs, std::size_t depth)
    : outputs_(outputs), depth_(depth), kind_(ThinKind::kFloat) {
  if (outputs == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  checked_product(checked_product(padded(), depth), sizeof(float));
  kind_ = smallest_kind(weight, outputs * depth);
  const std::size_t panel_bytes = thin_panel_bytes(depth, kind_), bytes = checked_product(panels(), panel_bytes);
  panels_ = Buffer::shared(bytes);
  std::memset(panels_.as<void>(), 0, bytes);
  for (std::size_t o = 0; o < outputs; ++o) {
    const float* row = weight + o * depth;
    char* at = panels_.as<char>() + o / kThinPanel * panel_bytes;
    const std::size_t lane = o % kThinPanel;
    for (std::size_t k = 0; k < depth; ++k) {
      if (kind_ == ThinKind::kByte) {
        at[k * kThinPanel + lane] = static_cast<char>(static_cast<std::int8_t>(row[k]));
      } else if (kind_ == ThinKind::kBfloat) {
        // Halves of a word whose low one comes first in the depth, whatever the order of bytes.
        std::uint32_t word;
        char* place = at + (k / 2 * kThinPanel + lane) * sizeof word;
        std::memcpy(&word, place, sizeof word);
        word |= bits_of(row[k]) >> 16 << (k % 2 * 16);
        std::memcpy(place, &word, sizeof word);
      } else {
        std::memcpy(at + (k * kThinPanel + lane) * sizeof(float), row + k, sizeof(float));
      }
    }
  }
}

std::size_t ThinMatrix::panels() const { return padded() / kThinPanel; }

std::size_t ThinMatrix::padded() const { return round_up(outputs_, kThinPanel); }

const void* ThinMatrix::panel(std::size_t number) const {
  return panels_.as<char>() + number * thin_panel_bytes(depth_, kind_);
}

void Adapter::put(std::size_t index, Shape product, LowRank part, const float* scales) {
  if (part.down.depth() != product.inputs) throw std::invalid_argument("a product has other inputs");
  if (part.up.outputs() > product.outputs || part.first > product.outputs - part.up.outputs()) {
    throw std::invalid_argument("a product has fewer outputs");
  }
  for (std::size_t p = 0; scales && p < part.up.panels(); ++p) part.scales.push_back(part.scale * scales[p]);
  parts_[index].push_back(std::move(part));
}

void Adapter::put(Site site, int layer, int expert, const float* down, const float* up, std::size_t rank,
                  std::size_t inputs, std::size_t first, std::size_t outputs, float scale, const float* scales) {
  const std::size_t index = spec_.index(site, layer, expert);
  const Shape product = {spec_.inputs(site, layer, expert), spec_.outputs(site, layer, expert)};
  put(index, product, {ThinMatrix(down, rank, inputs), ThinMatrix(up, outputs, rank), first, scale, {}}, scales);
}

void Adapter::put(ToldProduct product, int layer, const float* down, const float* up, std::size_t rank,
                  std::size_t inputs, std::size_t first, std::size_t outputs, float scale, const float* scales) {
  const std::size_t index = spec_.index(product, layer), width = spec_.layer_inputs.width;
  const Shape shape = product == ToldProduct::kAll    ? Shape{spec_.hidden, spec_.stage_layers() * width}
                      : product == ToldProduct::kGate ? Shape{spec_.hidden, width}
                                                      : Shape{width, spec_.hidden};
  put(index, shape, {ThinMatrix(down, rank, inputs), ThinMatrix(up, outputs, rank), first, scale, {}}, scales);
}

std::vector<AdaptedRows> adapted_rows(const std::vector<const Adapter*>& adapters) {
  std::vector<AdaptedRows> groups;
  for (std::size_t row = 0; row < adapters.size(); ++row) {
    if (!adapters[row]) continue;
    const auto found = std::find_if(groups.begin(), groups.end(),
                                    [&](const AdaptedRows& group) { return group.adapter == adapters[row]; });
    AdaptedRows& group = found != groups.end() ? *found : groups.emplace_back(AdaptedRows{adapters[row], {}});
    group.rows.push_back(row);
  }
  return groups;
}

}  // namespace cutset
