// Reads a config.json in Hugging Face layout, of any family that cutset.models.families knows.
#pragma once

#include <string>

#include "runner/json.h"
#include "runner/spec.h"

namespace cutset::runner {

// `source` names the configuration in errors. Error for a network that isn't known, or sizes out of range.
ModelSpec spec_from_config(const Json& config, const std::string& source);

}  // namespace cutset::runner
