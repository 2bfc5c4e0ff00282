#include "runner/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "runner/digest.h"
#include "runner/error.h"
#include "runner/exchange.h"
#include "runner/json.h"

namespace cutset::runner {

namespace {

constexpr const char* kSpecification = "specification.json";

bool has_extension(const std::string& name, const std::string& extension) {
  return std::filesystem::path(name).extension() == extension;
}

bool begins_with(const std::string& text, const char* beginning) { return text.rfind(beginning, 0) == 0; }

// The shards that an index names. A name with a path in it could lead out of the directory.
std::vector<std::string> named_files(const std::string& directory, const std::string& index) {
  const Json table = read_json(index);
  const Json& map = member(table, "weight_map");
  std::set<std::string> names;
  bool right = map.is_object() && !map.empty();
  if (right) {
    for (const Json& name : map) {
      right = right && name.is_string();
      if (name.is_string()) names.insert(name.get<std::string>());
    }
  }
  if (!right) fail(index, ": weight_map must map tensors to files");
  std::vector<std::string> files;
  for (const std::string& name : names) {
    if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        !has_extension(name, ".safetensors")) {
      fail(index, ": ", quoted(Json(name)), " is not the name of a safetensors file beside it");
    }
    files.push_back(directory + "/" + name);
  }
  return files;
}

std::vector<std::string> weight_files(const std::string& directory) {
  const std::string index = directory + "/model.safetensors.index.json";
  const std::vector<std::string> shards = is_file(index) ? named_files(directory, index) : std::vector<std::string>();
  const std::string whole = directory + "/model.safetensors";
  if (is_file(whole)) return {whole};
  for (const std::string& shard : shards) {
    if (!is_file(shard)) fail(shard, " is missing; ", index, " names it");
  }
  if (!shards.empty()) return shards;
  std::vector<std::string> files;
  std::string stray;
  bool pickled = false;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (has_extension(name, ".safetensors")) {
      // The weights in another form, or something to add to them.
      const bool part = begins_with(name, "adapter_") || begins_with(name, "consolidated");
      part ? void(stray = name) : files.push_back(entry.path().string());
    }
    pickled = pickled || has_extension(name, ".bin") || has_extension(name, ".pt") || has_extension(name, ".pth");
  }
  if (files.size() == 1) return files;
  if (!files.empty()) fail(directory, " has ", files.size(), " safetensors files but no model.safetensors.index.json");
  if (!stray.empty()) fail(directory, " has ", stray, ", but no model.safetensors: that is no whole model");
  if (pickled) {
    fail(directory, " has only pickled weights, which can run code when they are read: convert them to safetensors");
  }
  fail(directory, " has no *.safetensors");
}

}  // namespace

Checkpoint::Checkpoint(const std::string& directory) : directory_(directory) {
  if (!is_directory(directory)) fail(directory, " is neither an exchange file nor a checkpoint directory");
  for (const std::string& path : weight_files(directory)) files_.push_back(std::make_unique<MappedFile>(path));
}

ModelSpec Checkpoint::spec() const {
  const std::string config = directory_ + "/config.json", path = directory_ + "/" + kSpecification;
  const std::string remedy = "write it with `cutset convert " + directory_ + " -o " + path + "`";
  if (!is_file(config)) fail(config, " is missing");
  if (!is_file(path)) fail(path, " is missing, which says what the configuration means: ", remedy);
  const ExchangeFile file(path);
  if (file.value("config_sha256") != sha256(MappedFile(config).bytes())) {
    fail(config, " has changed since ", kSpecification, " was written: ", remedy);
  }
  return file.spec(Weights::kAny);
}

Tensors Checkpoint::tensors(const ModelSpec& spec) const {
  Tensors found = all();
  const ExchangeFile file(directory_ + "/" + kSpecification);
  const Json& ignored = file.value("ignored");
  if (!ignored.is_array()) fail(directory_, "/", kSpecification, ": ignored must be a list of tensors");
  for (const Json& name : ignored) {
    if (name.is_string()) found.erase(name.get<std::string>());
  }
  return checked_tensors(spec, std::move(found), directory_);
}

Tensors Checkpoint::all() const {
  Tensors all;
  for (const auto& file : files_) {
    for (auto& [name, tensor] : safetensors(*file)) {
      const auto [at, fresh] = all.try_emplace(name, std::move(tensor));
      if (!fresh) fail(name, " is both in ", at->second.file->path(), " and in ", file->path());
    }
  }
  return all;
}

}  // namespace cutset::runner
