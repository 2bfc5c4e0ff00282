// Base64 as RFC 4648 has it: padded, no line breaks.
#pragma once

#include <cstddef>
#include <string_view>

#include "core/pool.h"

namespace cutset::runner {

// Characters for that many bytes.
inline std::size_t base64_size(std::size_t bytes) { return (bytes + 2) / 3 * 4; }

// Decodes `bytes` bytes. False where the text is of another length, holds another character, or is padded elsewhere
// than at its end.
bool decode_base64(ThreadPool& pool, std::string_view text, std::size_t bytes, unsigned char* out);

}  // namespace cutset::runner
