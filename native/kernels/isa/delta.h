// The delta kernels of this instruction set; documented in kernels/delta.h.
#pragma once

#include "kernels/delta.h"

namespace cutset::CUTSET_ISA {

std::ptrdiff_t encode_u8(const DeltaTask& task);
std::ptrdiff_t encode_u16(const DeltaTask& task);
std::ptrdiff_t encode_u32(const DeltaTask& task);
std::ptrdiff_t encode_u64(const DeltaTask& task);
std::ptrdiff_t encode_near_f32(const DeltaTask& task, float threshold);
std::ptrdiff_t encode_near_u8(const DeltaTask& task, std::uint8_t threshold);
int decode_u8(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given);
int decode_u16(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given);
int decode_u32(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given);
int decode_u64(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given);
int gather_u8(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given);
int gather_u16(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given);
int gather_u32(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given);
int gather_u64(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given);
std::size_t nest(const std::uint8_t* mask, std::size_t bytes, std::uint8_t* out);
bool unnest(const std::uint8_t* nested, std::size_t length, std::uint8_t* mask, std::size_t bytes);

constexpr DeltaKernels kDelta = {{encode_u8, encode_u16, encode_u32, encode_u64},
                                 encode_near_f32,
                                 encode_near_u8,
                                 {decode_u8, decode_u16, decode_u32, decode_u64},
                                 {gather_u8, gather_u16, gather_u32, gather_u64},
                                 nest,
                                 unnest};

}  // namespace cutset::CUTSET_ISA
