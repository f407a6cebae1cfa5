// The list of images, manifest.tsv of preprocess.py; batches of them are read ahead by a thread of their own.
#ifndef ASCEND310_INFER_INC_IMAGES_H_
#define ASCEND310_INFER_INC_IMAGES_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <istream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct Image {
  std::string id;    // as in the lists, without extension: Aaron_Eckhart/Aaron_Eckhart_0001
  std::string file;  // in the manifest's folder
};

// Return the images of DIR/manifest.tsv. Throws Error for a line that is wrong or a name that leaves the folder.
std::vector<Image> ReadManifest(const std::string &dir);

// The same from the text of a file called `file`.
std::vector<Image> ParseManifest(std::istream *lines, const std::string &file);

struct Batch {
  size_t first = 0;         // place of its first image
  size_t count = 0;         // images; what the batch has more repeats the last one
  std::vector<float> data;  // (batch_size, floats an image)
};

// Reads up to `ahead` batches while models work on others. Any number of threads may take batches from it.
class Reader {
 public:
  // load: writes the input of one image, see inc/faces.h.
  Reader(std::function<void(const Image &, float *, size_t)> load, const std::vector<Image> &images, size_t batch_size,
         size_t image_floats, size_t ahead);
  ~Reader();
  Reader(const Reader &) = delete;
  Reader &operator=(const Reader &) = delete;

  // Fill `batch` and return true, or return false after the last one. Throws Error for a file that is wrong.
  bool Next(Batch *batch);

  // Have no further batch read or taken.
  void Abandon();

 private:
  void Run();
  Batch Read(size_t first) const;

  const std::function<void(const Image &, float *, size_t)> load_;
  const std::vector<Image> &images_;
  const size_t batch_size_;
  const size_t image_floats_;
  const size_t ahead_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;
  bool finished_ = false;
  bool abandoned_ = false;
  std::thread thread_;
};

#endif  // ASCEND310_INFER_INC_IMAGES_H_
