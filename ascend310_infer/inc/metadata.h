// The metadata that export.py writes beside a model: which faces it takes, how long its embeddings are.
#ifndef ASCEND310_INFER_INC_METADATA_H_
#define ASCEND310_INFER_INC_METADATA_H_

#include <cstddef>
#include <string>

struct Metadata {
  bool found = false;      // whether the file is there; nothing else counts without it
  std::string colour;      // grey, RGB or BGR
  int train_side = 0;      // sides of aligned faces: as trained on, and what testing cuts out of its centre
  int test_side = 0;
  int side = 0;            // of the network's input
  float mean = 0;          // values are (pixel - mean) / scale
  float scale = 1;
  size_t embedding_size = 0;

  size_t channels() const { return colour == "grey" ? 1 : 3; }
  size_t image_floats() const { return channels() * static_cast<size_t>(side) * static_cast<size_t>(side); }
};

// Return what MODEL.json beside MODEL.mindir says. Throws Error for a file that is not such metadata.
Metadata ReadMetadata(const std::string &model);

// The same from the text of a file called `name`.
Metadata ParseMetadata(const std::string &text, const std::string &name);

#endif  // ASCEND310_INFER_INC_METADATA_H_
