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

RemoteLinears::RemoteLinears(DecoderSpec spec, ThreadPool& pool, Rules rules, const std::vector<ClientMatrix>& matrices)
    : spec_(static_cast<DecoderSpec&&>(spec)), pool_(pool), rules_(rules), alone_(kQuiet) {
  matrices_.resize(spec_.site_count());
  pads_.resize(spec_.site_count());
  spent_.resize(spec_.site_count());
  for (const ClientMatrix& matrix : matrices) put(matrix);
}

void RemoteLinears::put(const ClientMatrix& matrix) {
  if (matrix.depth != spec_.inputs(matrix.site, matrix.layer, matrix.expert) ||
      matrix.outputs != spec_.outputs(matrix.site, matrix.layer, matrix.expert)) {
    throw std::invalid_argument("a matrix has another shape than its site");
  }
  if (matrix.number >= pads_.size() || matrix.bits < 2 || matrix.bits > 16 || matrix.checks > kMostChecks) {
    throw std::invalid_argument("a matrix has a number, bits or checks that can't be");
  }
  matrices_[spec_.index(matrix.site, matrix.layer, matrix.expert)] = matrix;
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

std::set<std::uint64_t> RemoteLinears::in_use() const {
  std::set<std::uint64_t> names;
  for (const std::deque<PadRows>& pads : pads_) {
    for (const PadRows& rows : pads) names.insert(rows.name);
  }
  for (const PadRows& rows : pad_) names.insert(rows.name);
  return names;
}

RunOutcome RemoteLinears::run(const RunRequest& request) {
  if (!request.step || !sender_.sender || !receiver_.receiver) throw std::logic_error("there is no step, or no link");
  const link::Turn sending(*sender_.busy), receiving(*receiver_.busy);
  calls_ = request.calls;
  row_ = request.row;
  most_rows_ = request.most_rows;
  patience_ = request.patience;
  at_ = nullptr;
  rows_ = 0;
  outcome_ = RunOutcome();
  laps_.start(request.count_cpu);
  Step& step = *request.step;
  Stop stop = Stop::kDone;
  while (const Product* product = step.waiting()) {
    laps_.lap(product->site == Site::kO ? kAttention : kOther);
    stop = answer_all(*product);
    if (stop != Stop::kDone) break;
    step.resume();
  }
  RunOutcome found = std::exchange(outcome_, RunOutcome());
  found.stop = stop;
  found.calls = calls_;
  found.wall = laps_.wall;
  found.cpu = laps_.cpu;
  for (std::size_t number = 0; number < spent_.size(); ++number) {
    if (spent_[number] > 0) found.spent.emplace_back(number, std::exchange(spent_[number], 0));
  }
  if (stop != Stop::kDone) {
    found.matrix = at_ ? at_->number : 0;
    found.row = row_;
    found.rows = rows_;
    if (stop >= Stop::kUnanswered) found.sent = unfinished(stop);
  }
  return found;
}

// What the twin needs to finish the last call.
SentCall RemoteLinears::unfinished(Stop stop) {
  SentCall call;
  call.q = std::exchange(q_, {});
  call.scales = std::exchange(scales_, {});
  call.expected = std::exchange(expected_, {});
  call.pad = pad_;
  call.depth = at_->depth;
  call.outputs = at_->outputs;
  call.checks = at_->checks;
  call.record = record_;
  if (stop == Stop::kLied) {
    call.verdict = verdict_;
    const auto* z = reinterpret_cast<const std::uint32_t*>(reply());
    call.reply.assign(z, z + rows_ * at_->outputs);
  }
  return call;
}

// A product in as many calls as it takes, of about as many rows each. Rounded up, it goes the same way whatever it was
// rounded up from: rows of zeros are quantised, masked, checked and unmasked like all others.
Stop RemoteLinears::answer_all(const Product& product) {
  const ClientMatrix& matrix = matrices_[spec_.index(product.site, product.layer, product.expert)];
  const std::size_t total = rules_.pad_rows ? bucket(product.rows) : product.rows;
  at_ = &matrix;
  rows_ = total - std::min(row_, total);
  if (matrix.depth == 0 || rows_ == 0) return Stop::kBefore;
  const std::size_t largest = most(matrix);
  if (largest == 0) return Stop::kBefore;
  const std::size_t calls_needed = (rows_ + largest - 1) / largest;
  const std::size_t each = rules_.pad_rows ? largest : (rows_ + calls_needed - 1) / calls_needed;
  const float* x = product.x;
  if (rules_.pad_rows) {
    float* const padded =
        static_cast<float*>(padded_.take(checked_product(checked_product(total, matrix.depth), sizeof(float))));
    std::copy(x, x + product.rows * matrix.depth, padded);
    std::fill(padded + product.rows * matrix.depth, padded + total * matrix.depth, 0.0f);
    x = padded;
  }
  while (row_ < total) {
    Product part = product;
    part.rows = rows_ = std::min(each, total - row_);
    part.x = x + row_ * matrix.depth;
    part.y = product.y + row_ * matrix.outputs;
    if (rules_.pad_rows) {
      part.y = static_cast<float*>(
          padded_out_.take(checked_product(checked_product(part.rows, matrix.outputs), sizeof(float))));
    }
    const Stop stop = call(part, matrix);
    if (stop != Stop::kDone) return stop;
    if (rules_.pad_rows && row_ < product.rows) {
      const std::size_t real = std::min(part.rows, product.rows - row_);
      std::copy(part.y, part.y + real * matrix.outputs, product.y + row_ * matrix.outputs);
    }
    row_ += part.rows;
  }
  row_ = 0;
  return Stop::kDone;
}

// Rows that a call may have: both it and its answer must fit in a ring as they are.
std::size_t RemoteLinears::most(const ClientMatrix& matrix) const {
  const std::size_t room = sender_.sender->largest(), width = std::max(matrix.outputs, matrix.depth) * 4;
  std::size_t rows = room <= kMostFront ? 0 : std::min(most_rows_, (room - kMostFront) / width);
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
  scales_.resize(rows);
  // What is multiplied must be known here where it is checked or masked. Nobody else writes to `q_`.
  const bool kept = rules_.masked || matrix.checks > 0;
  q_.resize(kept ? rows * depth : 0);
  expected_.resize(rows * matrix.checks);
  if (rules_.masked) {  // these rows are used from here on, whatever happens
    pad_ = take(matrix.number, rows);
    spent_[matrix.number] += rows;
  }
  const std::size_t step = kept ? std::max<std::size_t>(kLeastTile, kTile / depth) : rows;
  for (std::size_t first = 0; first < rows; first += step) {
    const std::size_t count = std::min(step, rows - first), begin = first * depth;
    std::int16_t* const to = (kept ? q_.data() : reinterpret_cast<std::int16_t*>(room)) + begin;
    quantize_rows(pool_, product.x + begin, count, depth, matrix.bits, to, scales_.data() + first);
    laps_.lap(kQuantise);
    if (rules_.masked) {
      mask_rows(matrix, first, count, reinterpret_cast<std::uint32_t*>(room) + begin);
      laps_.lap(kMask);
    } else if (kept) {
      std::memcpy(room + begin * sizeof(std::int16_t), to, count * depth * sizeof(std::int16_t));
      laps_.lap(kSend);
    }
    if (rows > step) expect(matrix, first, count);  // while they are near; few rows are sent first
  }
}

// Masks rows first … with the rows of pads that are theirs.
void RemoteLinears::mask_rows(const ClientMatrix& matrix, std::size_t first, std::size_t count, std::uint32_t* out) {
  std::size_t begin = 0;  // of a piece of the pad, in rows of the call
  for (const PadRows& piece : pad_) {
    const std::size_t from = std::max(first, begin), end = std::min(first + count, begin + piece.rows);
    if (from < end) {
      mask(pool_, q_.data() + from * matrix.depth, piece.r + (piece.first + from - begin) * matrix.depth,
           (end - from) * matrix.depth, out + (from - first) * matrix.depth);
    }
    begin += piece.rows;
  }
}

// What the checks of rows first … must give.
void RemoteLinears::expect(const ClientMatrix& matrix, std::size_t first, std::size_t count) {
  if (matrix.checks == 0) return;
  dots(pool_, q_.data() + first * matrix.depth, count, matrix.depth, matrix.projected, matrix.checks,
       expected_.data() + first * matrix.checks);
  laps_.lap(kCheck);
}

// False where there is no room, or no link: nothing happened then.
bool RemoteLinears::write(const Product& product, const ClientMatrix& matrix) {
  const Multiply message{calls_ + 1, matrix.number, rules_.masked, product.rows, matrix.depth};
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
  ++calls_;
  char* room = sender.data();
  fill(product, matrix, room + begin);
  std::memcpy(room, front, begin);
  sender.commit(link::kWhole, begin + message.bytes());
  laps_.lap(kSend);
  return true;
}

Stop RemoteLinears::receive(const Product& product, const ClientMatrix& matrix) {
  link::Receiver& receiver = *receiver_.receiver;
  record_ = link::Record();
  bool found = false;
  try {
    // In slices; one that ends early was ended by a signal, which Python shall see.
    for (double left = patience_; !found && left > 0; left -= link::kSlice) {
      const double started = Laps::now();
      found = receiver.wait(record_, std::min(left, link::kSlice), *receiver_.patience);
      if (!found && Laps::now() - started < 0.9 * std::min(left, link::kSlice)) break;
    }
  } catch (const link::Broken&) {
    laps_.lap(kWait);
    return Stop::kBroken;
  }
  const double waited = laps_.lap(kWait);
  if (!found || record_.kind == link::kClosed) return Stop::kUnanswered;
  Answer answer;
  reply_at_ = record_.kind == link::kWhole ? read_front(receiver.data(record_), record_.length, answer) : 0;
  if (reply_at_ == 0 || answer.call != calls_ || answer.masked != rules_.masked || answer.rows != product.rows ||
      answer.outputs != matrix.outputs) {
    return Stop::kOdd;
  }
  const double computed = std::min(waited, answer.seconds);
  laps_.wall[kWait] -= computed;
  laps_.wall[kAccelerator] += computed;
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
  verdict_ = Verdict{Verdict::kGood, 0, 0};
  PadRows whole;
  whole.rows = product.rows;
  const std::size_t pieces = rules_.masked ? pad_.size() : 1;
  for (std::size_t i = 0, row = 0; i < pieces && verdict_.code == Verdict::kGood; ++i) {
    const PadRows& piece = rules_.masked ? pad_[i] : whole;
    job.reply = reinterpret_cast<const std::uint32_t*>(reply()) + row * matrix.outputs;
    job.pad = rules_.masked ? piece.product + piece.first * matrix.outputs : nullptr;
    job.row_scales = scales_.data() + row;
    job.expected = matrix.checks > 0 ? expected_.data() + row * matrix.checks : nullptr;
    job.rows = piece.rows;
    job.out = product.y + row * matrix.outputs;
    verdict_ = cutset::settle(pool_, job);
    verdict_.row += row;
    row += piece.rows;
  }
  laps_.lap(kUnmask);
  if (verdict_.code != Verdict::kGood) return Stop::kLied;
  receiver_.receiver->release(record_.end);
  ++outcome_.answered;
  outcome_.answered_rows += product.rows;
  outcome_.bytes_up += product.rows * matrix.depth * (rules_.masked ? 4 : 2);
  outcome_.bytes_down += product.rows * matrix.outputs * 4;
  laps_.lap(kSerialise);
  return Stop::kDone;
}

// Where others share the accelerator cores are wanted, and waiting here stays asleep.
void RemoteLinears::company(std::uint64_t shared) {
  alone_ = shared == kAlone ? alone_ + 1 : 0;
  if (shared != kAlone) company_ = shared;
  receiver_.patience->spin = alone_ >= kQuiet ? rules_.awake : company_ == kSome ? rules_.awake_in_company : 0;
}

}  // namespace cutset::offload
