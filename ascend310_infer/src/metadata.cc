#include "inc/metadata.h"

#include <cmath>
#include <fstream>
#include <iterator>

#include "inc/json.h"
#include "inc/options.h"

namespace {

constexpr int kMaxSide = 4096;
constexpr int kMaxEmbedding = 65536;

[[noreturn]] void Fail(const std::string &name, const std::string &what) {
  throw Error(name + ": does not tell " + what + "; export.py writes it beside the model");
}

double Number(const Json *value, const std::string &name, const std::string &what, double low, double high) {
  if (value == nullptr || value->kind != Json::Kind::kNumber || value->number < low || value->number > high) {
    Fail(name, what);
  }
  return value->number;
}

int Whole(const Json *value, const std::string &name, const std::string &what, int high) {
  const double number = Number(value, name, what, 1, high);
  if (number != std::floor(number)) {
    Fail(name, what);
  }
  return static_cast<int>(number);
}

const Json *Find(const Json *value, const std::string &name) { return value == nullptr ? nullptr : value->Find(name); }

// One number of a list such as the input's shape.
const Json *Item(const Json *list, size_t place, size_t count) {
  const bool fits = list != nullptr && list->kind == Json::Kind::kList && list->items.size() == count;
  return fits ? &list->items[place].second : nullptr;
}

}  // namespace

Metadata ParseMetadata(const std::string &text, const std::string &name) {
  const Json json = ParseJson(text, name);
  const Json *face = json.Find("face_format");
  const Json *input = json.Find("input");
  Metadata found;
  found.found = true;
  const Json *colour = Find(face, "colour");
  found.colour = colour != nullptr ? colour->text : "";
  if (found.colour != "grey" && found.colour != "RGB" && found.colour != "BGR") {
    Fail(name, "the colour of the faces (grey, RGB or BGR)");
  }
  found.train_side = Whole(Find(face, "train_side"), name, "the side of training faces", kMaxSide);
  found.test_side = Whole(Find(face, "test_side"), name, "the side of test faces", kMaxSide);
  if (found.test_side > found.train_side) {
    Fail(name, "sides that fit: test faces are cut out of training faces");
  }
  const Json *shape = Find(input, "shape");
  found.side = Whole(Item(shape, 2, 4), name, "the input's shape", kMaxSide);
  const int channels = Whole(Item(shape, 1, 4), name, "the input's channels", 3);
  if (static_cast<size_t>(channels) != found.channels() || Whole(Item(shape, 3, 4), name, "the input's shape",
                                                                  kMaxSide) != found.side) {
    Fail(name, "one shape: (N, " + std::to_string(found.channels()) + ", S, S) for " + found.colour + " faces");
  }
  const Json *scaling = Find(input, "scaling");
  if (scaling == nullptr || scaling->text != "inside") {
    found.mean = static_cast<float>(Number(Find(face, "mean"), name, "the mean of the values", -1e6, 1e6));
    found.scale = static_cast<float>(Number(Find(face, "scale"), name, "the scale of the values", 1e-6, 1e6));
  }
  found.embedding_size = static_cast<size_t>(
    Whole(Item(Find(json.Find("output"), "shape"), 1, 2), name, "the length of embeddings", kMaxEmbedding));
  return found;
}

Metadata ReadMetadata(const std::string &model) {
  const size_t dot = model.rfind('.');
  const size_t slash = model.rfind('/');
  const bool has_suffix = dot != std::string::npos && (slash == std::string::npos || dot > slash);
  const std::string name = (has_suffix ? model.substr(0, dot) : model) + ".json";
  std::ifstream file(name, std::ios::binary);
  if (!file) {
    return Metadata();
  }
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return ParseMetadata(text, name);
}
