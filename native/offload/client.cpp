#include "offload/client.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/linear.h"

namespace cutset::offload {

namespace {

constexpr std::uint64_t kQuiet = 64;  // calls without company after which a client takes itself to be alone

// Integers that are quantised, masked and checked at a time, and rows: what was read stays near, and a tile is worth
// preparing the check's vectors for it.
constexpr std::size_t kTile = std::size_t{1} << 17, kLeastTile = 16;

// The next power of two.
std::size_t bucket(std::size_t rows) {
  std::size_t found = 1;
  while (found < rows) found *= 2;
  return found;
}

}  // namespace

RemoteLinears::RemoteLinears(DecoderSpec spec, ThreadPool& pool, Rules rules)
    : spec_(static_cast<DecoderSpec&&>(spec)), pool_(pool), rules_(rules), alone_(kQuiet) {
  matrices_.resize(spec_.site_count());
  pads_.resize(spec_.site_count());
}

void RemoteLinears::put(Site site, int layer, int expert, const ClientMatrix& matrix) {
  if (matrix.depth != spec_.inputs(site, layer, expert) || matrix.outputs != spec_.outputs(site, layer, expert)) {
    throw std::invalid_argument("a matrix has another shape than its site");
  }
  if (matrix.number >= pads_.size() || matrix.bits < 2 || matrix.bits > 16 || matrix.checks > kMostChecks) {
    throw std::invalid_argument("a matrix has a number, bits or checks that can't be");
  }
  matrices_[spec_.index(site, layer, expert)] = matrix;
}

void RemoteLinears::lend(std::uint64_t matrix, const PadRows& pads) {
  if (pads.rows > 0) pads_.at(matrix).push_back(pads);
}

std::size_t RemoteLinears::left(std::uint64_t matrix) const {
  std::size_t rows = 0;
  for (const PadRows& pads : pads_.at(matrix)) rows += pads.rows;
  return rows;
}

std::vector<PadRows> RemoteLinears::take(std::uint64_t matrix, std::size_t rows) {
  if (rows > left(matrix)) throw std::invalid_argument("so many rows of pads aren't left");
  std::deque<PadRows>& pads = pads_[matrix];
  std::vector<PadRows> taken;
  while (rows > 0) {
    PadRows& from = pads.front();
    taken.push_back(from);
    taken.back().rows = std::min(rows, from.rows);
    rows -= taken.back().rows;
    from.first += taken.back().rows;
    from.rows -= taken.back().rows;
    if (from.rows == 0) pads.pop_front();
  }
  return taken;
}

void RemoteLinears::attach(link::SenderEnd sender, link::ReceiverEnd receiver) {
  sender_ = sender;
  receiver_ = receiver;
}

Stop RemoteLinears::run(Step& step, bool count_cpu) {
  if (!sender_.sender || !receiver_.receiver) throw std::logic_error("there is no link");
  const link::Turn sending(*sender_.busy), receiving(*receiver_.busy);
  laps.start(count_cpu);
  counters = Counters();
  while (const Product* product = step.waiting()) {
    laps.lap(product->site == Site::kO ? kAttention : kOther);
    const Stop stop = answer_all(*product);
    if (stop != Stop::kDone) return stop;
    step.resume();
  }
  return Stop::kDone;
}

// A product in as many calls as it takes, of about as many rows each. Rounded up, it goes the same way whatever it was
// rounded up from: rows of zeros are quantised, masked, checked and unmasked like all others.
Stop RemoteLinears::answer_all(const Product& product) {
  const ClientMatrix& matrix = matrices_[spec_.index(product.site, product.layer, product.expert)];
  const std::size_t total = rules_.pad_rows ? bucket(product.rows) : product.rows;
  at = &matrix;
  wanted = total - std::min(row, total);
  if (matrix.depth == 0 || wanted == 0) return Stop::kBefore;
  const std::size_t largest = most(matrix);
  if (largest == 0) return Stop::kBefore;
  const std::size_t calls_needed = (wanted + largest - 1) / largest;
  const std::size_t each = rules_.pad_rows ? largest : (wanted + calls_needed - 1) / calls_needed;
  const float* x = product.x;
  if (rules_.pad_rows) {
    float* const padded =
        static_cast<float*>(padded_.take(checked_product(checked_product(total, matrix.depth), sizeof(float))));
    std::copy(x, x + product.rows * matrix.depth, padded);
    std::fill(padded + product.rows * matrix.depth, padded + total * matrix.depth, 0.0f);
    x = padded;
  }
  while (row < total) {
    Product part = product;
    part.rows = wanted = std::min(each, total - row);
    part.x = x + row * matrix.depth;
    part.y = product.y + row * matrix.outputs;
    if (rules_.pad_rows) {
      part.y = static_cast<float*>(
          padded_out_.take(checked_product(checked_product(part.rows, matrix.outputs), sizeof(float))));
    }
    const Stop stop = call(part, matrix);
    if (stop != Stop::kDone) return stop;
    if (rules_.pad_rows && row < product.rows) {
      const std::size_t real = std::min(part.rows, product.rows - row);
      std::copy(part.y, part.y + real * matrix.outputs, product.y + row * matrix.outputs);
    }
    row += part.rows;
  }
  row = 0;
  return Stop::kDone;
}

// Rows that a call may have: both it and its answer must fit in a ring as they are.
std::size_t RemoteLinears::most(const ClientMatrix& matrix) const {
  const std::size_t room = sender_.sender->largest(), width = std::max(matrix.outputs, matrix.depth) * 4;
  std::size_t rows = room <= kMostFront ? 0 : std::min(most_rows, (room - kMostFront) / width);
  while (rules_.pad_rows && (rows & (rows - 1)) != 0) rows &= rows - 1;
  return rows;
}

Stop RemoteLinears::call(const Product& product, const ClientMatrix& matrix) {
  const std::size_t rows = product.rows;
  if (rules_.masked && left(matrix.number) < rows) return Stop::kNoPad;
  if (!write(product, matrix)) return Stop::kBefore;
  if (rows <= std::max(kLeastTile, kTile / matrix.depth)) expect(matrix, 0, rows);  // while the other side multiplies
  return receive(product, matrix);
}

// Writes what is sent to `room`. Many rows go through the caches a few at a time.
void RemoteLinears::fill(const Product& product, const ClientMatrix& matrix, char* room) {
  const std::size_t rows = product.rows, depth = matrix.depth;
  scales.resize(rows);
  // What is multiplied must be known here where it is checked or masked. Nobody else writes to `q`.
  const bool kept = rules_.masked || matrix.checks > 0;
  q.resize(kept ? rows * depth : 0);
  expected.resize(rows * matrix.checks);
  if (rules_.masked) pad = take(matrix.number, rows);  // these rows are used from here on, whatever happens
  const std::size_t step = kept ? std::max<std::size_t>(kLeastTile, kTile / depth) : rows;
  for (std::size_t first = 0; first < rows; first += step) {
    const std::size_t count = std::min(step, rows - first), begin = first * depth;
    std::int16_t* const to = (kept ? q.data() : reinterpret_cast<std::int16_t*>(room)) + begin;
    quantize_rows(pool_, product.x + begin, count, depth, matrix.bits, to, scales.data() + first);
    laps.lap(kQuantise);
    if (rules_.masked) {
      mask_rows(matrix, first, count, reinterpret_cast<std::uint32_t*>(room) + begin);
      laps.lap(kMask);
    } else if (kept) {
      std::memcpy(room + begin * sizeof(std::int16_t), to, count * depth * sizeof(std::int16_t));
      laps.lap(kSend);
    }
    if (rows > step) expect(matrix, first, count);  // while they are near; few rows are sent first
  }
}

// Masks rows first … with the rows of pads that are theirs.
void RemoteLinears::mask_rows(const ClientMatrix& matrix, std::size_t first, std::size_t count, std::uint32_t* out) {
  std::size_t begin = 0;  // of a piece of the pad, in rows of the call
  for (const PadRows& piece : pad) {
    const std::size_t from = std::max(first, begin), end = std::min(first + count, begin + piece.rows);
    if (from < end) {
      mask(pool_, q.data() + from * matrix.depth, piece.r + (piece.first + from - begin) * matrix.depth,
           (end - from) * matrix.depth, out + (from - first) * matrix.depth);
    }
    begin += piece.rows;
  }
}

// What the checks of rows first … must give.
void RemoteLinears::expect(const ClientMatrix& matrix, std::size_t first, std::size_t count) {
  if (matrix.checks == 0) return;
  dots(pool_, q.data() + first * matrix.depth, count, matrix.depth, matrix.projected, matrix.checks,
       expected.data() + first * matrix.checks);
  laps.lap(kCheck);
}

// False where there is no room, or no link: nothing happened then.
bool RemoteLinears::write(const Product& product, const ClientMatrix& matrix) {
  const Multiply message{calls + 1, matrix.number, rules_.masked, product.rows, matrix.depth};
  char front[kMostFront];
  const std::size_t begin = write_front(message, front);
  link::Sender& sender = *sender_.sender;
  try {
    if (begin + message.bytes() > sender.largest() || sender.receiver_closed() ||
        !sender.claim(begin + message.bytes())) {
      return false;
    }
  } catch (const link::Broken&) {
    return false;  // the twin meets it too, and says so
  }
  ++calls;
  char* room = sender.data();
  fill(product, matrix, room + begin);
  std::memcpy(room, front, begin);
  sender.commit(link::kWhole, begin + message.bytes());
  laps.lap(kSend);
  return true;
}

Stop RemoteLinears::receive(const Product& product, const ClientMatrix& matrix) {
  link::Receiver& receiver = *receiver_.receiver;
  record = link::Record();
  bool found = false;
  try {
    // In slices; one that ends early was ended by a signal, which Python shall see.
    for (double left = patience; !found && left > 0; left -= link::kSlice) {
      const double started = Laps::now();
      found = receiver.wait(record, std::min(left, link::kSlice), *receiver_.patience);
      if (!found && Laps::now() - started < 0.9 * std::min(left, link::kSlice)) break;
    }
  } catch (const link::Broken&) {
    laps.lap(kWait);
    return Stop::kBroken;
  }
  const double waited = laps.lap(kWait);
  if (!found || record.kind == link::kClosed) return Stop::kUnanswered;
  Answer answer;
  answer_at = record.kind == link::kWhole ? read_front(receiver.data(record), record.length, answer) : 0;
  if (answer_at == 0 || answer.call != calls || answer.masked != rules_.masked || answer.rows != product.rows ||
      answer.outputs != matrix.outputs) {
    return Stop::kOdd;
  }
  const double computed = std::min(waited, answer.seconds);
  laps.wall[kWait] -= computed;
  laps.wall[kAccelerator] += computed;
  company(answer.shared);
  return settle(product, matrix);
}

Stop RemoteLinears::settle(const Product& product, const ClientMatrix& matrix) {
  SettleJob job{};
  job.output_scales = matrix.scales;
  job.bounds = matrix.bounds;
  job.top = (1 << (matrix.bits - 1)) - 1;
  job.secrets = matrix.secrets;
  job.checks = matrix.checks;
  job.outputs = matrix.outputs;
  verdict = Verdict{Verdict::kGood, 0, 0};
  PadRows whole;
  whole.rows = product.rows;
  const std::size_t pieces = rules_.masked ? pad.size() : 1;
  for (std::size_t i = 0, row = 0; i < pieces && verdict.code == Verdict::kGood; ++i) {
    const PadRows& piece = rules_.masked ? pad[i] : whole;
    job.reply = reinterpret_cast<const std::uint32_t*>(answer()) + row * matrix.outputs;
    job.pad = rules_.masked ? piece.product + piece.first * matrix.outputs : nullptr;
    job.row_scales = scales.data() + row;
    job.expected = matrix.checks > 0 ? expected.data() + row * matrix.checks : nullptr;
    job.rows = piece.rows;
    job.out = product.y + row * matrix.outputs;
    verdict = cutset::settle(pool_, job);
    verdict.row += row;
    row += piece.rows;
  }
  laps.lap(kUnmask);
  if (verdict.code != Verdict::kGood) return Stop::kLied;
  release();
  ++counters.calls;
  counters.rows += product.rows;
  counters.bytes_up += product.rows * matrix.depth * (rules_.masked ? 4 : 2);
  counters.bytes_down += product.rows * matrix.outputs * 4;
  laps.lap(kSerialise);
  return Stop::kDone;
}

// Where others share the accelerator cores are wanted, and waiting here stays asleep.
void RemoteLinears::company(std::uint64_t shared) {
  alone_ = shared == kAlone ? alone_ + 1 : 0;
  if (shared != kAlone) company_ = shared;
  receiver_.patience->spin = alone_ >= kQuiet ? awake : company_ == kSome ? awake_in_company : 0;
}

}  // namespace cutset::offload
