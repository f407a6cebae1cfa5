// libFuzzer: any bytes as a picture give a face or a text that says what is wrong, nothing else.
#include <cstdint>
#include <vector>

#include "inc/pictures.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  std::vector<uint8_t> pixels(size_t{3} * 24 * 24);
  const char colour = size == 0 ? 'g' : "gRB"[data[size - 1] % 3];
  (void)FaceOfPicture(data, size, colour, 32, 28, 24, pixels.data());
  return 0;
}
