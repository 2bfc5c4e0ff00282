// The digests of an integer checkpoint, as cutset.models.files.digests has them.
#pragma once

#include <string>
#include <string_view>

#include "core/pool.h"
#include "runner/tensor.h"

namespace cutset::runner {

// SHA-256 (FIPS 180-4) in lower-case hexadecimal.
std::string sha256(std::string_view bytes);

// Compares every tensor with `digests.json` in its directory. Error for one that differs, or that isn't named there.
void check_digests(const std::string& directory, const Tensors& tensors, ThreadPool& pool);

}  // namespace cutset::runner
