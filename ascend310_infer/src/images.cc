#include "inc/images.h"

#include <algorithm>
#include <fstream>
#include <unordered_set>
#include <utility>

#include "inc/options.h"

namespace {

constexpr size_t kMaxLine = 4096;
const char kHeader[] = "# lightcnn manifest 1";

bool IsPlainName(const std::string &name) {
  return !name.empty() && name[0] != '.' && name.find_first_of("/\\") == std::string::npos;
}

Image ParseLine(const std::string &line, const std::string &where) {
  const size_t tab = line.find('\t');
  if (tab == std::string::npos || tab == 0 || line.find('\t', tab + 1) != std::string::npos || line.size() > kMaxLine) {
    throw Error(where + ": expected 'id<TAB>file', found '" + line.substr(0, 80) + "'");
  }
  Image image{line.substr(0, tab), line.substr(tab + 1)};
  if (!IsPlainName(image.file)) {
    throw Error(where + ": '" + image.file.substr(0, 80) + "' is not a file of this folder");
  }
  return image;
}

}  // namespace

std::vector<Image> ReadManifest(const std::string &dir) {
  const std::string file = dir + "/manifest.tsv";
  std::ifstream lines(file);
  if (!lines) {
    throw Error(file + ": cannot be read; preprocess.py writes it");
  }
  return ParseManifest(&lines, file);
}

std::vector<Image> ParseManifest(std::istream *lines, const std::string &file) {
  std::string line;
  if (!std::getline(*lines, line) || line != kHeader) {
    throw Error(file + ": the first line is not '" + kHeader + "'; preprocess.py writes the manifest");
  }
  std::vector<Image> images;
  std::unordered_set<std::string> ids;
  for (size_t number = 2; std::getline(*lines, line); ++number) {
    const std::string where = file + ", line " + std::to_string(number);
    images.push_back(ParseLine(line, where));
    if (!ids.insert(images.back().id).second) {
      throw Error(where + ": the id " + images.back().id + " is there twice");
    }
  }
  if (lines->bad() || images.empty()) {
    throw Error(file + (lines->bad() ? ": cannot be read to its end" : ": lists no image"));
  }
  return images;
}

Reader::Reader(std::function<void(const Image &, float *, size_t)> load, const std::vector<Image> &images,
               size_t batch_size, size_t image_floats, size_t ahead)
    : load_(std::move(load)), images_(images), batch_size_(batch_size), image_floats_(image_floats), ahead_(ahead),
      thread_([this] { Run(); }) {}

Reader::~Reader() {
  Abandon();
  thread_.join();
}

void Reader::Abandon() {
  const std::lock_guard<std::mutex> lock(mutex_);
  abandoned_ = true;
  ready_.clear();
  changed_.notify_all();
}

bool Reader::Next(Batch *batch) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || finished_ || abandoned_; });
  if (ready_.empty()) {
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    return false;
  }
  *batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return true;
}

void Reader::Run() {
  try {
    for (size_t first = 0; first < images_.size(); first += batch_size_) {
      Batch batch = Read(first);
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return ready_.size() < ahead_ || abandoned_; });
      if (abandoned_) {
        break;
      }
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    failure_ = std::current_exception();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  finished_ = true;
  changed_.notify_all();
}

Batch Reader::Read(size_t first) const {
  Batch batch;
  batch.first = first;
  batch.count = std::min(batch_size_, images_.size() - first);
  batch.data.resize(batch_size_ * image_floats_);
  for (size_t i = 0; i < batch.count; ++i) {
    load_(images_[first + i], batch.data.data() + i * image_floats_, image_floats_);
  }
  for (size_t i = batch.count; i < batch_size_; ++i) {  // the last batch is filled up: the model's shape stays
    std::copy_n(batch.data.begin() + static_cast<std::ptrdiff_t>((batch.count - 1) * image_floats_), image_floats_,
                batch.data.begin() + static_cast<std::ptrdiff_t>(i * image_floats_));
  }
  return batch;
}
