// Embed the faces of preprocess.py with a MINDIR: main --help.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "inc/images.h"
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

void Run(const Options &options) {
  const std::vector<Image> images = ReadManifest(options.dataset_path);
  const Outcome outcome = EmbedAll(options, images);
  WriteFeatures(options.result_path, images, outcome.features);
  if (options.write_bins) {
    WriteBins(options.result_path, images, outcome.features);
  }
  std::fputs(WriteTimes(options.time_path, outcome.milliseconds, images.size(), outcome.seconds).c_str(), stdout);
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
