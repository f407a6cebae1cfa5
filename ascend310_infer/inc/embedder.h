// The network in MindSpore Lite: the only file that knows its API.
#ifndef ASCEND310_INFER_INC_EMBEDDER_H_
#define ASCEND310_INFER_INC_EMBEDDER_H_

#include <cstddef>
#include <vector>

#include "include/api/model.h"
#include "inc/options.h"

// How far the features of one image may part between places of a batch, in parts of the largest: the rounding of the
// precision that the model runs in, over some 30 layers. A wrong place differs by the features themselves.
float PlaceTolerance(const Options &options);

class Embedder {
 public:
  // Load the model and set its batch size. Throws Error.
  explicit Embedder(const Options &options);

  size_t batch_size() const { return batch_size_; }
  size_t image_floats() const { return image_floats_; }
  size_t feature_floats() const { return feature_floats_; }

  // images: (batch_size, image_floats). Return (batch_size, feature_floats), valid until the next call.
  const float *Embed(const std::vector<float> &images);

  // Embed the first of `images` at every place of a batch and throw Error unless all features are the same.
  void Check(const std::vector<float> &images);

 private:
  void SetBatchSize(size_t batch_size);
  void TakeShapes();

  mindspore::Model model_;
  std::vector<mindspore::MSTensor> outputs_;
  const std::string file_;
  const float tolerance_;
  size_t batch_size_ = 0;
  size_t image_floats_ = 0;
  size_t feature_floats_ = 0;
};

#endif  // ASCEND310_INFER_INC_EMBEDDER_H_
