// Residues of the field as codes for the 8-bit products: four limbs of 8 bits, lowest first, each in the place of a
// row.
#include "kernels/isa/codes.h"
#include "kernels/isa/linear.h"

namespace cutset::CUTSET_ISA {

namespace {

template <class Code>
void encode_row(const std::uint32_t* x, std::size_t depth, std::uint8_t* codes, std::size_t stride) {
  for (std::size_t limb = 0; limb < kResidueLimbs; ++limb) {
    Code* at = reinterpret_cast<Code*>(codes + limb * stride);
    for (std::size_t k = 0; k < depth; ++k) at[k] = static_cast<Code>(x[k] >> (8 * limb) & 0xFFu);
    for (std::size_t k = depth; k < round_up(depth, kDepthStep); ++k) at[k] = 0;
  }
}

}  // namespace

std::size_t i8_residue_bytes(std::size_t depth) { return code_stride(depth) * kResidueLimbs; }

void i8_encode_residues(const std::uint32_t* x, std::size_t rows, std::size_t depth, std::uint8_t* codes) {
  const std::size_t stride = code_stride(depth);
  for (std::size_t r = 0; r < rows; ++r, x += depth, codes += stride * kResidueLimbs) {
    if (kByteCodes) {
      encode_row<std::uint8_t>(x, depth, codes, stride);
    } else {
      encode_row<std::int16_t>(x, depth, codes, stride);
    }
  }
}

}  // namespace cutset::CUTSET_ISA
