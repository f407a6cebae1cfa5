// Embed the faces of preprocess.py, or pictures, with a MINDIR: main --help.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "inc/faces.h"
#include "inc/images.h"
#include "inc/metadata.h"
#include "inc/options.h"
#include "inc/pipeline.h"
#include "inc/results.h"

namespace {

// MindSpore Lite logs pages for one mistake where ours is one line. It reads its level while it is loaded, before main.
void QuietLog(char **argv) {
  if (getenv("GLOG_v") == nullptr && setenv("GLOG_v", "4", 1) == 0) {
    execv("/proc/self/exe", argv);  // if that fails it is only louder
  }
}

void Embed(const Options &options, const Metadata &metadata) {
  const bool pictures = !options.images.empty();
  const Loader load =
    pictures ? PictureLoader(options.images, metadata, options.mindir_path) : BinLoader(options.dataset_path);
  const std::vector<Image> images = pictures ? FindPictures(options.images) : ReadManifest(options.dataset_path);
  const Outcome outcome = EmbedAll(options, images, load, metadata);
  WriteFeatures(options.result_path, images, outcome.features);
  if (options.write_bins) {
    WriteBins(options.result_path, images, outcome.features);
  }
  std::fputs(WriteTimes(options.time_path, outcome.milliseconds, images.size(), outcome.seconds).c_str(), stdout);
}

double Cosine(const std::vector<float> &features) {
  const size_t length = features.size() / 2;
  double product = 0;
  double first = 0;
  double second = 0;
  for (size_t i = 0; i < length; ++i) {
    const double a = features[i];
    const double b = features[length + i];
    product += a * b;
    first += a * a;
    second += b * b;
  }
  return product / std::sqrt(std::max(first * second, 1e-30));
}

void Compare(Options options, const Metadata &metadata) {
  options.threads = 1;
  const std::vector<Image> images = {{options.first, options.first}, {options.second, options.second}};
  const Loader load = PictureLoader("", metadata, options.mindir_path);
  const double cosine = Cosine(EmbedAll(options, images, load, metadata).features);
  const char *verdict = "";
  if (options.threshold <= 1) {
    verdict = cosine >= options.threshold ? ", the same person" : ", different people";
  }
  std::printf("cosine %.4f%s\n", cosine, verdict);
}

void Run(const Options &options) {
  const Metadata metadata = ReadMetadata(options.mindir_path);
  if (options.first.empty()) {
    Embed(options, metadata);
  } else {
    Compare(options, metadata);
  }
}

}  // namespace

int main(int argc, char **argv) {
  QuietLog(argv);
  try {
    const Options options = ParseOptions(argc, argv);
    if (options.help) {
      std::fputs(Usage().c_str(), stdout);
    } else {
      Run(options);
    }
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 1;
}
