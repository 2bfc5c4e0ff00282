#include "runner/exchange.h"

#include <map>
#include <unordered_set>

#include "runner/base64.h"
#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr int kVersion = 2;
constexpr const char* kHeadPlace = "lm_head";  // of a head, and of a copy of a tied embedding
constexpr std::size_t kMostDimensions = 8;
constexpr std::uint64_t kMostSize = std::uint64_t{1} << 48;

// The entry at a place such as layers/0/wq, or nullptr. A number is an element of a list.
const Json* at(const Json* tree, const std::string& place) {
  for (std::size_t begin = 0; tree && begin <= place.size();) {
    const std::size_t end = std::min(place.find('/', begin), place.size());
    const std::string step = place.substr(begin, end - begin);
    begin = end + 1;
    if (step[0] >= '0' && step[0] <= '9') {
      const std::size_t index = std::stoul(step);
      tree = tree->is_array() && index < tree->size() ? &(*tree)[index] : nullptr;
    } else {
      const auto found = tree->is_object() ? tree->find(step) : tree->end();
      tree = tree->is_object() && found != tree->end() ? &*found : nullptr;
    }
  }
  return tree;
}

// Refuses weights that the model has no place for: they are a slip, or another model.
void check_places(const Json& tree, const std::unordered_set<const Json*>& known, const std::string& where,
                  std::size_t depth = 0) {
  const bool inner =
      depth < kMostDimensions && !tree.empty() && (tree.is_array() || (tree.is_object() && !tree.contains("shape")));
  if (!inner) {
    if (depth && !known.count(&tree)) fail(where, " is unexpected; the specification has no place for it");
    return;
  }
  for (const auto& item : tree.items()) check_places(item.value(), known, where + "." + item.key(), depth + 1);
}

Shape read_shape(const Json& shape, const std::string& where) {
  bool right = shape.is_array() && shape.size() <= kMostDimensions;
  Shape sizes;
  for (std::size_t i = 0; right && i < shape.size(); ++i) {
    right = shape[i].is_number_unsigned() && shape[i].get<std::uint64_t>() < kMostSize;
    if (right) sizes.push_back(shape[i].get<std::size_t>());
  }
  if (!right) fail(where, " has no valid shape");
  return sizes;
}

}  // namespace

ExchangeFile::ExchangeFile(const std::string& path) : file_(path), skeleton_(file_) {
  const Json format = skeleton_.document().value("format", Json("cutset-exchange"));
  if (format != "cutset-exchange") fail(path, " is ", quoted(format), "; this program reads cutset-exchange");
}

ModelSpec ExchangeFile::spec(Weights allowed) const {
  const Json version = skeleton_.document().value("version", Json(1));  // CelerInfer's files have none
  if (version == 1) {
    fail(file_.path(), " is an exchange file of version 1, which leaves it to its reader what its config means: ",
         "bring it up to date with `cutset convert ", file_.path(), " -o NEW.json`");
  }
  if (version != kVersion) {
    fail(file_.path(), " is of version ", quoted(version), "; this program reads version ", kVersion);
  }
  return read_specification(value("specification"), file_.path() + ": specification", allowed);
}

Tensor ExchangeFile::described(const Json& entry, const std::string& where) const {
  static const std::map<std::string, Dtype> dtypes = {{"float32", Dtype::kF32},
                                                      {"float16", Dtype::kF16},
                                                      {"bfloat16", Dtype::kBF16},
                                                      {"int32", Dtype::kI32},
                                                      {"uint8", Dtype::kU8}};
  if (!entry.is_object()) fail(where, " is not a tensor");
  const Json& dtype = member(entry, "dtype");
  const auto known = dtype.is_string() ? dtypes.find(dtype.get<std::string>()) : dtypes.end();
  if (known == dtypes.end()) {
    fail(where, " has dtype ", quoted(dtype), "; known are float32, float16, bfloat16, int32, uint8");
  }
  if (entry.value("encoding", Json("base64")) != "base64") {
    fail(where, " has encoding ", quoted(member(entry, "encoding")), "; known is base64");
  }
  Tensor tensor{where, known->second, read_shape(member(entry, "shape"), where), {}, true};
  const auto data = skeleton_.string(member(entry, "data"));
  if (!data) fail(where, " has no data");
  tensor.data = *data;
  if (member(entry, "data").is_array()) tensor.file = &file_;
  return tensor;
}

Tensor ExchangeFile::weight(const Json& entry, const std::string& place, const Shape& shape) const {
  std::string where = file_.path() + ": weights." + place;
  for (char& c : where) c = c == '/' && &c >= &where[file_.path().size()] ? '.' : c;
  Tensor tensor = described(entry, where);
  if (tensor.shape != shape) {
    fail(where, " has shape ", text(tensor.shape), "; the specification asks for ", text(shape));
  }
  if (!is_float(tensor.dtype)) fail(where, " holds ", runner::name(tensor.dtype), "; a float was expected");
  const std::size_t wanted = base64_size(elements(shape, where) * width(tensor.dtype));
  if (tensor.data.size() != wanted) {
    fail(where, " has ", tensor.data.size(), " base64 characters; its shape asks for ", wanted);
  }
  return tensor;
}

Tensors ExchangeFile::tensors(const ModelSpec& spec) const {
  Tensors found;
  const Json& weights = value("weights");
  std::unordered_set<const Json*> known;
  if (const Json* head = at(&weights, kHeadPlace)) known.insert(head);
  each_parameter(spec, [&](const Parameter& parameter) {
    each_tensor(spec, parameter, [&](const TensorName& name, const Shape& shape) {
      const Json* entry = at(&weights, name.place);
      if (entry) known.insert(entry);
      if (!entry || entry->is_null()) {
        fail(file_.path(), ": tensor ", name.checkpoint, " is missing; the specification asks for it (weights/",
             name.place, ")");
      }
      found.emplace(name.checkpoint, weight(*entry, name.place, shape));
    });
  });
  check_places(weights, known, file_.path() + ": weights");
  return found;
}

}  // namespace cutset::runner
