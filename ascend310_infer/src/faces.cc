#include "inc/faces.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <unordered_set>

#include "inc/options.h"
#include "inc/pictures.h"

namespace {

constexpr uintmax_t kMaxPicture = uintmax_t{64} << 20;

bool IsPicture(const std::filesystem::path &path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".bmp";
}

std::vector<uint8_t> ReadAll(const std::string &file) {
  std::ifstream data(file, std::ios::binary | std::ios::ate);
  if (!data) {
    throw Error(file + ": no such picture, or it cannot be read");
  }
  const auto size = data.tellg();
  if (size < 0 || static_cast<uintmax_t>(size) > kMaxPicture) {
    throw Error(file + ": too large for a picture of a face");
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  data.seekg(0);
  if (!bytes.empty() && !data.read(reinterpret_cast<char *>(bytes.data()), size)) {
    throw Error(file + ": cannot be read to its end");
  }
  return bytes;
}

}  // namespace

Loader BinLoader(const std::string &dir) {
  return [dir](const Image &image, float *floats, size_t count) {
    const std::string file = dir + "/" + image.file;
    const auto bytes = static_cast<std::streamsize>(count * sizeof(float));
    std::ifstream data(file, std::ios::binary | std::ios::ate);
    if (!data) {
      throw Error(file + ": cannot be read, though manifest.tsv lists it; run preprocess.py again");
    }
    if (data.tellg() != bytes) {
      throw Error(file + ": " + std::to_string(data.tellg()) + " bytes, the model takes " + std::to_string(bytes) +
                  " an image; run preprocess.py for this model");
    }
    data.seekg(0);
    if (!data.read(reinterpret_cast<char *>(floats), bytes)) {
      throw Error(file + ": cannot be read to its end");
    }
  };
}

Loader PictureLoader(const std::string &dir, const Metadata &metadata, const std::string &model) {
  if (PicturesCanBeDecoded() == 0) {
    throw Error("this program was built without OpenCV and cannot decode pictures: install it (Debian and Ubuntu: apt-get "
                "install libopencv-imgcodecs-dev libopencv-imgproc-dev) and build again, or run preprocess.py");
  }
  if (!metadata.found) {
    throw Error(model + ": no metadata beside it, which tell what faces it takes; export.py writes both");
  }
  return [dir, metadata](const Image &image, float *floats, size_t count) {
    const std::string file = dir.empty() ? image.file : dir + "/" + image.file;
    const std::vector<uint8_t> bytes = ReadAll(file);
    const size_t channels = metadata.channels();
    const size_t plane = static_cast<size_t>(metadata.side) * static_cast<size_t>(metadata.side);
    std::vector<uint8_t> pixels(plane * channels);
    if (count != pixels.size()) {
      throw Error(file + ": the model takes " + std::to_string(count) + " numbers an image, its metadata say " +
                  std::to_string(pixels.size()));
    }
    const char *problem = FaceOfPicture(bytes.data(), bytes.size(), metadata.colour[0], metadata.train_side,
                                        metadata.test_side, metadata.side, pixels.data());
    if (problem != nullptr) {
      throw Error(file + ": " + problem);
    }
    for (size_t c = 0; c < channels; ++c) {  // (S, S, C) -> (C, S, S)
      for (size_t i = 0; i < plane; ++i) {
        floats[c * plane + i] = (static_cast<float>(pixels[i * channels + c]) - metadata.mean) / metadata.scale;
      }
    }
  };
}

std::vector<Image> FindPictures(const std::string &dir) {
  std::vector<Image> images;
  std::unordered_set<std::string> ids;
  std::error_code problem;
  std::filesystem::recursive_directory_iterator entry(dir, problem);
  for (; !problem && entry != std::filesystem::recursive_directory_iterator(); entry.increment(problem)) {
    if (!IsPicture(entry->path()) || !entry->is_regular_file()) {
      continue;
    }
    const auto inside = entry->path().lexically_relative(dir);
    Image image{std::filesystem::path(inside).replace_extension().generic_string(), inside.generic_string()};
    if (image.id.find_first_of("\n\t") != std::string::npos || !ids.insert(image.id).second) {
      throw Error(dir + ": the name " + image.id.substr(0, 80) + " is there twice, or has a tab or a line's end in it");
    }
    images.push_back(std::move(image));
  }
  if (problem || images.empty()) {
    throw Error(dir + (problem ? ": cannot be read (" + problem.message() + ")" : ": no .jpg, .png or .bmp in it"));
  }
  std::sort(images.begin(), images.end(), [](const Image &a, const Image &b) { return a.id < b.id; });
  return images;
}
