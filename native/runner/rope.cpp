#include "runner/rope.h"

#include <algorithm>
#include <cmath>

#include "core/memory.h"
#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr double kPi = 3.14159265358979323846;

using Frequencies = std::vector<float>;  // radians per position of each pair, (head_dim / 2)

// Llama 3.1's own scheme: slow waves are stretched, fast ones kept, those between blended.
float llama3(const RopeSpec& rope, float plain) {
  const auto factor = static_cast<float>(rope.factor);
  const auto original = static_cast<float>(rope.original_positions);
  const auto positions = static_cast<double>(rope.original_positions);
  const float wave = 2 * static_cast<float>(kPi) / plain;
  const auto low = static_cast<float>(positions / rope.low_freq_factor);
  const auto high = static_cast<float>(positions / rope.high_freq_factor);
  if (wave > low) return plain / factor;
  if (wave < high) return plain;
  const float blend = (original / wave - static_cast<float>(rope.low_freq_factor)) /
                      static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * plain / factor + blend * plain;
}

// Peng et al. 2023, arXiv:2309.00071
void yarn(const RopeSpec& rope, std::size_t head_dim, Frequencies& frequencies) {
  const auto dimension = [&](double turns) {  // the pair that turns so often over the trained length
    return static_cast<double>(head_dim) * std::log(static_cast<double>(rope.original_positions) / (turns * 2 * kPi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>((rope.half_ramp ? head_dim / 2 : head_dim) - 1));
  if (low == high) high += 0.001;
  const auto factor = static_cast<float>(rope.factor);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1 - (std::isnan(ramp) ? ramp : std::clamp(ramp, 0.0f, 1.0f));
    frequencies[i] = frequencies[i] / factor * (1 - kept) + frequencies[i] * kept;
  }
}

Frequencies inverse_frequencies(const RopeSpec& rope, std::size_t head_dim, std::size_t tokens) {
  double theta = rope.theta;
  if (rope.kind == "dynamic" && tokens > rope.original_positions) {  // NTK-aware, after bloc97 (2023)
    const double stretch =
        rope.factor * static_cast<double>(tokens) / static_cast<double>(rope.original_positions) - (rope.factor - 1);
    const auto dim = static_cast<double>(head_dim);
    theta *= std::pow(stretch, dim / (dim - 2));
  }
  Frequencies frequencies(head_dim / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float plain = 1.0f / std::pow(static_cast<float>(theta), exponent);
    frequencies[i] = rope.kind == "llama3" ? llama3(rope, plain) : plain;
    if (rope.kind == "linear") frequencies[i] = plain / static_cast<float>(rope.factor);  // arXiv:2306.15595
  }
  if (rope.kind == "yarn") yarn(rope, head_dim, frequencies);
  return frequencies;
}

}  // namespace

RopeTable rope_table(const RopeSpec& rope, std::size_t head_dim, std::size_t tokens) {
  const Frequencies frequencies = inverse_frequencies(rope, head_dim, tokens);
  const auto scale = static_cast<float>(rope.attention_factor);
  const auto most = static_cast<float>(tokens);
  const auto infinite = [most](float f) { return !std::isfinite(f * most); };
  if (!std::isfinite(scale) || std::any_of(frequencies.begin(), frequencies.end(), infinite)) {
    fail("the configuration's rope scaling gives angles that aren't finite");
  }
  RopeTable table;
  table.cos.reserve(checked_product(tokens, frequencies.size()));
  table.sin.reserve(table.cos.capacity());
  for (std::size_t position = 0; position < tokens; ++position) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      table.cos.push_back(std::cos(angle) * scale);
      table.sin.push_back(std::sin(angle) * scale);
    }
  }
  return table;
}

}  // namespace cutset::runner
