// The kernels of linear layers, y = x . W^T: float32 products, 8-bit products, quantisation.
//
// Weights are packed by panels of 32 outputs, so that one contiguous stream serves every number of rows:
//   float32  [panel][depth][32], float16 too
//   bfloat16 [panel][depth / 2][32][2], two places of the depth in the halves of a word, so that a shift and a mask
//            widen them, and tiles can take them as they are; the depth padded with zeros to a multiple of 32
//   int8     [panel][depth / 4][32][4], the depth padded with zeros to a multiple of 64
// The last panel is padded with zero outputs. `depth` is the length of the sums, the columns of x and W.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

constexpr std::size_t kPanel = 32;
constexpr std::size_t kDepthStep = 64;
constexpr std::size_t kHalfStep = 32;  // to which the depth of bfloat16 is padded
constexpr std::size_t kBFloat16JobRows = 128;

// i8_multiply may read codes of this many rows beyond the last: room for them must follow.
constexpr std::size_t kCodeRowsMore = 31;

constexpr std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

// How weights of float32 products are kept: in float32, or in 16 bits that are widened, exactly, when they are used.
// The results are those of the widened weights, but where an instruction set has tiles for bfloat16: see BFloat16Job.
enum class FloatType : std::uint8_t { kFloat32, kBFloat16, kFloat16 };
constexpr std::size_t float_bytes(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

// How many limbs of 8 bits a residue of the field has; see kernels/field.h.
constexpr std::size_t kResidueLimbs = 4;

// The product of encoded rows with one panel or several. Of `scaled`, `whole` and `residues` the one that isn't null is
// written; `residues` is for rows that i8_encode_residues wrote, with whatever `bits`.
struct I8Job {
  const std::uint8_t* codes;  // the rows as i8_encode wrote them
  std::size_t rows;
  std::size_t depth;
  int bits;                    // as in i8_encode
  const std::int8_t* panels;   // [panel][depth / 4][32][4]
  const std::int32_t* sums;    // (outputs,) the sum of each output's weights, padded to whole panels like the next
  const float* row_scales;     // (rows,) for `scaled`
  const float* output_scales;  // (outputs,) for `scaled`
  std::size_t outputs;
  float* scaled;            // (rows, outputs) float(sum) * (row_scale * output_scale)
  std::int32_t* whole;      // (rows, outputs) the sums
  std::uint32_t* residues;  // (rows, outputs) the sums mod P
  std::size_t stride;       // elements between rows of the output
};

// The product of rows with panels of bfloat16 in tiles. A float32 is the sum of three bfloat16 numbers, the upper,
// middle and lower 8 of its 24 bits, so that all products are exact. An output is the sum over steps of 32 places of
// the depth, and in a step over the lower, the middle and the upper pieces. Each of these terms is the sum of two
// chains of multiply-adds from zero on, over the even and over the odd places. Subnormal numbers count as zero, before
// and after each operation. kernels/reference_tiles.py is the twin, bit for bit.
struct BFloat16Job {
  const void* pieces;  // of the rows, as bf16_pack wrote them, tile after tile
  std::size_t rows;    // at most kBFloat16JobRows
  std::size_t height;  // rows of a tile; the last one may have fewer that exist
  std::size_t depth;
  const void* panels;   // [panel][depth / 2][32][2]
  std::size_t outputs;  // of the panels
  float* y;             // (rows, outputs)
  std::size_t stride;   // elements between rows of y
};

// What there is to know of a panel.
struct PanelFacts {
  std::int64_t most_sum;  // the largest sum of an output's |weights|
  bool legal;             // no weight is -128, and the padding is zero
};

struct LinearKernels {
  // The most rows that f32_tile takes.
  std::size_t f32_rows;
  // x (rows, depth) as [depth][rows].
  void (*f32_pack)(const float* x, std::size_t rows, std::size_t depth, float* packed);
  // y (rows, columns) = packed_x . panel, added to what is there if `add`. Each element is one chain of
  // multiply-adds in the order of the depth, whatever the number of rows.
  void (*f32_tile)(const float* packed_x, std::size_t rows, std::size_t depth, const void* panel, FloatType type,
                   std::size_t columns, bool add, float* y, std::size_t stride);
  // A panel of `depth` that is kept in 16 bits, in float32.
  void (*f32_widen)(const void* panel, FloatType type, std::size_t depth, float* wide);

  // Products with bfloat16 in tiles, with any number of rows; zero and nullptr where the instruction set has no tiles.
  std::size_t bf16_rows;                             // the most rows of a tile
  std::size_t (*bf16_row_bytes)(std::size_t depth);  // of a row's pieces, a multiple of 64
  // At most `height` rows of x (rows, depth) as a tile: `height` times bf16_row_bytes, aligned to 64.
  void (*bf16_pack)(const float* x, std::size_t rows, std::size_t height, std::size_t depth, void* pieces);
  void (*bf16_multiply)(const BFloat16Job& job);

  // Symmetric quantisation by rows to `bits` (8 to 12) bits: top = 2^(bits-1) - 1, scale = max|x| / top,
  // q = x / scale rounded to the nearest, ties to even. A row whose scale would be below the least normal float gets
  // scale 0 and zeros, a row with a NaN or an infinity scale NaN and zeros.
  void (*quantize)(const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q, float* scales);
  // The same, in the form that i8_multiply reads: i8_code_bytes for each row.
  std::size_t (*i8_code_bytes)(std::size_t depth, int bits);
  void (*i8_encode)(const float* x, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes, float* scales);
  // Of integers that fit in `bits` bits.
  void (*i8_encode_whole)(const std::int16_t* q, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes);
  // Of residues; i8_residue_bytes for each row. Their limbs' sums must fit in int32: 255 * 127 * depth < 2^31.
  std::size_t (*i8_residue_bytes)(std::size_t depth);
  void (*i8_encode_residues)(const std::uint32_t* x, std::size_t rows, std::size_t depth, std::uint8_t* codes);
  void (*i8_multiply)(const I8Job& job);

  // `count` rows of weights, at most 32 and each of `depth`, to one panel; sums (32,): of each row's weights, zero for
  // rows that don't exist.
  PanelFacts (*i8_pack)(const std::int8_t* const* rows, std::size_t count, std::size_t depth, std::int8_t* panel,
                        std::int32_t* sums);
  // The facts and sums of a panel that is packed already, with `count` rows.
  PanelFacts (*i8_measure)(const std::int8_t* panel, std::size_t count, std::size_t depth, std::int32_t* sums);

  // Reads `bytes` (a multiple of 512) and gives a value that depends on all: the bound of whatever streams weights.
  std::uint64_t (*read)(const void* data, std::size_t bytes);
};

}  // namespace cutset
