#include "inc/pictures.h"

#ifdef HAVE_OPENCV

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"

namespace {

constexpr size_t kTail = 1024;

bool Holds(const uint8_t *data, size_t bytes, const std::vector<uint8_t> &mark) {
  const uint8_t *start = data + (bytes > kTail ? bytes - kTail : 0);
  return std::search(start, data + bytes, mark.begin(), mark.end()) != data + bytes;
}

// Whether the bytes start as a JPEG, PNG or BMP: OpenCV would try decoders of many other kinds on what comes from outside.
bool IsKnown(const uint8_t *data, size_t bytes) {
  return bytes >= 4 && ((data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff) ||
                        std::memcmp(data, "\x89PNG", 4) == 0 || (data[0] == 'B' && data[1] == 'M'));
}

// Whether the end mark of a JPEG or PNG is missing, or a BMP is shorter than it says: OpenCV would fill the rest grey.
bool IsCutOff(const uint8_t *data, size_t bytes) {
  if (bytes >= 2 && data[0] == 0xff && data[1] == 0xd8) {
    return !Holds(data, bytes, {0xff, 0xd9});
  }
  if (bytes >= 4 && std::memcmp(data, "\x89PNG", 4) == 0) {
    return !Holds(data, bytes, {'I', 'E', 'N', 'D'});
  }
  if (bytes >= 6 && data[0] == 'B' && data[1] == 'M') {
    const size_t said = data[2] | size_t{data[3]} << 8 | size_t{data[4]} << 16 | size_t{data[5]} << 24;
    return said > bytes;
  }
  return false;
}

const char *Face(const uint8_t *data, size_t bytes, char colour, int train_side, int test_side, int side,
                 uint8_t *pixels) {
  const std::vector<uint8_t> held(data, data + bytes);
  const int flags = (colour == 'g' ? cv::IMREAD_GRAYSCALE : cv::IMREAD_COLOR) | cv::IMREAD_IGNORE_ORIENTATION;
  cv::Mat image = cv::imdecode(held, flags);
  if (image.empty()) {
    return "not a picture that can be decoded";
  }
  if (image.rows != image.cols || (image.rows != train_side && image.rows != test_side)) {
    return "not an aligned face of the model's size (prepare.py align makes such faces)";
  }
  const int margin = (image.rows - test_side) / 2;
  image = image(cv::Rect(margin, margin, test_side, test_side));
  if (side != test_side) {
    cv::Mat resized;
    cv::resize(image, resized, cv::Size(side, side), 0, 0, test_side >= side ? cv::INTER_AREA : cv::INTER_LINEAR);
    image = resized;
  }
  if (colour == 'R') {
    cv::Mat turned;
    cv::cvtColor(image, turned, cv::COLOR_BGR2RGB);
    image = turned;
  }
  const size_t row = static_cast<size_t>(side) * static_cast<size_t>(image.channels());
  for (int y = 0; y < side; ++y) {
    std::memcpy(pixels + static_cast<size_t>(y) * row, image.ptr(y), row);
  }
  return nullptr;
}

}  // namespace

int PicturesCanBeDecoded(void) { return 1; }

const char *FaceOfPicture(const uint8_t *data, size_t bytes, char colour, int train_side, int test_side, int side,
                          uint8_t *pixels) {
  if (bytes == 0) {
    return "the file is empty";
  }
  if (!IsKnown(data, bytes)) {
    return "not a JPEG, PNG or BMP picture";
  }
  if (IsCutOff(data, bytes)) {
    return "the picture is cut off";
  }
  try {
    cv::setNumThreads(1);
    return Face(data, bytes, colour, train_side, test_side, side, pixels);
  } catch (const std::exception &) {
    return "not a picture that OpenCV can decode";
  }
}

#else

int PicturesCanBeDecoded(void) { return 0; }

const char *FaceOfPicture(const uint8_t *, size_t, char, int, int, int, uint8_t *) {
  return "this program was built without OpenCV";
}

#endif  // HAVE_OPENCV
