// Where the network's input comes from: the .bin files of preprocess.py, or pictures.
#ifndef ASCEND310_INFER_INC_FACES_H_
#define ASCEND310_INFER_INC_FACES_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "inc/images.h"
#include "inc/metadata.h"

// Writes the input of one image, (C, S, S) float32, to `floats`. Throws Error. Any number of threads may call it.
using Loader = std::function<void(const Image &image, float *floats, size_t count)>;

// Images are files of `dir` with raw floats.
Loader BinLoader(const std::string &dir);

// Images are pictures, of which `metadata` tells what the network takes. Throws Error if that cannot be known.
Loader PictureLoader(const std::string &dir, const Metadata &metadata, const std::string &model);

// Return every .jpg, .jpeg, .png and .bmp under `dir`, by name; its id is the path in there without extension.
std::vector<Image> FindPictures(const std::string &dir);

#endif  // ASCEND310_INFER_INC_FACES_H_
