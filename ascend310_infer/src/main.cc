// Embed the faces of preprocess.py with a MINDIR: main --help.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <unistd.h>
#include <vector>

#include "inc/embedder.h"
#include "inc/images.h"
#include "inc/options.h"
#include "inc/results.h"

namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Progress for a person: one line that is drawn over, only on a terminal.
void Show(size_t done, size_t all, double seconds) {
  if (isatty(STDERR_FILENO) != 0) {
    std::fprintf(stderr, "\r%zu of %zu images, %.1f images/s ", done, all, static_cast<double>(done) / seconds);
    std::fputs(done == all ? "\n" : "", stderr);
  }
}

void Keep(const float *found, const Batch &batch, const std::vector<Image> &images, size_t length,
          std::vector<float> *features) {
  for (size_t i = 0; i < batch.count * length; ++i) {
    if (!std::isfinite(found[i])) {
      throw Error(images[batch.first + i / length].id + ": its feature is not finite");
    }
  }
  features->insert(features->end(), found, found + batch.count * length);
}

void Run(const Options &options) {
  const std::vector<Image> images = ReadManifest(options.dataset_path);
  Embedder embedder(options);
  std::vector<float> features;
  std::vector<double> milliseconds;
  Batch batch;
  const auto start = Clock::now();
  {
    Reader reader(options.dataset_path, images, embedder.batch_size(), embedder.image_floats());
    while (reader.Next(&batch)) {
      const auto call = Clock::now();
      const float *found = embedder.Embed(batch.data);
      milliseconds.push_back(1e3 * Seconds(call));
      Keep(found, batch, images, embedder.feature_floats(), &features);
      Show(batch.first + batch.count, images.size(), Seconds(start));
    }
  }
  const double seconds = Seconds(start);
  WriteFeatures(options.result_path, images, features);
  if (options.write_bins) {
    WriteBins(options.result_path, images, features);
  }
  std::fputs(WriteTimes(options.time_path, milliseconds, images.size(), seconds).c_str(), stdout);
}

}  // namespace

int main(int argc, char **argv) {
  setenv("GLOG_v", "4", 0);  // MindSpore Lite logs pages for one mistake; ours is one line
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
