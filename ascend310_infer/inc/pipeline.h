// All images through the network: one thread reads ahead, workers with a model each embed.
#ifndef ASCEND310_INFER_INC_PIPELINE_H_
#define ASCEND310_INFER_INC_PIPELINE_H_

#include <vector>

#include "inc/faces.h"
#include "inc/images.h"
#include "inc/metadata.h"
#include "inc/options.h"

struct Outcome {
  std::vector<float> features;       // (images, length), in the manifest's order
  std::vector<double> milliseconds;  // of every call of a model
  double seconds = 0;                // of all images, without loading models
};

// Embed all images, which `load` reads. Throws Error, also for a model that is not what its metadata say; a failed worker
// stops the others.
Outcome EmbedAll(const Options &options, const std::vector<Image> &images, const Loader &load,
                 const Metadata &metadata);

#endif  // ASCEND310_INFER_INC_PIPELINE_H_
