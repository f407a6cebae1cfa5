#include "inc/embedder.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include "include/api/context.h"
#include "include/api/types.h"

namespace {

constexpr auto kFloat = mindspore::DataType::kNumberTypeFloat32;
constexpr int64_t kMaxElements = int64_t{1} << 32;

std::string Shown(const std::vector<int64_t> &shape) {
  std::string text = "(";
  for (const int64_t side : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(side);
  }
  return text + ")";
}

std::shared_ptr<mindspore::Context> MakeContext(const Options &options) {
  auto context = std::make_shared<mindspore::Context>();
  context->SetThreadNum(1);  // more models instead, see EmbedAll
  if (options.device_target == "Ascend") {
    auto ascend = std::make_shared<mindspore::AscendDeviceInfo>();
    ascend->SetDeviceID(static_cast<uint32_t>(options.device_id));
    ascend->SetPrecisionMode(options.precision_mode);
    context->MutableDeviceInfo().push_back(ascend);
  } else {
    context->MutableDeviceInfo().push_back(std::make_shared<mindspore::CPUDeviceInfo>());
  }
  return context;
}

int64_t Elements(const std::vector<int64_t> &shape) {
  int64_t count = 1;
  for (const int64_t side : shape) {
    count = side > 0 && count < kMaxElements / side ? count * side : 0;
  }
  return count;
}

}  // namespace

float PlaceTolerance(const Options &options) {
  const bool exact = options.device_target == "CPU" || options.precision_mode == "enforce_fp32" ||
                     options.precision_mode == "enforce_origin";
  return exact ? 1e-3F : 2e-2F;
}

Embedder::Embedder(const Options &options) : file_(options.mindir_path), tolerance_(PlaceTolerance(options)) {
  if (!std::ifstream(file_)) {
    throw Error(file_ + ": no such model file; export.py writes it");
  }
  const auto status = model_.Build(file_, mindspore::kMindIR, MakeContext(options));
  if (status.IsError()) {
    const std::string where =
      options.device_target == "CPU" ? "the CPU" : "Ascend device " + std::to_string(options.device_id);
    throw Error(file_ + ": MindSpore Lite cannot load it on " + where + " (status " +
                std::to_string(static_cast<int>(status.StatusCode())) +
                "); is the device there (npu-smi info)? A Lite of version 2.0 needs a file of 'export.py --ir 1'");
  }
  TakeShapes();
  if (options.batch_size > 0 && static_cast<size_t>(options.batch_size) != batch_size_) {
    SetBatchSize(static_cast<size_t>(options.batch_size));
  }
}

void Embedder::TakeShapes() {
  const auto inputs = model_.GetInputs();
  const auto outputs = model_.GetOutputs();
  if (inputs.size() != 1 || outputs.size() != 1) {
    throw Error(file_ + ": has " + std::to_string(inputs.size()) + " inputs and " + std::to_string(outputs.size()) +
                " outputs, expected one of each; export.py writes such a model");
  }
  const auto shape = inputs[0].Shape();
  const int64_t elements = Elements(shape);
  if (inputs[0].DataType() != kFloat || shape.size() != 4 || (shape[1] != 1 && shape[1] != 3) || elements == 0) {
    throw Error(file_ + ": its input is of shape " + Shown(shape) + ", expected float32 of (N, C, S, S), C 1 or 3");
  }
  batch_size_ = static_cast<size_t>(shape[0]);
  image_floats_ = static_cast<size_t>(elements / shape[0]);
  const auto features = outputs[0].Shape();
  feature_floats_ = features.size() == 2 && features[1] > 0 ? static_cast<size_t>(features[1]) : 0;
}

void Embedder::SetBatchSize(size_t batch_size) {
  auto inputs = model_.GetInputs();
  auto shape = inputs[0].Shape();
  shape[0] = static_cast<int64_t>(batch_size);
  if (model_.Resize(inputs, {shape}).IsError()) {
    throw Error(file_ + ": its batch size of " + std::to_string(batch_size_) + " cannot be changed to " +
                std::to_string(batch_size) + "; export it with --batch_size " + std::to_string(batch_size));
  }
  batch_size_ = batch_size;
}

void Embedder::Check(const std::vector<float> &images) {
  std::vector<float> same(batch_size_ * image_floats_);
  for (size_t i = 0; i < batch_size_; ++i) {
    std::copy_n(images.begin(), image_floats_, same.begin() + static_cast<std::ptrdiff_t>(i * image_floats_));
  }
  const float *features = Embed(same);
  float largest = 0;
  float difference = 0;
  for (size_t i = 0; i < batch_size_ * feature_floats_; ++i) {
    largest = std::max(largest, std::fabs(features[i]));
    difference = std::max(difference, std::fabs(features[i] - features[i % feature_floats_]));
  }
  if (!(difference <= tolerance_ * largest)) {
    throw Error(file_ + ": one image at different places of a batch of " + std::to_string(batch_size_) +
                " has different features; export the model with --batch_size " + std::to_string(batch_size_));
  }
}

const float *Embedder::Embed(const std::vector<float> &images) {
  auto inputs = model_.GetInputs();
  const size_t bytes = images.size() * sizeof(float);
  void *input = inputs[0].MutableData();
  if (input == nullptr || inputs[0].DataSize() != bytes) {
    throw Error(file_ + ": takes " + std::to_string(inputs[0].DataSize()) + " bytes a batch, " + std::to_string(bytes) +
                " are there");
  }
  std::memcpy(input, images.data(), bytes);
  const auto status = model_.Predict(inputs, &outputs_);
  if (status.IsError() || outputs_.size() != 1) {
    throw Error(file_ + ": inference failed (status " + std::to_string(static_cast<int>(status.StatusCode())) + ")");
  }
  const size_t elements = static_cast<size_t>(outputs_[0].ElementNum());
  if (feature_floats_ == 0) {
    feature_floats_ = elements / batch_size_;
  }
  const void *features = outputs_[0].MutableData();
  if (features == nullptr || outputs_[0].DataType() != kFloat || feature_floats_ == 0 ||
      elements != batch_size_ * feature_floats_ || outputs_[0].DataSize() != elements * sizeof(float)) {
    throw Error(file_ + ": gave " + std::to_string(elements) + " numbers for " + std::to_string(batch_size_) +
                " images, expected float32 features of one length");
  }
  return static_cast<const float *>(features);
}
