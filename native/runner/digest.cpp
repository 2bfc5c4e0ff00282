#include "runner/digest.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runner/error.h"
#include "runner/json.h"

namespace cutset::runner {

namespace {

using Word = std::uint32_t;
constexpr std::size_t kBlock = 64;

// The first 32 bits of the fractions of the cube roots of the first 64 primes.
constexpr Word kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

Word turned(Word x, int bits) { return x >> bits | x << (32 - bits); }

void add_block(std::array<Word, 8>& state, const unsigned char* block) {
  Word w[64];
  for (std::size_t i = 0; i < 16; ++i) {
    w[i] = Word{block[4 * i]} << 24 | Word{block[4 * i + 1]} << 16 | Word{block[4 * i + 2]} << 8 | block[4 * i + 3];
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const Word s0 = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
    const Word s1 = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    const Word s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25), chosen = (e & f) ^ (~e & g);
    const Word s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22), most = (a & b) ^ (a & c) ^ (b & c);
    const Word one = h + s1 + chosen + kRounds[i] + w[i], two = s0 + most;
    h = g, g = f, f = e, e = d + one;
    d = c, c = b, b = a, a = one + two;
  }
  const std::array<Word, 8> more = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state[i] += more[i];
}

}  // namespace

std::string sha256(std::string_view bytes) {
  std::array<Word, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const std::size_t whole = bytes.size() / kBlock * kBlock, rest = bytes.size() - whole;
  for (std::size_t at = 0; at < whole; at += kBlock) add_block(state, data + at);
  // The rest, a one bit, zeros, and the length in bits as 64 bits, big-endian.
  unsigned char end[2 * kBlock] = {};
  if (rest > 0) std::memcpy(end, data + whole, rest);
  end[rest] = 0x80;
  const std::size_t length = rest + 9 > kBlock ? 2 * kBlock : kBlock;
  const std::uint64_t bits = std::uint64_t{bytes.size()} * 8;
  for (std::size_t i = 0; i < 8; ++i) end[length - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  for (std::size_t at = 0; at < length; at += kBlock) add_block(state, end + at);
  std::string text;
  for (const Word word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

void check_digests(const std::string& directory, const Tensors& tensors, ThreadPool& pool) {
  const std::string path = directory + "/digests.json";
  const Json wanted = read_json(path);
  std::vector<const Tensor*> each;
  std::vector<std::string> found(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    if (!wanted.contains(name)) fail(path, " doesn't name the tensors of this checkpoint");
    each.push_back(&tensor);
  }
  if (wanted.size() != tensors.size()) fail(path, " doesn't name the tensors of this checkpoint");
  pool.run(each.size(), [&](std::size_t i) noexcept { found[i] = sha256(each[i]->data); });
  std::size_t i = 0;
  for (const auto& [name, tensor] : tensors) {
    if (wanted[name] != found[i++]) fail(tensor.where, ": its digest doesn't match: the file was changed");
    tensor.file->forget();
  }
}

}  // namespace cutset::runner
