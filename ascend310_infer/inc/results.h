// What a run leaves: features.bin with ids, per-image .bin files on request, and how long it took.
#ifndef ASCEND310_INFER_INC_RESULTS_H_
#define ASCEND310_INFER_INC_RESULTS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "inc/images.h"

// DIR/features.bin: a line "lightcnn features 1 N D", N lines of ids, then N x D float32, little-endian.
void WriteFeatures(const std::string &dir, const std::vector<Image> &images, const std::vector<float> &features);

// DIR/<id>_0.bin of every image, with '_' for '/' in the id: the layout of older 310 projects.
void WriteBins(const std::string &dir, const std::vector<Image> &images, const std::vector<float> &features);

// DIR/test_perform_static.txt; returns its text. milliseconds: of every call; seconds: of the whole run.
std::string WriteTimes(const std::string &dir, std::vector<double> milliseconds, size_t num_images, double seconds);

#endif  // ASCEND310_INFER_INC_RESULTS_H_
