// libFuzzer: any bytes as a model's metadata give sizes within limits or an Error, nothing else.
#include <cmath>
#include <cstdint>

#include "inc/metadata.h"
#include "inc/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  try {
    const Metadata found = ParseMetadata(std::string(reinterpret_cast<const char *>(data), size), "model.json");
    const bool fits = found.side >= 1 && found.side <= 4096 && found.test_side <= found.train_side &&
                      found.embedding_size >= 1 && found.scale > 0 && std::isfinite(found.mean);
    if (!fits) {
      __builtin_trap();
    }
  } catch (const Error &) {
  }
  return 0;
}
