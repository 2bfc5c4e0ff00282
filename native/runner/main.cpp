// cutset-runner: a model from a file, its logits to a file. No Python, the same core.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "kernels/table.h"
#include "runner/checkpoint.h"
#include "runner/digest.h"
#include "runner/error.h"
#include "runner/exchange.h"
#include "runner/forward.h"
#include "runner/npy.h"
#include "runner/options.h"

namespace cutset::runner {

namespace {

void choose_isa() {
  const char* wanted = std::getenv("CUTSET_ISA");
  if (!wanted || !*wanted || select_isa(wanted)) return;
  std::string known;
  for (const char* const* name = available_isas(); *name; ++name)
    known += (known.empty() ? "" : ", ") + std::string(*name);
  fail("CUTSET_ISA=", wanted, ": this machine or build has ", known);
}

// A model on disk, in either form.
class Source {
 public:
  explicit Source(const std::string& path) {
    if (is_file(path)) {
      exchange_ = std::make_unique<ExchangeFile>(path);
    } else {
      checkpoint_ = std::make_unique<Checkpoint>(path);
    }
  }

  const ExchangeFile* exchange() const { return exchange_.get(); }
  ModelSpec spec() const { return exchange_ ? exchange_->spec(Weights::kFloats) : checkpoint_->spec(); }
  Tensors tensors(const ModelSpec& spec) const {
    return exchange_ ? exchange_->tensors(spec) : checkpoint_->tensors(spec);
  }

 private:
  std::unique_ptr<ExchangeFile> exchange_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

Inputs find_inputs(const Options& options, const Source& source, const ModelSpec& spec, ThreadPool& pool) {
  std::optional<Inputs> found;
  if (!options.inputs.empty()) {
    found = ExchangeFile(options.inputs).inputs(spec, pool);
  } else if (source.exchange()) {
    found = source.exchange()->inputs(spec, pool);
  }
  if (found) return *std::move(found);
  fail(options.inputs.empty() ? options.model : options.inputs,
       " has no inputs; name an exchange file that has some with --inputs");
}

Precision precision_of(const Options& options, const ModelSpec& spec) {
  const Precision precision = options.precision.value_or(spec.is_integer() ? Precision::kInt8 : Precision::kFloat32);
  if (spec.is_integer() && precision == Precision::kFloat32) {
    fail("an integer checkpoint runs in int8 or exact, not in float32");
  }
  return precision;
}

void run(const Options& options) {
  choose_isa();
  check_target(options.output);
  const int cores = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 1024u));
  ThreadPool pool(options.threads ? options.threads : cores);
  const auto source = std::make_unique<Source>(options.model);
  const ModelSpec spec = source->spec();
  const Precision precision = precision_of(options, spec);
  const Inputs inputs = find_inputs(options, *source, spec, pool);
  const Tensors tensors = source->tensors(spec);
  if (spec.is_integer() && !source->exchange()) check_digests(options.model, tensors, pool);
  check_memory(spec, tensors, precision, inputs.batch, inputs.tokens);
  Model model(spec, tensors, precision, pool);
  Forward forward(model, inputs, pool);
  for (int i = 0; i < options.warmup; ++i) forward.run();
  std::vector<double> seconds;
  for (int i = 0; i < options.repeat; ++i) seconds.push_back(forward.run());
  write_npy(options.output, {inputs.batch, inputs.tokens, spec.core.vocab}, forward.logits());

  const Summary time = summarise(seconds);
  constexpr const char* kNames[] = {"float32", "int8", "exact"};
  std::printf("cutset-runner %s %s: %.3f ms", kNames[static_cast<int>(precision)], kernels().isa, time.median * 1e3);
  if (options.repeat > 1) std::printf(" ± %.1f%%", time.spread * 100);
  std::printf(" for %zu x %zu tokens, median of %d, threads %d\n", inputs.batch, inputs.tokens, options.repeat,
              pool.threads());
}

// On one line, whatever names and values of the file are quoted in it.
int refused(std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  std::fprintf(stderr, "cutset-runner: error: %s\n", message.c_str());
  return 2;
}

}  // namespace

}  // namespace cutset::runner

int main(int count, char** words) {
  using namespace cutset::runner;
  try {
    const Options options = parse_options(count, words);
    if (options.help) {
      std::fputs(help_text(), stdout);
    } else {
      run(options);
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return refused("out of memory; use a smaller model, or inputs with fewer tokens");
  } catch (const std::exception& error) {
    return refused(error.what());
  }
}
