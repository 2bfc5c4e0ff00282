#include "runner/options.h"

#include <map>
#include <string_view>
#include <vector>

#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr int kMostPasses = 1'000'000;

int number(const std::string& name, const std::string& text, int least, int most) {
  const bool digits = !text.empty() && text.size() < 9 && text.find_first_not_of("0123456789") == std::string::npos;
  const int value = digits ? std::stoi(text) : -1;
  if (value < least || value > most) {
    fail(name, " must be a whole number from ", least, " to ", most, ", not '", text, "'");
  }
  return value;
}

Precision precision_named(const std::string& text) {
  if (text == "float32") return Precision::kFloat32;
  if (text == "int8") return Precision::kInt8;
  if (text == "exact") return Precision::kExact;
  fail("--dtype must be float32, int8 or exact, not '", text, "'");
}

void set(Options& options, const std::string& name, const std::string& value) {
  if (name == "--inputs") {
    options.inputs = value;
  } else if (name == "--dtype") {
    options.precision = precision_named(value);
  } else if (name == "--threads") {
    options.threads = number(name, value, 1, ThreadPool::kMostThreads);
  } else if (name == "--warmup") {
    options.warmup = number(name, value, 0, kMostPasses);
  } else if (name == "--repeat") {
    options.repeat = number(name, value, 1, kMostPasses);
  } else {
    fail("there is no option ", name, "; --help lists them");
  }
}

}  // namespace

Options parse_options(int count, const char* const* words) {
  Options options;
  std::vector<std::string> places;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "-h" || word == "--help") {
      options.help = true;
      return options;
    }
    if (word.size() < 2 || word[0] != '-') {
      places.push_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    if (equals != std::string::npos) {
      set(options, word.substr(0, equals), word.substr(equals + 1));
    } else if (i + 1 < count) {
      set(options, word, words[++i]);
    } else {
      set(options, word, "");
    }
  }
  if (places.size() != 2) fail("give a model and the name of the file for its logits: FILE.json|DIR OUT.npy");
  options.model = places[0];
  options.output = places[1];
  return options;
}

const char* help_text() {
  return R"(usage: cutset-runner FILE.json|DIR OUT.npy [options]

Runs a whole forward pass and writes its logits, float32 (batch, tokens, vocab), as numpy.load reads them. Prints the
median time of the pass alone, and half the range between the quartiles as a share of it.

  FILE.json          an exchange file (docs/exchange-format.md)
  DIR                a checkpoint directory in Hugging Face layout, float or integer; needs --inputs
  OUT.npy            where the logits go; nothing is written if anything is wrong

  --inputs FILE.json exchange file whose inputs are taken instead of the model's own; its `inputs` alone are needed
  --dtype KIND       float32, int8 or exact (default: float32; int8 for an integer checkpoint)
  --threads N        threads to compute with (default: all cores)
  --warmup N         passes before those that count (default 0)
  --repeat N         passes that count (default 1)

CUTSET_ISA names the instruction set, such as portable (default: the best that the machine has; a wrong name lists them).
Exit code: 0, or 2 and one line on stderr.
)";
}

}  // namespace cutset::runner
