// libFuzzer: any bytes as manifest.tsv give images or an Error, nothing else.
#include <cstdint>
#include <sstream>

#include "inc/images.h"
#include "inc/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  std::istringstream text(std::string(reinterpret_cast<const char *>(data), size));
  try {
    for (const Image &image : ParseManifest(&text, "manifest.tsv")) {
      if (image.file.find('/') != std::string::npos || image.id.empty()) {
        __builtin_trap();
      }
    }
  } catch (const Error &) {
  }
  return 0;
}
