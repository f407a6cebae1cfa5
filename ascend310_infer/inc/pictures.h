// Pictures as faces, with OpenCV where CMake finds it. Plain C: OpenCV's strings are not those of MindSpore Lite's wheel.
#ifndef ASCEND310_INFER_INC_PICTURES_H_
#define ASCEND310_INFER_INC_PICTURES_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Whether the program was built with OpenCV.
int PicturesCanBeDecoded(void);

// Decode a picture of train_side or test_side pixels square, cut out the centre of test_side, resize it to `side`, and
// write it to `pixels`: (side, side, channels) with `colour` 'g' (grey), 'R' (RGB) or 'B' (BGR). Return nullptr, or what
// is wrong as a text that lives for ever.
const char *FaceOfPicture(const uint8_t *data, size_t bytes, char colour, int train_side, int test_side, int side,
                          uint8_t *pixels);

#ifdef __cplusplus
}
#endif

#endif  // ASCEND310_INFER_INC_PICTURES_H_
