// The linear kernels of this instruction set; documented in kernels/linear.h.
#pragma once

#include "kernels/linear.h"

namespace cutset::CUTSET_ISA {

void f32_pack(const float* x, std::size_t rows, std::size_t depth, float* packed);
void f32_tile(const float* packed_x, std::size_t rows, std::size_t depth, const void* panel, FloatType type,
              std::size_t columns, bool add, float* y, std::size_t stride);
void f32_widen(const void* panel, FloatType type, std::size_t depth, float* wide);
void quantize(const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q, float* scales);
std::size_t i8_code_bytes(std::size_t depth, int bits);
void i8_encode(const float* x, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes, float* scales);
void i8_encode_whole(const std::int16_t* q, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes);
std::size_t i8_residue_bytes(std::size_t depth);
void i8_encode_residues(const std::uint32_t* x, std::size_t rows, std::size_t depth, std::uint8_t* codes);
void i8_multiply(const I8Job& job);
PanelFacts i8_pack(const std::int8_t* const* rows, std::size_t count, std::size_t depth, std::int8_t* panel,
                   std::int32_t* sums);
PanelFacts i8_measure(const std::int8_t* panel, std::size_t count, std::size_t depth, std::int32_t* sums);
std::uint64_t read(const void* data, std::size_t bytes);

#if defined(CUTSET_ISA_amx)
std::size_t bf16_row_bytes(std::size_t depth);
void bf16_pack(const float* x, std::size_t rows, std::size_t height, std::size_t depth, void* pieces);
void bf16_multiply(const BFloat16Job& job);
constexpr std::size_t kBFloat16Rows = 16;
#else
constexpr std::size_t kBFloat16Rows = 0;
constexpr std::size_t (*bf16_row_bytes)(std::size_t) = nullptr;
constexpr void (*bf16_pack)(const float*, std::size_t, std::size_t, std::size_t, void*) = nullptr;
constexpr void (*bf16_multiply)(const BFloat16Job&) = nullptr;
#endif

// The most rows of a float32 tile: as many accumulators as there are registers, less those for the weights.
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr std::size_t kTileRows = 14;
#elif defined(CUTSET_ISA_avx2) || defined(__aarch64__)
constexpr std::size_t kTileRows = 3;
#else
constexpr std::size_t kTileRows = 1;
#endif

constexpr LinearKernels kLinear = {
    kTileRows,        f32_pack,           f32_tile,    f32_widen,     kBFloat16Rows, bf16_row_bytes,
    bf16_pack,        bf16_multiply,      quantize,    i8_code_bytes, i8_encode,     i8_encode_whole,
    i8_residue_bytes, i8_encode_residues, i8_multiply, i8_pack,       i8_measure,    read};

}  // namespace cutset::CUTSET_ISA
