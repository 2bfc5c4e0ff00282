// Sums of byte codes with AMX tiles: 16 x 64 codes times 64 x 16 weights an instruction. The packed form of the weights
// ([depth / 4][32][4]) holds two tiles side by side.
#include "kernels/isa/codes.h"

#if defined(CUTSET_ISA_amx)

#include <immintrin.h>

namespace cutset::CUTSET_ISA {

namespace {

// Tiles 0 to 3: sums; 4, 5: codes of 16 rows each; 6, 7: weights of 16 outputs each. All are full: rows that don't
// exist are computed and dropped, which costs less than another configuration.
struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Configuration kConfiguration;

constexpr std::size_t kStep = kDepthStep / 4 * 4 * kPanel;  // bytes of a panel that one step along the depth uses

// Asks for this step's share of the lines, spread evenly: in a burst they would wait for each other.
inline void fetch_step(const std::int8_t*& fetch, std::size_t lines) {
  for (std::size_t i = 0; i < lines; ++i, fetch += 64) __builtin_prefetch(fetch, 0, 2);
}

void tall_block(const std::uint8_t* codes, std::size_t stride, std::size_t depth, const std::int8_t* panel,
                const std::int8_t* fetch, std::size_t fetch_lines, std::int32_t (*sums)[kPanel]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  fetch_lines = (fetch_lines * kDepthStep + depth - 1) / depth;
  for (std::size_t k = 0; k < depth; k += kDepthStep, panel += kStep) {
    fetch_step(fetch, fetch_lines);
    _tile_loadd(6, panel, 128);
    _tile_loadd(4, codes + k, stride);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, panel + 64, 128);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, codes + 16 * stride + k, stride);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, sums[0], 4 * kPanel);
  _tile_stored(1, sums[0] + 16, 4 * kPanel);
  _tile_stored(2, sums[16], 4 * kPanel);
  _tile_stored(3, sums[16] + 16, 4 * kPanel);
}

void short_block(const std::uint8_t* codes, std::size_t stride, std::size_t depth, const std::int8_t* panel,
                 const std::int8_t* fetch, std::size_t fetch_lines, std::int32_t (*sums)[kPanel]) {
  _tile_zero(0);
  _tile_zero(1);
  fetch_lines = (fetch_lines * kDepthStep + depth - 1) / depth;
  for (std::size_t k = 0; k < depth; k += kDepthStep, panel += kStep) {
    fetch_step(fetch, fetch_lines);
    _tile_loadd(4, codes + k, stride);
    _tile_loadd(6, panel, 128);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, panel + 64, 128);
    _tile_dpbusd(1, 4, 7);
  }
  _tile_stored(0, sums[0], 4 * kPanel);
  _tile_stored(1, sums[0] + 16, 4 * kPanel);
}

}  // namespace

void enter_tiles() { _tile_loadconfig(&kConfiguration); }

// Released, so that the system doesn't save eight kilobytes at each switch of threads.
void leave_tiles() { _tile_release(); }

void tile_block(const std::uint8_t* codes, std::size_t stride, std::size_t rows, std::size_t depth,
                const std::int8_t* panel, const std::int8_t* fetch, std::size_t fetch_lines,
                std::int32_t (*sums)[kPanel]) {
  (rows > 16 ? tall_block : short_block)(codes, stride, depth, panel, fetch, fetch_lines, sums);
}

}  // namespace cutset::CUTSET_ISA

#endif
